"""Which implementation of the search functions runs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from graphwright.errors import MissingDependencyError, RequestError
from graphwright.plugins.hars.choice import KERNELS, choose, is_on_gpu, why_not
from graphwright.plugins.hars.search import beams_reference, native, sampling_reference
from graphwright.plugins.hars.search.requests import Logits, whole


class Search(Protocol):
    """The search functions of one implementation, on arguments that are checked."""

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

    def edited_topk(
        self, rows: Logits, k: int, tokens: np.ndarray, changes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and tokens [N, k] of logits [N, V] with tokens and changes [N, P]."""

    def sample(
        self, rows: Logits, numbers: Sequence[np.ndarray], *, top_k: int, top_p: float, min_p: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and log-probabilities [N] of logits [N, V]; numbers are seeds, offsets and rows [N]."""


class Reference:
    """The search functions in NumPy."""

    beam_step = staticmethod(beams_reference.beam_step)
    edited_topk = staticmethod(beams_reference.edited_topk)
    sample = staticmethod(sampling_reference.sample)


def runs_on_gpu(where: str, implementation: str, logits: object) -> bool:
    """Tell whether a call goes to the CUDA kernels: asked for by name, or by logits that lie on a GPU.

    Raises:
        MissingDependencyError: it does, and they cannot run here.
    """
    if implementation == "cuda" or (implementation == "auto" and is_on_gpu(logits)):
        return choose(where, "cuda", logits) == "cuda"
    return False


def chosen(where: str, implementation: str, threads: int | None) -> Search:
    """Return an implementation by name; "auto" is the fastest on the CPU, where logits on a GPU are copied to.

    Raises:
        RequestError: an unknown name, one that has no search functions, or no whole number of threads.
        MissingDependencyError: an implementation that is not there.

    Example:
        >>> chosen("sample", "reference", threads=None).edited_topk is not None
        True
    """
    if threads is not None:
        whole(f"{where}: threads", threads, 1)
    if implementation == "reference" or (implementation == "auto" and why_not("scalar")):
        return Reference()
    if implementation not in ("auto", *KERNELS):
        needed = f"auto, reference, {', '.join(KERNELS)}"
        raise RequestError(f"{where}: implementation", repr(implementation), needed=needed)
    reason = "" if implementation == "auto" else why_not(implementation)
    if reason:
        raise MissingDependencyError(f"{where}: implementation {implementation}", reason, needed="it")
    return native.Kernels(implementation, threads)
