"""The option ``precision`` as steps of a pipeline, and what those steps learn from running the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.pipeline import FunctionPass, Pipeline, Step
from graphwright.errors import UsageError
from graphwright.passes.discovery import catalogue
from graphwright.passes.lower.precision import PRECISION
from graphwright.passes.lower.quantize import QUANTIZE
from graphwright.passes.lower.spell_linear import SPELL_LINEAR
from graphwright.passes.transform.fuse_linear import FUSE_LINEAR

Requests = Callable[[], Sequence[Mapping[str, np.ndarray]]]

# The option's values beside fp32, which asks for nothing.
STEPS = {"fp16": PRECISION, "bf16": PRECISION, "int8": QUANTIZE, "fp8": QUANTIZE}


def with_precision(pipeline: Pipeline, precision: str, target: str = "ort-cpu") -> Pipeline:
    """Return the pipeline with the step that the option asks for, in the catalogue's order as far as the steps have it.

    Target openvino needs none: its runtime rounds, and loses less than a graph with types does (docs/design/0007).

    Raises:
        UsageError: the pipeline's text has such a step of its own.

    Example:
        >>> from graphwright.compilation.steps import build_pipeline
        >>> str(with_precision(build_pipeline("fuse-gelu,clean-up", "ort-cpu"), "bf16"))
        'fuse-gelu,precision(type=bf16),clean-up'
    """
    if precision not in STEPS or target == "openvino":
        return pipeline
    own = next((step for step in pipeline.steps if step.name in (PRECISION.name, QUANTIZE.name)), None)
    if own is not None:
        found = f"{precision!r} beside the pass {own}"
        raise UsageError("option precision", found, needed="one of the two", hint="leave the option out")
    names = [step.name for step in pipeline.steps]
    if FUSE_LINEAR.name in names and SPELL_LINEAR.name not in names:
        # Both look for products, which a Linear hides.
        pipeline = _with_step(pipeline, catalogue().find(SPELL_LINEAR.name))
    return _with_step(pipeline, replace(catalogue().find(STEPS[precision].name), options={"type": precision}))


def _with_step(pipeline: Pipeline, step: Step) -> Pipeline:
    """Return the pipeline with a step before the first that runs later: a list of passes may have any order."""
    order = [each.name for each in catalogue().steps()]
    later = set(order[order.index(step.name) :])
    place = next((at for at, each in enumerate(pipeline.steps) if each.name in later), len(pipeline.steps))
    return Pipeline((*pipeline.steps[:place], step, *pipeline.steps[place:]))


def informed(pipeline: Pipeline, requests: Requests) -> Pipeline:
    """Return the pipeline with steps that observe the model on these requests, which are made when they are needed."""
    return Pipeline(tuple(_informed(step, requests) for step in pipeline.steps))


def _informed(step: Step, requests: Requests) -> Step:
    if step.implementation is PRECISION:
        return _with(step, PRECISION, observe=partial(_magnitudes, requests))
    if step.implementation is QUANTIZE:
        return _with(step, QUANTIZE, quantizer=partial(_quantized, requests))
    return step


def _with(step: Step, implementation: FunctionPass, **learned: Any) -> Step:
    return replace(step, implementation=replace(implementation, function=partial(implementation.function, **learned)))


def _magnitudes(requests: Requests, model: ir.Model) -> dict[str, float]:
    from graphwright.runtime.observed import magnitudes

    return magnitudes(model, requests())


def _quantized(requests: Requests, model: ir.Model, type: str) -> ir.Model:
    from graphwright.runtime.quantize import quantized

    return quantized(model, requests(), type)
