"""Names of generation options: which are known, which of transformers' others are harmless, and which are inherited."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from graphwright.errors import UsageError

# Options of transformers 5.23 that change neither tokens nor scores: caches, extra outputs, bookkeeping.
HARMLESS = frozenset(
    {
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "transformers_version",
        "_from_model_config",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "low_memory",
        "prefill_chunk_size",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "speculation_type",
        "use_mtp",
        "generation_kwargs",
    }
)
# Options that change tokens and are not offered -> the value at which they do nothing.
FOREIGN: Mapping[str, object] = {
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "token_healing": False,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "max_time": None,
    "stop_strings": None,
}
_INSTEAD = {
    "max_time": "a callback that returns True when the time is up",
    "stop_strings": "stop_sequences, lists of tokens",
    "sequence_bias": "a processor of your own",
    "encoder_repetition_penalty": "a processor of your own",
    "encoder_no_repeat_ngram_size": "a processor of your own",
    "exponential_decay_length_penalty": "a processor of your own",
    "constraints": "a processor of your own",
    "force_words_ids": "a processor of your own",
}
# What only one way to decode reads.
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "seed")
BEAMS_ONLY = ("length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty")


def check_names(options: Collection[str], known: Collection[str]) -> None:
    """Raise UsageError at the first name that neither we nor transformers know.

    Example:
        >>> check_names(["num_beam"], ["num_beams"])
        Traceback (most recent call last):
            ...
        graphwright.errors.UsageError: num_beam: found no option of this name; needed ...; try: num_beams
    """
    for name in options:
        if name not in known and name not in HARMLESS and name not in FOREIGN:
            near = difflib.get_close_matches(name, known, 1)
            needed = "a generation option of Hugging Face, or seed or stop_sequences"
            raise UsageError(name, "no option of this name", needed=needed, hint="".join(near))


def check_foreign(options: Mapping[str, Any]) -> None:
    """Raise UsageError at the first option that would change the tokens and is not offered."""
    for name, value in options.items():
        if name in FOREIGN and value is not None and value != FOREIGN[name]:
            needed = f"{FOREIGN[name]!r}, for it is not offered"
            raise UsageError(name, repr(value), needed=needed, hint=_INSTEAD.get(name, "leave it out"))


def inherited(config: Mapping[str, Any], own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration adds to the caller's own options: nothing that these leave without effect."""
    kept = {name: value for name, value in config.items() if value is not None and own.get(name) is None}
    merged = {**defaults, **kept, **{name: value for name, value in own.items() if value is not None}}
    lost: set[str] = set()
    if not merged["do_sample"]:
        lost.update(SAMPLING_ONLY)
    if merged["num_beams"] == 1:
        lost.update(BEAMS_ONLY)
    for new, whole in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        # The caller's own of the two; of a configuration's, as transformers has it, the number of new tokens.
        lost.add(new if own.get(whole) is not None else whole if merged[new] is not None else "")
    known = {*defaults, *FOREIGN}
    return {name: value for name, value in kept.items() if name in known and name not in lost}
