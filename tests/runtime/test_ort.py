"""Sessions in ONNX Runtime: requests, arrays of both kinds, buffers, threads."""

import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from graphwright.errors import (
    LoadError,
    MissingDependencyError,
    OutputError,
    ProfileError,
    RequestError,
    UsageError,
)
from graphwright.runtime import ort_load
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.profile import Profile


def model_of(body: str, opset: int = 18) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {body}'))


ADD = "g (float[batch, seq, 4] x, int64[batch, seq] ids) => (float[batch, seq, 4] y) {\n"
ADD += "axis = Constant<value_ints = [2]>() wide = Unsqueeze(ids, axis) f = Cast<to = 1>(wide) y = Add(x, f) }"
PROFILE = "batch=1:2:4,seq=1:8:16"


def request(batch: int = 2, seq: int = 3) -> dict[str, np.ndarray]:
    x = np.arange(batch * seq * 4, dtype=np.float32).reshape(batch, seq, 4)
    return {"x": x, "ids": np.arange(batch * seq, dtype=np.int64).reshape(batch, seq)}


def expected(given: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(given["x"] + given["ids"][..., None])


@pytest.fixture(scope="module")
def session() -> OrtSession:
    return OrtSession(model_of(ADD), PROFILE)


def refused(session: OrtSession, **changes: object) -> str:
    given: dict[str, object] = {**request(), **changes}
    with pytest.raises(RequestError) as caught:
        session({name: value for name, value in given.items() if value is not None})
    return str(caught.value)


def test_numbers_are_right_as_mapping_and_as_keywords(session: OrtSession) -> None:
    given = request()
    np.testing.assert_array_equal(session(given)["y"], expected(given))
    np.testing.assert_array_equal(session(**given)["y"], expected(given))
    np.testing.assert_array_equal(session({"x": given["x"]}, ids=given["ids"])["y"], expected(given))


def test_an_input_given_twice_is_refused(session: OrtSession) -> None:
    with pytest.raises(RequestError, match="input x given twice"):
        session(request(), x=request()["x"])


def test_an_unknown_name_lists_the_names_there_are(session: OrtSession) -> None:
    assert "unknown input mask; needed some of x, ids" in refused(session, mask=np.ones(1))


def test_a_missing_input_is_named_with_its_type(session: OrtSession) -> None:
    assert "also ids int64[batch, seq]" in refused(session, ids=None)


def test_a_wrong_type_says_both_types(session: OrtSession) -> None:
    assert "input x: found type double; needed float" in refused(session, x=request()["x"].astype(np.float64))


def test_a_foreign_byte_order_is_refused(session: OrtSession) -> None:
    assert "byte order >f4" in refused(session, x=request()["x"].astype(">f4"))


def test_a_list_is_refused(session: OrtSession) -> None:
    assert "found a list; needed a NumPy array or a torch tensor" in refused(session, x=[1.0])


def test_a_wrong_rank_says_both_ranks(session: OrtSession) -> None:
    assert "rank 2 (shape [3, 4]); needed rank 3" in refused(session, x=np.ones((3, 4), np.float32))


def test_a_wrong_fixed_size_names_the_axis(session: OrtSession) -> None:
    assert "size 5 on axis 2; needed 4" in refused(session, x=np.ones((2, 3, 5), np.float32))


def test_a_shared_dimension_must_agree(session: OrtSession) -> None:
    text = refused(session, ids=np.ones((2, 7), np.int64))
    assert "input ids: found seq = 7 on axis 1; needed 3, as axis 1 of x has" in text


def test_a_request_outside_the_profile_says_what_is_allowed(session: OrtSession) -> None:
    text = refused(session, **request(5, 17))
    assert "batch = 5 (axis 0 of x), seq = 17 (axis 1 of x)" in text
    assert "needed batch 1 to 4, seq 1 to 16; the nearest profile is batch=1:2:4,seq=1:8:16" in text


def test_a_refused_request_is_refused_again(session: OrtSession) -> None:
    session(request(4, 16))
    for _ in range(2):
        refused(session, **request(4, 17))


def test_values_that_a_node_refuses_give_its_name() -> None:
    gather = model_of("g (float[n] x, int64[k] i) => (float[k] y) { [pick] y = Gather(x, i) }")
    with pytest.raises(RequestError, match=r"found pick \(Gather\): ") as caught:
        OrtSession(gather)(x=np.ones(3, np.float32), i=np.array([7]))
    assert "/onnxruntime_src" not in str(caught.value)


def test_inputs_may_have_any_name() -> None:
    body = 'g (float[n] self, float[n] s, float[n] inputs, float[n] "a/b:0") => (float[n] y)'
    body += '{ t = Add(self, s) u = Add(t, inputs) y = Sub(u, "a/b:0") }'
    names = ["self", "s", "inputs", "a/b:0"]
    session = OrtSession(model_of(body), "n=1:2:3")
    given = {name: np.full(2, 10.0**index, np.float32) for index, name in enumerate(names)}
    np.testing.assert_array_equal(session(**given)["y"], np.full(2, 111 - 1000, np.float32))


def test_an_input_with_a_default_may_be_left_out() -> None:
    session = OrtSession(model_of("g (float[n] x, float[1] k = {3}) => (float[n] y) { y = Mul(x, k) }"))
    one = np.ones(2, np.float32)
    np.testing.assert_array_equal(session(x=one)["y"], 3 * one)
    np.testing.assert_array_equal(session(x=one, k=np.full(1, 5, np.float32))["y"], 5 * one)


# Arrays of both kinds


def test_a_transposed_array_is_read_in_its_own_order(session: OrtSession) -> None:
    given = request(2, 3)
    given["x"] = np.asfortranarray(given["x"])
    given["ids"] = np.repeat(given["ids"], 2, axis=1)[:, ::2]
    assert not given["ids"].flags.c_contiguous
    np.testing.assert_array_equal(session(given)["y"], expected(given))


def test_a_rank_zero_input_keeps_its_rank() -> None:
    session = OrtSession(model_of("g (float[n] x, float[] k) => (float[n] y, float[] z) { y = Mul(x, k) z = Neg(k) }"))
    result = session(x=np.ones(2, np.float32), k=np.float32(4))
    assert result["z"].shape == () and result["z"] == -4
    np.testing.assert_array_equal(result["y"], [4, 4])


def test_an_empty_dimension_passes_where_the_profile_allows_it() -> None:
    session = OrtSession(model_of("g (float[past, 2] x) => (float[past, 2] y) { y = Neg(x) }"), "past=0:1:4")
    assert session(x=np.ones((0, 2), np.float32))["y"].shape == (0, 2)


def test_text_passes() -> None:
    session = OrtSession(model_of("g (string[n] x) => (string[n] y) { y = Identity(x) }"))
    assert session(x=np.array(["a", "bc"], object))["y"].tolist() == ["a", "bc"]


def identity(dtype: str) -> OrtSession:
    return OrtSession(model_of(f"g ({dtype}[n, m] x) => ({dtype}[n, m] y, {dtype}[k] z)"
                               "{ y = Identity(x) all = Constant<value_ints = [-1]>() z = Reshape(x, all) }"),
                      "n=1:2:4,m=1:2:4")  # fmt: skip


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64, np.int8, np.bool_])
def test_numpy_types_come_back_as_they_went(dtype: type) -> None:
    name = {"float64": "double", "float32": "float"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    x: np.ndarray = np.array([[0, 1, 2], [3, 4, 0]]).astype(dtype)
    result = identity(name)(x=x)
    for name, found in result.items():
        assert found.dtype == x.dtype, name
    np.testing.assert_array_equal(result["y"], x)
    np.testing.assert_array_equal(result["z"], x.ravel())


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "int64", "bool"])
def test_torch_in_gives_torch_out(name: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([[0, 1], [2, 3], [5, 0]]).to(getattr(torch, name)).t()
    assert not x.is_contiguous()
    result = identity("float" if name == "float32" else name)(x=x)
    assert result["y"].dtype == x.dtype and torch.equal(result["y"], x)
    assert result["z"].dtype == x.dtype and torch.equal(result["z"], x.reshape(-1))


def test_a_tensor_that_needs_a_gradient_passes() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(2, 2, requires_grad=True)
    assert torch.equal(identity("float")(x=x)["y"], x)


def test_torch_on_another_device_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RequestError, match="tensor on meta"):
        identity("float")(x=torch.ones(2, 2, device="meta"))


