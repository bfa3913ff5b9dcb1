"""The numbers of a rule with traced patterns against the PyTorch functions themselves."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from graphwright.engine.compare import compare
from graphwright.engine.observe import Record
from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Rule, Run
from graphwright.engine.traced import Traced
from graphwright.engine.traced_arguments import onnx_type
from graphwright.frontends.torch_call import to_numpy
from graphwright.runtime.reference import evaluate
from graphwright.tracing import prepare, traced_in
from graphwright.tracing.export import Export, examples, function_of, models_of, normalized, variants
from graphwright.tracing.generalize import Variant


def check_against_functions(rule: Rule, seed: int = 0) -> int:
    """Apply a rule to what each exporter makes of its traced functions, and compare with the functions in float64.

    Compared is at other sizes than the traced ones, and at sizes of 1. What an exporter makes one operator of is
    compared as well.

    Returns:
        The number of graphs on which the rule fired.

    Raises:
        AssertionError: numbers that differ, a graph of several operators on which the rule does not fire, or a rule
            without a traced pattern.
        UsageError, ExportError, MissingDependencyError: the functions cannot be traced.
    """
    prepare([rule])
    given = traced_in([rule])
    assert given, f"{rule.name} has no traced pattern"
    return sum(_check(rule, each, seed) for each in given)


def _check(rule: Rule, traced: Traced, seed: int) -> int:
    export, fired = Export([traced], 0), 0
    for exporter, model in models_of(export):
        assert not isinstance(model, Exception) or exporter.startswith("torchscript"), f"{traced.name}: {model}"
        if isinstance(model, Exception):
            continue
        before = normalized(model)
        record = Record()
        after = run_pipeline(Run(before.clone(), [record], explain=True), Pipeline((Step(rule, "lift"),)))
        (outcome,) = record.outcomes
        where = f"{rule.name} on {traced.name} of {exporter}"
        is_one = sum(node.op_type != "Cast" for node in before.graph) < 2
        detail = "; ".join(str(each) for each in (*outcome.refusals, *outcome.misses))
        assert outcome.applied or is_one, f"{where} does not fire: {detail}"
        fired += bool(outcome.applied)
        for variant in _other_sizes(traced):
            _compare(traced, variant, after, where, seed)
    return fired


def _other_sizes(traced: Traced) -> Iterator[Variant]:
    """Yield the second trace's dynamic sizes with the first one's parameters, and ones."""
    first, second = variants(traced)
    for free in (second.sizes, dict.fromkeys(second.sizes, 1)):
        sizes = {name: first.sizes[name] if name in traced.sizes else size for name, size in free.items()}
        yield replace(first, sizes=sizes)


def _compare(traced: Traced, variant: Variant, after: ir.Model, where: str, seed: int) -> None:
    tensors = examples(traced, variant, (2,), seed)
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
    with torch.no_grad():
        outputs = function_of(traced)(*wide, **variant.parameters)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    inputs = {value.name or "": to_numpy(tensor) for value, tensor in zip(after.graph.inputs, tensors, strict=True)}
    actual = evaluate(after, inputs)
    expected = {name: to_numpy(value) for name, value in zip(actual, outputs, strict=True)}
    # What the function itself rounds to float32 is no better than that.
    narrow = onnx_type(variant.dtype).numpy()
    for name, value in expected.items():
        if value.dtype.kind == "f" and value.dtype != np.float64:
            expected[name] = value.astype(narrow)
    found = compare(expected, actual)
    sizes = ", ".join(f"{name}={size}" for name, size in variant.sizes.items())
    assert not found, f"{where} ({sizes}): {'; '.join(map(str, found))}"
