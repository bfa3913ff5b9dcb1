"""``Linear`` in NumPy and in float64: the standard that its function bodies and lowerings are compared with."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from graphwright.errors import RequestError
from graphwright.plugins.linear.meaning import NONE

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


_FORMULAS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    NONE: lambda x: x,
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x * _sigmoid(x),
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
}


def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    activation: str = NONE,
    transposed: bool = False,
) -> np.ndarray:
    """Return ``activation(x @ weight + bias) + residual``.

    Shapes: x [..., K], weight [K, N] ([N, K] where transposed), bias [N], residual and result [..., N].
    Dtypes: any floats; the result is float64.

    Raises:
        RequestError: no such activation.

    Example:
        >>> linear(np.array([[1.0, -2.0]]), np.eye(2), np.array([0.5, 0.5]), activation="relu").tolist()
        [[1.5, 0.0]]
    """
    if activation not in _FORMULAS:
        raise RequestError("linear: activation", repr(activation), needed=", ".join(_FORMULAS))
    matrix = np.asarray(weight, np.float64)
    product = np.asarray(x, np.float64) @ (matrix.T if transposed else matrix)
    active = _FORMULAS[activation](product if bias is None else product + bias)
    return np.asarray(active if residual is None else active + residual, np.float64)
