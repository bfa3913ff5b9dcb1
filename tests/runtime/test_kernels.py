"""Compiled kernels in ONNX Runtime: the numbers of the function bodies, and bodies wherever no kernel can be."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from graphwright.errors import LoadError, RequestError
from graphwright.plugins.hars import meaning
from graphwright.runtime import kernels, ort_load
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import Reference

needs_library = pytest.mark.skipif(kernels.library() is None, reason="the compiled HARS kernels are not built")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    BFLOAT16: TensorProto.BFLOAT16,
    np.dtype(np.float64): TensorProto.DOUBLE,
}
SINGLE = np.dtype(np.float32)
TYPES = {"indices": TensorProto.INT64, "experts": TensorProto.INT64}
STATS = ("values", "indices", "maximum", "log_sum")
OPSETS = (("", 24), ("hars", 1))


def model_of(
    function: ir.Function | onnx.FunctionProto,
    outputs: tuple[str, ...],
    *,
    dtype: np.dtype[Any] = SINGLE,
    has_bias: bool = False,
    has_body: bool = True,
    is_typed: bool = True,
    rank: int = 2,
    bias_rank: int = 1,
    **attributes: Any,
) -> ir.Model:
    """One node named ``pick``; an output named with the empty text is left out."""
    body = function if isinstance(function, onnx.FunctionProto) else ir.to_proto(function)
    x = helper.make_tensor_value_info("x", DTYPES[dtype], [f"x{i}" for i in range(rank)])
    bias = helper.make_tensor_value_info("bias", TensorProto.FLOAT, [f"b{i}" for i in range(bias_rank)])
    names = ["logits", "bias"][: 1 + has_bias]
    # The type of what lies behind an Identity is declared by value_info alone.
    nodes = [
        helper.make_node("Identity", ["x"], ["logits"]),
        helper.make_node(body.name, names, outputs, domain="hars", overload=body.overload, name="pick", **attributes),
    ]
    declared = [helper.make_tensor_value_info("logits", DTYPES[dtype], None)] if is_typed else []
    results = [
        helper.make_tensor_value_info(name, TYPES.get(name, TensorProto.FLOAT), None) for name in outputs if name
    ]
    graph = helper.make_graph(nodes, "g", [x, bias][: 1 + has_bias], results, value_info=declared)
    opsets = [helper.make_opsetid(*pair) for pair in OPSETS]
    return ir.from_proto(
        helper.make_model(graph, opset_imports=opsets, functions=[body] if has_body else [], ir_version=10)
    )


def topk_model(
    mode: meaning.Mode = "logprob", *, k: int = 3, temperature: float = 1.0, has_bias: bool = False, **more: Any
) -> ir.Model:
    function = meaning.softmax_topk(mode, bias=has_bias, temperature=temperature != 1.0, stats=True)
    more = {"outputs": STATS, **more}
    return model_of(function, has_bias=has_bias, k=k, mode=mode, temperature=temperature, **more)


def liar(**more: Any) -> ir.Model:
    """A model whose body gives indices that no kernel gives: -1. It tells which of the two ran."""
    text = """<domain: "hars", opset_import: ["" : 24]> softmax_topk <k> (x) => (values, indices) {
        count = Constant <value_ints = [1]> ()
        best, at = TopK <axis = -1> (x, count)
        values = Cast <to = 1> (best)
        none = Sub (at, at)
        one = Constant <value_int = 1> ()
        indices = Sub (none, one) }"""
    body = onnx.parser.parse_function(text)
    body.overload = "liar"
    return model_of(body, ("values", "indices"), **{"k": 1, **more})


def ran_kernel(session: OrtSession | Reference, dtype: np.dtype[Any] = SINGLE) -> bool:
    found = session({"x": np.arange(8).reshape(2, 4).astype(dtype)})["indices"].tolist()
    assert found in ([[3], [3]], [[-1], [-1]])
    return bool(found == [[3], [3]])


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert (value.shape, value.dtype) == (wanted[name].shape, wanted[name].dtype)
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=2e-6, err_msg=name)


def assert_kernel_is_body(model: ir.Model, **request: np.ndarray) -> dict[str, np.ndarray]:
    wanted = OrtSession(model, kernels=False, optimize=False)(request)
    found = OrtSession(model)(request)
    assert_same(found, wanted)
    return found


def adversarial(width: int = 40) -> np.ndarray:
    """Rows with ties, infinities, NaN and zeros of both signs."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((14, width)).astype(np.float32)
    rows[1] = 2.5
    rows[2] = np.arange(width)
    rows[3] = np.arange(width)[::-1]
    rows[4] = -np.inf
    rows[5, 1:] = -np.inf
    rows[6, 7] = np.inf
    rows[7, [3, 30]] = np.inf
    rows[8, width // 2] = np.nan
    rows[9] = np.nan
    rows[10, [2, 9]] = [np.nan, np.inf]
    rows[11] = np.where(np.arange(width) % 2, 0.0, -0.0)
    rows[12] = rng.integers(0, 2, width)
    rows[13] *= 60
    return rows


@needs_library
@pytest.mark.parametrize("dtype", [SINGLE, np.dtype(np.float16), BFLOAT16], ids=str)
@pytest.mark.parametrize("mode", meaning.MODES)
def test_kernel_gives_what_the_body_gives(mode: meaning.Mode, dtype: np.dtype[Any]) -> None:
    for k, temperature in ((1, 1.0), (3, 0.7), (40, 1.0)):
        model = topk_model(mode, k=k, temperature=temperature, dtype=dtype)
        assert_kernel_is_body(model, x=adversarial().astype(dtype))


@needs_library
@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
def test_the_axis_may_be_any(axis: int) -> None:
    x = np.random.default_rng(1).standard_normal((5, 6, 7)).astype(np.float32)
    found = assert_kernel_is_body(topk_model(axis=axis, rank=3), x=x)
    assert found["values"].shape[axis] == 3 and found["maximum"].ndim == 2


@needs_library
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (6, 1), (6, 7), (5, 1, 1), (5, 1, 7), (1, 6, 7), (5, 6, 1), (5, 6, 7)], ids=str
)
def test_bias_broadcasts_as_in_numpy(shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(2)
    x, bias = rng.standard_normal((5, 6, 7)).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    assert_kernel_is_body(topk_model(has_bias=True, axis=axis, rank=3, bias_rank=len(shape)), x=x, bias=bias)


@needs_library
@pytest.mark.parametrize("outputs", [STATS, STATS[:2], STATS[:3], ("values", "indices", "", "log_sum")], ids=str)
def test_statistics_may_be_left_out(outputs: tuple[str, ...]) -> None:
    x = adversarial()
    whole = OrtSession(topk_model())(x=x)
    found = OrtSession(topk_model(outputs=outputs))(x=x)
    assert_same(found, {name: whole[name] for name in outputs if name})


@needs_library
def test_a_bias_may_be_named_with_the_empty_text() -> None:
    proto = ir.to_proto(topk_model())
    proto.graph.node[1].input.append("")
    x = adversarial()
    assert_same(OrtSession(ir.from_proto(proto))(x=x), OrtSession(topk_model())(x=x))


@needs_library
def test_a_row_is_the_same_in_every_batch_on_every_number_of_threads() -> None:
    # Large enough to be shared out: some rows together, and one alone.
    x = np.random.default_rng(3).standard_normal((5, 150_000)).astype(np.float32)
    sessions = [OrtSession(topk_model(k=9), threads=threads) for threads in (1, 2, 3, None)]
    whole = sessions[0](x=x)
    for session in sessions:
        for first, last in ((0, 1), (2, 4), (0, 5)):
            for name, value in session(x=x[first:last]).items():
                assert value.tobytes() == whole[name][first:last].tobytes(), (name, first, last)


@needs_library
def test_an_empty_batch_gives_empty_results() -> None:
    # A profile starts at 1, so OrtSession itself never passes such a batch on.
    session, _ = ort_load.load(topk_model(rank=3), ort_load.Options())
    found = session.run(None, {"x": np.zeros((0, 5, 8), np.float32)})
    assert [value.shape for value in found] == [(0, 5, 3), (0, 5, 3), (0, 5), (0, 5)]


@needs_library
def test_several_sessions_run_in_several_threads_at_once() -> None:
    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal((rows, 150_000)).astype(np.float32) for rows in (1, 2, 4, 3)]
    sessions = [OrtSession(topk_model(k=5), threads=threads) for threads in (1, 2, 2)]
    wanted = [sessions[0](x=x) for x in inputs]

    def run(index: int) -> bool:
        found, want = sessions[index % 3](x=inputs[index % 4]), wanted[index % 4]
        return all(found[name].tobytes() == want[name].tobytes() for name in STATS)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(48)))


