"""From a decoder's output to the best tokens of each row after every processor, by one pass over the vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphwright.errors import RequestError
from graphwright.plugins import hars
from graphwright.runtime.decoding.decoder import Best, Output, best_of, check_numbers, rows_of, whole_rows
from graphwright.runtime.decoding.edits import Edit
from graphwright.runtime.decoding.history import History
from graphwright.runtime.decoding.processors import Processor

# A user's processor: tokens [rows, length], scores [rows, V] -> scores [rows, V].
UserProcessor = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The length of lists grows in steps of this many tokens as rows get longer, so that a decoder sees few sizes.
STEP = 16


@dataclass(frozen=True)
class Plan:
    """What is done to the scores of one step, known before the decoder runs; ``best`` is what the decoder is asked for.

    ``best`` is None where whole rows are needed, or as good as needed: as many tokens as there are.
    """

    history: History
    edits: tuple[Edit, ...]
    best: int | None

    def take(self, rows: np.ndarray) -> "Plan":
        """Return the plan of some of the rows, in the order given."""
        return Plan(self.history.take(rows), tuple(edit.take(rows) for edit in self.edits), self.best)

    @property
    def where(self) -> str:
        """The step, for messages."""
        return f"generate: step {self.history.new + 1}"


class Ranking:
    """Ranks the tokens of each row: by logit, or by log-probability for beams.

    ``k`` is how many are wanted, None for all: then there is ``scores`` and no list. ``spare`` is how many scores an
    edit that is not a processor's may lower.
    """

    def __init__(
        self,
        k: int | None,
        vocabulary: int,
        processors: Sequence[Processor],
        users: Sequence[UserProcessor] = (),
        is_log: bool = False,
        spare: int = 0,
    ) -> None:
        self._k = vocabulary if k is None else min(k, vocabulary)
        self._vocabulary = vocabulary
        self._processors = tuple(processors)
        self._users = tuple(users)
        self._is_log = is_log
        self._spare = spare
        self._is_whole = k is None or bool(users) or any(processor.raises for processor in processors)

    def plan(self, history: History) -> Plan:
        """Return what is done to the scores of the next token of each row."""
        edits = tuple(processor.edit(history) for processor in self._processors)
        listed = self._listed(edits)
        return Plan(history, edits, None if self._is_whole or listed >= self._vocabulary else listed)

    def ranked(self, output: Output, plan: Plan, first: Edit | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and tokens of each row's ``k`` best, best first; ``first`` is an edit before all others.

        Equal scores keep the order of the logits, then of the tokens. Where whole rows are needed: of the tokens.

        Shapes: [rows, k].  Dtypes: float32, int64.
        """
        edits = plan.edits if first is None else (first, *plan.edits)
        if self._is_whole:
            best = best_of(self.scores(output, plan, first), self._k, plan.where)
            return best.values[:, : self._k], best.tokens[:, : self._k]
        best = best_of(output, min(self._listed(plan.edits), self._vocabulary), plan.where)
        tokens, scores = best.tokens.copy(), (logprobs(best.values, best) if self._is_log else best.values.copy())
        check_numbers(scores, plan.where)
        for edit in edits:
            edit.on_list(tokens, scores)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(tokens, order, axis=1)

    def scores(self, output: Output, plan: Plan, first: Edit | None = None) -> np.ndarray:
        """Return whole rows after every processor [rows, V], float32."""
        rows = whole_rows(output, self._vocabulary, plan.where)
        if self._is_log:
            rows = logprobs(rows, best_of(rows, 1, plan.where))
        for edit in plan.edits if first is None else (first, *plan.edits):
            edit.on_rows(rows)
        for user in self._users:
            rows = self._by_user(user, plan, rows)
        check_numbers(hars.softmax_topk(rows, 1, mode="logit")[0], plan.where)
        return rows

    def _listed(self, edits: Sequence[Edit]) -> int:
        widths = -(-sum(edit.width for edit in edits) // STEP) * STEP
        return max([self._k + widths + self._spare, *(edit.least for edit in edits)])

    def _by_user(self, user: UserProcessor, plan: Plan, rows: np.ndarray) -> np.ndarray:
        given = np.asarray(user(plan.history.tokens, rows))
        if given.shape != rows.shape or given.dtype.kind != "f":
            found = f"{given.dtype} {list(given.shape)} from {getattr(user, '__name__', user)!r}"
            raise RequestError(f"{plan.where}: processors", found, needed=f"float32 {list(rows.shape)}")
        return given.astype(np.float32)


def logprobs(logits: np.ndarray, best: Best) -> np.ndarray:
    """Return the log-probabilities of logits [rows, n], -inf throughout rows that have nothing but -inf."""
    is_empty = np.isneginf(best.maximum)[:, None]
    with np.errstate(invalid="ignore"):
        found = (logits - best.maximum[:, None]) - best.log_sum[:, None]
    return np.where(is_empty, np.float32(-np.inf), found)


def expanded(output: Output, plan: Plan, rows: np.ndarray) -> tuple[Output, Plan]:
    """Return output and plan of some rows, in the order given, a row as often as it is named."""
    return rows_of(output, rows), plan.take(rows)


def check_some_left(scores: np.ndarray, where: str) -> None:
    """Raise if a row's best score is -inf: every token is banned."""
    bad = np.flatnonzero(np.isneginf(scores[:, 0]))
    if bad.size:
        hint = "fewer bans, or a smaller min_length"
        raise RequestError(f"{where}, row {bad[0]}", "every token banned", needed="one that is not", hint=hint)
