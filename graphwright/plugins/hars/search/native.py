"""The search functions of the compiled library, through ctypes. What the fields mean: ``cpu/hars_search.h``."""

import ctypes
import functools
import os
import struct
from collections.abc import Callable, Sequence

import numpy as np

from graphwright.plugins.hars import native
from graphwright.plugins.hars.search.requests import Logits

_ISAS = {"auto": 0, "scalar": 1, "avx2": 2, "avx512": 3}
# By numpy's type character; "E" is ml_dtypes' bfloat16.
_DTYPES = {"f": 0, "e": 1, "E": 2}
# The structures of hars_search.h, laid out as C does it; each begins with the rows.
_ROWS = "@PiqqPPf4x"
_BEAM_STEP = struct.Struct(_ROWS + "qqqPfPqPPP")
_EDITED_TOPK = struct.Struct(_ROWS + "qqPPPP")
_SAMPLE = struct.Struct(_ROWS + "qddPPPPP")
_WORKERS = struct.Struct("@iiPP")


@functools.cache
def _function(name: str) -> Callable[[bytes, bytes], int]:
    function = ctypes.CDLL(str(native.library_path()))[name]
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    function.restype = ctypes.c_int32
    return function


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Kernels:
    """The search functions of the compiled library, for one instruction set."""

    def __init__(self, isa: str, threads: int | None) -> None:
        # The library wakes no more threads than pay for a request's size.
        self._workers = _WORKERS.pack(_ISAS[isa], threads or _threads(), 0, 0)

    def _run(self, name: str, layout: struct.Struct, rows: Logits, *fields: float | np.ndarray) -> None:
        array = np.ascontiguousarray(rows.array)
        count, width = array.shape
        head = (array, _DTYPES[array.dtype.char], count, width, rows.bias, rows.bias_row, rows.temperature)
        request = layout.pack(*(_plain(field) for field in (*head, *fields)))
        status = _function(name)(request, self._workers)
        if status == 3:
            raise MemoryError(name)
        if status:
            raise RuntimeError(f"{name} was called with a request that nobody checked")

    def beam_step(
        self,
        rows: Logits,
        scores: np.ndarray,
        *,
        keep: int,
        groups: int = 1,
        penalty: float = 0.0,
        end_tokens: tuple[int, ...] = (),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scores, beams and tokens [B, groups, keep] of logits [B * W, V] and scores [B, W]."""
        batch, beams = scores.shape
        shape = (batch, groups, keep)
        found = (np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape, np.int64))
        ends = np.array(end_tokens, np.int64)
        fields = (beams, groups, keep, np.ascontiguousarray(scores), penalty, ends, len(ends))
        self._run("hars_beam_step", _BEAM_STEP, rows, *fields, *found)
        return found

    def edited_topk(
        self, rows: Logits, k: int, tokens: np.ndarray, changes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and tokens [N, k] of logits [N, V] with tokens and changes [N, P]."""
        count, edits = tokens.shape
        values, indices = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        self._run("hars_edited_topk", _EDITED_TOPK, rows, k, edits, tokens, changes, values, indices)
        return values, indices

    def sample(
        self, rows: Logits, numbers: Sequence[np.ndarray], *, top_k: int, top_p: float, min_p: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and log-probabilities [N] of logits [N, V]; numbers are seeds, offsets and rows [N]."""
        count = len(rows.array)
        tokens, logprobs = np.empty(count, np.int64), np.empty(count, np.float32)
        self._run("hars_sample", _SAMPLE, rows, top_k, top_p, min_p, *numbers, tokens, logprobs)
        return tokens, logprobs


def _plain(field: float | np.ndarray | None) -> float:
    if field is None:
        return 0
    return field.ctypes.data if isinstance(field, np.ndarray) else field


def weights(isa: str, x: np.ndarray, maximum: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the weights of one block of 1024 numbers, the sums of its leaves, and their sum.

    Shapes: x and the weights [32, 32], sums of leaves [32].
    Dtypes: x float32, all else float64.
    """
    found, leaves, total = np.empty((32, 32)), np.empty(32), np.empty(1)
    block = np.ascontiguousarray(x)
    given, *results = (ctypes.c_void_p(array.ctypes.data) for array in (block, found, leaves, total))
    library = ctypes.CDLL(str(native.library_path()))
    library.hars_weights(_ISAS[isa], given, ctypes.c_float(maximum), *results)
    return found, leaves, float(total[0])
