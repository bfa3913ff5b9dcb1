"""Files that nobody vouches for are refused with one paragraph; what is written is whole or not there."""

import hashlib
import os
import resource
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphwright.errors import LoadError, OutputError
from graphwright.frontends import onnx_write
from graphwright.frontends.onnx import load_onnx, save_onnx, sha256_of

TEXT = '<ir_version: 10, opset_import: ["": 20]> g (float[N,4] x) => (float[N,4] y) {y = Add(x, x)}'


def weighted_model(rows: int = 600) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.replace("y = Add(x, x)", "t = MatMul(x, w) y = Add(t, b)"))
    weight = np.arange(4 * 4, dtype=np.float32).reshape(4, 4)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    bias = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    model.graph.initializer.append(numpy_helper.from_array(bias, "b"))
    return model


def external(folder: Path, **fields: object) -> Path:
    """A model whose bias lies in ``weights.bin``, with the given fields of external data changed."""
    model = weighted_model(2)
    (folder / "weights.bin").write_bytes(model.graph.initializer[1].raw_data)
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": 0, "length": 32, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(source: str | Path | onnx.ModelProto) -> str:
    with pytest.raises(LoadError) as caught:
        load_onnx(source)
    text = str(caught.value)
    assert "found" in text and "needed" in text and "\n" not in text
    return text


def test_a_file_with_external_data_loads_and_stays_mapped(tmp_path: Path) -> None:
    model = load_onnx(external(tmp_path))
    tensor = model.graph.initializers["b"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), np.arange(8, dtype=np.float32).reshape(2, 4))


def test_external_data_loads_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path)
    monkeypatch.chdir(tmp_path)
    tensor = load_onnx("model.onnx").graph.initializers["b"].const_value
    assert isinstance(tensor, ir.ExternalTensor) and str(tensor.base_dir) == str(tmp_path.resolve())


def test_text_loads(tmp_path: Path) -> None:
    path = tmp_path / "model.onnxtxt"
    path.write_text(TEXT)
    assert load_onnx(path).graph.node(0).op_type == "Add"
    path.write_text(TEXT[:-9])
    refusal(path)
    path.write_text("[" * 100_000)
    assert "brackets" in refusal(path)


@pytest.mark.parametrize("keep", [1, 7, 40, 100, 150])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(weighted_model().SerializeToString()[:keep])
    refusal(path)


def test_damaged_bytes_give_a_model_or_a_refusal(tmp_path: Path) -> None:
    data, random = bytearray(weighted_model(2).SerializeToString()), np.random.default_rng(0)
    path, refused = tmp_path / "model.onnx", 0
    for _ in range(1000):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            ir.to_proto(load_onnx(path))
        except LoadError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 2000
    assert 200 < refused < 1000


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model at all", b"PK\x03\x04rest", b"\x08\x0a"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refusal(path)


def test_a_folder_and_a_missing_path_and_a_pipe_are_refused(tmp_path: Path) -> None:
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "missing.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "no plain file" in refusal(tmp_path / "pipe.onnx")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"location": "/etc/hostname"}, "leaves the model's folder"),
        ({"location": "../weights.bin"}, "leaves the model's folder"),
        ({"location": "sub/../../weights.bin"}, "leaves the model's folder"),
        ({"location": "..\\weights.bin"}, "leaves the model's folder"),
        ({"location": "C:\\weights.bin"}, "leaves the model's folder"),
        ({"location": ""}, "leaves the model's folder"),
        ({"location": "."}, "leaves the model's folder"),
        ({"location": "missing.bin"}, "no file 'missing.bin'"),
        ({"offset": 8}, "32 bytes in 'weights.bin'"),
        ({"offset": -4}, "offset -4"),
        ({"offset": "x"}, "external data with"),
        ({"length": 16}, "length 16"),
        ({"length": -32}, "length -32"),
        ({"ofset": 8}, "ofset"),
    ],
)
def test_bad_external_data_is_refused(tmp_path: Path, fields: dict[str, object], found: str) -> None:
    assert found in refusal(external(tmp_path, **fields))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(bytes(32))
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder, location="link.bin")
    (folder / "link.bin").symlink_to(outside)
    assert "leaves the model's folder" in refusal(path)
    (folder / "link.bin").unlink()
    (folder / "link.bin").hardlink_to(outside)
    assert "several hard links" in refusal(path)
    (folder / "link.bin").unlink()
    (folder / "link.bin").symlink_to(folder / "weights.bin")
    load_onnx(path)


