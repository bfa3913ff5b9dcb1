"""The factors of one head's scores: few vectors in place of its query and key projections.

The scores of a head are ``scale * [X, 1] Wq~ Wk~^T [Y, 1]^T``: the bias is the last row of ``Wq~`` and ``Wk~``, so that
it takes part exactly. The product has at most D singular values that are not zero, so it is never built: they are those
of the D x D core ``scale * R_q R_k^T``, where ``Q_q R_q = Wq~`` and ``Q_k R_k = Wk~`` are thin QR decompositions.

Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", eq. 5-8;
    the QR step and the homogeneous coordinates are not in the paper.
"""

import numpy as np

from graphwright.errors import RequestError


def factorize(
    query_weight: np.ndarray,
    query_bias: np.ndarray | None,
    key_weight: np.ndarray,
    key_bias: np.ndarray | None,
    scale: float,
    rank: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return u and v, for which ``[X, 1] u ([Y, 1] v)^T`` is the best approximation of the scores by that rank.

    The largest entry of each column of u is positive, so that the same weights give the same factors everywhere.

    Shapes: query_weight [d, D], key_weight [e, D], biases [D]; u [d + 1, r], v [e + 1, r].
    Dtypes: any float; u and v are float64.

    Raises:
        RequestError: the rank is outside 1..D, the head sizes differ, or a weight is NaN or infinite.

    Example:
        >>> weight = np.diag([3.0, 1.0])
        >>> u, v = factorize(weight, None, weight, None, scale=1.0, rank=1)
        >>> (u @ v.T).round(6).tolist()
        [[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    query, key = homogeneous(query_weight, query_bias, "query"), homogeneous(key_weight, key_bias, "key")
    check_rank(rank, query.shape[1])
    left, core, right = core_of(query, key, scale)
    rotation, values, other = np.linalg.svd(core)
    kept = min(rank, len(values))
    u = left @ rotation[:, :kept] * np.sqrt(values[:kept])
    v = right @ other.T[:, :kept] * np.sqrt(values[:kept])
    largest = np.take_along_axis(u, np.abs(u).argmax(axis=0)[None], axis=0)
    sign = np.where(largest < 0, -1.0, 1.0)
    # A head larger than its input has fewer singular values than D: those that are missing are zero.
    missing = ((0, 0), (0, rank - kept))
    return np.pad(u * sign, missing), np.pad(v * sign, missing)


def singular_values(
    query_weight: np.ndarray,
    query_bias: np.ndarray | None,
    key_weight: np.ndarray,
    key_bias: np.ndarray | None,
    scale: float,
) -> np.ndarray:
    """Return the D singular values of one head's scores as a form in [X, 1] and [Y, 1], largest first.

    Shapes: query_weight [d, D], key_weight [e, D], biases [D]; result [D].
    Dtypes: any float; the result is float64.

    Raises:
        RequestError: the head sizes differ, or a weight is NaN or infinite.

    Example:
        >>> weight = np.diag([3.0, 1.0])
        >>> singular_values(weight, None, weight, None, scale=0.5).round(6).tolist()
        [4.5, 0.5]
    """
    query, key = homogeneous(query_weight, query_bias, "query"), homogeneous(key_weight, key_bias, "key")
    values = np.linalg.svd(core_of(query, key, scale)[1], compute_uv=False)
    head_size = query.shape[1]
    return np.pad(values, (0, max(0, head_size - len(values))))[:head_size]


def homogeneous(weight: np.ndarray, bias: np.ndarray | None, name: str = "projection") -> np.ndarray:
    """Return the weight in float64 with the bias, or zeros, as its last row.

    Shapes: weight [d, D], bias [D]; result [d + 1, D].

    Raises:
        RequestError: a weight or a bias is NaN or infinite.

    Example:
        >>> homogeneous(np.eye(2), np.array([5.0, 6.0])).tolist()
        [[1.0, 0.0], [0.0, 1.0], [5.0, 6.0]]
    """
    last = np.zeros(weight.shape[1]) if bias is None else bias
    whole = np.concatenate([weight, last[None]], axis=0, dtype=np.float64)
    wrong = int(np.count_nonzero(~np.isfinite(whole)))
    if wrong:
        found = f"{wrong} of {whole.size} numbers that are NaN or infinite"
        raise RequestError(f"damf: weights of the {name}", found, needed="finite weights")
    return whole


def check_rank(rank: int, head_size: int) -> None:
    """Raise where the rank is none that a head of this size can have.

    Raises:
        RequestError: the rank is outside 1..head_size.

    Example:
        >>> check_rank(0, 32)
        Traceback (most recent call last):
        graphwright.errors.RequestError: damf: rank: found 0; needed 1 to the head size, 32
    """
    if not 1 <= rank <= head_size:
        raise RequestError("damf: rank", str(rank), needed=f"1 to the head size, {head_size}")


def core_of(query: np.ndarray, key: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both orthonormal bases, and between them the core with the same singular values as the whole form."""
    if query.shape[1] != key.shape[1]:
        found = f"{query.shape[1]} for queries and {key.shape[1]} for keys"
        raise RequestError("damf: head size", found, needed="the same for both")
    left, query_triangle = np.linalg.qr(query)
    right, key_triangle = np.linalg.qr(key)
    return left, scale * query_triangle @ key_triangle.T, right
