"""Which nodes of a graph may compute in a narrower float type, and why the others may not; no rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import onnx
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.observe import Reason
from graphwright.passes.lower.precision_casts import MARK
from graphwright.passes.lower.precision_numbers import Magnitudes, loss
from graphwright.passes.lower.precision_positions import made_of_integers

FLOAT = ir.DataType.FLOAT

# Sums over many terms, exponentials and what divides by small numbers. TopK chooses: other roundings, other choices.
SENSITIVE = frozenset(
    {
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
        *("LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "LRN"),
        *("Hardmax", "LogSoftmax", "Softmax", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "ReduceSumSquare", "CumProd", "CumSum", "GlobalAveragePool", "GlobalLpPool"),
        *("LpPool", "AveragePool", "DFT", "STFT", "MelWeightMatrix", "Det", "GridSample", "AffineGrid"),
        *("Exp", "Log", "Pow", "Reciprocal", "Sqrt", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh"),
        *("Sin", "Sinh", "Tan", "Ceil", "Floor", "Round", "Mod", "TopK", "Resize", "RoiAlign", "NonMaxSuppression"),
        *("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Bernoulli", "Multinomial"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    }
)
# They name a type or hold numbers: what they make is cast where a narrower one is needed.
_SOURCES = frozenset({"Cast", "CastLike", "BitCast", "Constant", "ConstantOfShape", "EyeLike", "OneHot", "Range"})
# With a reduction they are sums as well.
_SCATTERS = frozenset({"ScatterElements", "ScatterND"})
# What gains from a narrower type. A Gather of weights, since the weights get smaller.
_PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})

# Of Attention: ONNX gives them a type of their own, but its definition multiplies them by what the queries are.
_VALUES = 2

Refusal = tuple[Reason, str]


@dataclass(frozen=True)
class Plan:
    """A node that is to compute in the narrower type, and which of its inputs and outputs are to be of it."""

    node: ir.Node
    inputs: frozenset[int]
    outputs: frozenset[int]

    @staticmethod
    def fits(node: ir.Node, patterns: Sequence[str]) -> bool:
        """Tell whether a node has one of these names or is one of these operators."""
        names = (node.name or "", node.op_type, node.outputs[0].name or "" if node.outputs else "")
        return any(fnmatchcase(name, each) for each in patterns for name in names)


class Choice:
    """Chooses for every node of a model's graph; ``made`` gives the plans and the refusals."""

    def __init__(self, model: ir.Model, dtype: ir.DataType, keep: Sequence[str], observed: Mapping[str, float]) -> None:
        self.graph, self.functions = model.graph, model.functions
        self.dtype, self.keep = dtype, keep
        self.magnitudes = Magnitudes(model.graph, dtype, observed)
        self.positions = made_of_integers(model.graph)
        self._losses: dict[int, str | None] = {}

    def made(self) -> tuple[list[Plan], dict[ir.Node, Refusal]]:
        """Return the nodes that change, in the order of the graph, and those that were refused."""
        plans: dict[ir.Node, Plan] = {}
        refused: dict[ir.Node, Refusal] = {}
        for node in self.graph:
            if not self._is_candidate(node):
                continue
            found = self._plan(node)
            if isinstance(found, Plan):
                plans[node] = found
            else:
                refused[node] = found
        for node in _without_product(plans):
            del plans[node]
            refused[node] = (Reason.STRUCTURE, "no matrix product among the nodes that would be cast with it")
        return list(plans.values()), refused

    def _is_candidate(self, node: ir.Node) -> bool:
        if MARK in node.metadata_props or (node.op_type in _SOURCES and not node.domain):
            return False
        return any(value.dtype in (FLOAT, None) and value.name for value in node.outputs)

    def _plan(self, node: ir.Node) -> Plan | Refusal:
        if Plan.fits(node, self.keep):
            return Reason.SENSITIVE, "keep names it"
        if any(facts.subgraphs(node)):
            return Reason.STRUCTURE, "nodes inside of its graphs stay"
        if not node.domain and node.op_type in SENSITIVE:
            return Reason.SENSITIVE, f"{node.op_type} is computed in float32"
        if node.op_type in _SCATTERS and not node.domain and facts.attribute(node, "reduction") not in (None, "none"):
            return Reason.SENSITIVE, f"{node.op_type} adds up in the type of its numbers"
        if node.op_type == "Div" and not node.domain and facts.constant(node.inputs[1]) is None:
            return Reason.SENSITIVE, "a divisor that is no constant may be small"
        if node in self.positions:
            return Reason.SENSITIVE, "positions and masks: made of integers and constants alone"
        unknown = next(
            (each for each in (*node.inputs, *node.outputs) if each is not None and each.dtype is None), None
        )
        if unknown is not None and unknown.name:
            return Reason.UNKNOWN, f"the type of {unknown.name} is not known"
        return self._typed(node)

    def _typed(self, node: ir.Node) -> Plan | Refusal:
        kinds = _Kinds(node, self.dtype, node.op_identifier() in self.functions)
        if kinds.obstacle is not None:
            return Reason.DTYPE, kinds.obstacle
        inputs = set()
        for index in kinds.inputs:
            value = node.inputs[index]
            assert value is not None
            found = self._unfit(value)
            if found is None:
                inputs.add(index)
            elif not kinds.is_free(index):
                return found
        outputs = [(each, self.magnitudes.beyond(node.outputs[each])) for each in kinds.outputs]
        beyond = next((why for _, why in outputs if why is not None), None) or self._scores(node)
        if beyond is not None:
            return Reason.RANGE, beyond
        return Plan(node, frozenset(inputs), frozenset(index for index, _ in outputs))

    def _unfit(self, value: ir.Value) -> Refusal | None:
        """Return why a value may not be of the type."""
        tensor = facts.constant(value)
        if tensor is None:
            beyond = self.magnitudes.beyond(value)
            return None if beyond is None else (Reason.RANGE, beyond)
        if id(tensor) not in self._losses:
            self._losses[id(tensor)] = loss(tensor, self.dtype)
        lost = self._losses[id(tensor)]
        return None if lost is None else (Reason.CONSTANT, f"{value.name} {lost}")

    def _scores(self, node: ir.Node) -> str | None:
        """Return why the scores inside of Attention may be too large: they are no value that can be looked at."""
        if node.op_type != "Attention" or node.domain:
            return None
        q, k = (self.magnitudes.observed(each) if each is not None else None for each in node.inputs[:2])
        size = facts.static_dim(node.inputs[0], 3) if facts.rank(node.inputs[0]) == 4 else None
        if q is None or k is None or size is None:
            return None
        scale = facts.attribute(node, "scale")
        most = q * k * size * (abs(scale) if scale is not None else size**-0.5)
        return None if most <= self.magnitudes.most else f"its scores may reach {most:.3g}"


