"""Models, a build of one, and what a build may leave lying about."""

from pathlib import Path
from typing import Any

import graphwright as gw
from graphwright.build_engine import Engine

MODEL = """<ir_version: 10, opset_import: ["": 20]>
scorer (float[batch, seq, 8] x, int64[batch, seq] mask) => (float[batch, seq, 8] y, int64[batch, seq] kept)
<float[8] bias = {0, 1, 2, 3, 4, 5, 6, 7}> {
    [added] sum = Add(x, bias)
    [active] y = Relu(sum)
    [same] kept = Identity(mask)
}"""
HARS = """<ir_version: 10, opset_import: ["": 20, "hars": 1]>
ranker (float[batch, 500] x) => (float[batch, 4] values, int64[batch, 4] indices) {
    [rank] values, indices = hars.softmax_topk <k = 4> (x)
}"""
PROFILE = "batch=1:2:8,seq=1:16:64"


def build(output: str | None = "model.plan", model: Any = "model.onnx", **options: Any) -> Engine:
    return gw.build_engine(model, output, **({"profile": PROFILE, "progress": False} | options))


def left_over(folder: Path) -> list[str]:
    """What lies aside in a folder with plans, or in the cache below it."""
    places = (folder, *folder.glob("caches/graphwright/tensorrt"))
    return sorted(path.name for place in places for path in place.iterdir() if path.name.startswith("."))