# Buffers


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_result_is_not_overwritten_by_later_calls(session: OrtSession) -> None:
    results = [(given := request(2, seq), session(given)["y"]) for seq in (1, 5, 5, 16, 3, 5)]
    for given, found in results:
        np.testing.assert_array_equal(found, expected(given))


def test_a_view_keeps_its_memory() -> None:
    session = OrtSession(model_of(ADD), PROFILE)
    given = request(2, 3)
    row = session(given)["y"][1].T
    for _ in range(5):
        session({name: value * 0 for name, value in given.items()})
    np.testing.assert_array_equal(row, expected(given)[1].T)


def test_a_dropped_result_gives_its_buffer_back() -> None:
    session = OrtSession(model_of(ADD), PROFILE)
    found = set()
    for seq in (1, 16, 5, 16, 5, 7):
        result = session(request(4, seq))
        found.add(address(result["y"]))
    assert len(found) <= 2


def test_a_torch_result_keeps_its_memory() -> None:
    torch = pytest.importorskip("torch")
    session = OrtSession(model_of(ADD), PROFILE)
    given = {name: torch.from_numpy(value) for name, value in request().items()}
    first = session(given)["y"][0]
    for _ in range(5):
        session({name: value * 0 for name, value in given.items()})
    np.testing.assert_array_equal(first.numpy(), expected(request())[0])


