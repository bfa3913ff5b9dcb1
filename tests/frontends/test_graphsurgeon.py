"""A user's graphsurgeon function keeps what it does not touch, and its failures say where they come from."""

from pathlib import Path

import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest

from graphwright.errors import StructureError, UsageError
from graphwright.frontends.graphsurgeon import Script, apply, load_script

TEXT = """<ir_version: 10, opset_import: ["": 20, "f": 1], metadata_props: ["made": "by hand"]>
g (float[batch,4] x, bool c) => (float[batch,4] y) <float[4] w = {1, 2, 3, 4}> {
   t = f.F <alpha = 2.0> (x)
   u = Add (t, w)
   s = If (c) <then_branch = tg () => (float[batch,4] a) { a = Add(t, u) },
               else_branch = eg () => (float[batch,4] b) { b = Mul(t, x) }>
   y = Relu (s)
}
<domain: "f", opset_import: ["": 20]>
F <alpha> (a) => (r) { k = Constant <value_float: float = @alpha> () r = Mul(a, k) }
"""


def model() -> ir.Model:
    result = ir.from_onnx_text(TEXT)
    result.graph.node(3).name = "last"
    result.graph.node(3).metadata_props["origin"] = "layer 3"
    return result


def test_a_function_that_does_nothing_changes_nothing() -> None:
    before = model()
    text = ir.to_onnx_text(before)
    after = apply(Script("script.py", "f", lambda graph: None), before)
    assert ir.to_onnx_text(before) == text
    assert str(after.graph.inputs[0].shape) == "[batch,4]"
    assert after.metadata_props == {"made": "by hand"}
    assert [node.op_type for node in after.graph.all_nodes()] == [node.op_type for node in before.graph.all_nodes()]
    assert after.graph.node("last").metadata_props["origin"] == "layer 3"
    assert list(after.functions) == list(before.functions)
    assert after.opset_imports == before.opset_imports


def test_a_script_edits_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "surgery.py"
    path.write_text("def to_tanh(graph):\n    graph.nodes[-1].op = 'Tanh'\n    return graph\n")
    script = load_script(f"{path}:to_tanh")
    assert apply(script, model()).graph.node("last").op_type == "Tanh"


def test_an_error_names_file_function_and_line(tmp_path: Path) -> None:
    path = tmp_path / "surgery.py"
    path.write_text("def broken(graph):\n    x = 1\n    raise KeyError('no such node')\n")
    with pytest.raises(UsageError) as caught:
        apply(load_script(f"{path}:broken"), model())
    assert str(path) in caught.value.where and "broken" in caught.value.where and "line 3" in caught.value.where
    assert "no such node" in caught.value.found


def test_an_error_in_a_function_given_as_an_object_names_its_line() -> None:
    def broken(graph: gs.Graph) -> None:
        raise KeyError("no such node")

    with pytest.raises(UsageError) as caught:
        apply(Script(__name__, "broken", broken), model())
    assert f"line {broken.__code__.co_firstlineno + 1}" in caught.value.where


@pytest.mark.parametrize(
    ("content", "text", "found"),
    [
        ("def f(graph): pass", "{}", "surgery.py"),
        ("def f(graph): pass", "{}:g", "no function 'g'"),
        ("f = 3", "{}:f", "no function 'f'"),
        ("def f(graph)\n", "{}:f", "SyntaxError"),
        ("1 / 0", "{}:f", "ZeroDivisionError"),
    ],
)
def test_scripts_that_cannot_be_used_are_refused(tmp_path: Path, content: str, text: str, found: str) -> None:
    path = tmp_path / "surgery.py"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        load_script(text.format(path))
    assert found in str(caught.value)


def test_a_missing_script_is_refused() -> None:
    with pytest.raises(UsageError, match="no file"):
        load_script("missing.py:f")


def test_a_wrong_result_and_an_invalid_graph_are_refused() -> None:
    with pytest.raises(UsageError, match="a int as the result"):
        apply(Script("script.py", "f", lambda graph: 3), model())

    def invalid(graph: gs.Graph) -> None:
        graph.nodes[-1].op = "Frobnicate"

    with pytest.raises(StructureError, match="Frobnicate"):
        apply(Script("script.py", "f", invalid), model())


def test_types_that_graphsurgeon_loses_are_refused() -> None:
    head = '<ir_version: 10, opset_import: ["": 21]>'
    text = head + " g (float8e4m3fnuz[N] x) => (float8e4m3fnuz[N] y) {y = Identity(x)}"
    with pytest.raises(UsageError, match="FLOAT8E4M3FNUZ"):
        apply(Script("script.py", "f", lambda graph: None), ir.from_onnx_text(text))
