"""Two graphs of one function, traced at different sizes, parameters and types, become one pattern.

What is the same in both is part of the pattern. A constant that differs must be a parameter's or a size's number, and
by one relation only; an axis that differs must be the same from behind; a Cast that differs must be to the type of the
arguments. Anything else that differs cannot be generalized, and the function is refused.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.literal import BROADCASTING, LITERAL_TOLERANCE
from graphwright.engine.pattern import COMMUTATIVE, COMMUTATIVE_PAIRS, RELATIONS
from graphwright.engine.traced import Traced
from graphwright.engine.traced_arguments import places
from graphwright.engine.traced_pattern import MOST_NODES

# More numbers than this in one constant are a table, not a part of a formula.
LARGEST_CONSTANT = 16

# Where an operator takes its axes: as which input.
AXES_INPUT = {"Slice": 3, **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Squeeze"), 1)}

# Of a whole number of the graph a size may be these; roots and reciprocals are no whole numbers.
WHOLE = ("equal", "negated", "half")

# Two exports of one constant differ by rounding to the narrowest float type at most.
_ROUNDED = {"float16": LITERAL_TOLERANCE[ir.DataType.BFLOAT16], "bfloat16": LITERAL_TOLERANCE[ir.DataType.BFLOAT16]}


class NotGeneralError(Exception):
    """The two graphs differ in a way that no parameter, size, axis or type explains."""


@dataclass(frozen=True)
class Variant:
    """The numbers of one trace: parameters, sizes, and the dtype of type variables."""

    parameters: Mapping[str, float]
    sizes: Mapping[str, int]
    dtype: str


@dataclass(frozen=True)
class Graph:
    """One trace of a function: its outputs and its arguments by name."""

    variant: Variant
    arguments: Mapping[str, ir.Value]
    outputs: Sequence[ir.Value]


@dataclass(eq=False)
class _Node:
    """A node of the pattern; its inputs are entries as they are recorded, where a node stands for itself."""

    op: str
    domain: str
    inputs: list[Any]
    attributes: dict[str, Any]
    outputs: int
    key: str = ""


@dataclass
class _Merge:
    traced: Traced
    first: Graph
    second: Graph
    partners: dict[ir.Node, tuple[ir.Node, _Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = {value: name for name, value in self.first.arguments.items()}
        self.others = {value: name for name, value in self.second.arguments.items()}

    def value(self, one: ir.Value | None, other: ir.Value | None, user: ir.Node | None, index: int) -> Any:
        """Return the entry for two values that stand at one place."""
        if one is None and other is None:
            return None
        if one is None or other is None:
            raise NotGeneralError(f"input {index} of {facts.place(user)} is there in one of two traces")
        if one in self.names or other in self.others:
            if self.names.get(one) != self.others.get(other):
                raise NotGeneralError(f"{facts.place(user)} reads {one.name} in one trace, {other.name} in the other")
            return self.names[one]
        if facts.constant(one) is not None and facts.constant(other) is not None:
            return self.constant(one, other, user, index)
        nodes = one.producer(), other.producer()
        if nodes[0] is None or nodes[1] is None or one.index() != other.index():
            raise NotGeneralError(f"{one.name} and {other.name} are not of one kind")
        made = self.node(nodes[0], nodes[1])
        return {"node": made} if made.outputs == 1 else {"node": made, "output": one.index()}

    def node(self, one: ir.Node, other: ir.Node) -> _Node:
        """Return the node of the pattern for two nodes that stand at one place; shared ones are one."""
        if one in self.partners:
            partner, made = self.partners[one]
            if partner is not other:
                raise NotGeneralError(f"{facts.place(one)} is shared in one of two traces")
            return made
        kinds = [(node.op_identifier(), len(node.inputs), len(node.outputs)) for node in (one, other)]
        if kinds[0] != kinds[1]:
            raise NotGeneralError(f"{facts.place(one)} in one trace, {facts.place(other)} in the other")
        pairs = enumerate(zip(one.inputs, other.inputs, strict=True))
        inputs = [self.value(first, second, one, index) for index, (first, second) in pairs]
        made = _Node(one.op_type, one.domain, inputs, dict(self.attributes(one, other)), len(one.outputs))
        if len(inputs) == 2 and not one.domain and one.op_type in COMMUTATIVE | COMMUTATIVE_PAIRS:
            made.inputs.sort(key=_key)
        made.key = _digest([made.op, made.domain, made.attributes, made.outputs, [_key(each) for each in inputs]])
        self.partners[one] = (other, made)
        return made

    def constant(self, one: ir.Value, other: ir.Value, user: ir.Node | None, index: int) -> Any:
        arrays = facts.array(one), facts.array(other)
        if arrays[0] is None or arrays[1] is None or arrays[0].size > LARGEST_CONSTANT:
            raise NotGeneralError(f"{facts.describe(one)}: a constant of too many numbers")
        if arrays[0].shape != arrays[1].shape or (arrays[0].size > 1 and arrays[0].ndim > 1):
            raise NotGeneralError(f"{facts.describe(one)} and {facts.describe(other)}: constants of two shapes")
        kind = arrays[0].dtype
        numbers = [
            [_number(each, kind) for each in array.reshape(-1).tolist()] for array in arrays if array is not None
        ]
        rank = arrays[0].ndim
        if user is not None and not user.domain and AXES_INPUT.get(user.op_type) == index:
            partner = next(iter(other.uses()))[0]
            if len(numbers[0]) == 1 or user.op_type != "Slice":
                return {"axes": self.axes(numbers, (user.inputs[0], partner.inputs[0]))}
        terms = [self.explained(*pair, whole=kind.kind in "iu") for pair in zip(*numbers, strict=True)]
        if any(isinstance(term, list) for term in terms):
            return {"sizes": terms, "rank": rank}
        if len(terms) == 1 and isinstance(terms[0], dict):
            return terms[0]
        if len(terms) != 1:
            return {"literal": terms}
        broadcasts = user is not None and not user.domain and user.op_type in BROADCASTING
        return {"literal": terms[0]} if broadcasts else {"literal": terms[0], "rank": rank}

    def explained(self, one: float, other: float, *, whole: bool) -> Any:
        """Return a number that both traces share, or what makes the one and the other: a parameter or a size."""
        tolerance = max(_ROUNDED.get(graph.variant.dtype, 1e-6) for graph in (self.first, self.second))
        if one == other or (not whole and math.isclose(one, other, rel_tol=tolerance)):
            return one
        variants = self.first.variant, self.second.variant
        found: list[Any] = []
        for name in self.traced.parameters:
            pair = (variants[0].parameters[name], variants[1].parameters[name])
            relations = _relations(pair, (one, other), tuple(RELATIONS), tolerance)
            found += [{"parameter": name, "relation": relation} for relation in relations]
        for name, ((argument, axis), *_) in places(self.traced.given).items():
            pair = (variants[0].sizes[name], variants[1].sizes[name])
            relations = _relations(pair, (one, other), WHOLE if whole else tuple(RELATIONS), tolerance)
            found += [[argument, axis, relation] for relation in relations]
        if len(found) != 1:
            how = "by nothing that is a parameter or a size" if not found else f"in {len(found)} ways: {found}"
            raise NotGeneralError(f"the constant {one:g} becomes {other:g} in the other trace, explained {how}")
        return found[0]

    def axes(self, numbers: Sequence[Sequence[int]], inputs: tuple[ir.Value | None, ir.Value | None]) -> list[int]:
        """Return axes that hold for both: as they stand where the ranks are one, else from behind or from in front."""
        ranks = [facts.rank(value) for value in inputs]
        if ranks[0] == ranks[1] and numbers[0] == numbers[1]:
            return list(numbers[0])
        known = [rank for rank in ranks if rank]
        if len(known) == 2:
            behind = [[axis % rank - rank for axis in each] for each, rank in zip(numbers, known, strict=True)]
            front = [[axis % rank for axis in each] for each, rank in zip(numbers, known, strict=True)]
            for same in (behind, front):
                if same[0] == same[1]:
                    return same[0]
        raise NotGeneralError(f"the axes {list(numbers[0])} become {list(numbers[1])} in the other trace")

    def attributes(self, one: ir.Node, other: ir.Node) -> Iterator[tuple[str, Any]]:
        """Yield what two nodes have in common, for each attribute that the operator knows."""
        schema = facts.schema(one.domain, one.op_type, facts.opset(one, one.domain))
        if schema is None:
            raise NotGeneralError(f"{facts.place(one)}: an operator that ONNX does not have")
        empty = ir.Node(one.domain, one.op_type, [], version=facts.opset(one, one.domain))
        for name in sorted(schema.attributes):
            values = facts.attribute(one, name), facts.attribute(other, name)
            if not all(each is None or isinstance(each, int | float | str | tuple) for each in values):
                raise NotGeneralError(f"{facts.place(one)}: the attribute {name} is no number or text")
            entry = self.attribute(name, values, one, other)
            if "value" in entry and entry["value"] == facts.attribute(empty, name):
                entry = {"default": entry["value"]}
            # Not given, and without a default: so it must be in the graph too.
            yield name, entry

    def attribute(self, name: str, values: tuple[Any, Any], one: ir.Node, other: ir.Node) -> dict[str, Any]:
        if name == "axis" and all(isinstance(each, int) for each in values):
            return {"value": self.axes([[each] for each in values], (one.inputs[0], other.inputs[0]))[0]}
        if values[0] == values[1]:
            return {"value": list(values[0]) if isinstance(values[0], tuple) else values[0]}
        codes = tuple(
            int(ir.DataType[graph.variant.dtype.upper()]) for graph in (self.first, self.second) if _is_half(graph)
        )
        if values == codes:
            variables = {each.dtype for each in self.traced.given.values() if each.is_variable}
            if len(variables) != 1:
                raise NotGeneralError(
                    f"{facts.place(one)} is to the type {' or '.join(sorted(variables))}: name one alone"
                )
            return {"dtype": variables.pop()}
        if all(isinstance(each, float) for each in values):
            found = self.explained(*values, whole=False)
            if isinstance(found, dict):
                return found
            if isinstance(found, float):
                return {"value": found}
        found = f"{name}={values[0]} becomes {values[1]} in the other trace"
        raise NotGeneralError(f"{facts.place(one)}: {found}")


def generalize(traced: Traced, first: Graph, second: Graph, exporter: str) -> dict[str, Any] | None:
    """Return the recorded form of the pattern that two traces of a function have in common.

    None where the exporter makes one operator of the function, as it is or with casts in front and behind: there is
    nothing to fuse then.

    Raises:
        NotGeneralError: they differ in more than what can be generalized.
    """
    merge = _Merge(traced, first, second)
    pairs = zip(first.outputs, second.outputs, strict=True)
    roots = [merge.value(one, other, None, index) for index, (one, other) in enumerate(pairs)]
    if not all(isinstance(root, dict) and "node" in root for root in roots):
        raise NotGeneralError("an output that no node makes")
    if len(merge.partners) > MOST_NODES:
        raise NotGeneralError(f"{len(merge.partners)} nodes, more than {MOST_NODES}")
    if sum(each.op != "Cast" for _, each in merge.partners.values()) < 2:
        return None
    numbered, nodes = _in_order(roots)
    return {"exporters": [exporter], "roots": numbered, "nodes": nodes}


def _in_order(roots: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the roots and the nodes under them, each behind its inputs, as they are recorded."""
    nodes: list[dict[str, Any]] = []
    numbers: dict[_Node, int] = {}

    def numbered(entry: Any) -> Any:
        if not isinstance(entry, dict) or "node" not in entry:
            return entry
        node = entry["node"]
        if node not in numbers:
            inputs = [numbered(each) for each in node.inputs]
            told = {"op": node.op, "domain": node.domain, "inputs": inputs, "attributes": node.attributes}
            if node.outputs != 1:
                told["outputs"] = node.outputs
            # Others often read the widened argument too.
            if node.op == "Cast" and isinstance(node.inputs[0], str):
                told["kept"] = True
            numbers[node] = len(nodes)
            nodes.append({key: each for key, each in told.items() if each not in ("", {})})
        return {**entry, "node": numbers[node]}

    return [numbered(root) for root in roots], nodes


def _is_half(graph: Graph) -> bool:
    return graph.variant.dtype in _ROUNDED


def _relations(
    examples: tuple[float, float], found: tuple[float, float], names: Sequence[str], tolerance: float
) -> list[str]:
    """Return the relations that lead from both examples to what was found."""
    fitting = []
    for name in names:
        try:
            made = [RELATIONS[name][0](each) for each in examples]
        except (ValueError, ZeroDivisionError):
            continue
        if all(math.isclose(*pair, rel_tol=max(tolerance, 1e-5)) for pair in zip(made, found, strict=True)):
            fitting.append(name)
    return fitting


def _number(value: Any, kind: np.dtype[Any]) -> Any:
    """Return a number as a person would have written it: 0.044715, not its neighbour in float32."""
    if kind.kind in "iub":
        return int(value)
    if not math.isfinite(value):
        raise NotGeneralError(f"the constant {value}")
    return float(str(np.float32(value))) if kind == np.float32 else float(value)


def _key(entry: Any) -> str:
    if isinstance(entry, dict) and "node" in entry:
        return f"{entry['node'].key}:{entry.get('output', 0)}"
    return json.dumps(entry)


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
