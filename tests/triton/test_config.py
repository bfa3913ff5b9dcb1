"""The text of config.pbtxt: read back with Triton's published message types, field by field."""

from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphwright as gw
from graphwright.runtime.signature import Port
from graphwright.triton.config import ModelConfig, Sample
from tests.triton.server_double import published, read_config, refusals, type_name

X = Port("x", ir.DataType.FLOAT, ("batch", "seq", 3))
SCORE = Port("score", ir.DataType.INT64, ("batch",))


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(
        **{"name": "m", "backend": "onnxruntime", "inputs": (X,), "outputs": (SCORE,), "max_batch": 8, **changes}
    )


def test_every_field_comes_back_as_it_was_meant() -> None:
    sample = Sample("profile 1, opt", 4, {"x": (16, 3)})
    found = read_config(
        config(
            backend="tensorrt",
            preferred=(4, 8),
            queue_delay=100,
            device="gpu",
            instances=2,
            gpus=(0, 3),
            profiles=(0, 1),
            warmup=(sample,),
            cuda_graphs=(sample,),
            libraries=("/models/m/1/lib.so",),
            parameters={"intra_op_thread_count": "4"},
        ).text(("two\nlines", 'a "quoted" note'))
    )
    assert refusals(found) == []
    assert (found.name, found.backend, found.platform) == ("m", "tensorrt", "tensorrt_plan")
    assert (found.default_model_filename, found.max_batch_size) == ("model.plan", 8)
    assert [(one.name, type_name(one), list(one.dims)) for one in found.input] == [("x", "TYPE_FP32", [-1, 3])]
    assert list(found.dynamic_batching.preferred_batch_size) == [4, 8]
    assert found.dynamic_batching.max_queue_delay_microseconds == 100
    (group,) = found.instance_group
    assert group.kind == published().ModelInstanceGroup.KIND_GPU
    assert (group.count, list(group.gpus), list(group.profile)) == (2, [0, 3], ["0", "1"])
    (warmup,) = found.model_warmup
    assert (warmup.name, warmup.batch_size, list(warmup.inputs)) == ("profile 1, opt", 4, ["x"])
    assert (list(warmup.inputs["x"].dims), warmup.inputs["x"].zero_data) == ([16, 3], True)
    assert found.optimization.cuda.graphs
    (spec,) = found.optimization.cuda.graph_spec
    assert (spec.batch_size, list(spec.input["x"].dim)) == (4, [16, 3])
    assert list(found.model_operations.op_library_filename) == ["/models/m/1/lib.so"]
    assert found.parameters["intra_op_thread_count"].string_value == "4"


def test_a_number_for_each_row_is_reshaped_since_shapes_may_not_be_empty() -> None:
    (score,) = read_config(config().text()).output
    assert (list(score.dims), score.HasField("reshape"), list(score.reshape.shape)) == ([1], True, [])


def test_without_batching_shapes_are_whole_and_a_scalar_has_one_element() -> None:
    found = read_config(config(max_batch=0, outputs=(Port("loss", ir.DataType.FLOAT, ()),)).text())
    assert refusals(found) == []
    assert [list(one.dims) for one in (*found.input, *found.output)] == [[-1, -1, 3], [1]]
    assert not found.output[0].HasField("reshape")
    assert not found.HasField("dynamic_batching")


def test_a_batch_of_one_needs_no_batcher() -> None:
    assert not read_config(config(max_batch=1).text()).HasField("dynamic_batching")
    assert read_config(config(max_batch=2).text()).HasField("dynamic_batching")


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")))
def test_any_name_and_any_note_is_written_so_that_it_comes_back(name: str, note: str) -> None:
    port = Port(name, ir.DataType.FLOAT, ("batch", 2))
    found = read_config(config(inputs=(port,), parameters={"key": name}).text((note,)))
    assert [one.name for one in found.input] == [name]
    assert found.parameters["key"].string_value == name


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [(dtype, "onnxruntime") for dtype in ("BOOL", "UINT8", "UINT64", "INT8", "INT32", "INT64", "FLOAT16", "STRING")]
    + [(dtype, "tensorrt") for dtype in ("BOOL", "INT32", "INT64", "FLOAT16", "BFLOAT16")],
)
def test_types_are_words_that_triton_knows(dtype: str, backend: str) -> None:
    port = Port("x", ir.DataType[dtype], ("batch", 2))
    (found,) = read_config(config(inputs=(port,), backend=backend).text()).input
    assert type_name(found) == f"TYPE_{dtype.replace('BFLOAT', 'BF').replace('FLOAT', 'FP')}"


@pytest.mark.parametrize(
    ("port", "backend", "found"),
    [
        (Port("x", ir.DataType.BFLOAT16, ("batch",)), "onnxruntime", "bfloat16"),
        (Port("x", ir.DataType.DOUBLE, ("batch",)), "tensorrt", "double"),
        (Port("x", ir.DataType.STRING, ("batch",)), "tensorrt", "string"),
        (Port("x", ir.DataType.COMPLEX64, ("batch",)), "onnxruntime", "complex64"),
        (Port("x", None, None), "onnxruntime", "no tensor"),
        (Port("x", ir.DataType.FLOAT, None), "onnxruntime", "unknown rank"),
        (Port("x", ir.DataType.FLOAT, ("batch", 0)), "onnxruntime", "zero"),
        (Port("", ir.DataType.FLOAT, ("batch",)), "onnxruntime", "without a name"),
    ],
)
def test_what_cannot_be_written_down_is_refused(port: Port, backend: str, found: str) -> None:
    with pytest.raises(gw.UsageError, match=found):
        config(inputs=(port,), backend=backend).text()
    with pytest.raises(gw.UsageError, match=found):
        config(outputs=(port,), backend=backend).text()
