"""Beam steps and sampling on an NVIDIA GPU: what ``search`` computes, without waiting for the device.

As in ``cuda.py``: torch tensors or CuPy arrays in, the same out, on the current stream; can be captured in a graph.
"""

from math import prod
from typing import Any

from graphwright.errors import RequestError
from graphwright.plugins.hars import cuda, cuda_library
from graphwright.plugins.hars.cuda_arrays import (
    DTYPES,
    CupyMemory,
    bias_rows,
    checked_bias,
    on_device,
    take,
    temperature_of,
    walkable,
)
from graphwright.plugins.hars.cuda_library import BeamMergeRequest, SampleRequest
from graphwright.plugins.hars.search.requests import fraction, whole

_HALF, _FULL = 2**63, 2**64


def beam_step(
    logits: Any, scores: Any, *, beams: int, ends: int = 1, bias: Any = None, temperature: float = 1.0
) -> tuple[Any, Any, Any]:
    """Return scores, beams and tokens of the best continuations of ``beams`` beams; see ``search.beam_step``.

    Shapes: logits [B * W, V] or [B, W, V], scores [B, W], bias broadcastable to the logits; results [B, k] with
    ``k = min(max(2, 1 + ends) * W, W * V)``.
    Dtypes: logits float32, float16 or bfloat16; scores float32; results float32, int64, int64.

    Raises:
        RequestError: shapes or numbers that do not fit, arrays on other devices.
        MissingDependencyError: no device, or the kernels cannot be compiled.
    """
    where = "beam_step"
    wanted = max(2, 1 + whole(f"{where}: ends", ends, 0)) * whole(f"{where}: beams", beams, 1)
    memory, rows = take(f"{where}: logits", logits)
    batch, width = prod(rows.shape[:-1]) // beams, rows.shape[-1]
    if tuple(rows.shape) not in ((batch * beams, width), (batch, beams, width)) or not width:
        raise RequestError(
            f"{where}: logits", f"shape {list(rows.shape)}", needed=f"[B * {beams}, V] or [B, {beams}, V]"
        )
    running = _scores(f"{where}: scores", memory, rows, scores, (batch, beams))
    keep = min(wanted, beams * width)
    with memory.device(rows):
        values, indices = cuda.softmax_topk(
            rows, min(keep, width), bias=bias, temperature=temperature, index_dtype="int32"
        )
        outputs = tuple(memory.empty(rows, (batch, keep), dtype) for dtype in ("float32", "int64", "int64"))
        if not batch:
            return outputs
        running = memory.contiguous(running)
        request = BeamMergeRequest(
            values=memory.pointer(values),
            indices=memory.pointer(indices),
            indices_are_int32=1,
            batch=batch,
            beams=beams,
            listed=min(keep, width),
            keep=keep,
            scores=memory.pointer(running),
            best_scores=memory.pointer(outputs[0]),
            best_beams=memory.pointer(outputs[1]),
            best_tokens=memory.pointer(outputs[2]),
        )
        status = cuda_library.loaded().hars_cuda_beam_merge(request, memory.stream(rows))
    cuda_library.check(where, status, request)
    return outputs


