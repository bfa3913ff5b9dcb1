"""Any module becomes a graph with the module's own names and numbers, and named dynamic dimensions."""

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from graphwright.errors import ExportError, UsageError
from graphwright.frontends import Source, load
from graphwright.frontends.torch import trace
from graphwright.runtime.profile import Profile


def run(source: Source, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    data = ir.to_proto(source.model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def assert_right(source: Source, inputs: dict[str, np.ndarray]) -> None:
    assert source.reference is not None
    expected, found = source.reference(inputs), run(source, inputs)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert value.size == 1 or np.ptp(value) > 0
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def shapes(source: Source) -> dict[str, str]:
    return {value.name or "": str(value.shape) for value in source.model.graph.inputs}


def ramp(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


class Odd(torch.nn.Module):
    """Inputs called self and s; outputs in a dict, one of them an input, one of them twice."""

    def __init__(this) -> None:
        super().__init__()
        this.linear = torch.nn.Linear(4, 5)
        this.dropout = torch.nn.Dropout(0.5)

    def forward(this, x: torch.Tensor, mask: Any = None, **others: torch.Tensor) -> dict[str, Any]:
        y = this.dropout(this.linear(x)) * mask[..., None] + others["self"][:, None, None] + others["s"]
        return {"y": y, "sum": y.sum(-1), "none": None, "x": x, "again": y}


def test_inputs_of_any_name_and_outputs_in_a_dict() -> None:
    module = Odd()
    module.dropout.eval()
    inputs = {"x": ramp(1, 7, 4), "mask": np.ones((1, 7), np.float32), "self": ramp(1), "s": ramp(1, 7, 5)}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    source = load(module, inputs)
    assert module.training and module.linear.training and not module.dropout.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert shapes(source) == {
        "x": "[batch,seq,4]",
        "mask": "[batch,seq]",
        "self": "[batch]",
        "s": "[batch,seq,5]",
    }
    assert [value.name for value in source.model.graph.outputs] == ["y", "sum", "x_out", "again"]
    assert source.model.opset_imports[""] == 24
    assert source.name == "Odd" and len(source.sha256) == 64
    assert source.example_inputs is not None
    np.testing.assert_array_equal(source.example_inputs["x"], inputs["x"])
    for batch, length in ((3, 2), (1, 1), (2, 5)):
        mask = np.ones((batch, length), np.float32)
        assert_right(
            source,
            {"x": ramp(batch, length, 4), "mask": mask, "self": ramp(batch), "s": ramp(batch, length, 5)},
        )


@dataclasses.dataclass
class Pair:
    """An output of a class of one's own."""

    first: torch.Tensor
    rest: tuple[torch.Tensor, torch.Tensor]


class Structured(torch.nn.Module):
    """Positional inputs, a constant, and nested outputs."""

    def forward(self, image: torch.Tensor, scale: torch.Tensor, twice: bool = False) -> Pair:
        y = image * scale * (2 if twice else 1)
        return Pair(y, (y + 1, y - 1))


def test_positional_inputs_constants_and_nested_outputs() -> None:
    source = load(Structured(), (torch.randn(2, 3, 6, 7), torch.ones(2, 3, 6, 7), True))
    assert shapes(source)["image"] == "[batch,image_dim1,height,width]"
    assert [value.name for value in source.model.graph.outputs] == ["first", "rest_0", "rest_1"]
    x = ramp(3, 2, 4, 5)
    assert_right(source, {"image": x, "scale": x})
    np.testing.assert_allclose(run(source, {"image": x, "scale": x})["first"], 2 * x * x, rtol=1e-6)


def test_a_single_tensor_and_bfloat16() -> None:
    source = trace(torch.nn.Linear(4, 3), ramp(2, 4))
    assert shapes(source) == {"input": "[batch,4]"}
    assert [value.name for value in source.model.graph.outputs] == ["output_0"]
    assert_right(source, {"input": ramp(5, 4)})
    narrow = trace(torch.nn.Linear(4, 3).to(torch.bfloat16), torch.ones(2, 4, dtype=torch.bfloat16))
    assert narrow.reference is not None and narrow.example_inputs is not None
    assert narrow.reference(narrow.example_inputs)["output_0"].dtype.name == "bfloat16"


class Fixed(torch.nn.Module):
    """Works for a batch of 2 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1)


def test_an_axis_that_must_be_dynamic_and_is_not_is_named() -> None:
    with pytest.raises(ExportError, match="axis 0 of input 'x' fixed to 2"):
        trace(Fixed(), {"x": ramp(2, 3)}, dims={"x": {0: "batch"}})
    with pytest.raises(ExportError, match="axis 0 of input 'x' fixed to 2"):
        trace(Fixed(), {"x": ramp(2, 3)}, profile=Profile.parse("x=1x3:2x3:4x3"))
    assert shapes(trace(Fixed(), {"x": ramp(2, 3)})) == {"x": "[2,seq]"}


def test_axes_that_a_profile_fixes_stay_fixed() -> None:
    source = trace(torch.nn.ReLU(), {"input": ramp(2, 3, 4)}, profile=Profile.parse("input=2x1x4:2x3x4:2x9x4"))
    assert shapes(source) == {"input": "[2,seq,4]"}


class DataDependent(torch.nn.Module):
    """Its shape depends on values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[: int(x.sum())]


def test_modules_that_cannot_be_traced_say_so_shortly(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError) as caught:
        trace(DataDependent(), {"x": ramp(2, 3)})
    assert "GuardOnDataDependentSymNode" in str(caught.value) and len(str(caught.value)) < 600
    with pytest.raises(ExportError, match="fails on its example inputs"):
        trace(torch.nn.Linear(4, 3), ramp(2, 5))
    with pytest.raises(ExportError, match="no example inputs"):
        trace(torch.nn.Linear(4, 3), {})
    with pytest.raises(UsageError, match="2 example inputs"):
        trace(torch.nn.Linear(4, 3), (ramp(2, 4), ramp(2, 4)))
    with pytest.raises(UsageError, match="without example inputs"):
        load(torch.nn.Linear(4, 3))
    with pytest.raises(UsageError, match="a int"):
        load(3)
    assert capfd.readouterr().err == ""
