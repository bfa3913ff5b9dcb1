"""TopK that need not sort: it does, and nothing else changes."""

import pytest

from graphwright.engine.observe import Reason
from graphwright.passes.lower.sort_topk import SORT_TOPK
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

TEXT = """<ir_version: 10, opset_import: ["": 24]>
g (float[B,9] x) => (float[B,3] v, int64[B,3] i) <int64[1] k = {3}> { v, i = TopK <%s> (x, k) }"""

EXAMPLES = {"plain": TEXT % "sorted = 0"}


@pytest.mark.parametrize("others", ["", ", largest = 0", ", axis = 1"])
def test_it_sorts(others: str) -> None:
    before = model(TEXT % f"sorted = 0{others}")
    assert [each.reason for each in unsupported(before)] == ["sorted is 0"]
    after = assert_fires(before, SORT_TOPK, 1, TEXT % f"sorted = 1{others}")
    assert_equivalent(before, after)
    assert not unsupported(after)


def test_the_axis_stays() -> None:
    text = (TEXT % "sorted = 0, axis = 0").replace("[B,3]", "[3,9]")
    before = model(text)
    assert_equivalent(before, assert_fires(before, SORT_TOPK), sizes={"B": 7})


@pytest.mark.parametrize("attributes", ["sorted = 1", "largest = 1"])
def test_what_sorts_stays(attributes: str) -> None:
    assert_refuses(model(TEXT % attributes), SORT_TOPK, Reason.STRUCTURE)
