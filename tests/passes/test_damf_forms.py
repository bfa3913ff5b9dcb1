"""The nodes that damf emits compute what the NumPy reference says, at every rank, length, mask and causality."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.builder import Builder, Names
from graphwright.passes.transform.damf_causal import CHUNK, causal, running_maximum
from graphwright.passes.transform.damf_linear import Factors, Values, linear
from graphwright.passes.transform.damf_shift import power_of_two, shift
from graphwright.plugins.damf import reference
from graphwright.runtime.ort import OrtSession

HEADS, SIZE = 3, 4
LENGTHS = (1, 2, 7, 63, 64, 65, 128, 130, 257)
Emit = Callable[[Builder, Mapping[str, ir.Value]], ir.Value]


def session(inputs: Mapping[str, tuple[ir.DataType, list[int | str]]], emit: Emit) -> OrtSession:
    """A model of what is emitted for some inputs, of these types and shapes."""
    values = {
        name: ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        for name, (dtype, shape) in inputs.items()
    }
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 24}), ir_version=10)
    builder = Builder(Names(empty), "damf", {"": 24})
    result = emit(builder, values)
    graph = ir.Graph(
        list(values.values()),
        [result],
        nodes=builder.nodes,
        initializers=builder.constants,
        opset_imports={"": 24},
        name="emitted",
    )
    return OrtSession(ir.Model(graph, ir_version=10), threads=1)


def in_one_row(heads: np.ndarray) -> np.ndarray:
    """[B,H,L,N] as [B,L,H*N]."""
    return np.ascontiguousarray(heads.transpose(0, 2, 1, 3).reshape(heads.shape[0], heads.shape[2], -1))


def with_ones(n: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones_like(n[..., :1]), n], -1)


def with_zeros(p: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(p[..., :1]), p], -1)


class Draw:
    """Random factors, values and validity, [B,H,L,*], in float64 or another type."""

    def __init__(self, rank: int, s: int, t: int, masked: bool, dtype: type = np.float64, seed: int = 0) -> None:
        rng = np.random.default_rng((seed, rank, s, t))
        self.p = rng.normal(size=(2, HEADS, s, rank)).astype(dtype)
        self.n = rng.normal(size=(2, HEADS, t, rank)).astype(dtype)
        self.v = rng.normal(size=(2, HEADS, t, SIZE)).astype(dtype)
        self.valid: np.ndarray | None = None
        if masked:
            self.valid = rng.random((2, 1, t)) < 0.6
            self.valid[1] = False  # the second entry sees no key at all

    @property
    def column(self) -> np.ndarray:
        """1 for each valid key and 0 for the others, [B,T,1]."""
        assert self.valid is not None
        return self.valid.transpose(0, 2, 1).astype(self.p.dtype)

    def keys(self) -> np.ndarray:
        """What the graph gets for keys: zeros where they are not valid."""
        return self.n if self.valid is None else np.where(self.valid[..., None], self.n, 0)


@cache
def linear_session(rank: int, masked: bool) -> OrtSession:
    def emit(op: Builder, of: Mapping[str, ir.Value]) -> ir.Value:
        return linear(op, Factors(of["p"], of["n"], HEADS, rank, masked), Values(of["v"], None, HEADS * SIZE), None, 0)

    kinds = {"p": ("S", HEADS * rank), "n": ("T", 1 + HEADS * rank), "v": ("T", HEADS * SIZE)}
    return session({name: (ir.DataType.DOUBLE, [2, *shape]) for name, shape in kinds.items()}, emit)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", range(1, 9))
def test_the_linear_form_is_the_form_of_the_matrix(rank: int, masked: bool) -> None:
    run = linear_session(rank, masked)
    for s, t in [(length, length) for length in LENGTHS] + [(5, 257), (257, 3)]:
        given = Draw(rank, s, t, masked)
        expected = reference.attention(given.p, given.n, given.v, given.valid, cross=True)
        keys = with_ones(in_one_row(given.keys()))
        if masked:
            keys[..., :1] = given.column
        (found,) = run({"p": in_one_row(given.p), "n": keys, "v": in_one_row(given.v)}).values()
        np.testing.assert_allclose(found, in_one_row(expected), rtol=1e-6, atol=1e-9)
        if masked:
            assert not found[1].any()


def test_the_linear_form_in_float32_rounds_like_float32() -> None:
    given = Draw(3, 257, 257, False)
    expected = reference.attention(given.p, given.n, given.v)

    def emit(op: Builder, of: Mapping[str, ir.Value]) -> ir.Value:
        return linear(op, Factors(of["p"], of["n"], HEADS, 3, False), Values(of["v"], None, HEADS * SIZE), None, 0)

    kinds = {"p": ("S", HEADS * 3), "n": ("T", 1 + HEADS * 3), "v": ("T", HEADS * SIZE)}
    run = session({name: (ir.DataType.FLOAT, [2, *shape]) for name, shape in kinds.items()}, emit)
    arrays = {"p": in_one_row(given.p), "n": with_ones(in_one_row(given.n)), "v": in_one_row(given.v)}
    (found,) = run({name: array.astype(np.float32) for name, array in arrays.items()}).values()
    np.testing.assert_allclose(found, in_one_row(expected), rtol=1e-4, atol=2e-6)


@cache
def causal_session(rank: int) -> OrtSession:
    def emit(op: Builder, of: Mapping[str, ir.Value]) -> ir.Value:
        return causal(op, Factors(of["p"], of["n"], HEADS, rank, True), of["v"], SIZE)

    width = HEADS * (rank + 1)
    kinds = {"p": width, "n": width, "v": HEADS * SIZE}
    return session({name: (ir.DataType.DOUBLE, [2, "L", size]) for name, size in kinds.items()}, emit)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", range(1, 9))
def test_the_causal_form_is_the_form_of_the_matrix(rank: int, masked: bool) -> None:
    run = causal_session(rank)
    for length in LENGTHS:
        given = Draw(rank, length, length, masked)
        expected = reference.attention(given.p, given.n, given.v, given.valid, causal=True)
        p, n = with_zeros(given.p), with_ones(given.keys())
        if given.valid is not None:
            p *= given.valid[..., None]
            n *= given.valid[..., None]
        (found,) = run({"p": in_one_row(p), "n": in_one_row(n), "v": in_one_row(given.v)}).values()
        np.testing.assert_allclose(found, in_one_row(expected), rtol=1e-6, atol=1e-9)


def test_the_causal_form_does_not_look_ahead() -> None:
    run, given = causal_session(2), Draw(2, 3 * CHUNK, 3 * CHUNK, False)
    rows = {"p": in_one_row(with_zeros(given.p)), "n": in_one_row(with_ones(given.n)), "v": in_one_row(given.v)}
    (whole,) = run(rows).values()
    for end in (1, CHUNK, CHUNK + 1):
        (start,) = run({name: np.ascontiguousarray(array[:, :end]) for name, array in rows.items()}).values()
        np.testing.assert_allclose(whole[:, :end], start, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 64, 100])
def test_a_running_maximum_is_that_of_numpy(length: int) -> None:
    run = _running()
    value = np.random.default_rng(length).random((2, length, 5)).astype(np.float32)
    (found,) = run({"x": value}).values()
    np.testing.assert_array_equal(found, np.maximum.accumulate(value, axis=1))


@cache
def _running() -> OrtSession:
    return session({"x": (ir.DataType.FLOAT, [2, "L", 5])}, lambda op, of: running_maximum(op, of["x"]))


def shift_session(rank: int, masked: bool, is_causal: bool) -> OrtSession:
    def emit(op: Builder, of: Mapping[str, ir.Value]) -> ir.Value:
        factors = Factors(of["p"], of["n"], HEADS, rank, masked)
        return shift(op, factors, of["v"], SIZE, of.get("valid"), is_causal)

    kinds = {"p": ("S", HEADS * rank), "n": ("T", HEADS * rank), "v": ("T", HEADS * SIZE)}
    kinds |= {"valid": ("T", 1)} if masked else {}
    return session({name: (ir.DataType.FLOAT, [2, *shape]) for name, shape in kinds.items()}, emit)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_shifts_are_those_of_numpy_to_the_bit(rank: int, masked: bool, is_causal: bool) -> None:
    """On values of few bits, whose sums are exact in any order, so that only the shifts can differ."""
    run = shift_session(rank, masked, is_causal)
    for length in (1, 2, 7, 33):
        given = Draw(rank, length, length, masked, np.float32)
        given.p, given.n = (np.round(each * 8) / 8 for each in (given.p, given.n))
        given.v = np.round(given.v * 4)
        expected = reference.attention(given.p, given.n, given.v, given.valid, causal=is_causal, softmax="shift")
        assert expected.dtype == np.float32
        p = given.p if given.valid is None else np.where(given.valid[..., None], given.p, 0)
        arrays = {"p": in_one_row(p), "n": in_one_row(given.keys()), "v": in_one_row(given.v)}
        arrays |= {"valid": given.column} if masked else {}
        (found,) = run(arrays).values()
        np.testing.assert_array_equal(found, in_one_row(expected))
        assert len(np.unique(found)) > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two_are_exact_for_every_size_of_number(dtype: type) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    exponents = np.arange(info.minexp - info.nmant, info.maxexp)
    with np.errstate(under="ignore"):
        powers = np.ldexp(np.ones(len(exponents)), exponents).astype(dtype)
        roots = [np.nextafter((powers * np.sqrt(0.5)).astype(dtype), dtype(side)) for side in (0, np.inf)]
    smallest = np.array([0, info.smallest_subnormal, info.tiny, np.nextafter(info.tiny, dtype(0))], dtype)
    some = (rng.normal(size=2000) * 10.0 ** rng.integers(-30, 30, 2000)).astype(dtype)
    given = np.concatenate([powers, *roots, (powers * np.sqrt(0.5)).astype(dtype), smallest, some])
    given = np.concatenate([given, -given])
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    run = session({"x": (kind, ["N"])}, lambda op, of: power_of_two(op, of["x"]))
    (found,) = run({"x": given}).values()
    expected = reference.power_of_two(given)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype
