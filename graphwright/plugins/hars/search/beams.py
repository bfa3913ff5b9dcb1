"""Beam steps: from logits and running scores to the best continuations of each batch item.

What is computed, to the order of equal scores: the package's docstring.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from graphwright.errors import RequestError
from graphwright.plugins.hars.arrays import check_k, like
from graphwright.plugins.hars.search import dispatch
from graphwright.plugins.hars.search.requests import Logits, check_logits, float32s, fraction, int64s, plain, whole

# A float32 that is no more than this stays finite when it is multiplied by a count of beams.
_LARGEST_PENALTY = 1e30


def beam_step(
    logits: Any,
    scores: Any,
    *,
    beams: int,
    ends: int = 1,
    bias: Any = None,
    temperature: float = 1.0,
    implementation: str = "auto",
    threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """Return scores, beams and tokens of the best continuations of ``beams`` beams, best first.

    ``ends`` is the number of end tokens. ``max(2, 1 + ends) * beams`` candidates are kept, so that ``beams`` of them
    go on even if all others end; where there are fewer continuations, all of them. A beam with score -inf has not
    started: at the first step all but one. No length penalty: that is for finished hypotheses.

    Shapes: logits [B * W, V] or [B, W, V], scores [B, W], bias broadcastable to the logits; results [B, k] with
    ``k = min(max(2, 1 + ends) * W, W * V)``.
    Dtypes: logits float32, float16 or bfloat16; scores float32; results float32, int64, int64.

    Raises:
        RequestError: shapes or numbers that do not fit, an unknown implementation.
        MissingDependencyError: an implementation that is not there.

    Source: the beam search of transformers' ``generate``, one step of it, without a pass over W * V scores.

    Example:
        >>> probabilities = np.float32([[1, 2, 5], [4, 2, 2]]) / 8
        >>> scores, beams, tokens = beam_step(np.log(probabilities), [[0.0, -np.inf]], beams=2, ends=0)
        >>> np.exp(scores).round(3), beams.tolist(), tokens.tolist()
        (array([[0.625, 0.25 , 0.125, 0.   ]], dtype=float32), [[0, 0, 0, 1]], [[2, 1, 0, 0]])
    """
    name = "beam_step"
    if dispatch.runs_on_gpu(name, implementation, logits):
        from graphwright.plugins.hars import cuda_search

        return cuda_search.beam_step(logits, scores, beams=beams, ends=ends, bias=bias, temperature=temperature)
    wanted = max(2, 1 + whole(f"{name}: ends", ends, 0)) * whole(f"{name}: beams", beams, 1)
    rows, running = _check_beams(name, logits, scores, beams, bias, temperature)
    run = dispatch.chosen(name, implementation, threads)
    keep = min(wanted, beams * rows.array.shape[-1])
    found = run.beam_step(rows, running, keep=keep)
    return like([array[:, 0] for array in found], logits)


def diverse_beam_step(
    logits: Any,
    scores: Any,
    *,
    beams: int,
    groups: int,
    penalty: float,
    end_tokens: Iterable[int] = (),
    bias: Any = None,
    temperature: float = 1.0,
    implementation: str = "auto",
    threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """Return scores, beams and tokens of the best continuations of each of ``groups`` groups of beams.

    The groups choose one after the other. A token loses ``penalty`` for each time that an earlier group has chosen it
    at this step (Hamming diversity), after the softmax, without a new normalization; the scores keep what it lost.
    End tokens finish a hypothesis and are not counted as chosen. All from one pass over the vocabulary.

    Shapes: logits [B * W, V] or [B, W, V], scores [B, W], bias broadcastable to the logits; results [B, G, k] with
    ``w = W / G`` and ``k = min(max(2, 1 + len(end_tokens)) * w, w * V)``; beams are numbered 0 to W - 1.
    Dtypes: logits float32, float16 or bfloat16; scores float32; results float32, int64, int64.

    Raises:
        RequestError: shapes or numbers that do not fit, a negative penalty, an unknown implementation.
        MissingDependencyError: an implementation that is not there.

    Source: Vijayakumar et al. 2018, arXiv:1610.02424; scores, candidates and counts as in the group beam search of
    transformers with its HammingDiversityLogitsProcessor.

    Example:
        >>> logits = np.log(np.float32([[1, 2, 5], [1, 2, 5]]))
        >>> scores, beams, tokens = diverse_beam_step(logits, [[0.0, 0.0]], beams=2, groups=2, penalty=1.5)
        >>> tokens.tolist()
        [[[2, 1], [1, 2]]]
    """
    name = "diverse_beam_step"
    whole(f"{name}: groups", groups, 1)
    if whole(f"{name}: beams", beams, 1) % groups:
        raise RequestError(f"{name}: groups", str(groups), needed=f"a divisor of {beams}, the number of beams")
    ends = tuple(whole(f"{name}: end_tokens", token, 0) for token in end_tokens)
    loss = fraction(f"{name}: penalty", penalty, 0.0, _LARGEST_PENALTY)
    rows, running = _check_beams(name, logits, scores, beams, bias, temperature)
    run = dispatch.chosen(name, implementation, threads)
    each = beams // groups
    keep = min(max(2, 1 + len(set(ends))), rows.array.shape[-1]) * each
    found = run.beam_step(rows, running, keep=keep, groups=groups, penalty=loss, end_tokens=ends)
    return like(found, logits)


def edited_topk(
    logits: Any,
    k: int,
    tokens: Any,
    changes: Any,
    *,
    bias: Any = None,
    temperature: float = 1.0,
    implementation: str = "auto",
    threads: int | None = None,
) -> tuple[Any, Any]:
    """Return values and tokens of the ``k`` largest log-probabilities, after changes of some of each row's.

    Change p of a row is added to the log-probability of its token p, after the softmax and without a new
    normalization; -inf bans the token, and token -1 stands for no change. The changes of a token given twice are
    added one after the other. The order is by changed value, then by logit, then by lowest token.

    Shapes: logits [N, V], tokens and changes [N, P], bias broadcastable to the logits; results [N, k].
    Dtypes: logits float32, float16 or bfloat16; tokens int64, changes float32; results float32, int64.

    Raises:
        RequestError: shapes or numbers that do not fit, NaN or +inf as a change, an unknown implementation.
        MissingDependencyError: an implementation that is not there.

    Source: the new k best are among the old k + P best and the P changed, since a value outside both has k unchanged
    values before it. So one pass over the vocabulary does, whatever the changes.

    Example:
        >>> logits = np.log(np.float32([[1, 3, 4]]))
        >>> edited_topk(logits, 2, [[2, 0]], [[-9.0, 9.0]])[1]
        array([[0, 1]])
    """
    name = "edited_topk"
    rows = check_logits(name, logits, bias, temperature, ranks=(2,))
    count, width = rows.array.shape
    check_k(name, k, width)
    shape = plain(tokens).shape
    listed = int64s(f"{name}: tokens", tokens, (count, *shape[1:2]) if len(shape) == 2 else (count, 1))
    if listed.size and not -1 <= listed.min() <= listed.max() < width:
        raise RequestError(f"{name}: tokens", f"{listed.min()} to {listed.max()}", needed=f"-1 to {width - 1}")
    added = float32s(f"{name}: changes", changes, listed.shape)
    if not (added < np.inf).all():
        raise RequestError(f"{name}: changes", "NaN or +inf", needed="finite numbers or -inf")
    run = dispatch.chosen(name, implementation, threads)
    return like(run.edited_topk(rows, int(k), listed, added), logits)


def _check_beams(
    name: str, logits: Any, scores: Any, beams: int, bias: Any, temperature: float
) -> tuple[Logits, np.ndarray]:
    rows = check_logits(name, logits, bias, temperature, ranks=(2, 3))
    shape = tuple(np.shape(logits))
    if (shape[1] if len(shape) == 3 else shape[0] % beams) != (beams if len(shape) == 3 else 0):
        needed = f"[B * {beams}, V] or [B, {beams}, V]"
        raise RequestError(f"{name}: logits", f"shape {list(shape)}", needed=needed)
    return rows, float32s(f"{name}: scores", scores, (len(rows.array) // beams, beams))
