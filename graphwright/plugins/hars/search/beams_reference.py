"""Beam steps in NumPy: plain, slow, the standard that every kernel is compared with."""

import math

import numpy as np

from graphwright.plugins.hars.reference import adjusted, order, softmax_topk
from graphwright.plugins.hars.search.requests import Logits

Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def beam_step(
    rows: Logits,
    scores: np.ndarray,
    *,
    keep: int,
    groups: int = 1,
    penalty: float = 0.0,
    end_tokens: tuple[int, ...] = (),
) -> Found:
    """Return scores, beams and tokens of the best ``keep`` candidates of each group of each batch item.

    Shapes: rows [B * W, V], scores [B, W]; results [B, groups, keep], where ``keep <= W / groups * V``.
    Dtypes: scores float32, beams and tokens int64.

    Example:
        >>> logits = np.log(np.float32([[1, 2, 5], [4, 2, 2]]))
        >>> scores, beams, tokens = beam_step(Logits(logits), np.float32([[0, -1]]), keep=3)
        >>> np.exp(scores).round(3).astype(str).tolist(), beams.tolist(), tokens.tolist()
        ([[['0.625', '0.25', '0.184']]], [[[0, 0, 1]]], [[[2, 1, 0]]])
    """
    batch, beams = scores.shape
    each, width = beams // groups, rows.array.shape[-1]
    per_row = min(keep, width)
    # Penalties lower only, so that no token from outside this list can enter: see edited().
    listed = min(width, per_row + beams - each)
    lists = softmax_topk(rows.array, listed, bias=rows.full_bias, temperature=rows.temperature)
    values, tokens = (array.reshape(batch, beams, listed) for array in lists)
    chosen = np.empty((batch, 0), np.int64)
    found: list[Found] = []
    for group in range(groups):
        own = slice(group * each, (group + 1) * each)
        edits = [np.repeat(part, each, axis=0) for part in _penalties(chosen, penalty)]
        flat = [array[:, own].reshape(batch * each, listed) for array in (values, tokens)]
        best = [array.reshape(batch, each, per_row) for array in edited(flat[0], flat[1], edits[0], edits[1], per_row)]
        group_scores, group_beams, group_tokens = _merged(scores[:, own], best[0], best[1], keep)
        found.append((group_scores, group_beams + group * each, group_tokens))
        chosen = np.concatenate((chosen, _continued(group_scores, group_tokens, each, end_tokens)), axis=1)
    joined = [np.stack(parts, axis=1) for parts in zip(*found, strict=True)]
    return joined[0], joined[1], joined[2]


def _merged(scores: np.ndarray, values: np.ndarray, tokens: np.ndarray, keep: int) -> Found:
    """Merge lists [B, w, n], each sorted; equal scores keep the order of the beams and of the lists."""
    with np.errstate(invalid="ignore"):
        sums = scores[..., None] + values
    sums = np.where(np.isneginf(scores)[..., None], np.float32(-math.inf), sums)
    sums = sums.reshape(len(scores), scores.shape[1] * values.shape[-1])
    best = order(sums)[:, :keep]
    flat = tokens.reshape(sums.shape)
    return (
        np.take_along_axis(sums, best, axis=1),
        best // values.shape[-1],
        np.take_along_axis(flat, best, axis=1),
    )


def _continued(scores: np.ndarray, tokens: np.ndarray, each: int, end_tokens: tuple[int, ...]) -> np.ndarray:
    """Return the tokens of the ``each`` best candidates that go on, [B, each]; -1 where there are fewer."""
    goes_on = ~np.isin(tokens, end_tokens) & ~np.isneginf(scores)
    first = np.argsort(~goes_on, axis=1, kind="stable")[:, :each]
    kept = np.where(np.take_along_axis(goes_on, first, axis=1), np.take_along_axis(tokens, first, axis=1), -1)
    return np.pad(kept, ((0, 0), (0, each - kept.shape[1])), constant_values=-1)


def _penalties(chosen: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each chosen token once, -1 for the rest, and what it loses: the penalty for each time it was chosen."""
    same = chosen[:, :, None] == chosen[:, None, :]
    is_first = ~np.any(np.tril(same, -1), axis=2)
    changes = -(np.float32(penalty) * same.sum(axis=2).astype(np.float32))
    return np.where(is_first, chosen, -1), changes


def edited_topk(rows: Logits, k: int, tokens: np.ndarray, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values and tokens of the ``k`` largest log-probabilities after changes of some.

    Shapes: rows [N, V], tokens and changes [N, P], token -1 for none; results [N, k].
    Dtypes: values float32, tokens int64.

    Example:
        >>> logits = np.log(np.float32([[1, 3, 4]]))
        >>> values, found = edited_topk(Logits(logits), 2, np.array([[2]]), np.float32([[-9]]))
        >>> found.tolist()
        [[1, 0]]
    """
    listed_count = min(rows.array.shape[-1], k + tokens.shape[-1])
    values, listed, maximum, log_sum = softmax_topk(
        rows.array, listed_count, bias=rows.full_bias, temperature=rows.temperature, stats=True
    )
    x = np.take_along_axis(adjusted(rows.array, rows.full_bias, rows.temperature), np.maximum(tokens, 0), axis=1)
    with np.errstate(invalid="ignore"):
        own = (x - maximum[:, None]) - log_sum[:, None]
    own = np.where(np.isneginf(maximum)[:, None], np.float32(-math.inf), own)
    # Behind the list in the list's own order: by x, then by token. Python's sort is stable, as order() is.
    by_token = np.argsort(tokens, axis=1, kind="stable")
    by_x = np.take_along_axis(by_token, order(np.take_along_axis(x, by_token, axis=1)), axis=1)
    tokens, changes, own = (np.take_along_axis(array, by_x, axis=1) for array in (tokens, changes, own))
    is_listed = (tokens[:, :, None] == listed[:, None, :]).any(axis=2)
    is_repeated = np.any(np.tril(tokens[:, :, None] == tokens[:, None, :], -1), axis=2)
    is_new = (tokens >= 0) & ~is_listed & ~is_repeated
    # Nobody: the list holds k others, and what is equal to the last stands behind it.
    all_values = np.concatenate((values, np.where(is_new, own, np.float32(-math.inf))), axis=1)
    all_tokens = np.concatenate((listed, np.where(is_new, tokens, -2)), axis=1)
    return edited(all_values, all_tokens, tokens, changes, k)


def edited(
    values: np.ndarray, listed: np.ndarray, tokens: np.ndarray, changes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``k`` best of a sorted list after changes of some of its values; equals keep the list's order.

    Sparse edits: when P values of a row change, the new k best are among the old k + P best and the P changed. A
    value outside both has k unchanged values before it. When all changes lower, the P changed are not needed either.

    Shapes: values and listed [rows, n]; tokens and changes [rows, P], -1 for no token.
    """
    for token, change in zip(tokens.T, changes.T, strict=True):
        with np.errstate(invalid="ignore"):
            values = np.where(listed == token[:, None], values + change[:, None], values)
    best = order(values)[:, :k]
    return np.take_along_axis(values, best, axis=1), np.take_along_axis(listed, best, axis=1)
