"""Edits: on a list as on whole rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.runtime.decoding.edits import Add, Edit, Force, Scale, ban, ban_in

WIDTH = 9


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 4),
    named=st.integers(0, 6),
    kind=st.sampled_from(["add", "scale", "force"]),
)
def test_a_list_of_all_tokens_changes_as_whole_rows_do(seed: int, rows: int, named: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    # Tokens beyond the vocabulary are there too: a prompt may have some without a logit.
    tokens = np.stack([random.permutation(WIDTH + 3)[:named] for _ in range(rows)])
    tokens = np.where(random.random(tokens.shape) < 0.3, -1, tokens)
    changes = -random.exponential(size=tokens.shape).astype(np.float32)
    forced = np.sort(random.permutation(WIDTH)[:2])
    edits: dict[str, Edit] = {
        "add": Add(tokens, changes),
        "scale": Scale(tokens, 1.5),
        "force": Force(random.random(rows) < 0.5, forced),
    }
    edit = edits[kind]
    whole = random.standard_normal((rows, WIDTH)).astype(np.float32)
    listed = np.stack([random.permutation(WIDTH) for _ in range(rows)])
    scores = np.take_along_axis(whole, listed, axis=1)
    edit.on_rows(whole)
    edit.on_list(listed, scores)
    for row in range(rows):
        of_list = {int(t): float(s) for t, s in zip(listed[row], scores[row], strict=True) if s > -np.inf}
        of_rows = {t: float(s) for t, s in enumerate(whole[row]) if s > -np.inf}
        assert of_list == of_rows


def test_a_ban_names_a_token_once() -> None:
    edit = ban(np.array([[4, 2, 4], [-1, -1, -1]]))
    assert edit.tokens.tolist() == [[2, 4], [-1, -1]] and edit.width == 2
    assert ban(np.full((2, 3), -1)).width == 0


def test_a_ban_holds_in_the_rows_named() -> None:
    scores = np.zeros((2, 3), np.float32)
    ban_in(np.array([False, True]), [2, 0, 2]).on_rows(scores)
    assert scores.tolist() == [[0, 0, 0], [-np.inf, 0, -np.inf]]


@pytest.mark.parametrize("edit", [Add(np.array([[1], [2]]), np.float32([[1], [2]])), Scale(np.array([[1], [2]]), 2.0)])
def test_rows_of_an_edit_may_be_taken_twice(edit: Edit) -> None:
    scores = np.full((3, 3), -1, np.float32)
    edit.take(np.array([1, 1, 0])).on_rows(scores)
    assert (scores != -1).tolist() == [[False, False, True], [False, False, True], [False, True, False]]
