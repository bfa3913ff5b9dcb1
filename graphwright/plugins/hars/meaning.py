"""What the HARS operators mean: ONNX functions of domain ``hars``, in standard operators.

Both rank by value, largest first, then by lowest index. NaN ranks above +inf, -0.0 equals +0.0, and the indices
are always distinct. Everything is computed in float32 from the first step on; sums of more than two in float64, since
ONNX Runtime adds in another order where a row lies elsewhere in memory, and a row must not depend on the others. Sums
name their axes from the front, since of an empty batch ONNX Runtime 1.31.1 reduces no axis that is named from the end.

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
from typing import Literal

import onnx
import onnx_ir as ir

from graphwright.engine.builder import Builder
from graphwright.engine.shapes import infer_function
from graphwright.plugins.hars.body_text import (
    OPEN_GROUPS,
    RENORMALIZED,
    ROW_SUM,
    VALUES,
    flags,
    function_of,
    ranked,
    weighed,
)

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
        {ranked("x", "key")}
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
        {ROW_SUM if needs_sum else ""}
        {VALUES[mode]}
        {"maximum = Squeeze (top, axes) log_sum = Squeeze (log_total, axes)" if stats else ""}
    }}"""
    overload = mode + flags(bias=bias, temperature=temperature, stats=stats)
    return _typed(function_of(text, overload))


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
    choice = "Add (shares, bias)" if bias else "Identity (shares)" if groups else "Identity (single)"
    outputs = "weights, experts, identity_weight" if zero_experts else "weights, experts"
    text = f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    router_topk <k, scoring: string = "softmax", renormalize: int = 0, scale: float = 1.0, zero_experts: int = 0,
                 scale_zero_experts: int = 1, groups: int = 1, top_groups: int = 1>
    ({"scores, bias" if bias else "scores"}) => ({outputs})
    {{
        single = Cast <to = 1> (scores)
        {"shares = Softmax <axis = -1> (single)" if scoring == "softmax" else _SIGMOID}
        choice = {choice}
        {OPEN_GROUPS if groups else "ranked_by = Identity (choice)"}
        {ranked("ranked_by", "key")}
        k_0 = Constant <value_int: int = @k> ()
        one = Constant <value_ints = [1]> ()
        count = Reshape (k_0, one)
        scores_shape = Shape (scores)
        scores_rank = Shape (scores_shape)
        best, chosen = TopK (key, count)
        raw = GatherElements <axis = -1> (shares, chosen)
        {RENORMALIZED if renormalize else "plain = Identity (raw)"}
        factor = Constant <value_float: float = @scale> ()
        scaled = Mul (plain, factor)
        zero = Constant <value_float = 0.0> ()
        {weighed(zero_experts, scale_zero_experts)}
    }}"""
    overload = scoring + flags(
        bias=bias,
        groups=groups,
        renormalize=renormalize,
        zero_experts=zero_experts,
        unscaled=zero_experts and not scale_zero_experts,
    )
    return _typed(function_of(text, overload))


def _typed(proto: onnx.FunctionProto) -> ir.Function:
    """Return a function whose values have their types, so that shape inference finds nothing to add."""
    function = ir.serde.deserialize_function(proto)
    alone = ir.Model(ir.Graph((), (), nodes=(), opset_imports=function.opset_imports), ir_version=10)
    infer_function(alone, function)
    return function


# Not the operator Sigmoid: ONNX Runtime's is 1.5e-8 for all numbers below -18, and a sum of such may be divided by.
_SIGMOID = """
        negated = Neg (single)
        inverse_odds = Exp (negated)
        certain = Constant <value_float = 1.0> ()
        inverse_share = Add (certain, inverse_odds)
        shares = Reciprocal (inverse_share)"""


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
