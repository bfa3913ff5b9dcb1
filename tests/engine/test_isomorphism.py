"""Two graphs are the same up to names, or the first difference is told."""

import onnx_ir as ir

from graphwright.engine.isomorphism import difference, same_graph
from graphwright.testing import model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[N, 4] x) => (float[N, 4] y) <float[4] w> "
TEXT = HEAD + SIGNATURE + "{a = Mul(x, w) y = Neg(a)}"


def other(old: str, new: str) -> ir.Model:
    return model(TEXT.replace(old, new), infer=False)


def test_same_graph_forgets_names_only() -> None:
    assert same_graph(model(TEXT), model(TEXT.replace("{a =", "{b =").replace("(a)", "(b)")))
    assert "operators" in difference(model(TEXT), other("Neg(a)", "Abs(a) z = Neg(a)"))
    assert difference(model(TEXT), other("Neg", "Abs"))
    assert difference(model(TEXT), other("Mul(x, w)", "Mul(w, x)"))
    assert difference(model(TEXT), other("float[N, 4] x", "float[M, 4] x"))
    assert difference(model(TEXT), other("24", "23"))
    assert difference(model(TEXT), model(TEXT, seed=1))


def test_same_graph_counts_defaults_as_given() -> None:
    one = HEAD + "(float[N, 4] x) => (float[N, 4] y) {y = Softmax(x)}"
    assert same_graph(model(one), model(one.replace("Softmax", "Softmax <axis = -1>")))
    assert not same_graph(model(one), model(one.replace("Softmax", "Softmax <axis = 0>")))


def test_same_graph_tells_one_node_used_twice_from_two() -> None:
    shared = HEAD + "(float[N] x) => (float[N] y) {a = Exp(x) b = Neg(x) y = Add(a, a)}"
    assert not same_graph(model(shared), model(shared.replace("b = Neg(x) y = Add(a, a)", "b = Exp(x) y = Add(a, b)")))


def test_same_graph_looks_into_branches() -> None:
    text = HEAD + (
        "(float[N] x, bool c) => (float[N] y) {y = If (c) <then_branch = t () => (float[N] o) {o = Exp(x)},"
        " else_branch = f () => (float[N] q) {q = Neg(x)}>}"
    )
    assert same_graph(model(text), model(text))
    assert not same_graph(model(text), model(text.replace("Exp", "Abs")))