def test_a_size_that_depends_on_the_values_is_found() -> None:
    session = OrtSession(
        model_of("g (float[n] x) => (int64[1, k] y, float[n] z) { y = NonZero(x) z = Neg(x) }"), "n=1:4:8"
    )
    results = [session(x=np.array(values, np.float32)) for values in ([0, 1, 1], [0, 0, 0], [1, 1, 1, 1])]
    assert [result["y"].tolist() for result in results] == [[[1, 2]], [[]], [[0, 1, 2, 3]]]


def test_a_model_that_declares_a_wrong_output_shape_still_runs() -> None:
    # The Reshape hides from shape inference that y is [m, n].
    body = "g (float[n, m] x) => (float[n, m] y) { t = Transpose(x) s = Shape(t) e = Mul(s, s) o = Div(e, s)"
    session = OrtSession(model_of(body + " y = Reshape(t, o) }"), "n=1:2:8,m=1:2:8")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(2):
        np.testing.assert_array_equal(session(x=x)["y"], x.T)


def test_an_output_that_is_an_input_or_a_constant_is_the_callers_own() -> None:
    session = OrtSession(
        model_of("g (float[n] x) => (float[n] y, float[2] c)<float[2] w = {1, 2}> { y = Identity(x) c = Identity(w) }"),
        "n=1:2:4",
    )
    x = np.ones(2, np.float32)
    first = session(x=x)
    first["y"][:] = 9
    first["c"][:] = 9
    np.testing.assert_array_equal(x, [1, 1])
    np.testing.assert_array_equal(session(x=x)["c"], [1, 2])


@pytest.mark.parametrize("profile", [None, "n=1:2:4"])
def test_an_output_that_is_directly_an_input_is_a_copy_of_it(profile: str | None) -> None:
    session = OrtSession(model_of("g (float[n] x) => (float[n] x, float[n] y) { y = Neg(x) }"), profile)
    for number in range(4):
        x = np.full(3, number, np.float32)
        found = session(x=x)
        x[:] = 9
        np.testing.assert_array_equal(found["x"], np.full(3, number))
        np.testing.assert_array_equal(found["y"], np.full(3, -number))


def test_a_default_that_is_an_output_can_be_overridden() -> None:
    body = "g (float[2] x, float[2] w) => (float[2] w, float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
    session = OrtSession(model_of(body))
    x = np.zeros(2, np.float32)
    np.testing.assert_array_equal(session(x=x)["w"], [1, 2])
    np.testing.assert_array_equal(session(x=x, w=x)["w"], [0, 0])


