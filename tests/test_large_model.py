"""A model of 3 GB: its weights stay in files, are written once, and memory stays small."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WIDTH, LAYERS = 8192, 12  # 12 * 8192 * 8192 * 4 bytes = 3.2 GB

CODE = """
import resource, sys
from pathlib import Path
from graphwright.compilation.settings import Settings
from graphwright.optimize import compile_model
settings = Settings(progress=False, profile="n=1:2:3", staging=Path(sys.argv[2]).absolute().parent)
compile_model(sys.argv[1], None, settings).save(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_model(path: Path) -> int:
    """Write a chain of products with random weights, one layer at a time; return the bytes of its weights."""
    size = WIDTH * WIDTH * 4
    random = np.random.default_rng(0)
    nodes, weights = [], []
    with path.with_suffix(".data").open("wb") as file:
        for layer in range(LAYERS):
            file.write((random.standard_normal((WIDTH, WIDTH), np.float32) / np.sqrt(WIDTH)).data)
            weight = onnx.TensorProto(name=f"w{layer}", data_type=1, dims=[WIDTH, WIDTH], data_location=1)
            place = {"location": path.with_suffix(".data").name, "offset": layer * size, "length": size}
            for key, value in place.items():
                weight.external_data.add(key=key, value=str(value))
            weights.append(weight)
            nodes.append(onnx.helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", WIDTH]) for name in ("x0", f"x{LAYERS}")]
    graph = onnx.helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return LAYERS * size


def test_a_model_of_3_gb_takes_at_most_1_5_times_its_weights(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "model.onnx"), str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size >= weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.data", "model.onnx", "out"]
    peak = int(done.stdout.split()[-1])
    print(f"peak memory {peak / weights:.2f} times the weights")
    assert peak <= 1.5 * weights
