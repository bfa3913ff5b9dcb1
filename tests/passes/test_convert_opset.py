"""Older opsets become 24 with the same meaning, or stay as they are with a reason."""

import cProfile
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphwright.passes.lift.convert_opset import CONVERT_OPSET, WORKING_OPSET, convert_opset, opset_refusal

Feeds = Mapping[str, np.ndarray]


def model_of(opset: int, head: str, body: str, ir_version: int = 8) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: {ir_version}, opset_import: ["": {opset}, "f": 1]> g {head} {{ {body} }}')


def run(model: ir.Model, feeds: Feeds) -> list[np.ndarray]:
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))  # the texts here leave the outputs' types open
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def assert_same(model: ir.Model, feeds: Feeds, target: int = WORKING_OPSET) -> ir.Model:
    """Convert, and compare with what the model gave before; its outputs must depend on the inputs."""
    before = run(model, feeds)
    assert opset_refusal(model, target) is None
    assert convert_opset(model, target)
    assert model.opset_imports[""] == target
    after = run(model, feeds)
    for old, new in zip(before, after, strict=True):
        assert old.size and np.ptp(old.astype(np.float64)) > 0
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6)
    assert not convert_opset(model, target)
    return model


def test_it_is_a_pass_of_the_catalogue() -> None:
    assert CONVERT_OPSET.name == "convert-opset" and CONVERT_OPSET.function is convert_opset


def ramp(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(
    "attributes", ["<axes = [-1]>", "<axes = [0, 2], keepdims = 0>", "<keepdims = 1>", "<axes = [1]>"]
)
@pytest.mark.parametrize("opset", [13, 17])
def test_reductions_take_their_axes_as_an_input(name: str, attributes: str, opset: int) -> None:
    use = "Neg(y)" if "keepdims = 0" in attributes else "Add(x, y)"
    model = model_of(opset, "(float[N,A,B] x) => (z)", f"y = Reduce{name} {attributes} (x) z = {use}")
    assert_same(model, {"x": np.abs(ramp(3, 4, 5))})


def test_an_equal_split_states_its_number_of_outputs() -> None:
    assert_same(model_of(13, "(float[N,6] x) => (a, b, c)", "a, b, c = Split <axis = 1> (x)"), {"x": ramp(2, 6)})
    sizes = "s = Constant <value_ints = [1, 5]> () a, b = Split <axis = 1> (x, s)"
    model = assert_same(model_of(13, "(float[N,6] x) => (a, b)", sizes), {"x": ramp(2, 6)})
    assert "num_outputs" not in model.graph.node(1).attributes


@pytest.mark.parametrize("mode", ["", 'mode = "bilinear", ', 'mode = "bicubic", ', 'mode = "nearest", '])
def test_grid_sample_has_newer_names_of_its_modes(mode: str) -> None:
    body = f'y = GridSample <{mode}padding_mode = "border"> (x, grid)'
    feeds = {"x": ramp(1, 2, 5, 6), "grid": np.clip(ramp(1, 3, 4, 2), -1, 1)}
    assert_same(model_of(16, "(float[1,2,5,6] x, float[1,3,4,2] grid) => (y)", body), feeds)


def test_roi_align_keeps_its_pixel_grid() -> None:
    head = "(float[1,2,8,8] x, float[R,4] rois, int64[R] batch) => (y)"
    feeds = {
        "x": ramp(1, 2, 8, 8),
        "rois": np.array([[1, 1, 6, 5.5]], np.float32),
        "batch": np.zeros(1, np.int64),
    }
    body = "y = RoiAlign <output_height = 3, output_width = 3, sampling_ratio = 2> (x, rois, batch)"
    model = assert_same(model_of(13, head, body), feeds, target=21)
    del model.graph.node(0).attributes["coordinate_transformation_mode"]
    other = run(model, feeds)[0]
    model.graph.node(0).attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "output_half_pixel"
    )
    assert np.abs(other - run(model, feeds)[0]).max() > 1e-3, "the newer default would give other numbers"


@pytest.mark.parametrize("axis", ["", "<axis = 1>", "<axis = 2>"])
def test_the_default_axis_of_dft_is_written_out(axis: str) -> None:
    model = model_of(17, "(float[1,4,5,1] x) => (y)", f"y = DFT {axis} (x)")
    assert_same(model, {"x": ramp(1, 4, 5, 1)})


def test_subgraphs_are_converted_and_new_names_are_new_everywhere() -> None:
    branch = "b = {} <axes = [1]> (x)"
    body = (
        "b_axes = Identity(x) "
        f"y = If (c) <then_branch = t () => (b) {{ {branch.format('ReduceMax')} }},"
        f" else_branch = e () => (d) {{ {branch.format('ReduceMin').replace('b =', 'd =')} }}>"
        " z = Neg(b_axes)"
    )
    for condition in (True, False):
        model = model_of(13, "(float[N,3] x, bool c) => (y, z)", body)
        assert_same(model, {"x": ramp(2, 3), "c": np.array(condition)})


