"""Masks of the lowest number: a row of it throughout is uniform, though ONNX Runtime's kernel takes it for -inf."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.passes import CATALOGUE
from graphwright.passes.lift.fuse_attention import FUSE_ATTENTION
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import evaluate
from graphwright.testing import assert_fires, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
QKV = "{t}[B,2,S,4] q, {t}[B,2,T,4] k, {t}[B,2,T,3] v"
SCORES = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) z = Mul(s, half) m = Add(z, mask) p = Softmax(m)"
PLAIN = f"{SCORES} y = MatMul(p, v)"
GUARDED = f"{SCORES} nan = IsNaN(p) g = Where(nan, zero, p) y = MatMul(g, v)"
# The spelling of exporters of old: 1 in m marks a key that counts.
FROM_KEYS = "wide = Unsqueeze(m01, axes) away = Sub(one, wide) mask = Mul(away, low)"

SINGLE, HALF = float(np.finfo(np.float32).min), float(np.finfo(np.float16).min)
# 0.5, 1 and the lowest number; ONNX text takes float16 as bits.
NUMBERS = {"float": ("0.5", "1", str(SINGLE)), "float16": ("14336", "15360", "64511")}
LOWEST = {"float": SINGLE, "float16": HALF}
DTYPES = {"float": np.float32, "float16": np.float16}
TOLERANCE = {"float": 1e-5, "float16": 2e-2}
B, S, T = 2, 3, 5


def layer(body: str, inputs: str, t: str = "float") -> ir.Model:
    half, one, low = NUMBERS[t]
    consts = (
        f"{t} half = {{{half}}}, {t} zero = {{0}}, {t} one = {{{one}}}, {t} low = {{{low}}}, int64[2] axes = {{1, 2}}"
    )
    return model(f"{HEAD} ({QKV.format(t=t)}, {inputs}) => ({t}[B,2,S,3] y) <{consts}> {{ {body} }}")


def request(t: str = "float") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"q": (B, 2, S, 4), "k": (B, 2, T, 4), "v": (B, 2, T, 3)}
    return {name: rng.normal(size=shape).astype(DTYPES[t]) for name, shape in shapes.items()}


def assert_close(actual: np.ndarray, expected: np.ndarray, t: str = "float") -> None:
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=TOLERANCE[t], atol=TOLERANCE[t])


def run_source(before: ir.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Run the source in float64, or in float16 by NumPy: ONNX Runtime computes that in float32, which swallows less."""
    if before.graph.inputs[0].dtype == ir.DataType.FLOAT:
        return evaluate(before, inputs, double=True)["y"]
    with np.errstate(invalid="ignore"):  # rows without any key, which the source guards
        (found,) = ReferenceEvaluator(ir.to_proto(before)).run(None, inputs)
    return np.asarray(found, np.float64)


@pytest.mark.parametrize("t", LOWEST)
def test_the_kernel_takes_the_lowest_number_for_minus_infinity(t: str) -> None:
    """What the rule works around; once this fails, it need not raise anything."""
    call = "y = Attention <scale = 0.5> (q, k, v, mask)"
    mask = np.zeros((S, T), DTYPES[t])
    mask[1] = LOWEST[t]
    found = OrtSession(layer(call, f"{t}[S,T] mask", t))(request(t) | {"mask": mask})["y"]
    assert (found[:, :, 1] == 0).all()
    assert np.abs(found[:, :, [0, 2]]).min() > 0


@pytest.mark.parametrize("t", LOWEST)
@pytest.mark.parametrize("body", [PLAIN, GUARDED], ids=["plain", "guarded"])
def test_a_row_of_the_lowest_number_from_an_input_stays_uniform(body: str, t: str) -> None:
    before = layer(body, f"{t}[B,1,S,T] mask", t)
    after = assert_fires(before, FUSE_ATTENTION, 1)
    mask = np.zeros((B, 1, S, T), DTYPES[t])
    mask[0, 0, 1] = mask[1, 0, 2, :4] = LOWEST[t]
    inputs = request(t) | {"mask": mask}
    found = OrtSession(after)(inputs)["y"]
    assert_close(found, run_source(before, inputs), t)
    assert_close(found[0, :, 1], inputs["v"][0].astype(np.float64).mean(1), t)
    assert_close(found[1, :, 2], inputs["v"][1, :, 4].astype(np.float64), t)


