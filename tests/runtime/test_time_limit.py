"""A run that would never end is ended, and one that ends is left alone."""

import numpy as np
import pytest

from graphwright.errors import TimeLimitError, VerificationError
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import Reference
from graphwright.testing import model

ENDLESS = """<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) {
    go = Constant<value = bool {1}>()
    most = Constant<value = int64 {9223372036854775807}>()
    y = Loop<body = b (int64 i, bool c, float[2] a) => (bool d, float[2] e) { d = Identity(c) e = Neg(a) }>(most, go, x)
}"""
X = {"x": np.ones(2, np.float32)}


def test_an_endless_run_is_ended() -> None:
    with pytest.raises(TimeLimitError, match=r"no end of a run after 0\.5 s"):
        OrtSession(model(ENDLESS), seconds=0.5)(X)


def test_a_run_in_time_gives_its_result() -> None:
    session = OrtSession(model(ENDLESS.replace("9223372036854775807", "3")), seconds=60)
    np.testing.assert_array_equal(session(X)["y"], [-1, -1])


def test_the_limit_may_be_taken_off() -> None:
    session = OrtSession(model(ENDLESS.replace("9223372036854775807", "200000")), seconds=1e-4)
    with pytest.raises(VerificationError, match="no end"):
        session(X)
    session.seconds = None
    np.testing.assert_array_equal(session(X)["y"], [1, 1])


def test_a_loop_is_not_given_to_what_cannot_be_stopped() -> None:
    # Nothing has the operator, so ONNX Runtime refuses the model, and onnx.reference would run the Loop for ever.
    text = ENDLESS.replace("(float[2] x)", "(float[2] x, uint8[N] z)").replace("go =", "w = local.nothing(z) go =")
    broken = model(text.replace('["" : 21]', '["" : 21, "local" : 1]'), infer=False)
    with pytest.raises(VerificationError, match="a Loop"):
        Reference(broken)
