"""Decoding: greedy search, sampling, beam search and diverse beam search over any decoder.

A decoder says what comes next (:class:`Decoder`); :func:`generate` searches, by Hugging Face's names and defaults
(:class:`GenerationOptions`). A step needs a row's best tokens alone, [rows, k] in place of [rows, V], unless a
processor of the user's own, one that may raise a score, or sampling without ``top_k`` needs whole rows.
"""

from graphwright.runtime.decoding.decoder import Best, Decoder, Output
from graphwright.runtime.decoding.loop import Generated, generate
from graphwright.runtime.decoding.options import GenerationOptions
from graphwright.runtime.decoding.ranking import UserProcessor
from graphwright.runtime.decoding.stopping import Callback

__all__ = [
    "Best",
    "Callback",
    "Decoder",
    "Generated",
    "GenerationOptions",
    "Output",
    "UserProcessor",
    "generate",
]
