"""hars.softmax_topk and hars.router_topk as a user calls them: arrays in and out, errors, every implementation."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from graphwright.errors import MissingDependencyError, UsageError
from graphwright.plugins import hars
from graphwright.plugins.hars import choice, reference

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(3, 4099)).astype(np.float32) * 4
SCORES = RANDOM.normal(size=(5, 24)).astype(np.float32)
HERE = [name for name in hars.implementations() if name != "cuda"]


def test_the_reference_comes_last_and_standard_operators_are_always_there() -> None:
    found = hars.implementations()
    assert found[-1] == "reference" and {"portable", "body"} <= set(found)
    assert set(found) <= set(choice.NAMES)


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize("mode", ["logit", "logprob", "prob", "prob_renorm"])
def test_every_implementation_gives_the_reference(implementation: Any, mode: Any) -> None:
    bias = RANDOM.normal(size=(3, 1)).astype(np.float32) + RANDOM.normal(size=4099).astype(np.float32)
    options: dict[str, Any] = {"mode": mode, "bias": bias, "temperature": 0.7, "stats": True}
    found = hars.softmax_topk(LOGITS, 5, implementation=implementation, **options)
    expected = reference.softmax_topk(LOGITS, 5, **options)
    np.testing.assert_array_equal(found[1], expected[1])
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=4e-6, atol=2e-6)


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_any_axis(implementation: Any, axis: int) -> None:
    logits = np.round(RANDOM.normal(size=(4, 6, 5)) * 3).astype(np.float32)
    bias = RANDOM.normal(size=(1, 6, 1)).astype(np.float32)
    found = hars.softmax_topk(logits, 3, axis=axis, bias=bias, implementation=implementation, stats=True)
    expected = reference.softmax_topk(logits, 3, axis=axis, bias=bias, stats=True)
    np.testing.assert_array_equal(found[1], expected[1])
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=4e-6, atol=2e-6)


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("groups", [1, 4])
def test_every_router_gives_the_reference(implementation: Any, scoring: Any, groups: int) -> None:
    options: dict[str, Any] = {
        "bias": np.round(RANDOM.normal(size=24), 3).astype(np.float32),
        "scoring": scoring,
        "renormalize": True,
        "scale": 2.5,
        "zero_experts": 6,
        "scale_zero_experts": False,
        "groups": groups,
        "top_groups": min(groups, 2),
    }
    found = hars.router_topk(SCORES, 4, implementation=implementation, **options)
    expected = reference.router_topk(SCORES, 4, **options)
    np.testing.assert_array_equal(found[1], expected[1])
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=4e-6, atol=1e-7)


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_smaller_floats_are_ranked_as_float32(implementation: Any, dtype: Any) -> None:
    logits = LOGITS.astype(dtype)
    values, indices = hars.softmax_topk(logits, 70, implementation=implementation)
    expected = reference.softmax_topk(logits.astype(np.float32), 70)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(values, expected[0], rtol=4e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_in_torch_out(dtype: torch.dtype) -> None:
    logits = torch.from_numpy(LOGITS).to(dtype).t().requires_grad_()
    values, indices = hars.softmax_topk(logits, 4, axis=0)
    expected = torch.log_softmax(logits.detach().float(), 0).topk(4, dim=0)
    assert isinstance(values, torch.Tensor) and indices.dtype == torch.int64
    assert values.shape == (4, 3)
    torch.testing.assert_close(values, expected.values, rtol=4e-6, atol=4e-6)
    weights, experts, identity = hars.router_topk(torch.from_numpy(SCORES).to(dtype), 2)
    assert (weights.shape, experts.shape, identity.shape) == ((5, 2), (5, 2), (5,))


def test_a_mask_of_booleans_says_what_may_be_chosen() -> None:
    mask = np.zeros(4099, np.bool_)
    mask[[7, 5, 4000]] = True
    values, indices = hars.softmax_topk(LOGITS, 4, bias=mask, mode="prob")
    assert (np.sort(indices[:, :3], -1) == [5, 7, 4000]).all()
    assert (indices[:, 3] == 0).all() and (values[:, 3] == 0).all()
    np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-6)


def test_float64_is_computed_in_float64_by_the_reference_alone() -> None:
    values, _ = hars.softmax_topk(LOGITS.astype(np.float64), 2)
    assert values.dtype == np.float64
    with pytest.raises(UsageError, match="float64"):
        hars.softmax_topk(LOGITS.astype(np.float64), 2, implementation="portable")


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize("shape", [(0, 9), (2, 0, 9), (3, 1), (1,)])
def test_empty_batches_and_rows_of_one(implementation: Any, shape: tuple[int, ...]) -> None:
    values, indices, maximum, log_sum = hars.softmax_topk(
        np.zeros(shape, np.float32), 1, stats=True, implementation=implementation
    )
    assert values.shape == indices.shape == (*shape[:-1], 1)
    assert maximum.shape == log_sum.shape == shape[:-1]
    assert not indices.any()
    weights, experts, identity = hars.router_topk(np.zeros(shape, np.float32), 1, implementation=implementation)
    assert weights.shape == experts.shape == (*shape[:-1], 1) and identity.shape == shape[:-1]


@pytest.mark.parametrize("implementation", HERE)
def test_nan_everywhere_is_defined(implementation: Any) -> None:
    logits = np.full((2, 9000), np.nan, np.float32)
    values, indices = hars.softmax_topk(logits, 3, implementation=implementation)
    assert np.isnan(values).all() and (indices == [0, 1, 2]).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"logits": LOGITS, "k": 4100}, "k: found 4100; needed 1 to 4099"),
        ({"logits": LOGITS, "k": 0}, "k: found 0"),
        ({"logits": LOGITS, "k": 1.5}, "k: found 1.5"),
        ({"logits": np.float32(3), "k": 1}, "a single number"),
        ({"logits": np.zeros((2, 0), np.float32), "k": 1}, "1 to 0"),
        ({"logits": np.zeros((2, 3), np.int64), "k": 1}, "dtype int64"),
        ({"logits": np.array(["a", "b"]), "k": 1}, "dtype <U1"),
        ({"logits": LOGITS, "k": 1, "axis": 2}, "axis: found 2"),
        ({"logits": LOGITS, "k": 1, "temperature": 0.0}, "temperature"),
        ({"logits": LOGITS, "k": 1, "temperature": float("nan")}, "temperature"),
        ({"logits": LOGITS, "k": 1, "mode": "softmax"}, "mode: found 'softmax'"),
        ({"logits": LOGITS, "k": 1, "bias": np.zeros(5, np.float32)}, r"bias: found shape \[5\]"),
        ({"logits": LOGITS, "k": 1, "bias": np.zeros((9, 3, 4099), np.float32)}, "bias"),
        ({"logits": LOGITS, "k": 1, "implementation": "fast"}, "implementation: found 'fast'"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        hars.softmax_topk(**arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 25}, "k: found 25"),
        ({"scoring": "relu"}, "scoring"),
        ({"bias": np.zeros(23, np.float32)}, "bias"),
        ({"zero_experts": 25}, "zero_experts"),
        ({"groups": 5}, "groups: found 5"),
        ({"groups": 24}, "groups: found 24"),
        ({"groups": 8, "top_groups": 1}, "top_groups"),
    ],
)
def test_bad_routers_are_refused_with_a_reason(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        hars.router_topk(SCORES, **{"k": 4, **options})


def test_what_cannot_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    # Found once in a process, and asked for at every call.
    monkeypatch.setattr(choice, "_fastest_on_cpu", choice._fastest_on_cpu.__wrapped__)
    monkeypatch.setattr(choice.native, "why_not", lambda: "the kernels were not built")
    assert set(hars.implementations()).isdisjoint({"scalar", "avx2", "avx512"})
    with pytest.raises(MissingDependencyError, match="the kernels were not built"):
        hars.softmax_topk(LOGITS, 1, implementation="scalar")
    values, _ = hars.softmax_topk(LOGITS, 1)
    assert values.shape == (3, 1)
