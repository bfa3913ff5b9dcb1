"""Beam steps against sorts of everything, against the arithmetic of transformers, and kernels against NumPy."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphwright.errors import MissingDependencyError, RequestError
from graphwright.plugins.hars import native
from graphwright.plugins.hars.reference import adjusted
from graphwright.plugins.hars.search import beam_step, diverse_beam_step, edited_topk

HERE = ("reference", *native.isas())
every_implementation = pytest.mark.parametrize(
    "implementation",
    [
        "reference",
        *(
            pytest.param(isa, marks=pytest.mark.skipif(isa not in HERE, reason=native.why_not() or f"no {isa} here"))
            for isa in ("scalar", "avx2", "avx512")
        ),
    ],
)
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def random_logits(rng: np.random.Generator, shape: tuple[int, ...], kind: int) -> np.ndarray:
    """Return logits of several kinds: spread, close, with ties, with -inf, of 16 bits."""
    logits = rng.standard_normal(shape).astype(np.float32) * (1, 0.05, 8)[kind % 3]
    if kind % 4 == 1:
        logits = np.round(logits)
    if kind % 5 == 2:
        logits[rng.random(shape) < 0.4] = -np.inf
    return logits.astype(DTYPES[kind % 7 % 3])


def random_scores(rng: np.random.Generator, batch: int, beams: int, kind: int) -> np.ndarray:
    scores = -10 * rng.random((batch, beams), np.float32)
    if kind % 3 == 0:
        scores[:, 1:] = -np.inf
    if kind % 3 == 1:
        scores[rng.random(scores.shape) < 0.3] = -np.inf
    return scores


def log_probabilities(x: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of float32 rows, rounded as softmax_topk rounds them."""
    maximum = np.max(x, axis=-1, keepdims=True)
    base = np.where(np.isneginf(maximum), np.float32(0), maximum)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_sum = np.log(np.exp((x - base).astype(np.float64)).sum(axis=-1, keepdims=True)).astype(np.float32)
        return np.where(np.isneginf(maximum), np.float32(-np.inf), (x - base) - log_sum)


def sorted_candidates(x: np.ndarray, edited: np.ndarray, scores: np.ndarray, keep: int) -> tuple[np.ndarray, ...]:
    """Sort all candidates of one batch item, x [w, V]: by score, beam, edited log-probability, x and token."""
    with np.errstate(invalid="ignore"):
        sums = np.where(np.isneginf(scores)[:, None], np.float32(-np.inf), scores[:, None] + edited)
    beams, tokens = np.indices(x.shape)
    order = np.lexsort([key.ravel() for key in (tokens, -x, -edited, beams, -sums)])[:keep]
    return sums.ravel()[order], beams.ravel()[order], tokens.ravel()[order]


def same(found: tuple[Any, ...], expected: tuple[Any, ...], exact: bool) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=0 if exact else 1e-6, atol=0 if exact else 2e-6)
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(one, other)