@pytest.mark.parametrize("t", LOWEST)
def test_a_mask_computed_from_keys_stays_uniform(t: str) -> None:
    before = layer(f"{FROM_KEYS} {PLAIN}", f"{t}[B,T] m01", t)
    after = assert_fires(before, FUSE_ATTENTION, 1)
    keys = np.ones((B, T), DTYPES[t])
    keys[0] = keys[1, 3:] = 0
    inputs = request(t) | {"m01": keys}
    found = OrtSession(after)(inputs)["y"]
    assert_close(found, run_source(before, inputs), t)
    mean = inputs["v"][0].astype(np.float64).mean(1, keepdims=True)
    assert_close(found[0], np.repeat(mean, S, 1), t)


def test_a_constant_mask_that_holds_the_lowest_number_is_raised() -> None:
    rows = ", ".join(["0", *[str(SINGLE)] * 2])
    text = (
        f"{HEAD} ({QKV.format(t='float')}) => (float[B,2,S,3] y) <float half = {{0.5}}, float[3,1] mask = {{{rows}}}>"
    )
    before = model(f"{text} {{ {PLAIN} }}".replace("[B,2,S,", "[B,2,3,"))
    after = assert_fires(before, FUSE_ATTENTION, 1)
    found = OrtSession(after)(request())["y"]
    assert_close(found, run_source(before, request()))
    assert_close(found[:, :, 1], request()["v"].astype(np.float64).mean(2))


def test_a_mask_that_callers_may_replace_is_raised() -> None:
    before = layer(PLAIN, "float[S,T] mask")
    contents = ir.tensor(np.zeros((S, T), np.float32), name="mask")
    before.graph.inputs[3].const_value = contents
    before.graph.register_initializer(before.graph.inputs[3])
    after = assert_fires(before, FUSE_ATTENTION, 1)
    assert "Equal" in {node.op_type for node in after.graph}


@pytest.mark.parametrize("t", LOWEST)
def test_guarded_rows_of_minus_infinity_stay_zero(t: str) -> None:
    before = layer(GUARDED, f"{t}[B,1,S,T] mask", t)
    after = assert_fires(before, FUSE_ATTENTION, 1)
    mask = np.zeros((B, 1, S, T), DTYPES[t])
    mask[0, 0, 1] = -np.inf
    mask[1, 0, 2, :4] = -np.inf
    inputs = request(t) | {"mask": mask}
    found = OrtSession(after)(inputs)["y"]
    assert (found[0, :, 1] == 0).all()
    assert_close(found, run_source(before, inputs), t)


@pytest.mark.parametrize("body", [PLAIN, GUARDED], ids=["plain", "guarded"])
def test_minus_infinity_is_still_below_the_lowest_number(body: str) -> None:
    before = layer(body, "float[B,1,S,T] mask")
    after = assert_fires(before, FUSE_ATTENTION, 1)
    mask = np.zeros((B, 1, S, T), np.float32)
    mask[:, :, 1, :2], mask[:, :, 1, 2:] = SINGLE, -np.inf
    inputs = request() | {"mask": mask}
    found = OrtSession(after)(inputs)["y"]
    assert_close(found[:, :, 1], inputs["v"][:, :, :2].astype(np.float64).mean(2))
    assert_close(found, run_source(before, inputs))


@pytest.mark.parametrize("target", CATALOGUE.defaults)
@pytest.mark.parametrize("source", ["input", "keys"])
def test_no_later_pass_undoes_it(source: str, target: str) -> None:
    body, given = (PLAIN, "float[B,1,S,T] mask") if source == "input" else (f"{FROM_KEYS} {PLAIN}", "float[B,T] m01")
    before = layer(body, given)
    name, shape = ("mask", (B, 1, S, T)) if source == "input" else ("m01", (B, T))
    inputs = request() | {name: np.full(shape, SINGLE if source == "input" else 0, np.float32)}
    after = run_pipeline(Run(before.clone(), []), CATALOGUE.default(target))
    # For TensorRT it is written out again.
    assert [node.op_type for node in after.graph].count("Attention") == (target != "tensorrt")
    found = OrtSession(after)(inputs)["y"]
    assert_close(found, run_source(before, inputs))
    assert_close(found[:, :, 0], inputs["v"].astype(np.float64).mean(2))