def test_external_data_in_a_subgraph_attribute_is_checked_too(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "body", [], [])
    body.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [8]))
    condition = helper.make_node("Constant", [], ["condition"], value_int=1)
    branch = helper.make_node("If", ["condition"], ["z"], then_branch=body, else_branch=body)
    model.graph.node.extend([condition, branch])
    path.write_bytes(model.SerializeToString())
    assert "leaves the model's folder" in refusal(path)


def test_a_model_in_memory_has_no_folder_for_external_data(tmp_path: Path) -> None:
    model = onnx.load(external(tmp_path), load_external_data=False)
    assert "external data in 'weights.bin'" in refusal(model)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("ir_version: 10", "ir_version: 99"), "IR version 99"),
        (("ir_version: 10", "ir_version: 2"), "IR version 2"),
        (('"": 20', '"": 999'), "opset 999"),
        (('"": 20', '"": 0'), "opset 0"),
        (('"": 20', '"other": 1'), "no opset for domain 'ai.onnx'"),
        (('"": 20', '"": 20, "ai.onnx": 19'), "opsets 20 and 19"),
        (("Add(x, x)", "Frobnicate(x)"), "operator Frobnicate, unknown in opset 20"),
        (("Add(x, x)", "RMSNormalization(x, x)"), "operator RMSNormalization, unknown in opset 20"),
        (("Add(x, x)", "Upsample(x, x)"), "operator Upsample, unknown in opset 20"),
        (("Add(x, x)", "mine.Frobnicate(x)"), "no opset for domain 'mine'"),
        (
            ("y = Add(x, x)", "a = Relu(b) b = Relu(a) y = Add(a, b)"),
            "Nodes in a graph must be topologically sorted",
        ),
        (("y = Add(x, x)", "y = Relu(x) y = Add(x, x)"), "SSA"),
        (("Add(x, x)", "Add(x, nowhere)"), "nowhere"),
        (("Add(x, x)", "Add(x)"), "Add"),
        (("Add(x, x)", "Add <color = 3> (x, x)"), "color"),
    ],
)
def test_an_invalid_graph_is_refused(change: tuple[str, str], found: str) -> None:
    assert found in refusal(onnx.parser.parse_model(TEXT.replace(*change)))


@pytest.mark.parametrize("place", ["input", "output", "value_info"])
def test_a_negative_size_is_refused(place: str) -> None:
    proto = onnx.parser.parse_model(TEXT.replace("y = Add(x, x)", "t = Add(x, x) y = Neg(t)"))
    values = getattr(proto.graph, place)
    if place == "value_info":
        values.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 4]))
    values[0].type.tensor_type.shape.dim[1].dim_value = -4
    assert "-4]; needed none below 0" in refusal(proto)


def test_operators_of_foreign_domains_are_let_through() -> None:
    text = TEXT.replace('"": 20', '"": 20, "com.microsoft": 1').replace("Add(x, x)", "com.microsoft.FastGelu(x)")
    assert load_onnx(onnx.parser.parse_model(text)).graph.node(0).domain == "com.microsoft"


def function(name: str, body: str) -> str:
    return f'<domain: "f", opset_import: ["": 20, "f": 1]> {name} (a) => (r) {{ {body} }} '


def with_functions(*functions: str) -> onnx.ModelProto:
    text = TEXT.replace('"": 20', '"": 20, "f": 1').replace("Add(x, x)", "f.F0(x)")
    return onnx.parser.parse_model(text + "".join(functions))


