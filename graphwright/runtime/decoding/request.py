"""One request, checked: prompts, options, who decodes, who is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphwright.errors import RequestError
from graphwright.runtime.decoding.decoder import Decoder
from graphwright.runtime.decoding.history import History, of_prompts
from graphwright.runtime.decoding.options import GenerationOptions
from graphwright.runtime.decoding.processors import Processor, processors_of
from graphwright.runtime.decoding.ranking import UserProcessor
from graphwright.runtime.decoding.stopping import Callback, Stops

# Options that name tokens whose scores change.
_CHANGED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id")


@dataclass(frozen=True)
class Request:
    """What a search works on.

    Shapes: ids and mask [B, S]; numbers [B], what rows are called when random numbers are drawn for them.
    """

    decoder: Decoder
    ids: np.ndarray
    mask: np.ndarray
    numbers: np.ndarray
    options: GenerationOptions
    processors: Sequence[Processor]
    users: Sequence[UserProcessor]
    callback: Callback | None
    stops: Stops
    history: History

    @property
    def new_tokens(self) -> int:
        """How many tokens the row with the most room may get."""
        return int(self.history.room.max())


@dataclass(frozen=True)
class Found:
    """What a search found: rows of new tokens [N, n] behind the prompts, filled up with the pad token."""

    tokens: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray
    scores: np.ndarray | None
    steps: int
    is_cancelled: bool


def checked(
    decoder: Decoder,
    ids: Any,
    mask: Any,
    options: GenerationOptions,
    users: Sequence[UserProcessor],
    callback: Callback | None,
    numbers: Any,
) -> Request:
    """Return the request.

    Raises:
        RequestError: prompts, a mask or numbers that do not fit, a prompt with no room behind it, a token that the
            model does not have.
    """
    ids = _whole_numbers("input_ids", ids)
    if ids.ndim != 2 or not ids.size:
        raise RequestError("input_ids", f"shape {list(ids.shape)}", needed="[B, S], both 1 or more")
    if ids.min() < 0:
        raise RequestError("input_ids", f"token {ids.min()}", needed="0 or more")
    mask = np.ones_like(ids) if mask is None else _checked_mask(mask, ids.shape)
    numbers = np.arange(len(ids)) if numbers is None else _whole_numbers("row_numbers", numbers)
    if numbers.shape != (len(ids),) or numbers.min() < 0:
        raise RequestError("row_numbers", f"{numbers.tolist()}", needed=f"{len(ids)} numbers, 0 or more")
    _check_vocabulary(options, decoder.vocabulary)
    return Request(
        decoder=decoder,
        ids=ids,
        mask=mask,
        numbers=numbers,
        options=options,
        processors=processors_of(options),
        users=tuple(users),
        callback=callback,
        stops=Stops(options.ends, options.stop_sequences),
        history=of_prompts(ids, mask, _room(options, mask.sum(axis=1)), options.pad),
    )


def _room(options: GenerationOptions, lengths: np.ndarray) -> np.ndarray:
    """Return how many new tokens rows with prompts of these lengths may have."""
    room = np.array([options.new_tokens(int(length)) for length in lengths], np.int64)
    if room.min() < 1:
        found = f"{options.max_length} with a prompt of {lengths.max()}"
        raise RequestError("max_length", found, needed="more than the prompt has", hint="max_new_tokens")
    return room


def _whole_numbers(where: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise RequestError(where, f"dtype {array.dtype}", needed="whole numbers")
    return array.astype(np.int64)


def _checked_mask(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(value)
    if mask.shape != shape or mask.dtype.kind not in "iub" or not np.isin(mask, (0, 1)).all():
        found = f"{mask.dtype} {list(mask.shape)}"
        raise RequestError("attention_mask", found, needed=f"zeros and ones {list(shape)}")
    mask = mask.astype(np.int64)
    for row, line in enumerate(mask):
        places = np.flatnonzero(line)
        if not places.size:
            raise RequestError(f"attention_mask, row {row}", "no 1", needed="one real token or more")
        at_one_side = places[0] == 0 or places[-1] == line.size - 1
        if places[-1] - places[0] + 1 != places.size or not at_one_side:
            raise RequestError(f"attention_mask, row {row}", "gaps", needed="padding at one side, left or right")
    return mask


def _check_vocabulary(options: GenerationOptions, vocabulary: int) -> None:
    for name in _CHANGED:
        largest = max(_flat(getattr(options, name)), default=0)
        if largest >= vocabulary:
            needed = f"tokens below {vocabulary}, the size of the vocabulary"
            raise RequestError(name, f"token {largest}", needed=needed)


def _flat(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, int):
        return [value]
    return [token for each in value for token in _flat(each)]
