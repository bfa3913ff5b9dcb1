"""What a model computes, what is fused of it and what is left over: by torch, in graphs, and at the command line."""

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from graphwright.cli import main
from graphwright.coverage import Coverage, cover, found, leftovers
from graphwright.engine.kinds import KINDS, count_kinds, pieces
from graphwright.frontends.torch import trace
from graphwright.frontends.torch_kinds import Counter
from tests.zoo.checks import expected
from tests.zoo.page import page, plain

NONE = dict.fromkeys(KINDS, 0)


def graph(text: str, inputs: str = "float[b, 8] x", opset: int = 20) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => (y) {{{text}}}')


def counted(function: object, *tensors: torch.Tensor) -> dict[str, int]:
    with torch.no_grad(), Counter() as counter:
        function(*tensors)  # type: ignore[operator]
    return {kind: number for kind, number in counter.counts.items() if number}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# Torch: every kind in each of its spellings, and what is near to it.


def rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rms_by_division(x: torch.Tensor) -> torch.Tensor:
    return x / (x * x).mean((-1,), keepdim=True).add(1e-6).sqrt()


def layer_norm_by_hand(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred**2).mean(-1, keepdim=True).add(1e-6) ** -0.5


def layer_norm_by_variance(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-6)


def gelu_by_tanh(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3)))


def gelu_by_erf(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))


def attention_by_hand(x: torch.Tensor) -> torch.Tensor:
    return ((x @ x.mT) / 8**0.5).masked_fill(x[..., :1] > 9, -1e9).softmax(-1) @ x


def attention_with_a_sink(x: torch.Tensor) -> torch.Tensor:
    scores = torch.cat([x @ x.mT, x[..., :1]], -1)
    scores = scores - scores.max(-1, keepdim=True).values
    return scores.softmax(-1)[..., :-1] @ x


def turned_halves(x: torch.Tensor) -> torch.Tensor:
    turned = torch.cat((-x[..., 4:], x[..., :4]), -1)
    return x * x.cos() + turned * x.sin()


def turned_pairs(x: torch.Tensor) -> torch.Tensor:
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * x.cos() + turned * x.sin()


def turned_parts(x: torch.Tensor) -> torch.Tensor:
    cos, sin = x[..., :4].cos(), x[..., :4].sin()
    return torch.cat((x[..., :4] * cos - x[..., 4:] * sin, x[..., 4:] * cos + x[..., :4] * sin), -1)


def turned_complex(x: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(x[..., :4]), x[..., :4])).flatten(-2)


def router_of_groups(x: torch.Tensor) -> torch.Tensor:
    scores = x.sigmoid()
    strength = scores.unflatten(-1, (4, 2)).topk(2)[0].sum(-1)
    mask = torch.zeros_like(strength).scatter(-1, strength.topk(2)[1], 1.0)
    mask = mask.unsqueeze(-1).expand(*strength.shape, 2).flatten(-2)
    return scores.masked_fill(~mask.bool(), 0.0).topk(2)[0]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: functional.layer_norm(x, (8,)), "norm"),
        (lambda x: functional.rms_norm(x, (8,)), "norm"),
        (rms, "norm"),
        (rms_by_division, "norm"),
        (layer_norm_by_hand, "norm"),
        (layer_norm_by_variance, "norm"),
        (functional.gelu, "activation"),
        (lambda x: functional.gelu(x, approximate="tanh"), "activation"),
        (gelu_by_tanh, "activation"),
        (gelu_by_erf, "activation"),
        (functional.silu, "activation"),
        (functional.mish, "activation"),
        (lambda x: x * torch.tanh(functional.softplus(x)), "activation"),
        (lambda x: x * torch.sigmoid(x), "activation"),
        (lambda x: torch.sigmoid(1.702 * x) * x, "activation"),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), "attention"),
        (lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True), "attention"),
        (attention_by_hand, "attention"),
        (attention_with_a_sink, "attention"),
        (lambda x: torch.einsum("bst,btd->bsd", x.softmax(-1), x.mT), "attention"),
        (turned_halves, "rotary"),
        (turned_pairs, "rotary"),
        (turned_parts, "rotary"),
        (turned_complex, "rotary"),
        (lambda x: x.softmax(-1).topk(2), "router"),
        (lambda x: (x.sigmoid() + x[:1, :1]).topk(2), "router"),
        (lambda x: x.topk(2)[0].softmax(-1), "router"),
        (lambda x: x.softmax(-1).max(-1), "router"),
        (lambda x: x.softmax(-1).argmax(-1), "router"),
        (router_of_groups, "router"),
    ],
)
def test_torch_counts_one_of_a_kind_however_it_is_written(function: object, kind: str) -> None:
    assert counted(function, noise(2, 8, 8)) == {kind: 1}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tanh(x) * 30,
        lambda x: torch.tanh(x) * x,
        lambda x: x * torch.sigmoid(x.mT),
        lambda x: (x * x).sum(-1),
        lambda x: x.pow(2).mean(),
        lambda x: torch.sqrt(x.pow(2).mean(0) + 1),
        lambda x: functional.normalize(x),
        lambda x: x.softmax(-1) * x,
        lambda x: x.softmax(-1),
        lambda x: x.topk(2),
        lambda x: x - x.max(-1, keepdim=True).values,
        lambda x: torch.cat((-x[..., 4:], x[..., :4]), -1),
        lambda x: x * x.cos() + x * x.sin(),
        functional.relu,
    ],
)
def test_torch_counts_nothing_that_is_only_near(function: object) -> None:
    assert counted(function, noise(2, 8, 8)) == {}


