"""Tell rounding from a fault, where two models of one dtype differ: float64 decides.

Two ways to add up the same numbers are each off by rounding, and the largest of millions of such errors may pass any
fixed bound. So a result that differs from its reference is compared with the same model in float64. It may be as far
from that as tolerance allows, and by as much again as the reference itself turns out to be, twice over.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, compare, gap_of
from graphwright.errors import GraphwrightError

Arrays = Mapping[str, np.ndarray]

# How many times as far from float64 as the reference a result may be: their errors are of one size, not equal.
_FACTOR = 2.0
# No more than this many tolerances are added: a reference that is itself far off proves nothing.
_MOST = 8.0


def beyond_rounding(
    differences: Sequence[Difference],
    due: Arrays,
    actual: Arrays,
    in_double: Callable[[], Arrays],
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> list[Difference]:
    """Return the differences that rounding does not explain.

    ``in_double`` gives the reference's outputs in float64; where it cannot, all stay. Outputs that are no float32
    stay, and so do those that differ in more than numbers.

    Example:
        >>> due, actual = {"y": np.float32([1.00002])}, {"y": np.float32([0.99998])}
        >>> found = compare(due, actual)
        >>> len(found), beyond_rounding(found, due, actual, lambda: {"y": np.float64([1])})
        (1, [])
    """
    doubtful = [each for each in differences if each.kind == "value" and due[each.output].dtype == np.float32]
    if not doubtful:
        return list(differences)
    try:
        wide = in_double()
    except GraphwrightError:
        return list(differences)
    excused = {each.output for each in doubtful if _is_rounding(each.output, wide, due, actual, tolerances)}
    return [each for each in differences if each.output not in excused]


def _is_rounding(
    name: str, wide: Arrays, due: Arrays, actual: Arrays, tolerances: Mapping[ir.DataType, Tolerance]
) -> bool:
    if name not in wide or wide[name].dtype != np.float64 or wide[name].shape != due[name].shape:
        return False
    given = tolerances[ir.DataType.FLOAT]
    noise = gap_of(wide[name], due[name], Tolerance(0.0, 0.0)).relative
    widened = Tolerance(given.absolute, given.relative + min(_MOST * given.relative, _FACTOR * noise))
    return not compare({name: wide[name]}, {name: actual[name]}, {ir.DataType.FLOAT: widened})