def test_functions_that_call_themselves_are_refused() -> None:
    assert "f::F0 calls itself" in refusal(with_functions(function("F0", "r = f.F0(a)")))
    round_trip = with_functions(function("F0", "r = f.F1(a)"), function("F1", "r = f.F0(a)"))
    assert "calls itself" in refusal(round_trip)
    assert "two functions f::F0" in refusal(with_functions(*[function("F0", "r = Relu(a)")] * 2))


def test_functions_that_expand_without_end_are_refused() -> None:
    tower = [function(f"F{i}", f"b = f.F{i + 1}(a) r = f.F{i + 1}(b)") for i in range(60)]
    assert "functions that stand for" in refusal(with_functions(*tower, function("F60", "r = Relu(a)")))
    load_onnx(with_functions(function("F0", "b = f.F1(a) r = f.F1(b)"), function("F1", "r = Relu(a)")))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"data_type": 99}, "data type 99"),
        ({"dims": [-1, 4]}, "shape [-1, 4]"),
        ({"dims": [2**62, 2**62]}, "bytes of data"),
        ({"raw_data": b"123"}, "3 bytes of data"),
    ],
)
def test_a_broken_tensor_is_refused(change: dict[str, object], found: str) -> None:
    model = weighted_model(2)
    tensor = model.graph.initializer[1]
    for field, value in change.items():
        tensor.ClearField(field)
        if isinstance(value, list):
            tensor.dims.extend(value)
        else:
            setattr(tensor, field, value)
    assert found in refusal(model)


def test_old_models_list_initializers_as_inputs_that_nobody_may_override() -> None:
    model = weighted_model(2)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 4]))
    loaded = load_onnx(model)
    assert [value.name for value in loaded.graph.inputs] == ["x"]
    assert set(loaded.graph.initializers) == {"w", "b"}


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    model = load_onnx(weighted_model())
    model.graph.metadata_props["origin"] = "test"
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    save_onnx(model, tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    again = load_onnx(tmp_path / "out.onnx")
    assert isinstance(again.graph.initializers["b"].const_value, ir.ExternalTensor)
    ir.external_data.load_to_model(again)
    assert again.graph.metadata_props["origin"] == "test"
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(again.graph.initializers[name].const_value.numpy(), value.const_value.numpy())


def test_threshold_none_keeps_weights_inside(tmp_path: Path) -> None:
    save_onnx(load_onnx(external(tmp_path)), tmp_path / "out.onnx", external_threshold=None)
    (tmp_path / "weights.bin").unlink()
    tensor = load_onnx(tmp_path / "out.onnx").graph.initializers["b"].const_value
    assert not isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), np.arange(8, dtype=np.float32).reshape(2, 4))


def test_threshold_zero_puts_every_weight_beside(tmp_path: Path) -> None:
    save_onnx(load_onnx(weighted_model()), tmp_path / "out.onnx", external_threshold=0)
    weights = load_onnx(tmp_path / "out.onnx").graph.initializers.values()
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in weights)


def test_shared_and_lazy_tensors_are_written_once(tmp_path: Path) -> None:
    model = load_onnx(weighted_model())
    calls = []

    def make() -> ir.Tensor:
        calls.append(1)
        return ir.tensor(np.full((600, 4), 7, np.float32))

    lazy = ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape([600, 4]), name="b")
    model.graph.initializers["b"].const_value = lazy
    twin = ir.Value(name="twin", const_value=lazy, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([600, 4]))
    model.graph.register_initializer(twin)
    save_onnx(model, tmp_path / "out.onnx")
    assert len(calls) == 1
    assert (tmp_path / "out.onnx.data").stat().st_size == 600 * 4 * 4
    again = load_onnx(tmp_path / "out.onnx").graph.initializers
    np.testing.assert_array_equal(again["twin"].const_value.numpy(), np.full((600, 4), 7, np.float32))