def test_torch_counts_both_heads_of_a_layer_of_its_own() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True).eval()
    assert counted(layer, noise(2, 5, 8)) == {"attention": 1, "norm": 2, "activation": 1}


def test_a_tensor_written_in_place_is_another_one() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        gate = x.sigmoid()
        x.add_(1)
        return x * gate

    assert counted(function, noise(2, 8, 8)) == {}


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("bert", (2, 5, 0, 2, 0)),
        ("qwen3", (2, 9, 4, 2, 0)),
        ("bart", (6, 12, 0, 4, 0)),
        ("mixtral", (2, 5, 4, 2, 2)),
        ("gpt_oss", (2, 5, 4, 2, 2)),
    ],
)
def test_torch_counts_what_a_family_is_made_of(family: str, counts: tuple[int, ...]) -> None:
    assert tuple(expected(family).values()) == counts


def test_the_form_of_attention_does_not_change_the_count() -> None:
    assert expected("llama", "sdpa") == expected("llama", "eager")
    with pytest.raises(ValueError, match="bloom has no sdpa attention"):
        expected("bloom", "sdpa")


# Graphs: what is whole, and what is in pieces.


def test_whole_operators_are_counted_also_inside_of_nodes() -> None:
    text = """c = Constant<value = bool {1}>()
    a = Swish(x)
    b = If (c) <then_branch = t () => (p) {p = Gelu(a)}, else_branch = e () => (q) {q = RMSNormalization(a, a)}>
    y = Attention<q_num_heads=2, kv_num_heads=2>(b, b, b)"""
    assert count_kinds(graph(text, opset=24)) == {**NONE, "activation": 2, "norm": 1, "attention": 1}


PIECES = {
    "attention": "s = Softmax(x) h = Constant<value_float=0.5>() m = Mul(s, h) y = MatMul(m, x)",
    "norm": "p = Mul(x, x) a = Constant<value_ints=[-1]>() m = ReduceMean(p, a) r = Sqrt(m) y = Div(x, r)",
    "activation": "o = Constant<value_float=1.0>() e = Tanh(x) s = Add(e, o) y = Mul(s, x)",
    "router": "s = Softmax(x) k = Constant<value_ints=[2]>() y, i = TopK(s, k)",
    "rotary": "n = Constant<value_ints=[4, 4]>() a, b = Split<axis=-1>(x, n) m = Neg(b) t = Concat<axis=-1>(m, a) "
    "y = Mul(t, x)",
}


@pytest.mark.parametrize("kind", PIECES)
def test_a_computation_in_primitives_is_found(kind: str) -> None:
    (piece,) = pieces(graph(PIECES[kind]))
    assert piece.kind == kind


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("norm", "t = Constant<value_float=2.0>() p = Pow(x, t) m = ReduceMean(p) h = Constant<value_float=-0.5>() "
         "r = Pow(m, h) y = Mul(x, r)"),
        ("activation", "c = Constant<value_float=1.702>() z = Mul(x, c) s = Sigmoid(z) y = Mul(x, s)"),
        ("activation", "o = Constant<value_float=1.0>() e = Erf(x) s = Add(e, o) h = Constant<value_float=0.5>() "
         "t = Mul(s, h) y = Mul(x, t)"),
        ("activation", "p = Softplus(x) t = Tanh(p) y = Mul(x, t)"),
        ("router", "k = Constant<value_ints=[2]>() v, i = TopK(x, k) y = Softmax(v)"),
        ("rotary", "n = Constant<value_ints=[4, 4]>() a, b = Split<axis=-1>(x, n) c = Cos(a) s = Sin(a) p = Mul(a, c) "
         "q = Mul(b, s) r = Mul(b, c) t = Mul(a, s) d = Sub(p, q) e = Add(r, t) y = Concat<axis=-1>(d, e)"),
    ],
)  # fmt: skip
def test_other_spellings_are_found_too(kind: str, text: str) -> None:
    assert [piece.kind for piece in pieces(graph(text))] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "s = Softmax(x) y = Relu(s)",
        "m = ReduceMean(x) r = Sqrt(m) y = Div(x, r)",
        "e = Tanh(x) c = Constant<value_float=30.0>() y = Mul(e, c)",
        "s = Sigmoid(x) t = Transpose(x) u = Relu(t) y = MatMul(s, u)",
        "k = Constant<value_ints=[2]>() y, i = TopK(x, k)",
        "m = Neg(x) t = Concat<axis=-1>(m, x) y = Relu(t)",
        "p = Mul(x, x) m = ReduceMean(p) y = Relu(m)",
    ],
)
def test_what_is_only_near_is_not_left_over(text: str) -> None:
    assert pieces(graph(text)) == []