class _Kinds:
    """The type variables of a node by ONNX's definition: which inputs and outputs are to be of the narrower type."""

    def __init__(self, node: ir.Node, dtype: ir.DataType, is_function: bool) -> None:
        self.node = node
        schema = None if is_function else facts.schema(node.domain, node.op_type, facts.opset(node, node.domain))
        self.obstacle: str | None = None
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        if schema is None:
            self.obstacle = "what types it takes is not known: no operator of ONNX"
            return
        wanted = f"tensor({dtype.name.lower()})"
        self._of_inputs = [_formal(schema.inputs, index) for index in range(len(node.inputs))]
        self._of_outputs = [_formal(schema.outputs, index) for index in range(len(node.outputs))]
        self.inputs = [
            index
            for index, value in enumerate(node.inputs)
            if value is not None and value.dtype == FLOAT and _takes(self._of_inputs[index], wanted)
        ]
        for index, value in enumerate(node.outputs):
            if value.dtype == FLOAT and value.name:
                self.outputs.append(index)
                if not _takes(self._of_outputs[index], wanted):
                    self.obstacle = f"opset {facts.opset(node)} does not define it for {dtype}"
        self._check_variables(dtype)

    def _check_variables(self, dtype: ir.DataType) -> None:
        """An output's type must be that of an input that is cast, or nothing would tell the node."""
        cast = {self._of_inputs[index].type_str for index in self.inputs}
        if self.obstacle is None and not all(self._of_outputs[index].type_str in cast for index in self.outputs):
            self.obstacle = f"its output would not be {dtype}"

    def is_free(self, index: int) -> bool:
        """Tell whether an input may be of another type than all other inputs and outputs."""
        if self.node.op_type == "Attention" and index == _VALUES:
            return False
        return self._variables.count(self._of_inputs[index].type_str) == 1

    @cached_property
    def _variables(self) -> list[str]:
        used = [(self._of_inputs[index], each) for index, each in enumerate(self.node.inputs)]
        used += [(self._of_outputs[index], each) for index, each in enumerate(self.node.outputs)]
        return [formal.type_str for formal, value in used if value is not None]


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    """Return the declared input or output of a place; the last one may stand for several."""
    return formals[min(index, len(formals) - 1)]


def _takes(formal: onnx.defs.OpSchema.FormalParameter, wanted: str) -> bool:
    return wanted in formal.types and len(formal.types) > 1


def _without_product(plans: Mapping[ir.Node, Plan]) -> list[ir.Node]:
    """Return the nodes that hang together in the narrower type with no product among them: casts for no gain."""
    seen: set[ir.Node] = set()
    found: list[ir.Node] = []
    for start in plans:
        if start in seen:
            continue
        group, pending = [start], [start]
        seen.add(start)
        while pending:
            for other in _neighbours(pending.pop(), plans):
                if other not in seen:
                    seen.add(other)
                    group.append(other)
                    pending.append(other)
        if not any(_is_product(node) for node in group):
            found.extend(group)
    return found


def _neighbours(node: ir.Node, plans: Mapping[ir.Node, Plan]) -> list[ir.Node]:
    plan = plans[node]
    inputs = (node.inputs[index] for index in plan.inputs)
    producers = [value.producer() for value in inputs if value is not None]
    users = [(user, place) for index in plan.outputs for user, place in node.outputs[index].uses()]
    found = [each for each in producers if each is not None and each in plans]
    return found + [user for user, place in users if user in plans and place in plans[user].inputs]


def _is_product(node: ir.Node) -> bool:
    return node.op_type in _PRODUCTS or (node.op_type == "Gather" and facts.constant(node.inputs[0]) is not None)
