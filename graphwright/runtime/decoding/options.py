"""What a caller of ``generate`` may ask for: Hugging Face's names and defaults.

An option that cannot take effect is refused when the caller set it (:meth:`GenerationOptions.from_mapping`): who sets a
temperature expects sampling. It is dropped where it came from a model's own configuration
(:meth:`GenerationOptions.from_config`), which holds the defaults of every way to decode.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from graphwright.runtime.decoding import option_checks
from graphwright.runtime.decoding.option_names import check_foreign, check_names, inherited

# How many tokens are made when neither max_length nor max_new_tokens is given, as in transformers.
DEFAULT_NEW_TOKENS = 20


@dataclass(frozen=True)
class GenerationOptions:
    """How to decode; checked when made.

    ``max_length`` and ``min_length`` count a row's own prompt without its padding, so that a row gives the same in any
    batch. ``presence_penalty`` and ``frequency_penalty`` count new tokens. ``stop_sequences`` are lists of tokens that
    end a row behind which they stand. ``seed`` makes sampling repeatable; None: another seed each time.

    Raises:
        UsageError: a value out of its range, or options that contradict each other.

    Example:
        >>> GenerationOptions(num_beams=4, eos_token_id=[1, 2]).ends
        (1, 2)
        >>> GenerationOptions(temperature=0.7)
        Traceback (most recent call last):
            ...
        graphwright.errors.UsageError: temperature: found 0.7 without do_sample; needed sampling, ...
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    seed: int | None = None
    stop_sequences: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        option_checks.check(self, option_checks.normalize(self))

    @classmethod
    def from_mapping(cls, **options: Any) -> "GenerationOptions":
        """Return options by name; None stands for the default.

        Options of transformers that do not change the tokens (``use_cache``, ``output_scores`` and the like) are
        accepted and left to the caller. Those that would are refused unless they have their neutral value.

        Raises:
            UsageError: an unknown name, one that is not offered, a value out of range, a contradiction.

        Example:
            >>> GenerationOptions.from_mapping(num_beams=4, use_cache=True, min_p=None).num_beams
            4
        """
        known = {field.name for field in fields(cls)}
        check_names(options, known)
        check_foreign({name: value for name, value in options.items() if name not in known})
        return cls(**{name: value for name, value in options.items() if name in known and value is not None})

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> "GenerationOptions":
        """Return the options of a generation configuration, with the caller's own in place of the configuration's.

        ``config`` is a mapping or has ``to_dict()``, as transformers' GenerationConfig. What it says of another way to
        decode than the chosen one is dropped, as is its ``max_length`` where ``max_new_tokens`` is given.

        Raises:
            UsageError: as :meth:`from_mapping`; for a name of the configuration only if it would change the tokens.

        Example:
            >>> config = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [1, 2]}
            >>> GenerationOptions.from_config(config, do_sample=False, max_new_tokens=5).temperature
            1.0
        """
        own: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
        kept = inherited(own, options, {field.name: field.default for field in fields(cls)})
        return cls.from_mapping(**{**options, **kept})

    @property
    def ends(self) -> tuple[int, ...]:
        """The end tokens, each once."""
        return tuple(dict.fromkeys(option_checks.as_tuple(self.eos_token_id)))

    @property
    def forced_ends(self) -> tuple[int, ...]:
        """The tokens of which one ends a row that has no more room."""
        return option_checks.as_tuple(self.forced_eos_token_id)

    @property
    def pad(self) -> int:
        """The token that fills up rows: pad_token_id, else the first end token, else 0."""
        return self.pad_token_id if self.pad_token_id is not None else next(iter(self.ends), 0)

    def new_tokens(self, prompt: int) -> int:
        """Return how many tokens a row with a prompt of this many may get."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return DEFAULT_NEW_TOKENS if self.max_length is None else self.max_length - prompt
