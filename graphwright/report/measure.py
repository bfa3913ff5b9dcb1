"""Facts of a report that are read off models and records of a run."""

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.explain import explain
from graphwright.engine.observe import Application, PassOutcome
from graphwright.engine.rewrite import NUMBER
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.report import TARGET, Explanation, PassRow, Size

# Reports keep the nearest misses of each pass; the counts by reason are always complete.
_KEPT = 20


def size_of(model: ir.Model) -> Size:
    """Return what a model consists of, its subgraphs included; a call of a function is one operator.

    Shared weights count once, and those inside functions count too.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (y) {y = Relu(x)}'
        >>> size_of(ir.from_onnx_text(text))
        Size(operators={'Relu': 1}, nodes=1, weight_bytes=0)
    """
    names: Counter[str] = Counter()
    tensors: dict[int, int] = {}
    names.update(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.all_nodes())
    for graph in facts.graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                tensors[id(value.const_value)] = value.const_value.nbytes
    return Size(dict(sorted(names.items())), sum(names.values()), sum(tensors.values()))


def pass_rows(
    outcomes: Sequence[PassOutcome], applications: Sequence[Application], model: ir.Model
) -> tuple[PassRow, ...]:
    """Return a row for each pass, with the number of its applications that the final model still shows."""
    numbers = surviving_numbers(model)
    kept = Counter(each.pass_name for each in applications if each.number in numbers)
    return tuple(
        PassRow(
            outcome.name,
            outcome.family,
            outcome.applied,
            kept[outcome.name] if outcome.is_rule else None,
            dict(Counter(refusal.reason.name for refusal in outcome.refusals)),
            outcome.seconds,
            outcome.nodes_before,
            outcome.nodes_after,
        )
        for outcome in outcomes
    )


def surviving_numbers(model: ir.Model) -> set[int]:
    """Return the numbers of the applications that made a node which is still there."""
    found = (node.metadata_props.get(NUMBER) for graph in facts.graphs(model) for node in graph)
    return {int(number) for number in found if number is not None and number.isdigit()}


def explanations(outcomes: Sequence[PassOutcome], rule: str | None = None) -> tuple[Explanation, ...]:
    """Return what was refused, and what the rule that was asked about nearly matched, nearest first."""
    kept: Counter[str] = Counter()
    found: list[Explanation] = []
    for miss in explain(outcomes).misses:
        if (miss.is_complete or miss.pass_name == rule) and kept[miss.pass_name] < _KEPT:
            kept[miss.pass_name] += 1
            found.append(Explanation(miss.pass_name, miss.node, miss.reason.name, miss.detail))
    return tuple(found)


def target_refusals(model: ir.Model, target: str) -> tuple[Explanation, ...]:
    """Return the nodes of a result that its target would not take: for TensorRT, by the table of its parser.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (uint8[n] x) => (uint8[n] y) {y = BitwiseNot(x)}'
        >>> [each.detail for each in target_refusals(ir.from_onnx_text(text), "tensorrt")]
        ['TensorRT 11.4 has no such operator; needed operators of its parser']
    """
    found = unsupported(model) if target == "tensorrt" else []
    return tuple(
        Explanation(TARGET, each.node, "UNSUPPORTED", f"{each.reason}; needed {each.needed}") for each in found
    )
