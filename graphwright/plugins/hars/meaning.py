"""What the HARS operators mean: ONNX functions of domain ``hars``, in standard operators.

Both rank by value, largest first, then by lowest index. NaN ranks above +inf, -0.0 equals +0.0, and the indices
are always distinct. Everything is computed in float32 from the first step on; sums over a row in float64.

``softmax_topk(logits, bias?) -> values, indices, maximum?, log_sum?``, with ``x = (logits + bias) / temperature``:

======================  =============================================================================================
mode "logit"            values = x of the selected
mode "logprob"          values = (x - maximum) - log_sum
mode "prob"             values = exp(x - maximum) / sum(exp(x - maximum))
mode "prob_renorm"      values = softmax over the selected x alone: needs no sum over the row
NaN in a row            maximum, log_sum, logprob, prob and prob_renorm are NaN
+inf, no NaN            maximum is +inf; log_sum, logprob, prob and prob_renorm are NaN, as in torch
-inf throughout         maximum, log_sum and logprob are -inf; prob and prob_renorm are 0
======================  =============================================================================================

``router_topk(scores, bias?) -> weights, experts, identity_weight?`` chooses experts by ``s + bias`` and weighs them by
``s = softmax(scores)`` or ``sigmoid(scores)``. A weight that would be NaN is 0.

A function exists once for each set of options (``overload``), since a body cannot leave out an input or a step.
Bodies are portable, not fast: ``portable.py`` is the fast form in standard operators, ``native.py`` the kernel.

Source: retrieve and re-rank from Wang et al. 2021 (LightSeq), arXiv:2010.13887, section 2.2; routers from
DeepSeek-V3, arXiv:2412.19437, section 2.1.2, and LongCat-Flash, arXiv:2509.01322, section 2.1.
"""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import onnx
import onnx_ir as ir

from graphwright.engine.builder import Builder

DOMAIN = "hars"
VERSION = 1
# What bodies are written in, unless a model has another: ONNX wants one opset for a model and its functions.
OPSET = 24

Mode = Literal["logit", "logprob", "prob", "prob_renorm"]
Scoring = Literal["softmax", "sigmoid"]
MODES: tuple[Mode, ...] = ("logit", "logprob", "prob", "prob_renorm")
SCORINGS: tuple[Scoring, ...] = ("softmax", "sigmoid")
# What the operators take; they compute in float32.
DTYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# Added to the sum that renormalized weights are divided by, as DeepSeek-V3 does.
SMALLEST_SUM = 1e-20


@cache
def _function(text: str, overload: str) -> onnx.FunctionProto:
    proto = onnx.parser.parse_function(text)
    proto.overload = overload
    return proto


def _flags(**options: bool) -> str:
    return "".join(f"_{name}" for name, is_set in options.items() if is_set)


def _ranked(x: str, key: str) -> str:
    """Return lines that make a double key of ``x``, in which NaN is larger than +inf, and both have finite places."""
    return f"""
        {key}_wide = Cast <to = 11> ({x})
        {key}_top = Constant <value = double {{1e300}}> ()
        {key}_above = Constant <value = double {{1e308}}> ()
        {key}_is_top = IsInf <detect_negative = 0> ({x})
        {key}_is_nan = IsNaN ({x})
        {key}_finite = Where ({key}_is_top, {key}_top, {key}_wide)
        {key} = Where ({key}_is_nan, {key}_above, {key}_finite)"""


_SUM = """
        axis_0 = Constant <value_int: int = @axis> ()
        one = Constant <value_ints = [1]> ()
        axes = Reshape (axis_0, one)
        shifted = Sub (x, base)
        powers = Exp (shifted)
        wide_powers = Cast <to = 11> (powers)
        wide_sum = ReduceSum <keepdims = 1> (wide_powers, axes)
        total = Cast <to = 1> (wide_sum)
        wide_log = Log (wide_sum)
        log_total = Cast <to = 1> (wide_log)"""

_VALUES: dict[str, str] = {
    "logit": "values = Identity (selected)",
    "logprob": """
        distance = Sub (selected, base)
        logprobs = Sub (distance, log_total)
        values = Where (is_empty, selected, logprobs)""",
    "prob": """
        distance = Sub (selected, base)
        selected_powers = Exp (distance)
        shares = Div (selected_powers, total)
        values = Where (is_empty, zero, shares)""",
    "prob_renorm": """
        distance = Sub (selected, base)
        selected_powers = Exp (distance)
        axis_k = Constant <value_int: int = @axis> ()
        one_k = Constant <value_ints = [1]> ()
        axes_k = Reshape (axis_k, one_k)
        selected_total = ReduceSum <keepdims = 1> (selected_powers, axes_k)
        shares = Div (selected_powers, selected_total)
        values = Where (is_empty, zero, shares)""",
}


