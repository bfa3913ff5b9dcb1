"""The HARS operators on an NVIDIA GPU: torch tensors and CuPy arrays in, the same out; nothing waits for the device.

Every call goes to the current stream and can be captured in a CUDA graph; make one call before, since the first one
compiles and loads the kernels. Logits whose rows lie at equal distances, their last axis without gaps, are not copied.
"""

from math import prod
from typing import Any

from graphwright.errors import RequestError
from graphwright.plugins.hars import cuda_library, meaning
from graphwright.plugins.hars.arrays import check_groups, check_k
from graphwright.plugins.hars.cuda_arrays import (
    DTYPES,
    CupyMemory,
    bias_rows,
    checked_bias,
    take,
    temperature_of,
    walkable,
)
from graphwright.plugins.hars.cuda_library import RouterTopkRequest, SoftmaxTopkRequest

_INDEX_DTYPES = ("int64", "int32")


def available() -> bool:
    """Tell whether the kernels can run here, as far as one can know without compiling them."""
    return not why_not()


def why_not() -> str:
    """Return why the kernels cannot run here: no device, no compiler, its error; nothing where they can.

    Example:
        >>> available() == (why_not() == "")
        True
    """
    return cuda_library.why_not()


def softmax_topk(
    logits: Any,
    k: int,
    *,
    mode: str = "logprob",
    bias: Any = None,
    temperature: float = 1.0,
    stats: bool = False,
    axis: int = -1,
    index_dtype: str = "int64",
) -> tuple[Any, ...]:
    """Return values and indices of the ``k`` largest, with ``stats`` also maximum and log_sum.

    Shapes: logits [..., V, ...] with V on ``axis``, bias broadcastable to it; values and indices with k in place of V.
    Dtypes: float32, float16 or bfloat16; a bias of bool is a mask; values, maximum and log_sum float32.

    Raises:
        RequestError: what the operator does not take.
        MissingDependencyError: no device, or the kernels cannot be compiled.
    """
    where = "softmax_topk"
    memory, rows = take(f"{where}: logits", logits)
    if not -rows.ndim <= axis < rows.ndim:
        raise RequestError(f"{where}: axis", str(axis), needed=f"-{rows.ndim} to {rows.ndim - 1}")
    axis %= rows.ndim
    check_k(where, k, rows.shape[axis])
    request = SoftmaxTopkRequest(
        dtype=DTYPES[memory.dtype(rows)],
        mode=_number(f"{where}: mode", mode, meaning.MODES),
        k=int(k),
        temperature=temperature_of(where, temperature),
        indices_are_int32=_number(f"{where}: index_dtype", index_dtype, _INDEX_DTYPES),
    )
    offsets = None if bias is None else checked_bias(f"{where}: bias", memory, rows, bias)
    with memory.device(rows):
        if axis != rows.ndim - 1:
            rows = memory.move_axis(rows, axis, -1)
            offsets = None if offsets is None else memory.move_axis(offsets, axis, -1)
        outputs = _softmax_topk(memory, request, rows, offsets, stats, index_dtype)
        if axis != rows.ndim - 1:
            values, indices = (memory.contiguous(memory.move_axis(each, -1, axis)) for each in outputs[:2])
            return (values, indices, *outputs[2:])
    return outputs


