"""Checks of generation options: each value by itself, then together."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from graphwright.errors import UsageError

if TYPE_CHECKING:
    from graphwright.runtime.decoding.options import GenerationOptions

# name -> (least, most) of whole numbers; most None: no limit.
_WHOLE: dict[str, tuple[int, int | None]] = {
    "max_new_tokens": (1, None),
    "max_length": (1, None),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "num_return_sequences": (1, None),
    "top_k": (0, None),
    "no_repeat_ngram_size": (0, None),
    "forced_bos_token_id": (0, None),
    "pad_token_id": (0, None),
    "bos_token_id": (0, None),
    "decoder_start_token_id": (0, None),
    "seed": (0, 2**64 - 1),
}
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value > 0, "a number above 0; for the most probable token leave out do_sample"),
    "top_p": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "min_p": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "repetition_penalty": (lambda value: value > 0, "a number above 0; 1 is none"),
    "diversity_penalty": (lambda value: value >= 0, "a number, 0 or more"),
    "presence_penalty": (lambda value: True, "a finite number"),
    "frequency_penalty": (lambda value: True, "a finite number"),
    "length_penalty": (lambda value: True, "a finite number"),
}
_TOKENS = ("eos_token_id", "forced_eos_token_id")
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_LISTS_OF_LISTS = ("bad_words_ids", "stop_sequences")


def as_tuple(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return one token, several or none as a tuple.

    Example:
        >>> as_tuple(None), as_tuple(3), as_tuple((3, 4))
        ((), (3,), (3, 4))
    """
    return () if value is None else (value,) if isinstance(value, int) else value


def normalize(options: "GenerationOptions") -> "GenerationOptions":
    """Check each value and make it plain, in place: whole numbers int, others float, lists tuples."""
    for name, (least, most) in _WHOLE.items():
        if getattr(options, name) is not None:
            _set(options, name, _whole(name, getattr(options, name), least, most))
    for name, (is_fine, needed) in _NUMBERS.items():
        if getattr(options, name) is not None:
            _set(options, name, _number(name, getattr(options, name), is_fine, needed))
    for name in _TOKENS:
        value = getattr(options, name)
        if value is not None:
            one = isinstance(value, Integral)
            _set(options, name, _whole(name, value, 0, None) if one else _tokens(name, value))
    for name in _TOKEN_LISTS:
        _set(options, name, _tokens(name, getattr(options, name), is_empty_fine=True))
    for name in _LISTS_OF_LISTS:
        _set(options, name, tuple(_tokens(name, each) for each in _listed(name, getattr(options, name))))
    return options


def check(options: "GenerationOptions", normal: "GenerationOptions") -> None:
    """Raise UsageError where options that are normal contradict each other."""
    for each in (_check_kind, _check_beams, _check_sampling, _check_lengths, _check_forced):
        each(normal)


def _check_kind(options: "GenerationOptions") -> None:
    if not isinstance(options.do_sample, bool):
        raise UsageError("do_sample", repr(options.do_sample), needed="True or False")
    if not isinstance(options.early_stopping, bool) and options.early_stopping != "never":
        raise UsageError("early_stopping", repr(options.early_stopping), needed="True, False or 'never'")
    if options.do_sample and options.num_beams > 1:
        hint = "do_sample=False, or num_beams=1; num_return_sequences works with either"
        raise UsageError("do_sample", f"True with num_beams={options.num_beams}", needed="one of the two", hint=hint)


def _check_beams(options: "GenerationOptions") -> None:
    beams, groups, returned = options.num_beams, options.num_beam_groups, options.num_return_sequences
    if beams == 1 and options.length_penalty != 1:
        found = f"{options.length_penalty} without beams"
        raise UsageError("length_penalty", found, needed="beam search, which compares lengths", hint="num_beams=4")
    if beams % groups:
        raise UsageError("num_beam_groups", str(groups), needed=f"a divisor of num_beams, which is {beams}")
    if groups > 1 and not options.diversity_penalty:
        needed = "a number above 0, or all groups find the same"
        raise UsageError("diversity_penalty", f"0 with num_beam_groups={groups}", needed=needed, hint="0.5")
    if groups == 1 and options.diversity_penalty:
        found = f"{options.diversity_penalty} without groups"
        raise UsageError("diversity_penalty", found, needed="num_beam_groups above 1", hint="num_beam_groups=num_beams")
    if returned > beams > 1:
        needed = f"{beams} or fewer, which is num_beams"
        raise UsageError("num_return_sequences", str(returned), needed=needed, hint=f"num_beams={returned}")
    if returned > beams and not options.do_sample:
        needed = "1: greedy search has one result"
        hint = f"do_sample=True, or num_beams={returned}"
        raise UsageError("num_return_sequences", str(returned), needed=needed, hint=hint)


def _check_sampling(options: "GenerationOptions") -> None:
    if options.do_sample:
        return
    unset = {"temperature": (1.0,), "top_k": (50, 0), "top_p": (1.0,), "min_p": (None, 0.0)}
    for name, neutral in unset.items():
        value = getattr(options, name)
        # top_k=1 is the greedy choice, which is what comes out.
        if value not in neutral and not (name == "top_k" and value == 1 and options.num_beams == 1):
            hint = "do_sample=True, or leave it out"
            raise UsageError(name, f"{value} without do_sample", needed="sampling, the only use of it", hint=hint)


def _check_lengths(options: "GenerationOptions") -> None:
    if options.max_new_tokens is not None and options.max_length is not None:
        found = f"max_new_tokens={options.max_new_tokens} and max_length={options.max_length}"
        raise UsageError(
            "max_length", found, needed="one of the two", hint="max_new_tokens, which leaves out the prompt"
        )
    if options.min_new_tokens is not None and options.min_length:
        found = f"min_new_tokens={options.min_new_tokens} and min_length={options.min_length}"
        raise UsageError(
            "min_length", found, needed="one of the two", hint="min_new_tokens, which leaves out the prompt"
        )
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        low, high = getattr(options, least), getattr(options, most)
        if low is not None and high is not None and low > high:
            raise UsageError(least, str(low), needed=f"{high} or less, which is {most}")


def _check_forced(options: "GenerationOptions") -> None:
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = set(as_tuple(getattr(options, name)))
        if forced and forced <= set(options.suppress_tokens):
            needed = "a token that suppress_tokens leaves"
            raise UsageError(
                name, f"{sorted(forced)}, all suppressed", needed=needed, hint="take it out of one of them"
            )


def _set(options: "GenerationOptions", name: str, value: object) -> None:
    object.__setattr__(options, name, value)


def _whole(name: str, value: object, least: int, most: int | None) -> int:
    needed = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(name, repr(value), needed=needed)
    number = int(value)
    if number < least or (most is not None and number > most):
        raise UsageError(name, str(number), needed=needed)
    return number


def _number(name: str, value: object, is_fine: Callable[[float], bool], needed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not is_fine(float(value)):
        raise UsageError(name, repr(value), needed=needed)
    return float(value)


def _tokens(name: str, value: Any, is_empty_fine: bool = False) -> tuple[int, ...]:
    tokens = tuple(_whole(name, token, 0, None) for token in _listed(name, value))
    if not tokens and not is_empty_fine:
        raise UsageError(name, "an empty list", needed="one token or more")
    return tokens


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise UsageError(name, repr(value), needed="a list")
    return tuple(value)