def softmax_topk(
    mode: str = "logprob", *, bias: bool = False, temperature: bool = False, stats: bool = False, opset: int = OPSET
) -> ir.Function:
    """Return the function of one set of options; ``temperature`` tells whether there is one other than 1.

    Shapes: logits [..., V, ...] with V on ``axis``, bias broadcastable to it; values and indices have k in place
    of V, maximum and log_sum lack the axis.
    Dtypes: logits float32, float16 or bfloat16; bias, values, maximum and log_sum float32; indices int64.

    Example:
        >>> function = softmax_topk("prob", stats=True)
        >>> function.domain, function.name, function.overload, [value.name for value in function.outputs]
        ('hars', 'softmax_topk', 'prob_stats', ['values', 'indices', 'maximum', 'log_sum'])
    """
    needs_sum = stats or mode in ("logprob", "prob")
    inputs = "logits, bias" if bias else "logits"
    outputs = "values, indices, maximum, log_sum" if stats else "values, indices"
    text = f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    softmax_topk <k, axis: int = -1, mode: string = "logprob", temperature: float = 1.0> ({inputs}) => ({outputs})
    {{
        single = Cast <to = 1> (logits)
        biased = {"Add (single, bias)" if bias else "Identity (single)"}
        degrees = Constant <value_float: float = @temperature> ()
        factor = Reciprocal (degrees)
        x = {"Mul (biased, factor)" if temperature else "Identity (biased)"}
        {_ranked("x", "key")}
        k_0 = Constant <value_int: int = @k> ()
        one_0 = Constant <value_ints = [1]> ()
        count = Reshape (k_0, one_0)
        best, indices = TopK <axis: int = @axis> (key, count)
        selected = GatherElements <axis: int = @axis> (x, indices)
        first = Constant <value_ints = [0]> ()
        top = Gather <axis: int = @axis> (selected, first)
        is_empty = IsInf <detect_positive = 0> (top)
        zero = Constant <value_float = 0.0> ()
        base = Where (is_empty, zero, top)
        {_SUM if needs_sum else ""}
        {_VALUES[mode]}
        {"maximum = Squeeze (top, axes) log_sum = Squeeze (log_total, axes)" if stats else ""}
    }}"""
    overload = mode + _flags(bias=bias, temperature=temperature, stats=stats)
    return ir.serde.deserialize_function(_function(text, overload))


_GROUPS = f"""
        groups_0 = Constant <value_int: int = @groups> ()
        one_g = Constant <value_ints = [1]> ()
        group_count = Reshape (groups_0, one_g)
        width = Shape <start = -1> (choice)
        each = Div (width, group_count)
        rest = Constant <value_ints = [-1]> ()
        split = Concat <axis = 0> (rest, group_count, each)
        by_group = Reshape (choice, split)
        {_ranked("by_group", "member_key")}
        two = Constant <value_ints = [2]> ()
        best_keys, members = TopK (member_key, two)
        pair = GatherElements <axis = -1> (by_group, members)
        group_score = ReduceSum <keepdims = 0> (pair, rest)
        {_ranked("group_score", "group_key")}
        top_0 = Constant <value_int: int = @top_groups> ()
        top_count = Reshape (top_0, one_g)
        best_groups, open_groups = TopK (group_key, top_count)
        score_shape = Shape (group_score)
        all_shut = ConstantOfShape <value = bool[1] {{0}}> (score_shape)
        yes = Equal (open_groups, open_groups)
        group_is_open = ScatterElements <axis = -1> (all_shut, open_groups, yes)
        column = Unsqueeze (group_is_open, rest)
        split_shape = Shape (by_group)
        spread = Expand (column, split_shape)
        full_shape = Shape (choice)
        is_open = Reshape (spread, full_shape)
        shut = Constant <value = float {{-inf}}> ()
        ranked_by = Where (is_open, choice, shut)"""

_ZERO_EXPERTS = """
        zeros_0 = Constant <value_int: int = @zero_experts> ()
        all_experts = Shape <start = -1> (single)
        first_zero = Sub (all_experts, zeros_0)
        is_identity = GreaterOrEqual (chosen, first_zero)"""


def router_topk(
    scoring: str = "softmax",
    *,
    bias: bool = False,
    groups: bool = False,
    renormalize: bool = False,
    zero_experts: bool = False,
    scale_zero_experts: bool = True,
    opset: int = OPSET,
) -> ir.Function:
    """Return the function of one set of options; ``groups`` and ``zero_experts`` tell whether there are any.

    ``identity_weight`` is an output only where there are zero experts.

    Shapes: scores [..., E], bias [E]; weights and experts [..., k], identity_weight [...].
    Dtypes: scores float32, float16 or bfloat16; bias, weights and identity_weight float32; experts int64.

    Example:
        >>> [value.name for value in router_topk("sigmoid", bias=True, renormalize=True).outputs]
        ['weights', 'experts']
    """
    shares = "Softmax <axis = -1>" if scoring == "softmax" else "Sigmoid"
    choice = "Add (shares, bias)" if bias else "Identity (shares)" if groups else "Identity (single)"
    outputs = "weights, experts, identity_weight" if zero_experts else "weights, experts"
    text = f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    router_topk <k, scoring: string = "softmax", renormalize: int = 0, scale: float = 1.0, zero_experts: int = 0,
                 scale_zero_experts: int = 1, groups: int = 1, top_groups: int = 1>
    ({"scores, bias" if bias else "scores"}) => ({outputs})
    {{
        single = Cast <to = 1> (scores)
        shares = {shares} (single)
        choice = {choice}
        {_GROUPS if groups else "ranked_by = Identity (choice)"}
        {_ranked("ranked_by", "key")}
        k_0 = Constant <value_int: int = @k> ()
        one = Constant <value_ints = [1]> ()
        count = Reshape (k_0, one)
        best, chosen = TopK (key, count)
        raw = GatherElements <axis = -1> (shares, chosen)
        {_RENORMALIZED if renormalize else "plain = Identity (raw)"}
        factor = Constant <value_float: float = @scale> ()
        scaled = Mul (plain, factor)
        zero = Constant <value_float = 0.0> ()
        {_weighed(zero_experts, scale_zero_experts)}
    }}"""
    overload = scoring + _flags(
        bias=bias,
        groups=groups,
        renormalize=renormalize,
        zero_experts=zero_experts,
        unscaled=zero_experts and not scale_zero_experts,
    )
    return ir.serde.deserialize_function(_function(text, overload))