def _softmax_topk(
    memory: CupyMemory, request: SoftmaxTopkRequest, logits: Any, bias: Any, stats: bool, index_dtype: str
) -> tuple[Any, ...]:
    """Run on logits whose last axis is the one; the request has all that is no size and no pointer."""
    lead = tuple(logits.shape[:-1])
    kept, rest = ((*lead, request.k), lead)
    shapes = [(kept, "float32"), (kept, index_dtype), *([(rest, "float32")] * 2 if stats else [])]
    outputs = tuple(memory.empty(logits, shape, dtype) for shape, dtype in shapes)
    request.rows, request.width = prod(lead), logits.shape[-1]
    if not request.rows:
        return outputs
    library = cuda_library.loaded()
    logits, request.row_stride = walkable(memory, logits)
    if bias is not None:
        bias, request.bias_rows = bias_rows(memory, bias, logits.shape)
        request.bias = memory.pointer(bias)
    request.logits = memory.pointer(logits)
    names = ("values", "indices", "maximum", "log_sum")
    for name, output in zip(names, outputs, strict=False):
        setattr(request, name, memory.pointer(output))
    where = "softmax_topk"
    size = library.hars_cuda_softmax_topk_scratch(request)
    cuda_library.check(where, min(size, 0), request)
    scratch = memory.empty(logits, (size,), "uint8") if size else None
    place = None if scratch is None else memory.pointer(scratch)
    cuda_library.check(where, library.hars_cuda_softmax_topk(request, place, size, memory.stream(logits)), request)
    return outputs


def router_topk(
    scores: Any,
    k: int,
    *,
    bias: Any = None,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    index_dtype: str = "int64",
) -> tuple[Any, Any, Any]:
    """Return the weights and numbers of each token's ``k`` experts, and the weight of its identity experts.

    Shapes: scores [..., E], bias [E]; weights and experts [..., k], identity_weight [...].
    Dtypes: scores float32, float16 or bfloat16; weights and identity_weight float32.

    Raises:
        RequestError: what the operator does not take.
        MissingDependencyError: no device, or the kernels cannot be compiled.
    """
    where = "router_topk"
    memory, rows = take(f"{where}: scores", scores)
    experts = rows.shape[-1]
    check_k(where, k, experts)
    check_groups(where, experts, int(k), groups, top_groups)
    if not 0 <= zero_experts <= experts:
        raise RequestError(f"{where}: zero_experts", str(zero_experts), needed=f"0 to {experts}")
    request = RouterTopkRequest(
        dtype=DTYPES[memory.dtype(rows)],
        scoring=_number(f"{where}: scoring", scoring, meaning.SCORINGS),
        rows=prod(rows.shape[:-1]),
        experts=experts,
        k=int(k),
        groups=groups,
        top_groups=top_groups,
        renormalize=bool(renormalize),
        scale_zero_experts=bool(scale_zero_experts),
        scale=scale,
        zero_experts=zero_experts,
        chosen_is_int32=_number(f"{where}: index_dtype", index_dtype, _INDEX_DTYPES),
    )
    if bias is not None:
        bias = checked_bias(f"{where}: bias", memory, rows, bias).reshape(-1)
        if tuple(bias.shape) != (experts,):
            raise RequestError(
                f"{where}: bias", f"{bias.shape[0]} numbers", needed=f"one for each of {experts} experts"
            )
    with memory.device(rows):
        return _router_topk(memory, request, rows, bias, index_dtype)


def _router_topk(
    memory: CupyMemory, request: RouterTopkRequest, scores: Any, bias: Any, index_dtype: str
) -> tuple[Any, Any, Any]:
    lead = tuple(scores.shape[:-1])
    weights = memory.empty(scores, (*lead, request.k), "float32")
    chosen = memory.empty(scores, (*lead, request.k), index_dtype)
    identity_weight = memory.empty(scores, lead, "float32")
    if not request.rows:
        return weights, chosen, identity_weight
    library = cuda_library.loaded()
    scores = memory.contiguous(scores)
    if bias is not None:
        bias = memory.contiguous(memory.single(bias))
        request.bias = memory.pointer(bias)
    request.scores, request.weights = memory.pointer(scores), memory.pointer(weights)
    request.chosen, request.identity_weight = memory.pointer(chosen), memory.pointer(identity_weight)
    status = library.hars_cuda_router_topk(request, memory.stream(scores))
    cuda_library.check("router_topk", status, request)
    return weights, chosen, identity_weight


def _number(where: str, given: str, known: tuple[str, ...]) -> int:
    if given not in known:
        raise RequestError(where, repr(given), needed=", ".join(known))
    return known.index(given)
