"""Layers of attention in ONNX text, and what the NumPy reference makes of them: for the tests of damf."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import sample
from graphwright.engine.pipeline import RuleMaker
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.transform.damf import DAMF
from graphwright.plugins.damf import reference
from graphwright.plugins.damf.factors import factorize
from graphwright.testing import model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'


def damf(**options: Any) -> RuleMaker:
    """The pass with some options."""
    return replace(DAMF, make=partial(DAMF.make, **options))


@dataclass(frozen=True)
class Mask:
    """How a graph spells a mask: inputs, nodes that make ``m``, and what it means for the inputs."""

    inputs: str = ""
    nodes: str = ""
    is_causal: bool = False
    is_inverted: bool = False

    def valid(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Which keys are valid, [B,1,T], or None for all."""
        if "keys" not in inputs:
            return None
        keys = inputs["keys"] if inputs["keys"].dtype == bool else inputs["keys"] == 0
        return (keys ^ self.is_inverted).reshape(len(keys), 1, -1)


LENGTHS = "ls = Shape <start = 1, end = 2> (x) lt = Shape <start = 1, end = 2> (y) ll = Concat <axis = 0> (ls, lt)"
KEYS = ", bool[B,1,1,T] keys"
POSITIONS = """
    n = Shape <start = 1, end = 2> (y) ns = Squeeze(n) at = Range(zero_i, ns, one_i)
    across = Unsqueeze(at, first_three) down = Unsqueeze(at, but_row)
"""
MASKS = {
    "none": Mask(),
    "keys, expanded": Mask(KEYS, f"{LENGTHS} m = Expand(keys, ll)"),
    "keys as -inf": Mask(KEYS, f"a = Where(keys, nought, low) {LENGTHS} m = Expand(a, ll)"),
    "keys as -inf, expanded before": Mask(KEYS, f"{LENGTHS} e = Expand(keys, ll) m = Where(e, nought, low)"),
    "keys, or zeros throughout": Mask(
        KEYS, f"{LENGTHS} o = Expand(nought, ll) e = Expand(keys, ll) w = Where(e, o, low) m = Add(o, w)"
    ),
    "keys inverted": Mask(KEYS, f"a = Where(keys, low, nought) {LENGTHS} m = Expand(a, ll)", is_inverted=True),
    "keys and a condition that holds": Mask(KEYS, f"{POSITIONS} h = GreaterOrEqual(down, zero_i) m = And(h, keys)"),
    "numbers of the caller": Mask(", float[B,1,1,T] keys", f"{LENGTHS} m = Expand(keys, ll)"),
    "causal": Mask("", f"{POSITIONS} m = LessOrEqual(across, down)", is_causal=True),
    "causal and keys": Mask(KEYS, f"{POSITIONS} c = LessOrEqual(across, down) m = And(c, keys)", is_causal=True),
    "causal, as -inf, and keys": Mask(
        KEYS,
        f"{POSITIONS} c = GreaterOrEqual(down, across) f = Where(c, nought, low) "
        "kept = Where(keys, nought, low) m = Add(f, kept)",
        is_causal=True,
    ),
    "triangle": Mask("", f"{LENGTHS} o = Expand(yes, ll) m = Trilu <upper = 0> (o)", is_causal=True),
}
CONSTANTS = (
    "int64 zero_i = {0}, int64 one_i = {1}, int64[3] first_three = {0, 1, 2}, int64[3] but_row = {0, 1, 3}, "
    "float nought = {0}, float low = {-inf}, bool yes = {1}"
)


