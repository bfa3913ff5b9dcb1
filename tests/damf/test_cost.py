"""What the cost report says of exported models, exact and with DAMF, by hand."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from graphwright.damf import replace_attention  # noqa: E402
from graphwright.engine.cost import cost_table  # noqa: E402
from graphwright.frontends.transformers import from_pretrained  # noqa: E402
from tests.damf.models import bert  # noqa: E402

# Of a layer of width 16 with 2 heads, and the paper's count of exact attention, L^2 (d + h).
PARAMETERS, STATIC, DYNAMIC, PAPER = 4 * (16**2 + 16), "1024*batch*seq", "32*batch*seq**2", "18*batch*seq**2"


def test_an_exported_model_has_a_row_for_each_attention() -> None:
    report = cost_table(from_pretrained(bert()).model)
    assert report.unknown == ()
    assert [each.form for each in report.attentions] == ["Attention 4-D"] * 2
    for each in report.attentions:
        assert each.parameters == PARAMETERS
        assert (str(each.work.static_macs), str(each.work.dynamic_macs)) == (STATIC, DYNAMIC)
        assert str(each.paper_macs) == PAPER
    number = report.at({"batch": 3, "seq": 50})
    assert number.total.dynamic_macs.size == 2 * 32 * 3 * 50**2
    # The layers in between have width 24; the pooler sees one token.
    assert number.total.static_macs.size == 2 * (1024 + 2 * 16 * 24) * 150 + 256 * 3


def test_an_exported_model_with_damf_grows_with_the_length_alone() -> None:
    model, rank = bert(), 4
    replace_attention(model, rank)
    report = cost_table(from_pretrained(model).model)
    assert report.unknown == ()
    assert [each.form for each in report.attentions] == ["linear"] * 2
    for each in report.attentions:
        # Values and output, and u and v of two heads with their last row; and few numbers.
        assert 0 <= each.parameters - (2 * (16**2 + 16) + 2 * 2 * 17 * rank) < 20
        assert each.work.static_macs.at({"batch": 1, "seq": 1}) == 2 * 16**2 + 2 * 16 * 2 * rank
        # [S,r+1] by [r+1,9] of both heads, and as much for the sums over keys.
        assert str(each.work.dynamic_macs) == f"{2 * 2 * (rank + 1) * 9}*batch*seq"