def test_threads_get_their_own_results() -> None:
    session = OrtSession(model_of(ADD), PROFILE, threads=1)
    barrier = threading.Barrier(6)

    def work(number: int) -> bool:
        barrier.wait()
        given = {name: value + number for name, value in request(1 + number % 4, 1 + number * 2).items()}
        return all(np.array_equal(session(given)["y"], expected(given)) for _ in range(200))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


# Loading


def test_a_session_does_not_need_torch_loaded(monkeypatch: pytest.MonkeyPatch, session: OrtSession) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    given = request()
    np.testing.assert_array_equal(session(given)["y"], expected(given))


def test_a_large_model_goes_through_a_folder_that_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ort_load, "LARGEST_IN_MEMORY", 16)
    weights = ", ".join(["0.5"] * 400)
    model = model_of(f"g (float[n, 20] x) => (float[n, 20] y) <float[20, 20] w = {{{weights}}}> {{ y = MatMul(x, w) }}")
    session = OrtSession(model, prepack=False)
    (folder,) = tmp_path.iterdir()
    assert (folder / "model.onnx.data").stat().st_size >= 1600
    np.testing.assert_array_equal(session(x=np.ones((1, 20), np.float32))["y"], np.full((1, 20), 10, np.float32))
    session.close()
    assert not folder.exists()
    dropped = OrtSession(model)
    assert len(list(tmp_path.iterdir())) == 1
    del dropped
    assert not list(tmp_path.iterdir())
    assert not isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_external_data_is_embedded_where_it_is_small(tmp_path: Path) -> None:
    weights = ", ".join(["0.5"] * 400)
    model = model_of(f"g (float[n, 20] x) => (float[n, 20] y) <float[20, 20] w = {{{weights}}}> {{ y = MatMul(x, w) }}")
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    x = np.ones((1, 20), np.float32)
    for source in (tmp_path / "m.onnx", ir.load(tmp_path / "m.onnx")):
        np.testing.assert_array_equal(OrtSession(source)(x=x)["y"], 10 * x)


def test_a_newer_ir_version_is_lowered() -> None:
    model = model_of(ADD)
    model.ir_version = 14
    given = request()
    np.testing.assert_array_equal(OrtSession(model)(given)["y"], expected(given))
    assert model.ir_version == 14


def test_an_unknown_operator_names_the_node() -> None:
    with pytest.raises(LoadError, match="broken_1") as caught:
        OrtSession(model_of("g (float[n] x) => (float[n] y) { [broken_1] y = NoSuchOperator(x) }"))
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(LoadError, match=r"m\.onnx"):
        OrtSession(tmp_path / "m.onnx")
    with pytest.raises(LoadError, match="no such file"):
        OrtSession(tmp_path / "other.onnx")


def test_a_full_disk_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ort_load, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(ir, "save", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OutputError, match="No space left on device"):
        OrtSession(model_of(ADD))
    assert not list(tmp_path.iterdir())


def test_a_profile_of_another_model_is_refused() -> None:
    other = Profile.parse("n=1:2:3").bind(model_of("g (float[n] x) => (float[n] y) { y = Neg(x) }"))
    with pytest.raises(ProfileError, match=r"bound to inputs x float\[n\]"):
        OrtSession(model_of(ADD), other)


def test_a_provider_that_does_not_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ort_load, "LARGEST_IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ort_load, "providers_for", lambda target: ["CUDAExecutionProvider"])
    with pytest.warns(UserWarning), pytest.raises(MissingDependencyError, match="CUDA libraries"):
        OrtSession(model_of(ADD), target="ort-cuda")
    assert not list(tmp_path.iterdir())


def test_targets_choose_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ort_load.providers_for("onnx") == ["CPUExecutionProvider"]
    with pytest.raises(UsageError, match="one of ort-cpu, onnx, ort-cuda"):
        ort_load.providers_for("gpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="CUDAExecutionProvider; try: install"):
        ort_load.providers_for("ort-cuda")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert ort_load.providers_for("ort-cuda") == ["CUDAExecutionProvider", "CPUExecutionProvider"]
