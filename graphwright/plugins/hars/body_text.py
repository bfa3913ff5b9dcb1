"""The pieces that the bodies of the HARS operators are made of, as ONNX text.

A piece reads and makes values by name; ``meaning.py`` puts the pieces of one set of options together.
"""

from functools import cache

import onnx

# Added to the sum that renormalized weights are divided by, as DeepSeek-V3 does.
SMALLEST_SUM = 1e-20


@cache
def function_of(text: str, overload: str) -> onnx.FunctionProto:
    """Return the function that a text describes, under the name of its set of options.

    Where an option leaves a step out, the text says Identity; the function has none.
    """
    proto = onnx.parser.parse_function(text)
    proto.overload = overload
    identities = [node for node in proto.node if node.op_type == "Identity"]
    for identity in identities:
        source, result = identity.input[0], identity.output[0]
        old, new = (source, result) if result in proto.output else (result, source)
        for node in proto.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
    for identity in identities:
        proto.node.remove(identity)
    return proto


def flags(**options: bool) -> str:
    """Return the names of the options that are set, as they stand in an overload."""
    return "".join(f"_{name}" for name, is_set in options.items() if is_set)


def ranked(x: str, key: str) -> str:
    """Return lines that make a double key of ``x``, in which NaN is larger than +inf, and both have finite places."""
    return f"""
        {key}_wide = Cast <to = 11> ({x})
        {key}_top = Constant <value = double {{1e300}}> ()
        {key}_above = Constant <value = double {{1e308}}> ()
        {key}_is_top = IsInf <detect_negative = 0> ({x})
        {key}_is_nan = IsNaN ({x})
        {key}_finite = Where ({key}_is_top, {key}_top, {key}_wide)
        {key} = Where ({key}_is_nan, {key}_above, {key}_finite)"""


ROW_SUM = """
        axis_0 = Constant <value_int: int = @axis> ()
        one = Constant <value_ints = [1]> ()
        given_axes = Reshape (axis_0, one)
        x_shape = Shape (x)
        rank = Shape (x_shape)
        axes = Mod (given_axes, rank)
        shifted = Sub (x, base)
        powers = Exp (shifted)
        wide_powers = Cast <to = 11> (powers)
        wide_sum = ReduceSum <keepdims = 1> (wide_powers, axes)
        total = Cast <to = 1> (wide_sum)
        wide_log = Log (wide_sum)
        log_total = Cast <to = 1> (wide_log)"""

VALUES: dict[str, str] = {
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
        given_axes_k = Reshape (axis_k, one_k)
        x_shape_k = Shape (x)
        rank_k = Shape (x_shape_k)
        axes_k = Mod (given_axes_k, rank_k)
        selected_wide = Cast <to = 11> (selected_powers)
        selected_wide_total = ReduceSum <keepdims = 1> (selected_wide, axes_k)
        selected_total = Cast <to = 1> (selected_wide_total)
        shares = Div (selected_powers, selected_total)
        values = Where (is_empty, zero, shares)""",
}


OPEN_GROUPS = f"""
        groups_0 = Constant <value_int: int = @groups> ()
        one_g = Constant <value_ints = [1]> ()
        group_count = Reshape (groups_0, one_g)
        width = Shape <start = -1> (choice)
        each = Div (width, group_count)
        rest = Constant <value_ints = [-1]> ()
        split = Concat <axis = 0> (rest, group_count, each)
        by_group = Reshape (choice, split)
        {ranked("by_group", "member_key")}
        two = Constant <value_ints = [2]> ()
        best_keys, members = TopK (member_key, two)
        pair = GatherElements <axis = -1> (by_group, members)
        third = Constant <value_ints = [2]> ()
        group_score = ReduceSum <keepdims = 0> (pair, third)
        {ranked("group_score", "group_key")}
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

ZERO_EXPERTS = """
        zeros_0 = Constant <value_int: int = @zero_experts> ()
        all_experts = Shape <start = -1> (single)
        first_zero = Sub (all_experts, zeros_0)
        is_identity = GreaterOrEqual (chosen, first_zero)"""


RENORMALIZED = f"""
        final = Sub (scores_rank, one)
        wide_raw = Cast <to = 11> (raw)
        wide_raw_sum = ReduceSum <keepdims = 1> (wide_raw, final)
        raw_sum = Cast <to = 1> (wide_raw_sum)
        smallest = Constant <value_float = {SMALLEST_SUM}> ()
        denominator = Add (raw_sum, smallest)
        plain = Div (raw, denominator)"""


def weighed(has_zero_experts: bool, scales_them: bool) -> str:
    """Return lines that make the router's outputs of ``plain`` and ``scaled`` weights."""
    if not has_zero_experts:
        return """
        is_nan = IsNaN (scaled)
        weights = Where (is_nan, zero, scaled)
        experts = Identity (chosen)"""
    return f"""
        {ZERO_EXPERTS}
        weighed = {"Identity (scaled)" if scales_them else "Where (is_identity, plain, scaled)"}
        is_nan = IsNaN (weighed)
        clean = Where (is_nan, zero, weighed)
        weights = Where (is_identity, zero, clean)
        nobody = Constant <value_ints = [-1]> ()
        experts = Where (is_identity, nobody, chosen)
        identity_parts = Where (is_identity, clean, zero)
        last_axis = Sub (scores_rank, one)
        wide_parts = Cast <to = 11> (identity_parts)
        wide_identity = ReduceSum <keepdims = 0> (wide_parts, last_axis)
        identity_weight = Cast <to = 1> (wide_identity)"""