@dataclass(frozen=True)
class Layer:
    """Projections and one attention in ONNX text."""

    heads: int = 2
    size: int = 4
    v_size: int = 3
    mask: str = "none"
    is_causal: bool = False
    is_apart: bool = False
    is_cross: bool = False
    has_bias: bool = True
    has_following: bool = True
    attributes: str = "scale = 0.4"
    spelling: str = "matmul"

    @property
    def y(self) -> str:
        return "y" if self.is_cross else "x"

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the weights."""
        qk, v, rows = self.heads * self.size, self.heads * self.v_size, 6 if self.is_cross else 8
        return {"wq": (8, qk), "wk": (rows, qk), "wv": (rows, v), "wo": (v, 5)}

    @property
    def weights(self) -> str:
        if self.spelling == "packed":
            columns = sum(self.widths[name][1] for name in ("wq", "wk", "wv"))
            return f"float[8,{columns}] w, float[{columns}] b, float[{self.widths['wo'][0]},5] wo"
        turned = self.spelling == "gemm"
        shapes = {name: (shape[::-1] if turned and name != "wo" else shape) for name, shape in self.widths.items()}
        declared = [f"float[{rows},{columns}] {name}" for name, (rows, columns) in shapes.items()]
        declared += [f"float[{self.widths[f'w{name}'][1]}] b{name}" for name in "qkv"]
        return ", ".join(declared)

    @property
    def projections(self) -> str:
        if self.spelling == "packed":
            sizes = ", ".join(str(self.widths[name][1]) for name in ("wq", "wk", "wv"))
            packed = f"s = Constant <value_ints = [{sizes}]> () w0 = MatMul(x, w) w1 = Add(w0, b)"
            return f"{packed} q, k, v = Split <axis = 2> (w1, s)"
        found = []
        for name in "qkv":
            given = "x" if name == "q" else self.y
            if self.spelling == "gemm":
                rows = self.widths[f"w{name}"]
                found += [
                    f"{name}f = Constant <value_ints = [-1, {rows[0]}]> () {name}1 = Reshape({given}, {name}f)",
                    f"{name}2 = Gemm <transB = 1> ({name}1, w{name}, b{name})",
                    f"{name}l = Shape <start = 0, end = 2> ({given})",
                    f"{name}n = Constant <value_ints = [{rows[1]}]> () {name}3 = Concat <axis = 0> ({name}l, {name}n)",
                    f"{name} = Reshape({name}2, {name}3)",
                ]
            elif self.has_bias:
                found += [f"{name}1 = MatMul({given}, w{name}) {name} = Add({name}1, b{name})"]
            else:
                found += [f"{name} = MatMul({given}, w{name})"]
        return " ".join(found)

    @property
    def attention(self) -> str:
        mask = ", m" if self.mask != "none" else ""
        attributes = self.attributes + (", is_causal = 1" if self.is_causal else "")
        if not self.is_apart:
            return (
                f"z = Attention <{attributes}, q_num_heads = {self.heads}, kv_num_heads = {self.heads}> (q, k, v{mask})"
            )
        sizes = {"q": self.size, "k": self.size, "v": self.v_size}
        split = " ".join(
            f"{name}c = Constant <value_ints = [0, 0, {self.heads}, {size}]> () {name}5 = Reshape({name}, {name}c) "
            f"{name}6 = Transpose <perm = [0, 2, 1, 3]> ({name}5)"
            for name, size in sizes.items()
        )
        merged = f"zc = Constant <value_ints = [0, 0, {self.heads * self.v_size}]> () z = Reshape(z2, zc)"
        apart = f"{split} z1 = Attention <{attributes}> (q6, k6, v6{mask})"
        return f"{apart} z2 = Transpose <perm = [0, 2, 1, 3]> (z1) {merged}"

    @property
    def nodes(self) -> str:
        following = "out = MatMul(z, wo)" if self.has_following else "out = Identity(z)"
        mask = MASKS[self.mask].nodes if self.is_cross else MASKS[self.mask].nodes.replace("(y)", "(x)")
        return f"{self.projections} {mask} {self.attention} {following}"

    @property
    def inputs(self) -> str:
        cross, t = (", float[B,T,6] y", "T") if self.is_cross else ("", "S")
        return f"float[B,S,8] x{cross}{MASKS[self.mask].inputs.replace('T]', f'{t}]')}"

    @property
    def text(self) -> str:
        width = 5 if self.has_following else self.widths["wv"][1]
        return f"{HEAD} ({self.inputs}) => (float[B,S,{width}] out) <{self.weights}, {CONSTANTS}> {{ {self.nodes} }}"

    def model(self, *changes: tuple[str, str]) -> ir.Model:
        """The layer, its text changed in some places, each of which must be there."""
        text = self.text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        return inferred(text)


def inferred(text: str) -> ir.Model:
    """The model of a text, with shapes as the lift passes infer them."""
    made = model(text, infer=False)
    infer_shapes(made)
    return made


def arrays(layer: Layer, made: ir.Model) -> dict[str, np.ndarray]:
    """The weights of a layer, whatever their spelling."""
    found = {name: value.const_value.numpy() for name, value in made.graph.initializers.items() if name[0] in "wb"}
    if layer.spelling == "packed":
        ends = np.cumsum([layer.widths[name][1] for name in ("wq", "wk", "wv")])[:-1]
        for part, kind in (("w", -1), ("b", -1)):
            pieces = np.split(found[part], ends, kind)
            found |= {f"{part}{name}": piece for name, piece in zip("qkv", pieces, strict=True)}
    elif layer.spelling == "gemm":
        found |= {name: found[name].T for name in ("wq", "wk", "wv")}
    if not layer.has_bias:
        found |= {f"b{name}": np.zeros_like(found[f"b{name}"]) for name in "qkv"}
    return {name: each.astype(np.float64) for name, each in found.items()}


def expected(layer: Layer, made: ir.Model, inputs: Mapping[str, np.ndarray], rank: int, softmax: str) -> np.ndarray:
    """What the NumPy reference makes of a layer, in float64."""
    weights = arrays(layer, made)
    x = inputs["x"].astype(np.float64)
    y = inputs["y"].astype(np.float64) if layer.is_cross else x
    mask = MASKS[layer.mask]
    valid, heads = mask.valid(inputs), []
    for head in range(layer.heads):
        own, of_v = (slice(head * size, (head + 1) * size) for size in (layer.size, layer.v_size))
        parts = [(weights[f"w{name}"][:, own], weights[f"b{name}"][own]) for name in "qk"]
        u, v = factorize(*parts[0], *parts[1], scale=0.4, rank=rank)
        values = y @ weights["wv"][:, of_v] + weights["bv"][of_v]
        is_causal = layer.is_causal or mask.is_causal
        p, n = x @ u[:-1] + u[-1], y @ v[:-1] + v[-1]
        seen = None if valid is None else valid[:, 0]
        heads.append(reference.attention(p, n, values, seen, is_causal, softmax, layer.is_cross))
    whole = np.concatenate(heads, -1)
    return whole @ weights["wo"] if layer.has_following else whole


def drawn(made: ir.Model, sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Random inputs; about a third of the keys are masked, and of one entry all but the first."""
    inputs = sample.sample_inputs(made, sample.bind_dims(made.graph.inputs, sizes=sizes), seed)
    if "keys" in inputs:
        rng, given = np.random.default_rng(seed), inputs["keys"]
        keys = rng.random(given.shape) < 0.7
        inputs["keys"] = keys if given.dtype == bool else np.where(keys, 0, -np.inf).astype(given.dtype)
    return inputs