@needs_library
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"k": 0}, "pick (softmax_topk): attribute k: found 0; needed an integer of at least 1"),
        ({"k": None}, "attribute k: found none; needed an integer of at least 1"),
        ({"k": 2.5}, "attribute k: found a float; needed an integer of at least 1"),
        ({"mode": "best"}, "attribute mode: found 'best'; needed logit, logprob, prob or prob_renorm"),
        ({"mode": "best" * 20}, "attribute mode: found a longer text; needed logit"),
        ({"mode": 3}, "attribute mode: found an integer; needed logit"),
        ({"temperature": -1.0}, "attribute temperature: found -1; needed a finite number above 0"),
        ({"temperature": float("nan")}, "attribute temperature: found nan; needed a finite"),
        ({"axis": 99}, "attribute axis: found 99; needed an integer from -32 to 31"),
    ],
    ids=str,
)
def test_a_wrong_attribute_is_refused_when_the_session_is_made(given: dict[str, Any], text: str) -> None:
    with pytest.raises(LoadError) as caught:
        OrtSession(model_of(meaning.softmax_topk(stats=True), STATS, **{"k": 3, **given}))
    assert text in str(caught.value) and "Exception" not in str(caught.value)


@needs_library
def test_attributes_that_are_left_out_have_their_defaults() -> None:
    x = adversarial()
    bare = model_of(meaning.softmax_topk(stats=True), STATS, k=3)
    assert_same(OrtSession(bare)(x=x), OrtSession(topk_model(axis=-1, temperature=1.0))(x=x))


