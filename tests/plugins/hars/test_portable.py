"""HARS in standard operators, as bodies and in the fast form, against a sort and float64 sums."""

import itertools
from functools import cache, partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from graphwright.plugins.hars import meaning, onnx_run, portable, reference, row_split
from graphwright.plugins.hars.onnx_run import one_operator
from graphwright.runtime.reference import evaluate

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
MODES = ("logit", "logprob", "prob", "prob_renorm")
IMPLEMENTATIONS = ("portable", "body")
SHORT = (1, 2, 3, 31, 32, 33, 1000, 1001, 2048)
# From the shortest row that is cut on: padded and not, of prime length, grouped for few k and for many.
LONG = (2049, 4096, 4099, 8192, 32003, 50257)


def families(width: int, k: int) -> np.ndarray:
    """Rows without NaN and +inf: the list of adversaries, each a row of one batch."""
    random = np.random.default_rng(width + k)
    place = np.arange(width)
    normal = random.normal(size=width) * 3
    split = row_split.split_row(width, min(k, width), is_summed=True) or row_split.Split(1, width)
    spike = np.full(width, -0.1)
    spike[width // 2] = 0
    few, start, end = np.full(width, -np.inf), normal.copy(), normal.copy()
    few[random.permutation(width)[: max(1, k - 1)]] = 1
    start[:k] += 100
    end[width - k :] += 100
    rows = [
        normal,
        np.zeros(width),
        place / width,
        -place / width,
        *(place % period for period in (7, 64, split.size, split.groups)),
        start,
        end,
        spike,
        few,
        np.full(width, -np.inf),
        np.where(random.random(width) < 0.5, 1.0, 0.9),
        1 + random.random(width) * 0.245,
        np.where(random.random(width) < 0.5, 0.0, -0.0),
        random.integers(-9, 9, width) * 1e-45,
        np.clip(normal * 1e38, -3e38, 3e38),
        1e4 + normal * 0.01,
        np.where(place == width // 3, 80.0, normal * 0.1),
        np.round(normal),
    ]
    return np.stack(rows).astype(np.float32)


def odd_families(width: int) -> np.ndarray:
    """Rows with NaN of both signs and with +inf, at every place that a kernel treats in its own way."""
    random = np.random.default_rng(width)
    rows = random.normal(size=(9, width)).astype(np.float32)
    for row, place in enumerate((0, width // 2, width - 1)):
        rows[row, place] = np.nan
    rows[3] = np.nan
    rows[4, ::5] = np.copysign(np.float32(np.nan), np.float32(-1))
    rows[5, width // 3] = np.inf
    rows[6, ::3], rows[6, width // 2] = np.inf, np.nan
    rows[7, ::2], rows[7, width - 1] = -np.inf, np.inf
    rows[8], rows[8, width // 2] = -np.inf, np.nan
    return rows


def oracle(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order by lexsort; the maximum, and the logarithm of the sum in float64."""
    place = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    value = np.where(np.isnan(x), 0, -x) + 0.0
    indices = np.lexsort((place, value, ~np.isnan(x)), axis=-1)[..., :k]
    maximum = np.take_along_axis(x, indices[..., :1], -1)[..., 0]
    base = np.where(np.isneginf(maximum), 0, maximum)[..., None]
    with np.errstate(all="ignore"):
        log_sum = np.log(np.sum(np.exp(x.astype(np.float64) - base), axis=-1))
    return indices, maximum, log_sum


def check(x: np.ndarray, k: int, mode: str, **options: Any) -> None:
    """Compare with the oracle; ``x`` holds float32 numbers that are those of the dtype."""
    values, indices, maximum, log_sum = onnx_run.softmax_topk(x, k, mode=mode, stats=True, **options)
    x = x.astype(np.float32)
    expected, top, exact_log_sum = oracle(x, k)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(maximum, top)
    is_finite = np.isfinite(exact_log_sum)
    np.testing.assert_array_equal(log_sum[~is_finite], exact_log_sum[~is_finite].astype(np.float32))
    allowed = 2e-6 + 4 * np.spacing(np.abs(exact_log_sum[is_finite]).astype(np.float32))
    assert (np.abs(log_sum[is_finite] - exact_log_sum[is_finite]) <= allowed).all()
    selected = np.take_along_axis(x, expected, -1)
    distance = selected - np.where(np.isneginf(top), np.float32(0), top)[:, None]
    if mode == "logit":
        np.testing.assert_array_equal(values, selected)
    elif mode == "logprob":
        exact = distance.astype(np.float64) - np.where(np.isneginf(exact_log_sum), 0, exact_log_sum)[:, None]
        np.testing.assert_allclose(values, exact, rtol=4e-7, atol=4e-6)
    else:
        shares = np.exp(distance.astype(np.float64))
        total = np.exp(exact_log_sum)[:, None] if mode == "prob" else shares.sum(-1, keepdims=True)
        np.testing.assert_allclose(values, shares / np.where(total == 0, 1, total), rtol=4e-6, atol=1e-37)


def sizes_of_k(width: int) -> list[int]:
    split = row_split.split_row(width, 8, is_summed=True)
    around = (split.groups - 1, split.groups, split.groups + 1) if split else (width - 1, width)
    return sorted({k for k in (1, 2, 8, 31, 64, 127, 128, *around) if 1 <= k <= width})


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
class TestAdversaries:
    @pytest.mark.parametrize("width", SHORT)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_short_rows(self, implementation: str, dtype: str, width: int) -> None:
        for k, mode in zip(sizes_of_k(width), itertools.cycle(MODES), strict=False):
            check(families(width, k).astype(DTYPES[dtype]), k, mode, implementation=implementation)
            check(odd_families(width).astype(DTYPES[dtype]), k, mode, implementation=implementation)

    @pytest.mark.parametrize("width", LONG)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_long_rows(self, implementation: str, dtype: str, width: int) -> None:
        for k in (1, 8) if dtype == "float32" else (5,):
            check(families(width, k).astype(DTYPES[dtype]), k, "logprob", implementation=implementation)
            check(odd_families(width).astype(DTYPES[dtype]), k, "logprob", implementation=implementation)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("width", [1001, 4099])
    def test_every_mode_with_any_k(self, implementation: str, mode: str, width: int) -> None:
        for k in sizes_of_k(width):
            check(families(width, k), k, mode, implementation=implementation)
            check(odd_families(width), k, mode, implementation=implementation)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("k", [1, 8, 64, 128, 501, 502])
def test_a_large_vocabulary(k: int) -> None:
    check(families(128256, k)[::4], k, "logprob")


@pytest.mark.parametrize("width", [1001, 4099, 50257, 128256])
@pytest.mark.parametrize("mode", ["logit", "prob_renorm"])
def test_modes_that_need_no_sum_choose_the_same(mode: str, width: int) -> None:
    with np.errstate(all="ignore"):
        batches = (families(width, 8)[:: 1 if width < 10000 else 5], odd_families(width)[:: 1 if width < 10000 else 3])
        for x, k in itertools.product(batches, (1, 8, 70)):
            found = onnx_run.softmax_topk(x, k, mode=mode)
            expected = reference.softmax_topk(x, k, mode=mode)
            np.testing.assert_array_equal(found[1], expected[1])
            np.testing.assert_allclose(found[0], expected[0], rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("width", [60, 4099])
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_any_axis_with_bias_and_temperature(implementation: str, width: int, axis: int) -> None:
    random = np.random.default_rng(axis % 3)
    shape = [2, 3, 4]
    shape[axis] = width
    logits = np.round(random.normal(size=shape) * 3).astype(np.float16)
    bias = np.round(random.normal(size=shape[1:]) * 3).astype(np.float32)[:1] / 3
    options: dict[str, Any] = {"bias": bias, "temperature": 0.7, "axis": axis, "stats": True, "mode": "logprob"}
    found = onnx_run.softmax_topk(logits, 7, implementation=implementation, **options)
    expected = reference.softmax_topk(logits, 7, **options)
    np.testing.assert_array_equal(found[1], expected[1])
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=4e-7, atol=4e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_alone_and_no_rows(implementation: str) -> None:
    for width in (50, 4099):
        row = np.random.default_rng(0).normal(size=width).astype(np.float32)
        check(row[None], 3, "prob", implementation=implementation)
        alone = onnx_run.softmax_topk(row, 3, stats=True, implementation=implementation)
        assert [array.shape for array in alone] == [(3,), (3,), (), ()]
        empty = np.zeros((2, 0, width), np.float32)
        results = onnx_run.softmax_topk(empty, 3, stats=True, implementation=implementation)
        assert [array.shape for array in results] == [(2, 0, 3), (2, 0, 3), (2, 0), (2, 0)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("groups", [1, 4])
def test_no_tokens(implementation: str, groups: int) -> None:
    options: dict[str, Any] = {"renormalize": True, "zero_experts": 2, "groups": groups, "top_groups": groups}
    results = onnx_run.router_topk(np.zeros((0, 8), np.float32), 2, implementation=implementation, **options)
    assert [array.shape for array in results] == [(0, 2), (0, 2), (0,)]


@pytest.mark.parametrize("mode", MODES)
def test_a_body_takes_no_rows_along_an_axis_counted_from_the_end(mode: str) -> None:
    options = {"k": 3, "mode": mode, "axis": -1, "stats": True}
    model = onnx_run.one_operator(meaning.call_softmax_topk, ir.DataType.FLOAT, [None, 9], None, options)
    results = evaluate(model, {"logits": np.zeros((0, 9), np.float32)})
    assert [array.shape for array in results.values()] == [(0, 3), (0, 3), (0,), (0,)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("width", "k"), [(100, 7), (2047, 33), (2049, 9), (8217, 8), (32000, 64), (50257, 5)])
def test_a_row_has_the_same_bits_in_any_batch_at_any_address_and_with_any_threads(
    implementation: str, width: int, k: int
) -> None:
    random = np.random.default_rng(width)
    row = (random.normal(size=width) * 2).astype(np.float32)
    for mode in MODES:
        seen = set()
        for batch, threads, offset in ((1, 1, 0), (2, 1, 1), (3, 2, 0), (7, 1, 3), (19, 2, 1)):
            x = np.zeros(batch * width + 8, np.float32)[offset:][: batch * width].reshape(batch, width)
            x[:] = random.normal(size=x.shape)
            place = int(random.integers(batch))
            x[place] = row
            if batch == 7:
                x[place - 1, 3] = np.nan
            found = onnx_run.softmax_topk(x, k, mode=mode, stats=True, implementation=implementation, threads=threads)
            seen.add(b"".join(array[place].tobytes() for array in found))
        assert len(seen) == 1, mode


def operators(width: int, k: int, *, exact: bool = True, mode: str = "logprob") -> list[str]:
    options = {"k": k, "mode": mode, "exact": exact}
    model = onnx_run.one_operator(portable.softmax_topk, ir.DataType.FLOAT, [None, width], None, options)
    return [node.op_type for node in model.graph.all_nodes()]


def test_what_is_emitted_follows_the_table() -> None:
    assert operators(1000, 8, exact=False) == ["LogSoftmax", "TopK"]
    # Where groups do not pay at every batch: a padded row, and one that is not long enough for its k.
    assert operators(50257, 8, exact=False) == operators(100003, 1, exact=False) == ["LogSoftmax", "TopK"]
    assert operators(50257, 8, exact=False) == operators(32000, 64, exact=False) == ["LogSoftmax", "TopK"]
    assert operators(16000, 1, exact=False, mode="logit") == ["TopK"]
    assert operators(1000, 8, exact=False, mode="prob_renorm") == ["TopK", "Softmax"]
    assert "If" in operators(1000, 8) and "ReduceMax" not in operators(1000, 8)
    # As a graph is lowered: no slower than Softmax and TopK, so their probabilities, ranked by groups.
    found = operators(32000, 8, exact=False)
    assert found[:3] == ["LogSoftmax", "Reshape", "ReduceMax"] and "GatherND" in found and "If" not in found
    assert {"If", "GatherND"} <= set(operators(32000, 8, exact=False, mode="logit"))
    assert "Softmax" not in operators(32000, 8) and "Pad" not in operators(32000, 8)
    assert "Pad" in operators(32003, 8)
    assert "GatherND" not in operators(32000, 126) and "Exp" in operators(32000, 126)
    assert "Reshape" not in operators(32000, 126, mode="logit")


@pytest.mark.parametrize(("width", "k"), [(32000, 8), (50257, 1), (119547, 64)])
@pytest.mark.parametrize("mode", ["prob", "logprob"])
def test_the_lowered_form_gives_what_softmax_and_topk_give(width: int, k: int, mode: str) -> None:
    x = np.random.default_rng(width + k).standard_normal((3, width), np.float32) * 3
    x[0, ::7] = x[0, 0]  # ties
    x[1, :5] = -np.inf
    values, indices = lowered(x, k, mode)
    softmax = "Softmax" if mode == "prob" else "LogSoftmax"
    text = f"(float[B, V] x) => (y, i) <int64[1] k = {{{k}}}> {{ p = {softmax}(x)\n y, i = TopK(p, k) }}"
    wanted, places = session(text).run(None, {"x": x})
    np.testing.assert_array_equal(values, wanted)
    np.testing.assert_array_equal(indices, places)


@pytest.mark.parametrize("filling", [np.nan, -np.inf, np.inf])
def test_a_row_that_the_lowered_form_does_not_define_stays_in_range(filling: float) -> None:
    for width in (32000, 119547):
        x = np.full((2, width), filling, np.float32)
        x[1, 3] = 0
        _, indices = lowered(x, 4, "prob")
        assert indices.min() >= 0 and indices.max() < width


def lowered(x: np.ndarray, k: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Run the form that graphs are lowered to."""
    model = one_operator(
        partial(portable.softmax_topk, exact=False), ir.DataType.FLOAT, [None, x.shape[1]], None, {"k": k, "mode": mode}
    )
    made = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    values, indices = made.run(None, {made.get_inputs()[0].name: x})
    return values, indices


@pytest.mark.parametrize("is_summed", [True, False])
def test_groups_cover_the_row_and_the_last_one_is_not_empty(is_summed: bool) -> None:
    for width, k in itertools.product((2049, 4099, 8192, 8217, 32003, 50257, 128256, 262144), (1, 4, 8, 64)):
        split = row_split.split_row(width, k, is_summed=is_summed)
        if split is None:
            assert not is_summed and not row_split.is_grouped(width, k)
            continue
        assert (split.groups - 1) * split.size < width <= split.groups * split.size
        assert split.size % row_split.LINE == 0 or not is_summed
        assert split.groups >= k or not row_split.is_grouped(width, k)


@cache
def session(text: str) -> onnxruntime.InferenceSession:
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 24]> g {text}')
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def reduced(operator: str, x: np.ndarray) -> np.ndarray:
    text = f"(float[B, V] x) => (y) <int64[1] last = {{-1}}> {{ y = {operator}(x, last) }}"
    return np.asarray(session(text).run(None, {"x": x})[0])


def test_sums_keep_every_nan_and_maxima_do_not() -> None:
    """On what the choice between the two rankings rests in this ONNX Runtime."""
    lost = 0
    for width in (1, 3, 7, 8, 15, 16, 17, 33, 64, 100, 192, 257):
        for place in {0, 1, width // 3, width // 2, width - 1} & set(range(width)):
            for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF):
                rows = np.stack([np.linspace(-1, 1, width), np.full(width, np.inf), np.full(width, -np.inf)])
                x = rows.astype(np.float32)
                x.view(np.uint32)[:, place] = bits
                assert np.isnan(reduced("ReduceSum", x)).all()
                lost += int(np.sum(~np.isnan(reduced("ReduceMax", x))))
    assert lost, "ReduceMax keeps NaN now: the sum may be left out"


ROUTERS = st.fixed_dictionaries(
    {
        "scoring": st.sampled_from(["softmax", "sigmoid"]),
        "renormalize": st.booleans(),
        "scale": st.sampled_from([1.0, 2.5]),
        "zero_experts": st.sampled_from([0, 6]),
        "scale_zero_experts": st.booleans(),
    }
)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    options=ROUTERS,
    k=st.sampled_from([1, 4, 8]),
    groups=st.sampled_from([(1, 1), (4, 2), (6, 6)]),
    biased=st.booleans(),
    odd=st.sampled_from(["none", "nan", "all nan", "inf", "-inf", "some -inf", "ties"]),
    seed=st.integers(0, 99),
)
def test_routers(
    implementation: str,
    dtype: str,
    options: dict[str, Any],
    k: int,
    groups: tuple[int, int],
    biased: bool,
    odd: str,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(5, 24)).astype(np.float32) * 3
    places = {
        "nan": np.s_[1:3, ::5],
        "all nan": np.s_[1],
        "inf": np.s_[::2, 3],
        "-inf": np.s_[0],
        "some -inf": np.s_[:, ::2],
    }
    fill = np.nan if "nan" in odd else -np.inf if "-inf" in odd else np.inf
    if odd in places:
        scores[places[odd]] = fill
    elif odd == "ties":
        scores = np.round(scores)
    scores = scores.astype(DTYPES[dtype])
    bias = np.round(random.normal(size=24), 2).astype(np.float32) if biased else None
    options = {**options, "bias": bias, "groups": groups[0], "top_groups": groups[1]}
    found = onnx_run.router_topk(scores, k, implementation=implementation, **options)
    expected = reference.router_topk(scores, k, **options)
    np.testing.assert_array_equal(found[1], expected[1])
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=4e-6, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_smallest_sum_counts_where_all_weights_are_tiny(implementation: str) -> None:
    scores = np.linspace(-46, -50, 8, dtype=np.float32)[None]
    options: dict[str, Any] = {"scoring": "sigmoid", "renormalize": True}
    weights, _, _ = onnx_run.router_topk(scores, 2, implementation=implementation, **options)
    expected, _, _ = reference.router_topk(scores, 2, **options)
    assert 0.1 < expected.sum() < 0.9
    np.testing.assert_allclose(weights, expected, rtol=4e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_token_has_the_same_weights_in_any_batch(implementation: str) -> None:
    random = np.random.default_rng(0)
    token = random.normal(size=61).astype(np.float32)
    bias = random.normal(size=61).astype(np.float32)
    for scoring in ("softmax", "sigmoid"):
        seen = set()
        for batch in (1, 2, 3, 7, 33):
            scores = random.normal(size=(batch, 61)).astype(np.float32)
            place = int(random.integers(batch))
            scores[place] = token
            options: dict[str, Any] = {"scoring": scoring, "renormalize": True, "zero_experts": 20, "scale": 1.5}
            found = onnx_run.router_topk(scores, 7, bias=bias, implementation=implementation, **options)
            seen.add(b"".join(array[place].tobytes() for array in found))
        assert len(seen) == 1, scoring


def test_a_router_without_options_is_three_operators() -> None:
    for scoring, renormalize, expected in (
        ("softmax", True, ["TopK", "Softmax"]),
        ("softmax", False, ["TopK", "Softmax", "GatherElements"]),
        ("sigmoid", False, ["TopK", "Sigmoid"]),
    ):
        options = {"k": 2, "scoring": scoring, "renormalize": renormalize, "exact": False}
        record = onnx_run.portable_router.router_topk
        model = onnx_run.one_operator(record, ir.DataType.FLOAT, [None, 8], None, options)
        assert [node.op_type for node in model.graph] == expected