@pytest.mark.parametrize("touched", [False, True])
def test_a_model_can_be_saved_over_the_file_it_is_mapped_from(tmp_path: Path, touched: bool) -> None:
    path = tmp_path / "out.onnx"
    save_onnx(load_onnx(weighted_model()), path)
    model = load_onnx(path)
    bias = model.graph.initializers["b"].const_value
    expected = np.arange(2400, dtype=np.float32).reshape(600, 4)
    if touched:
        np.testing.assert_array_equal(bias.numpy(), expected)
    # A second weight in front moves the bias to another offset of the new file.
    first = ir.Value(name="first", const_value=ir.tensor(np.ones((500,), np.float32), name="first"))
    initializers = dict(model.graph.initializers)
    model.graph.initializers.clear()
    for value in (first, *initializers.values()):
        model.graph.register_initializer(value)
    for _ in range(2):
        save_onnx(model, path)
        np.testing.assert_array_equal(bias.numpy(), expected)
        np.testing.assert_array_equal(load_onnx(path).graph.initializers["b"].const_value.numpy(), expected)


def test_external_constants_are_carried_along(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer.pop()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["b"], value=tensor))
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "elsewhere").mkdir()
    save_onnx(load_onnx(path), tmp_path / "elsewhere" / "out.onnx")
    value = load_onnx(tmp_path / "elsewhere" / "out.onnx").graph.node(0).attributes["value"].as_tensor()
    np.testing.assert_array_equal(value.numpy(), np.arange(8, dtype=np.float32).reshape(2, 4))


@pytest.mark.parametrize("dtype", [ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN])
def test_narrow_types_survive(tmp_path: Path, dtype: ir.DataType) -> None:
    model = load_onnx(weighted_model(2))
    values = np.array([[1, -2, 3, 4, 5], [0, 1, -1, 2, -7]]).astype(dtype.numpy())
    extra = ir.Value(name="e", const_value=ir.Tensor(values, dtype=dtype, name="e"))
    model.graph.register_initializer(extra)
    for name, threshold in (("a.onnx", 0), ("b.onnx", None), ("c.onnx", 0)):
        save_onnx(model, tmp_path / name, external_threshold=threshold)
        model = load_onnx(tmp_path / name)
        np.testing.assert_array_equal(model.graph.initializers["e"].const_value.numpy(), values)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = load_onnx(weighted_model()), tmp_path / "out.onnx"
    save_onnx(model, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(tensor: object, file: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_write, "_append", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_onnx(model, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    model = load_onnx(weighted_model())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores the signal; writes fail instead
    try:
        with pytest.raises(OutputError, match="File too large"):
            save_onnx(model, tmp_path / "out.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    model = load_onnx(weighted_model(2))
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    for path in ("missing/out.onnx", "file/out.onnx", "folder.onnx"):
        with pytest.raises(OutputError):
            save_onnx(model, tmp_path / path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.onnx"]


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    first = sha256_of(path)
    assert first == hashlib.sha256(path.read_bytes() + (tmp_path / "weights.bin").read_bytes()).hexdigest()
    of_model = sha256_of(load_onnx(path))
    (tmp_path / "weights.bin").write_bytes(bytes(32))
    assert sha256_of(path) != first
    assert sha256_of(load_onnx(path)) != of_model


def test_hars_nodes_without_bodies_get_them_and_bad_ones_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 20, "hars" : 1]> g (float[B, 9] x) => (float[B, 2] v, int64[B, 2] i)
        {v, i = hars.softmax_topk <k = 2, mode = "MODE"> (x)}"""
    loaded = load_onnx(onnx.parser.parse_model(text.replace("MODE", "prob")))
    assert list(loaded.functions) == [("hars", "softmax_topk", "prob")]
    with pytest.raises(LoadError, match="sharp"):
        load_onnx(onnx.parser.parse_model(text.replace("MODE", "sharp")))
