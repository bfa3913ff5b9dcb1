"""Generation from prompts: the one call, and what it returns."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphwright.runtime.decoding.beam import beam_search
from graphwright.runtime.decoding.decoder import Decoder
from graphwright.runtime.decoding.greedy import greedy_search
from graphwright.runtime.decoding.options import GenerationOptions
from graphwright.runtime.decoding.ranking import UserProcessor
from graphwright.runtime.decoding.request import checked
from graphwright.runtime.decoding.sampling import sample_search
from graphwright.runtime.decoding.stopping import Callback


@dataclass(frozen=True)
class Generated:
    """What a search found, ``num_return_sequences`` rows for each prompt, one prompt's behind each other, best first.

    ``sequences`` [N, S + n]: the prompts as they were given, with their padding, then the new tokens, filled up with
    the pad token. ``lengths`` [N] counts a row's new tokens; ``finished`` [N] tells which rows ended by an end token or
    a stop sequence, not for lack of room. ``scores`` [N] is what beam search compares, a sum of log-probabilities
    divided by ``length ** length_penalty``; -inf with length 0 stands for a hypothesis that there is not; None without
    beams. ``steps`` counts calls of the decoder. A request that its caller ended is ``cancelled`` and holds what there
    was until then. ``seed`` is what sampling used: given as an option, it makes the same rows again.
    """

    sequences: np.ndarray
    scores: np.ndarray | None
    lengths: np.ndarray
    finished: np.ndarray
    steps: int
    seconds: float
    prompt_length: int
    cancelled: bool = False
    seed: int | None = None

    @property
    def new_tokens(self) -> list[list[int]]:
        """The new tokens of each row, without what fills them up."""
        rows = zip(self.sequences, self.lengths, strict=True)
        return [row[self.prompt_length : self.prompt_length + length].tolist() for row, length in rows]


def generate(
    decoder: Decoder,
    ids: Any,
    mask: Any = None,
    options: GenerationOptions | None = None,
    processors: Sequence[UserProcessor] = (),
    callback: Callback | None = None,
    *,
    row_numbers: Any = None,
) -> Generated:
    """Continue prompts by greedy search, sampling, beam search or diverse beam search, as the options say.

    ``mask`` is 1 at real tokens, and rows may be padded left or right; None: no padding. ``processors`` are the user's
    own, called with the tokens so far, padded left, and the scores: logits, or log-probabilities for beams. They need
    whole rows from the decoder. ``callback`` gets the newest tokens after each step: [N], or [B, num_beams] with
    beams, -1 for what has ended; if it returns True or raises StopIteration, what there is comes back. ``row_numbers``
    [B] names rows to the random numbers (default: 0, 1, 2, ...): a row draws the same in any batch.

    A row gives the same whatever its padding and its neighbours, as far as the decoder's numbers do. The log-sum that
    comes with a list of ``hars.softmax_topk`` depends in its last bit on the length of the list, and so may scores.

    Shapes: ids and mask [B, S].
    Dtypes: whole numbers.

    Raises:
        RequestError: prompts or a mask that do not fit, tokens that the model does not have, NaN from the decoder, a
            row in which every token is banned.

    Example:
        >>> class Counting:
        ...     vocabulary = 5
        ...     def prefill(self, ids, mask, best):
        ...         return self.step(ids[:, -1], None, best)
        ...     def step(self, tokens, parents, best):
        ...         return np.eye(5, dtype=np.float32)[(tokens + 1) % 5]
        >>> generate(Counting(), [[0, 1]], options=GenerationOptions(eos_token_id=4)).sequences.tolist()
        [[0, 1, 2, 3, 4]]
    """
    begin = time.perf_counter()
    options = GenerationOptions() if options is None else options
    if options.do_sample and options.seed is None:
        options = replace(options, seed=secrets.randbits(64))
    request = checked(decoder, ids, mask, options, processors, callback, row_numbers)
    search = beam_search if options.num_beams > 1 else sample_search if options.do_sample else greedy_search
    found = search(request)
    prompts = np.repeat(request.ids, len(found.tokens) // len(request.ids), axis=0)
    return Generated(
        sequences=np.concatenate((prompts, found.tokens), axis=1),
        scores=found.scores,
        lengths=found.lengths,
        finished=found.finished,
        steps=found.steps,
        seconds=time.perf_counter() - begin,
        prompt_length=prompts.shape[1],
        cancelled=found.is_cancelled,
        seed=options.seed if options.do_sample else None,
    )