_RENORMALIZED = f"""
        final = Constant <value_ints = [-1]> ()
        raw_sum = ReduceSum <keepdims = 1> (raw, final)
        smallest = Constant <value_float = {SMALLEST_SUM}> ()
        denominator = Add (raw_sum, smallest)
        plain = Div (raw, denominator)"""


def _weighed(has_zero_experts: bool, scales_them: bool) -> str:
    if not has_zero_experts:
        return """
        is_nan = IsNaN (scaled)
        weights = Where (is_nan, zero, scaled)
        experts = Identity (chosen)"""
    return f"""
        {_ZERO_EXPERTS}
        weighed = {"Identity (scaled)" if scales_them else "Where (is_identity, plain, scaled)"}
        is_nan = IsNaN (weighed)
        clean = Where (is_nan, zero, weighed)
        weights = Where (is_identity, zero, clean)
        nobody = Constant <value_ints = [-1]> ()
        experts = Where (is_identity, nobody, chosen)
        identity_parts = Where (is_identity, clean, zero)
        last_axis = Constant <value_ints = [-1]> ()
        identity_weight = ReduceSum <keepdims = 0> (identity_parts, last_axis)"""


def call_softmax_topk(
    op: Builder,
    logits: ir.Value,
    bias: ir.Value | None = None,
    *,
    k: int,
    axis: int = -1,
    mode: str = "logprob",
    temperature: float = 1.0,
    stats: bool = False,
) -> tuple[ir.Value, ...]:
    """Record a ``softmax_topk`` node and its function; return values, indices and, with stats, maximum and log_sum."""
    function = softmax_topk(mode, bias=bias is not None, temperature=temperature != 1.0, stats=stats, opset=op.opset)
    outputs = op.call(
        function, logits, *(() if bias is None else (bias,)), k=k, axis=axis, mode=mode, temperature=temperature
    )
    sizes = None if logits.shape is None else list(logits.shape)
    kept = None if sizes is None else [*sizes[:axis], k, *(sizes[axis + 1 :] if axis != -1 else [])]
    rest = None if sizes is None else [*sizes[:axis], *(sizes[axis + 1 :] if axis != -1 else [])]
    float32, int64 = ir.DataType.FLOAT, ir.DataType.INT64
    _declare(outputs, (float32, int64, float32, float32), (kept, kept, rest, rest))
    return outputs


def call_router_topk(
    op: Builder,
    scores: ir.Value,
    bias: ir.Value | None = None,
    *,
    k: int,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
) -> tuple[ir.Value, ...]:
    """Record a ``router_topk`` node and its function; return weights, experts and, with zero experts, their weight."""
    function = router_topk(
        scoring,
        bias=bias is not None,
        groups=groups > 1,
        renormalize=renormalize,
        zero_experts=zero_experts > 0,
        scale_zero_experts=scale_zero_experts,
        opset=op.opset,
    )
    outputs = op.call(
        function,
        scores,
        *(() if bias is None else (bias,)),
        k=k,
        scoring=scoring,
        renormalize=int(renormalize),
        scale=scale,
        zero_experts=zero_experts,
        scale_zero_experts=int(scale_zero_experts),
        groups=groups,
        top_groups=top_groups,
    )
    rest = None if scores.shape is None else list(scores.shape)[:-1]
    kept = None if rest is None else [*rest, k]
    _declare(outputs, (ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.FLOAT), (kept, kept, rest))
    return outputs


Sizes = Sequence[int | ir.SymbolicDim | str | None] | None


def _declare(outputs: Sequence[ir.Value], dtypes: Sequence[ir.DataType], shapes: Sequence[Sizes]) -> None:
    for value, dtype, sizes in zip(outputs, dtypes, shapes, strict=False):
        value.type = ir.TensorType(dtype)
        value.shape = None if sizes is None else ir.Shape(sizes)