def with_function(body: str, opset: int = 13) -> ir.Model:
    head = f'<ir_version: 8, opset_import: ["": {opset}, "f": 1]>'
    text = head + " g (float[N,3] x) => (float[M,K] y) { y = f.F(x) }"
    return ir.from_onnx_text(f'{text} <domain: "f", opset_import: ["": {opset}]> F <axes> (a) => (r) {{ {body} }}')


def test_function_bodies_are_converted() -> None:
    model = assert_same(with_function("r = ReduceMax <axes = [1]> (a)"), {"x": ramp(2, 3)})
    assert next(iter(model.functions.values())).opset_imports[""] == WORKING_OPSET


def test_each_function_is_read_by_its_own_opset() -> None:
    model = with_function("r = ReduceMax <axes = [1]> (a)")
    model.opset_imports[""] = WORKING_OPSET
    assert convert_opset(model)
    before = with_function("r = ReduceMax <axes = [1]> (a)")
    feeds = {"x": ramp(2, 3)}
    np.testing.assert_array_equal(run(model, feeds)[0], run(before, feeds)[0])


def test_shapes_and_types_that_are_known_stay() -> None:
    model = model_of(13, "(float[N,3] x) => (float[N,1] y)", "t = ReduceMax <axes = [1]> (x) y = Neg(t)")
    model.graph.node(0).outputs[0].shape, model.graph.node(0).outputs[0].dtype = (
        ir.Shape(["N", 1]),
        ir.DataType.FLOAT,
    )
    assert_same(model, {"x": ramp(2, 3)})
    reduced = model.graph.node(1).outputs[0]
    assert str(reduced.shape) == "[N,1]" and reduced.dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("opset", "head", "body", "reason"),
    [
        (12, "(float[N,3] x) => (y)", "y = Relu(x)", "opset 12; conversion starts at 13"),
        (25, "(float[N,3] x) => (y)", "y = Relu(x)", "opset 25; conversion goes up to 24"),
        (
            13,
            "(float[N,3,4] x, float[3] s) => (y, m)",
            "y, m, v = BatchNormalization(x, s, s, s, s)",
            "training mode",
        ),
        (
            *(13, "(float[N,3,4] x) => (y)"),
            *(
                "y = MaxPool <kernel_shape = [2], strides = [3], pads = [0, 1], ceil_mode = 1> (x)",
                "opset 22 drops",
            ),
        ),
        (
            *(13, "(float[N,3,4] x) => (y)"),
            *(
                "y = AveragePool <kernel_shape = [3], ceil_mode = 1, count_include_pad = 1> (x)",
                "count_include_pad",
            ),
        ),
        (
            *(18, "(float[N,4,4] x, float[2] s) => (y)"),
            *("y = GroupNormalization <num_groups = 2> (x, s, s)", "opset 21 has them for each channel"),
        ),
        (13, "(float[N,3] x) => (y)", "y = RandomNormalLike(x)", "up to opset 21 only"),
        (13, "(float[N,3] x) => (y)", "y = Scatter(x, x, x)", "no such operator"),
        (13, "(float[N,3] x) => (y)", "y = Relu <colour = 1> (x)", "no attribute colour"),
        (13, "(float[N,3] x) => (y)", "y = Relu (x, x)", "2 inputs, at most 1"),
    ],
)
def test_refusals_leave_the_model_untouched(opset: int, head: str, body: str, reason: str) -> None:
    model = model_of(opset, head, f"first = ReduceMax <axes = [1]> (x) {body}" if opset == 13 else body)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = opset_refusal(model)
    assert found is not None and reason in found
    assert not convert_opset(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_an_attribute_of_the_functions_caller_is_refused() -> None:
    found = opset_refusal(with_function("r = ReduceMax <axes: ints = @axes> (a)"))
    assert found is not None and "inline the function" in found


def test_ceil_mode_is_kept_where_no_window_can_start_in_the_padding() -> None:
    body = "y = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (x)"
    for length in (5, 6, 7, 8):
        assert_same(model_of(13, "(float[1,2,L] x) => (y)", body), {"x": ramp(1, 2, length)})


def test_weights_are_not_copied() -> None:
    head = "(float[N,3] x) => (y) <float[3] w = {1, 2, 3}>"
    model = model_of(13, head, "t = Add(x, w) y = ReduceMax <axes = [1]> (t)")
    tensor = ir.tensor(ramp(3), name="w")
    model.graph.initializers["w"].const_value = tensor
    assert convert_opset(model)
    assert model.graph.initializers["w"].const_value is tensor


def test_work_grows_with_the_number_of_nodes_only() -> None:
    def calls(count: int) -> int:
        """The function calls that Python makes for a chain of so many nodes: unlike seconds, the same every time."""
        body = " ".join(f"t{i + 1} = ReduceMax <axes = [1]> (t{i})" for i in range(count))
        model = model_of(13, "(float[N,3] t0) => (y)", f"{body} y = Neg(t{count})")
        profile = cProfile.Profile()
        assert profile.runcall(convert_opset, model)
        return sum(entry.callcount for entry in profile.getstats())

    calls(10)
    assert calls(800) < 4.5 * calls(200)