@needs_library
@pytest.mark.parametrize(
    ("x", "bias", "text"),
    [
        ((2, 2), (2,), "pick (softmax_topk): found k 3 and logits [2, 2]; needed k of at most 2, the size of axis -1"),
        ((), (), "found axis -1 and logits []; needed an axis of the logits"),
        ((2, 8), (3, 8), "found bias [3, 8] for logits [2, 8]; needed a shape that broadcasts to theirs"),
        ((2, 8), (1, 2, 8), "found bias [1, 2, 8] for logits [2, 8]"),
        ((2, 8), (7,), "found bias [7] for logits [2, 8]"),
        ((1,) * 33, (), "found 33 axes; needed at most 32"),
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_is_refused(x: tuple[int, ...], bias: tuple[int, ...], text: str) -> None:
    session = OrtSession(topk_model(has_bias=True, rank=len(x), bias_rank=len(bias)))
    with pytest.raises(RequestError) as caught:
        session(x=np.zeros(x, np.float32), bias=np.zeros(bias, np.float32))
    assert text in str(caught.value)
    if len(x) == 2 and len(bias) == 1:
        good = session(x=np.zeros((1, 8), np.float32), bias=np.zeros(8, np.float32))
        assert good["indices"].tolist() == [[0, 1, 2]]


@needs_library
@pytest.mark.parametrize("optimize", [True, False])
def test_the_kernel_wins_over_the_body(optimize: bool) -> None:
    assert ran_kernel(OrtSession(liar(), optimize=optimize))
    assert not ran_kernel(OrtSession(liar(), optimize=optimize, kernels=False))
    assert not ran_kernel(Reference(liar()))


@needs_library
@pytest.mark.parametrize("is_typed", [True, False])
def test_doubles_fall_back_to_the_body(is_typed: bool) -> None:
    double = np.dtype(np.float64)
    assert not ran_kernel(OrtSession(liar(dtype=double, is_typed=is_typed)), double)
    assert ran_kernel(OrtSession(liar(is_typed=is_typed)))
    with pytest.raises(LoadError, match="float16 or bfloat16 logits" if is_typed else "double"):
        OrtSession(liar(dtype=double, is_typed=is_typed, has_body=False))


@needs_library
def test_a_half_precision_bias_falls_back_to_the_body() -> None:
    proto = ir.to_proto(topk_model(has_bias=True))
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert kernels.choose("g", ir.from_proto(proto), is_wanted=True) == kernels.Use.NO


@needs_library
def test_the_kernel_runs_in_subgraphs_and_functions_and_beside_other_operators_of_the_domain() -> None:
    text = """<ir_version: 10, opset_import: ["" : 24, "hars" : 1, "own" : 1]>
    g (float[b, v] x, bool yes) => (int64[b, n] inside, int64[b, n] called, float[b, v] doubled) {
        inside = If (yes) <
            then_branch = chosen () => (int64[b, n] a) { p, a = hars.softmax_topk:liar <k = 1> (x) },
            else_branch = other () => (int64[b, n] c) { d, c = hars.softmax_topk:liar <k = 1> (x) }>
        called = own.pick (x)
        doubled = hars.twice (x)
    }
    <domain: "own", opset_import: ["hars" : 1]> pick (x) => (i) { v, i = hars.softmax_topk:liar <k = 1> (x) }
    <domain: "hars", opset_import: ["" : 24]> twice (x) => (y) { y = Add (x, x) }"""
    proto = onnx.parser.parse_model(text)
    proto.functions.append(ir.to_proto(next(iter(liar().functions.values()))))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = OrtSession(ir.from_proto(proto))(x=x, yes=np.array(True))
    assert found["inside"].tolist() == found["called"].tolist() == [[3], [3]]
    assert np.array_equal(found["doubled"], x + x)


@needs_library
def test_files_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    ir.save(liar(), path)
    assert ran_kernel(OrtSession(path))
    text = '<ir_version: 10, opset_import: ["": 24]> g (float[n] x) => (float[n] y) {y = Neg(x)}'
    onnx.save(onnx.parser.parse_model(text), path)
    # Without the domain's name in it a file is not parsed a second time.
    monkeypatch.delattr(kernels.onnx, "load")
    assert OrtSession(path)(x=np.ones(1, np.float32))["y"].tolist() == [-1]


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"", b"\xff\n\x04hars and no model"):
        path.write_bytes(content)
        with pytest.raises(LoadError, match=r"model\.onnx"):
            OrtSession(path)


def test_without_the_library_the_body_runs_and_a_bare_node_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert not ran_kernel(OrtSession(liar()))
    with pytest.raises(LoadError) as caught:
        OrtSession(liar(has_body=False))
    for part in ("pick (hars.softmax_topk) without a function body", "install g++ and CMake", "doctor"):
        assert part in str(caught.value)


@needs_library
def test_on_a_gpu_only_what_has_no_body_runs_here() -> None:
    assert kernels.choose("g", liar(), is_wanted=False) == kernels.Use.NO
    assert kernels.choose("g", liar(has_body=False), is_wanted=False) == kernels.Use.YES


ROUTERS: tuple[dict[str, Any], ...] = (
    {},
    {"scoring": "sigmoid", "renormalize": 1, "scale": 2.5},
    {"has_bias": True, "zero_experts": 5, "scale": 6.0},
    {"has_bias": True, "zero_experts": 5, "scale": 6.0, "scale_zero_experts": 0},
    {"scoring": "sigmoid", "has_bias": True, "groups": 4, "top_groups": 2, "renormalize": 1, "scale": 2.5},
)


def router_model(*, has_bias: bool = False, dtype: np.dtype[Any] = SINGLE, **given: Any) -> ir.Model:
    function = meaning.router_topk(
        given.get("scoring", "softmax"),
        bias=has_bias,
        groups=given.get("groups", 1) > 1,
        renormalize=bool(given.get("renormalize", 0)),
        zero_experts=given.get("zero_experts", 0) > 0,
        scale_zero_experts=bool(given.get("scale_zero_experts", 1)),
    )
    names = ("weights", "experts", "identity_weight")[: len(function.outputs)]
    return model_of(function, names, dtype=dtype, has_bias=has_bias, **{"k": 4, **given})


@needs_library
@pytest.mark.parametrize("dtype", [SINGLE, np.dtype(np.float16), BFLOAT16], ids=str)
@pytest.mark.parametrize("given", ROUTERS, ids=str)
def test_the_router_gives_what_its_body_gives(given: dict[str, Any], dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(5)
    request = {"x": rng.standard_normal((6, 9, 24)).astype(dtype)}
    if given.get("has_bias"):
        request["bias"] = (rng.standard_normal(24) / 10).astype(np.float32)
    assert_kernel_is_body(router_model(dtype=dtype, rank=3, **given), **request)


@needs_library
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"scoring": "tanh"}, "pick (router_topk): attribute scoring: found 'tanh'; needed softmax or sigmoid"),
        ({"renormalize": 2}, "attribute renormalize: found 2; needed an integer from 0 to 1"),
        ({"groups": 2, "top_groups": 3}, "attribute top_groups: found 3; needed at most the number of groups"),
        ({"zero_experts": -1}, "attribute zero_experts: found -1; needed an integer of at least 0"),
    ],
    ids=str,
)
def test_a_wrong_attribute_of_the_router_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(LoadError) as caught:
        OrtSession(router_model(**given))
    assert text in str(caught.value)


@needs_library
@pytest.mark.parametrize(
    ("given", "shape", "text"),
    [
        ({}, (2, 3), "pick (router_topk): found k 4 and scores [2, 3]; needed at most the number of experts"),
        ({}, (), "found scores of rank 0"),
        ({"groups": 3}, (2, 8), "found groups 3 and scores [2, 8]; needed groups of one size"),
        ({"groups": 8}, (2, 8), "found groups 8 and scores [2, 8]; needed groups of one size, and of two"),
        ({"groups": 4}, (2, 8), "found top_groups 1 and scores [2, 8]; needed groups that hold k experts"),
        ({"zero_experts": 9}, (2, 8), "found zero_experts 9 and scores [2, 8]"),
        ({"has_bias": True}, (2, 9), "found bias [8] for scores [2, 9]; needed one number for each expert"),
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_the_router_is_refused(
    given: dict[str, Any], shape: tuple[int, ...], text: str
) -> None:
    request = {"x": np.zeros(shape, np.float32), **({"bias": np.zeros(8, np.float32)} if "has_bias" in given else {})}
    with pytest.raises(RequestError) as caught:
        OrtSession(router_model(rank=len(shape), **given))(request)
    assert text in str(caught.value)