def sample(
    logits: Any,
    *,
    seed: Any,
    offset: Any = 0,
    row_numbers: Any = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    bias: Any = None,
    temperature: float = 1.0,
) -> tuple[Any, Any]:
    """Return a token drawn from each row, and its log-probability; see ``search.sample``.

    ``seed``, ``offset`` and ``row_numbers`` are numbers, or int64 arrays on the device: what changes from replay to
    replay of a graph must be such an array. Arrays are not looked into: a negative number there counts as one of 2**64.

    Shapes: logits [rows, V] or [V], bias broadcastable to them; tokens and log-probabilities [rows] or [].
    Dtypes: logits float32, float16 or bfloat16; tokens int64, log-probabilities float32.

    Raises:
        RequestError: shapes or numbers that do not fit, arrays on other devices.
        MissingDependencyError: no device, or the kernels cannot be compiled.
    """
    where = "sample"
    memory, rows = take(f"{where}: logits", logits)
    if rows.ndim > 2 or not rows.shape[-1]:
        raise RequestError(f"{where}: logits", f"shape {list(rows.shape)}", needed="[rows, V] or [V]")
    request = SampleRequest(
        dtype=DTYPES[memory.dtype(rows)],
        rows=prod(rows.shape[:-1]),
        width=rows.shape[-1],
        temperature=temperature_of(where, temperature),
        top_k=min(whole(f"{where}: top_k", top_k, 0), rows.shape[-1]),
        top_p=fraction(f"{where}: top_p", top_p, 0.0, 1.0),
        min_p=fraction(f"{where}: min_p", min_p, 0.0, 1.0),
    )
    offsets = None if bias is None else checked_bias(f"{where}: bias", memory, rows, bias)
    with memory.device(rows):
        given = {"seed": seed, "offset": offset, "row_numbers": row_numbers}
        numbers = [_counters(f"{where}: {name}", memory, rows, value) for name, value in given.items()]
        return _sample(memory, request, rows, offsets, numbers)


def _sample(memory: CupyMemory, request: SampleRequest, logits: Any, bias: Any, numbers: list[Any]) -> tuple[Any, Any]:
    tokens = memory.empty(logits, logits.shape[:-1], "int64")
    logprobs = memory.empty(logits, logits.shape[:-1], "float32")
    if not request.rows:
        return tokens, logprobs
    library = cuda_library.loaded()
    logits, request.row_stride = walkable(memory, logits)
    if bias is not None:
        bias, request.bias_rows = bias_rows(memory, bias, logits.shape)
        request.bias = memory.pointer(bias)
    request.logits, request.tokens, request.logprobs = (memory.pointer(each) for each in (logits, tokens, logprobs))
    request.seeds, request.offsets, request.row_numbers = (memory.pointer(each) for each in numbers)
    size = library.hars_cuda_sample_scratch(request)
    cuda_library.check("sample", min(size, 0), request)
    scratch = memory.empty(logits, (size,), "uint8") if size else None
    place = None if scratch is None else memory.pointer(scratch)
    cuda_library.check("sample", library.hars_cuda_sample(request, place, size, memory.stream(logits)), request)
    return tokens, logprobs


def _scores(where: str, memory: CupyMemory, rows: Any, scores: Any, shape: tuple[int, int]) -> Any:
    of, array = on_device(where, scores)
    if type(of) is not type(memory) or of.place(array) != memory.place(rows):
        raise RequestError(where, of.place(array), needed=f"the library and device of the logits: {memory.place(rows)}")
    if memory.dtype(array) != "float32" or tuple(array.shape) != shape:
        found = f"{memory.dtype(array)} of shape {list(array.shape)}"
        raise RequestError(where, found, needed=f"float32 of shape {list(shape)}")
    return array


def _counters(where: str, memory: CupyMemory, rows: Any, value: Any) -> Any:
    """Return unsigned 64-bit numbers, one a row, as the int64 of the same bits; without a value 0, 1, 2, ..."""
    count = prod(rows.shape[:-1])
    if value is None:
        return memory.count(rows, count)
    if isinstance(value, int) and not isinstance(value, bool):
        number = whole(where, value, 0, _FULL - 1)
        return memory.whole(rows, number - _FULL if number >= _HALF else number, count)
    of, array = on_device(where, value)
    if type(of) is not type(memory) or of.place(array) != memory.place(rows):
        raise RequestError(where, of.place(array), needed=f"a number, or an array on {memory.place(rows)}")
    if memory.dtype(array) not in ("int64", "int32", "uint64") or tuple(array.shape) not in ((), (1,), (count,)):
        found = f"{memory.dtype(array)} of shape {list(array.shape)}"
        raise RequestError(where, found, needed=f"whole numbers, one or {count}")
    return memory.whole(rows, array, count)