def test_a_leftover_has_the_reason_of_the_nearest_rule() -> None:
    text = f"{PIECES['activation']}".replace("y = Mul(s, x)", "t = Mul(s, x) y = Add(t, s)")
    model = graph(text)
    before = ir.to_onnx_text(model)
    (left,) = leftovers(model)
    assert left.kind == "activation" and left.node.endswith("(Tanh)")
    assert left.pass_name == "fuse-gelu" and left.reason
    assert ir.to_onnx_text(model) == before
    assert found(model) == NONE


def test_what_no_rule_looks_at_says_so() -> None:
    text = 's = Softmax(x) e = Einsum<equation = "ab,cb->ac">(s, x) y = Relu(e)'
    (left,) = leftovers(graph(text))
    assert (left.kind, left.reason) == ("attention", "no rule came near")


def test_a_fused_one_is_no_leftover() -> None:
    model = graph("s = Sigmoid(x) y = Mul(x, s)")
    assert found(model) == {**NONE, "activation": 1}
    assert leftovers(model) == ()


# Expected against found.


class Block(torch.nn.Module):
    """One norm and one activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.silu(functional.layer_norm(x, (8,)))


def test_a_module_s_expected_and_found_agree() -> None:
    coverage = cover(trace(Block(), {"x": noise(3, 8)}))
    assert coverage.expected == coverage.found == {**NONE, "norm": 1, "activation": 1}
    assert coverage.gaps == {} and coverage.leftovers == ()


def test_without_torch_the_leftovers_are_the_gaps() -> None:
    counted_only = Coverage(None, NONE, leftovers(graph(PIECES["attention"])))
    assert counted_only.gaps == {"attention": 1}
    assert counted_only.reason("attention")
    assert Coverage({**NONE, "norm": 2}, NONE, ()).gaps == {"norm": 2}
    assert Coverage({**NONE, "norm": 2}, NONE, ()).reason("norm") == "nothing that looks like one is left"


# The command line.


@pytest.fixture
def path(tmp_path: Path) -> str:
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[b, 8] x) => (float[b, 8] y) {{{PIECES["activation"]}}}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    return str(tmp_path / "model.onnx")


def test_inspect_prints_what_is_found_and_left_over(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", path, "--expected", "--json"]) == 0
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert coverage["expected"] is None
    assert coverage["found"] == NONE
    assert coverage["gaps"] == {"activation": 1}
    assert [each["kind"] for each in coverage["leftovers"]] == ["activation"]
    assert main(["inspect", path, "--expected"]) == 0
    shown = capsys.readouterr().out
    assert "left over" in shown and "fuse-gelu" in shown and "?" in shown
    assert main(["inspect", path]) == 0
    assert "left over" not in capsys.readouterr().out


def test_inspect_counts_what_a_saved_model_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.zoo.families import build

    build("distilbert").save_pretrained(tmp_path / "saved")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "saved"), "--expected", "--json"]) == 0
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert coverage["expected"] == coverage["found"] == expected("distilbert")
    assert coverage["gaps"] == {}


def test_expected_needs_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--damf-table", "--expected"]) == 2
    assert "--expected" in capsys.readouterr().err


# The page.


def test_the_page_tells_gaps_from_what_is_not_exported() -> None:
    from tests.zoo.checks import Result

    full = {**NONE, "norm": 2}
    results = [
        Result("bert", "dynamo24-sdpa", "", full, full),
        Result("bert", "dynamo20-eager", "", full, {**full, "norm": 1}, {"norm": "a | b `c`"}),
        Result("bert", "transformers", "TypeError: no\nway"),
        Result("bloom", "dynamo24-sdpa", "ValueError: bloom has no sdpa attention"),
        Result("bloom", "dynamo20-eager", "", full, full, faults=("onnx: y differs",), again=("onnx: clean-up",)),
    ]
    assert [each.is_failure for each in results] == [False, True, False, False, True]
    text = page(results, {"torch": "2"})
    assert "| bert | 0 2 0 0 0 | norm 1/2 | all | not exported |" in text
    assert "| bloom | 0 2 0 0 0 | numbers, second run | - |  |" in text
    assert "- bert, dynamo20-eager: norm 1/2: `a | b 'c'`" in text
    assert "- bert, transformers: `TypeError: no way`" in text


def test_long_words_of_others_are_cut() -> None:
    assert len(plain("word " * 100)) < 260 and plain("") == ""
