"""The largest magnitudes of a model's values on given inputs."""

import numpy as np
import pytest

from graphwright.errors import VerificationError
from graphwright.runtime.observed import magnitudes
from graphwright.testing import model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'


def test_each_value_has_its_largest_over_all_inputs() -> None:
    given = model(f"{HEAD} (float[N] x) => (float[N] y) {{h = Exp(x) y = Neg(h)}}")
    found = magnitudes(given, [{"x": np.float32([1, -4])}, {"x": np.float32([2])}, {"x": np.float32([])}])
    assert found == {"x": 4.0, "h": pytest.approx(np.exp(2), rel=1e-6), "y": pytest.approx(np.exp(2), rel=1e-6)}


def test_infinities_do_not_count_and_nan_is_not_known() -> None:
    given = model(f"{HEAD} (float[N] x) => (float[N] y) {{h = Log(x) y = Neg(h)}}")
    assert magnitudes(given, [{"x": np.float32([0, np.e])}])["h"] == pytest.approx(1, rel=1e-6)
    assert magnitudes(given, [{"x": np.float32([-1, np.e])}]) == {"x": pytest.approx(np.e)}


def test_inputs_that_the_model_does_not_take_are_left_out() -> None:
    given = model(f"{HEAD} (float[N] x, float[M] z) => (float[K] y) {{y = Add(x, z)}}")
    good = {"x": np.ones(3, np.float32), "z": np.ones(3, np.float32)}
    bad = {"x": np.ones(3, np.float32), "z": np.ones(2, np.float32)}
    assert magnitudes(given, [bad, good])["y"] == 2.0
    with pytest.raises(VerificationError, match="inputs to observe"):
        magnitudes(given, [bad])
    with pytest.raises(VerificationError, match="no inputs"):
        magnitudes(given, [])


def test_other_types_and_subgraphs_are_not_looked_at() -> None:
    branches = "<then_branch = t () => (float[N] p) {p = Exp(x)}, else_branch = e () => (float[N] q) {q = Neg(x)}>"
    given = model(
        f"{HEAD} (float[N] x, bool c, int64[N] i) => (float[N] y, int64[N] j) {{y = If {branches} (c) j = Abs(i)}}"
    )
    inputs = {"x": np.float32([3]), "c": np.array(False), "i": np.array([-7])}
    assert magnitudes(given, [inputs]) == {"x": 3.0, "y": 3.0}


def test_sequences_are_not_looked_at() -> None:
    given = model(
        f"{HEAD} (float[N] x) => (float[M] y) {{h = Neg(x) s = SequenceConstruct(x, h) "
        "y = ConcatFromSequence<axis = 0>(s)}"
    )
    assert magnitudes(given, [{"x": np.float32([3, -1])}]) == {"x": 3.0, "h": 3.0, "y": 3.0}
