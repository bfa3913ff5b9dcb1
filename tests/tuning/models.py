"""Small models with regions to choose for, and times that are made up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphwright.engine.pipeline import Pipeline
from graphwright.engine.sample import bind_dims, sample_inputs
from graphwright.passes import CATALOGUE
from graphwright.testing import model
from graphwright.tuning.cache import ChoiceCache
from graphwright.tuning.tune import Tuned, Tuner

# One layer as BERT has it, on heads apart: hidden size 8, two heads.
LAYER = """
    {p}q = MatMul({x}, {p}wq) {p}qb = Add({p}q, {p}bq) {p}k = MatMul({x}, {p}wk) {p}kb = Add({p}k, {p}bk)
    {p}v = MatMul({x}, {p}wv) {p}vb = Add({p}v, {p}bv)
    {p}q4 = Reshape({p}qb, split) {p}k4 = Reshape({p}kb, split) {p}v4 = Reshape({p}vb, split)
    {p}qh = Transpose <perm = [0, 2, 1, 3]> ({p}q4) {p}kh = Transpose <perm = [0, 2, 1, 3]> ({p}k4)
    {p}vh = Transpose <perm = [0, 2, 1, 3]> ({p}v4)
    {p}a = Attention ({p}qh, {p}kh, {p}vh, full)
    {p}at = Transpose <perm = [0, 2, 1, 3]> ({p}a) {p}ar = Reshape({p}at, join)
    {p}o = MatMul({p}ar, {p}wo) {p}ob = Add({p}o, {p}bo) {p}s1 = Add({p}ob, {x})
    {p}n1 = LayerNormalization <epsilon = 1e-6> ({p}s1, {p}g1, {p}h1)
    {p}f = MatMul({p}n1, {p}w1) {p}fb = Add({p}f, {p}b1) {p}fg = Gelu({p}fb)
    {p}d = MatMul({p}fg, {p}w2) {p}db = Add({p}d, {p}b2) {p}s2 = Add({p}db, {p}n1)
    {y} = LayerNormalization <epsilon = 1e-6> ({p}s2, {p}g2, {p}h2)
"""
MASK = """
    rows = Shape <start = 3, end = 4> (m) lengths = Concat <axis = 0> (rows, rows) full = Expand(m, lengths)
"""


def _weights(prefix: str, inner: int) -> str:
    vectors = [f"float[8] {prefix}{name}" for name in ("bq", "bk", "bv", "bo", "g1", "h1", "b2", "g2", "h2")]
    matrices = [f"float[8,8] {prefix}{name}" for name in ("wq", "wk", "wv", "wo")]
    feed = [f"float[8,{inner}] {prefix}w1", f"float[{inner}] {prefix}b1", f"float[{inner},8] {prefix}w2"]
    return ", ".join([*vectors, *matrices, *feed])


def encoder(inner: Sequence[int] = (16, 16)) -> ir.Model:
    """Layers one behind the other, with these inner sizes."""
    ends = ["x", *(f"h{index}" for index in range(1, len(inner))), "y"]
    body = MASK + "".join(LAYER.format(p=f"l{at}_", x=ends[at], y=ends[at + 1]) for at in range(len(inner)))
    shapes = "int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}"
    weights = ", ".join(_weights(f"l{at}_", size) for at, size in enumerate(inner))
    head = "g (float[B,S,8] x, bool[B,1,1,S] m) => (float[B,S,8] y)"
    return model(f'<ir_version: 10, opset_import: ["": 24]> {head} <{weights}, {shapes}> {{ {body} }}')


def gated() -> ir.Model:
    """A gated unit, as Llama has it."""
    body = "a = MatMul(x, w) s = Swish(a) b = MatMul(x, v) m = Mul(s, b) y = MatMul(m, o)"
    head = "g (float[B,S,8] x) => (float[B,S,8] y) <float[8,12] w, float[8,12] v, float[12,8] o>"
    return model(f'<ir_version: 10, opset_import: ["": 24]> {head} {{ {body} }}')


def classifier() -> ir.Model:
    """A residual RMS norm, then the three largest shares of a softmax."""
    body = """
        t = Add(x, r) n = RMSNormalization <epsilon = 1e-6> (t, g) l = MatMul(n, w)
        p = Softmax <axis = -1> (l) values, places = TopK <axis = -1> (p, k)
    """
    head = "g (float[B,8] x, float[B,8] r) => (float[B,3] values, int64[B,3] places)"
    consts = "<float[8] g, float[8,11] w, int64[1] k = {3}>"
    return model(f'<ir_version: 10, opset_import: ["": 24]> {head} {consts} {{ {body} }}')


@dataclass
class MadeUp:
    """Times that favour one alternative by name; counts how often it is asked, and may refuse to be."""

    favourite: str = ""
    whole: bool = True
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, contenders: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
        self.asked.append(tuple(contenders))
        for call in contenders.values():
            call()
        good = {self.favourite, "tuned"} if self.whole else {self.favourite}
        return {name: [1.0 if name in good else 2.0] * 5 for name in contenders}


def points(given: ir.Model, **sizes: int) -> list[dict[str, np.ndarray]]:
    return [sample_inputs(given, bind_dims(given.graph.inputs, sizes=sizes or {"B": 2, "S": 5}))]


def tuned(
    given: ir.Model,
    folder: Path,
    measure: MadeUp,
    pipeline: Pipeline | None = None,
    target: str = "ort-cpu",
    **options: object,
) -> Tuned:
    tuner = Tuner(target, points(given), ("B=2,S=5",), ChoiceCache(folder), measure=measure, **options)  # type: ignore[arg-type]
    return tuner.tune(given, pipeline or CATALOGUE.default(target))