@every_implementation
@pytest.mark.parametrize("kind", range(40))
def test_a_beam_step_equals_a_sort_of_all_continuations(kind: int, implementation: str) -> None:
    rng = np.random.default_rng(kind)
    batch, beams, width, ends = 2, int(rng.integers(1, 7)), int(rng.choice([1, 2, 5, 33, 1000])), kind % 4
    logits, scores = random_logits(rng, (batch, beams, width), kind), random_scores(rng, batch, beams, kind)
    bias_shape = ((width,), (batch, 1, width), (beams, 1))[kind // 2 % 3]
    bias = rng.standard_normal(bias_shape).astype(np.float32) if kind % 2 else None
    temperature = 0.7 if kind % 3 == 0 else 1.0
    keep = min(max(2, 1 + ends) * beams, beams * width)
    x = adjusted(logits, bias, temperature)
    found = beam_step(
        logits, scores, beams=beams, ends=ends, bias=bias, temperature=temperature, implementation=implementation
    )
    for item in range(batch):
        expected = sorted_candidates(x[item], log_probabilities(x[item]), scores[item], keep)
        same(tuple(array[item] for array in found), expected, implementation == "reference")


@every_implementation
@pytest.mark.parametrize("ends", [0, 1, 2, 3])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_beam_step_does_what_transformers_does(ends: int, is_first: bool, implementation: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(ends)
    batch, beams, width = 3, 4, 1201
    logits = 3 * torch.randn(batch * beams, width)
    logits[1, 40:] = -torch.inf
    scores = -5 * torch.rand(batch, beams)
    if is_first:
        scores[:, 1:] = -torch.inf
    found = beam_step(logits, scores, beams=beams, ends=ends, implementation=implementation)
    # Source: GenerationMixin._beam_search and _get_top_k_continuations, transformers 5.23.
    keep = max(2, 1 + ends) * beams
    sums = torch.log_softmax(logits, dim=-1).view(batch, beams, width) + scores[:, :, None]
    expected, flat = torch.topk(sums.reshape(batch, -1), k=keep)
    assert all(isinstance(array, torch.Tensor) for array in found)
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=2e-6)
    assert torch.equal(found[1], flat // width) and torch.equal(found[2], flat % width)


def naive_diverse_step(
    x: np.ndarray, scores: np.ndarray, groups: int, penalty: float, ends: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Run each group over the whole vocabulary: x [W, V], scores [W]."""
    each, width = len(x) // groups, x.shape[1]
    keep = min(max(2, 1 + len(ends)) * each, each * width)
    counts, found = np.zeros(width, np.float32), []
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        edited = log_probabilities(x[rows])
        edited = np.where(counts > 0, edited - np.float32(penalty) * counts, edited)
        best = sorted_candidates(x[rows], edited, scores[rows], keep)
        found.append((best[0], best[1] + group * each, best[2]))
        goes_on = [token for score, _, token in zip(*best, strict=True) if token not in ends and score != -np.inf]
        np.add.at(counts, goes_on[:each], 1)
    return tuple(np.stack(parts) for parts in zip(*found, strict=True))


@every_implementation
@pytest.mark.parametrize("penalty", [0.0, 0.3, 2.5, 1000.0])
@pytest.mark.parametrize(("beams", "groups"), [(1, 1), (2, 2), (4, 2), (6, 3), (6, 6), (8, 2), (8, 4)])
def test_diverse_groups_equal_one_softmax_and_sort_a_group(
    beams: int, groups: int, penalty: float, implementation: str
) -> None:
    for kind, width in enumerate([3, 7, 50, 1201] * 2):
        rng = np.random.default_rng([kind, beams, groups])
        # Beams that agree, so that penalties reorder: one row for all, and a little of their own.
        shared = random_logits(rng, (2, 1, width), kind).astype(np.float32)
        logits = shared + np.float32(0.1) * (kind % 2) * rng.standard_normal((2, beams, width)).astype(np.float32)
        scores = random_scores(rng, 2, beams, 2 + kind)
        best = int(np.argmax(logits[0, 0]))
        ends = ((), (best,), (best, (best + 1) % width))[kind % 3]
        found = diverse_beam_step(
            logits, scores, beams=beams, groups=groups, penalty=penalty, end_tokens=ends, implementation=implementation
        )
        for item in range(2):
            expected = naive_diverse_step(logits[item], scores[item], groups, penalty, ends)
            same(tuple(array[item] for array in found), expected, implementation == "reference")


def test_a_large_penalty_makes_groups_choose_different_tokens() -> None:
    logits = np.tile(np.float32([5, 4, 3, 2, 1, 0]), (4, 1))
    tokens = diverse_beam_step(logits, np.zeros((1, 4)), beams=4, groups=4, penalty=100.0)[2]
    assert tokens[0, :, 0].tolist() == [0, 1, 2, 3]
    tokens = diverse_beam_step(logits, np.zeros((1, 4)), beams=4, groups=4, penalty=0.0)[2]
    assert tokens[0, :, 0].tolist() == [0, 0, 0, 0]


def test_end_tokens_and_groups_that_have_not_started_cost_others_nothing() -> None:
    logits = np.tile(np.float32([5, 4, 3, 2]), (2, 1))
    tokens = diverse_beam_step(logits, np.zeros((1, 2)), beams=2, groups=2, penalty=100.0, end_tokens=[0])[2]
    assert tokens[0, :, :2].tolist() == [[0, 1], [0, 2]]
    scores = np.float32([[-np.inf, 0]])
    tokens = diverse_beam_step(logits, scores, beams=2, groups=2, penalty=100.0)[2]
    assert tokens[0, 1].tolist() == [0, 1]


@every_implementation
def test_sparse_edits_equal_a_sort_of_the_edited_row(implementation: str) -> None:
    for kind in range(60):
        rng = np.random.default_rng(kind)
        width, k = int(rng.choice([1, 4, 40, 1000])), int(rng.integers(1, 6))
        logits, edits = random_logits(rng, (3, width), kind), int(rng.integers(0, 9))
        k = min(k, width)
        tokens = rng.integers(-1, width, (3, edits))
        changes = (rng.standard_normal((3, edits)) * (0.5, 30)[kind % 2]).astype(np.float32)
        changes[rng.random(changes.shape) < 0.1] = -np.inf
        found = edited_topk(logits, k, tokens, changes, implementation=implementation)
        x = logits.astype(np.float32)
        edited = log_probabilities(x)
        for row in range(3):
            for token, change in zip(tokens[row], changes[row], strict=True):
                edited[row, token] += change if token >= 0 else 0
            best = np.lexsort((np.arange(width), -x[row], -edited[row]))[:k]
            same((found[0][row], found[1][row]), (edited[row, best], best), implementation == "reference")


@every_implementation
def test_an_item_does_not_depend_on_its_batch_or_on_threads(implementation: str) -> None:
    rng = np.random.default_rng(5)
    logits, scores = rng.standard_normal((9, 4, 6000), np.float32), random_scores(rng, 9, 4, 1)
    options: dict[str, Any] = {"beams": 4, "groups": 2, "penalty": 0.5, "implementation": implementation}
    together = diverse_beam_step(logits, scores, threads=2, **options)
    for item in range(9):
        alone = diverse_beam_step(logits[item : item + 1], scores[item : item + 1], threads=1, **options)
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], many[item])


@every_implementation
def test_equal_logits_go_by_beam_then_token_and_rounding_does_not_reorder(implementation: str) -> None:
    scores, beams, tokens = beam_step(np.zeros((2, 5), np.float32), [[-1, -1]], beams=2, implementation=implementation)
    assert np.unique(scores).size == 1
    assert (beams.tolist(), tokens.tolist()) == ([[0, 0, 0, 0]], [[0, 1, 2, 3]])
    # At 1e9 float32 has steps of 64: all scores are equal, but the likelier token still comes first.
    logits = np.float32([[0, 1, 2, 3, 4]])
    scores, _, tokens = beam_step(logits, [[-1e9]], beams=1, ends=3, implementation=implementation)
    assert np.unique(scores).size == 1 and tokens.tolist() == [[4, 3, 2, 1]]


@every_implementation
def test_equal_logits_that_edits_lift_go_by_token(implementation: str) -> None:
    logits, changes = np.zeros((1, 9), np.float32), np.full((1, 3), 2, np.float32)
    _, tokens = edited_topk(logits, 3, [[8, 5, 7]], changes, implementation=implementation)
    assert tokens.tolist() == [[5, 7, 8]]
    # The changes of a token that is given twice add up.
    _, tokens = edited_topk(logits, 2, [[5, 5, 7]], np.float32([[1, 2, 2]]), implementation=implementation)
    assert tokens.tolist() == [[5, 7]]


@every_implementation
def test_nan_comes_first_and_cannot_come_from_a_beam_that_has_not_started(implementation: str) -> None:
    logits = np.float32([[1, np.nan, 2], [3, 2, 1]])
    scores, beams, tokens = beam_step(logits, [[0, 0]], beams=2, implementation=implementation)
    assert np.isnan(scores[0, :3]).all() and not np.isnan(scores[0, 3])
    assert (beams.tolist(), tokens.tolist()) == ([[0, 0, 0, 1]], [[1, 2, 0, 0]])
    scores, beams, tokens = beam_step(logits, [[-np.inf, 0]], beams=2, implementation=implementation)
    assert (beams.tolist(), tokens.tolist()) == ([[1, 1, 1, 0]], [[0, 1, 2, 1]])
    assert scores[0, 3] == -np.inf and np.isfinite(scores[0, :3]).all()
    nothing = np.full((2, 3), -np.inf, np.float32)
    scores, beams, tokens = beam_step(nothing, [[0, 0]], beams=2, implementation=implementation)
    assert np.isneginf(scores).all() and tokens.tolist() == [[0, 1, 2, 0]]


@every_implementation
def test_nothing_comes_from_nothing(implementation: str) -> None:
    scores, beams, tokens = beam_step(
        np.zeros((0, 7), np.float32), np.zeros((0, 2)), beams=2, implementation=implementation
    )
    assert scores.shape == beams.shape == tokens.shape == (0, 4)
    _, found = edited_topk(
        np.zeros((2, 7), np.float32), 3, np.zeros((2, 0), int), np.zeros((2, 0)), implementation=implementation
    )
    assert found.tolist() == [[0, 1, 2]] * 2


def test_what_does_not_fit_is_refused() -> None:
    logits, scores = np.zeros((4, 5), np.float32), np.zeros((2, 2), np.float32)
    refused: list[tuple[Any, Any, dict[str, Any]]] = [
        (logits, scores, {"beams": 0}),
        (logits, scores, {"beams": 3}),
        (logits, scores[:1], {"beams": 2}),
        (logits.reshape(1, 4, 5), scores, {"beams": 2}),
        (logits[:, :0], scores, {"beams": 2}),
        (logits.astype(np.float64), scores, {"beams": 2}),
        (logits.astype(np.int32), scores, {"beams": 2}),
        (logits, scores.astype(str), {"beams": 2}),
        (logits, scores, {"beams": 2, "ends": -1}),
        (logits, scores, {"beams": 2, "temperature": 0.0}),
        (logits, scores, {"beams": 2, "bias": np.zeros(4, np.float32)}),
        (logits, scores, {"beams": 2, "threads": 0}),
        (logits, scores, {"beams": 2, "implementation": "abacus"}),
    ]
    for given, running, options in refused:
        with pytest.raises(RequestError):
            beam_step(given, running, **options)
    for options in ({"groups": 3}, {"groups": 0}, {"penalty": -1.0}, {"penalty": np.nan}, {"end_tokens": [-1]}):
        with pytest.raises(RequestError):
            diverse_beam_step(logits, scores, **{"beams": 2, "groups": 2, "penalty": 1.0, **options})
    one = np.zeros((4, 1), np.int64)
    for k, tokens, changes in (
        (6, one, one),
        (0, one, one),
        (2, one + 5, one),
        (2, one - 2, one),
        (2, one, one + np.inf),
    ):
        with pytest.raises(RequestError):
            edited_topk(logits, k, tokens, changes)


def test_a_kernel_that_is_not_here_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "isas", lambda: ("scalar",))
    monkeypatch.setattr(native, "why_not", lambda: "")
    with pytest.raises(MissingDependencyError, match="avx512"):
        beam_step(np.zeros((1, 5), np.float32), [[0.0]], beams=1, implementation="avx512")