LAYERS = {
    "plain": Layer(),
    "heads apart": Layer(is_apart=True),
    "without biases": Layer(has_bias=False),
    "without what follows": Layer(has_following=False),
    "heads apart, without what follows": Layer(is_apart=True, has_following=False),
    "cross": Layer(is_cross=True),
    "cross, heads apart": Layer(is_cross=True, is_apart=True),
    "packed": Layer(spelling="packed"),
    "Gemm": Layer(spelling="gemm"),
    "wide": Layer(heads=1, size=8, v_size=9),
    "wide, with keys": Layer(heads=1, size=8, v_size=9, mask="keys, expanded"),
    "wide, heads apart, without biases": Layer(heads=1, size=8, v_size=9, is_apart=True, has_bias=False),
    "wide, cross": Layer(heads=1, size=8, v_size=9, is_cross=True, mask="keys inverted", has_following=False),
    "cross with keys": Layer(is_cross=True, mask="keys, expanded"),
    "is_causal": Layer(is_causal=True),
    "is_causal, packed": Layer(is_causal=True, spelling="packed", is_apart=True),
    **{f"mask: {name}": Layer(mask=name) for name in MASKS if name != "none"},
}


def stacked(*layers: Layer) -> ir.Model:
    """Several layers on the same inputs in one graph, with numbered names; their outputs are added."""
    shared = {"x", "y", "keys", *re.findall(r"(\w+) = \{", CONSTANTS)}
    body = " ".join(_numbered(layer.nodes, index, shared) for index, layer in enumerate(layers))
    weights = [f"{part}{index}" for index, layer in enumerate(layers) for part in layer.weights.split(", ")]
    inputs = dict.fromkeys(part for layer in layers for part in re.findall(r"\w+\[[^]]*\] \w+", layer.inputs))
    total = f"total = Sum({', '.join(f'out{index}' for index in range(len(layers)))})"
    head = f"{HEAD} ({', '.join(inputs)}) => (float[B,S,5] total) <{', '.join(weights)}, {CONSTANTS}>"
    return inferred(f"{head} {{ {body} {total} }}")


def _numbered(body: str, index: int, shared: set[str]) -> str:
    """Number every name that starts with a small letter and stands outside of attributes."""
    parts = re.split(r"(<[^>]*>)", body)
    number = lambda found: found[0] if found[0] in shared else f"{found[0]}{index}"  # noqa: E731
    return "".join(part if part.startswith("<") else re.sub(r"\b[a-z]\w*", number, part) for part in parts)
