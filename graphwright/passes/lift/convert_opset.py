"""Bring a model of opset 13 to 23 to the working opset, 24, with the same meaning.

Before:                               After:
    ReduceMean(x), axes=[-1]              axes = Constant([-1]);  ReduceMean(x, axes)
    Split(x) -> a, b                      Split(x), num_outputs=2 -> a, b
    GridSample, mode="bilinear"           GridSample, mode="linear"
    RoiAlign                              RoiAlign, coordinate_transformation_mode="output_half_pixel"
    DFT, axis=1                           axis = Constant(1);  DFT(x, length, axis)

Shapes:    none is read; shapes and types that are known stay.
Dtypes:    all: from 13 on every operator only gained types.
Refuses:   as a whole, with a sentence: an opset below 13 or above the target; an operator that the target has
           not; a node whose meaning the target's operator cannot express (training BatchNormalization,
           ceil_mode pooling whose rounding changed, an attribute passed through a function, the deprecated
           GroupNormalization) or that ONNX Runtime cannot run there (RoiAlign, MaxRoiPool, random numbers).
           The model then keeps its opset, and rules that need a newer one refuse with OPSET.
Numerics:  the same operators on the same values.
Source:    the ONNX operator changelog (docs/Changelog.md), read through ``onnx.defs``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from graphwright.engine.pipeline import FunctionPass

WORKING_OPSET = 24
OLDEST_OPSET = 13
# IR version that a file of the working opset is written with (onnx.helper.VERSION_TABLE).
WORKING_IR_VERSION = 12

Scope = ir.Graph | ir.Function


class Names:
    """New value names that no scope of the model uses: subgraphs see the names around them."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for scope, _ in _scopes(model):
            self._taken.update(value.name for value in scope.inputs if value.name)
            if isinstance(scope, ir.Graph):
                self._taken.update(scope.initializers)
            self._taken.update(value.name for node in scope for value in node.outputs if value.name)

    def fresh(self, base: str) -> str:
        """``base``, or ``base`` with the first number that makes it new."""
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


Refuse = Callable[[ir.Node], str | None]
Adapt = Callable[[ir.Node, Names], None]


@dataclass(frozen=True)
class Change:
    """What one operator needs when it crosses ``version``."""

    version: int
    refuse: Refuse = lambda node: None
    adapt: Adapt = lambda node, names: None


def opset_refusal(model: ir.Model, target: int = WORKING_OPSET) -> str | None:
    """The reason why ``model`` cannot be brought to ``target``, or None when it can.

    Example:
        >>> text = '<ir_version: 7, opset_import: ["": 11]> g (float[N] x) => (y) {y = Relu(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> opset_refusal(model)
        'the model has opset 11; conversion starts at 13'
    """
    for scope, opset in _scopes(model):
        if opset is None:
            continue
        if opset < OLDEST_OPSET:
            return f"the model has opset {opset}; conversion starts at {OLDEST_OPSET}"
        if opset > target:
            return f"the model has opset {opset}; conversion goes up to {target}"
        for node in scope:
            reason = _node_refusal(model, node, opset, target)
            if reason is not None:
                return f"{node.name or node.outputs[0].name} ({node.op_type}): {reason}"
    return None


def convert_opset(model: ir.Model, target: int = WORKING_OPSET) -> bool:
    """Bring ``model`` to opset ``target`` in place; False, and untouched, where it is there or cannot be.

    Example:
        >>> text = '<ir_version: 7, opset_import: ["": 13]> g (float[N] x) => (y) {y = ReduceL2<axes=[0]>(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> convert_opset(model), model.opset_imports[""], [node.op_type for node in model.graph]
        (True, 24, ['Constant', 'ReduceL2'])
    """
    pending = [(scope, opset) for scope, opset in _scopes(model) if opset != target]
    if not pending or opset_refusal(model, target) is not None:
        return False
    names = Names(model)
    for scope, opset in pending:
        if opset is not None:
            for node in list(scope):
                for change in _changes(model, node, opset, target):
                    change.adapt(node, names)
    for imports in [model.opset_imports, *(function.opset_imports for function in model.functions.values())]:
        imports.pop("ai.onnx", None)
        imports[""] = target
    model.ir_version = max(model.ir_version, WORKING_IR_VERSION)
    return True


def _scopes(model: ir.Model) -> Iterator[tuple[Scope, int | None]]:
    """Every graph, subgraph and function body, with the opset its nodes are read by (None: imports none)."""
    roots: list[Scope] = [model.graph, *model.functions.values()]
    for root in roots:
        imports = root.opset_imports
        opset = imports.get("", imports.get("ai.onnx"))
        yield root, opset
        for subgraph in root.subgraphs():
            yield subgraph, opset


def _changes(model: ir.Model, node: ir.Node, opset: int, target: int) -> list[Change]:
    if node.domain != "" or node.op_identifier() in model.functions:
        return []
    return [change for change in CHANGES.get(node.op_type, ()) if opset < change.version <= target]


def _node_refusal(model: ir.Model, node: ir.Node, opset: int, target: int) -> str | None:
    if node.domain != "" or node.op_identifier() in model.functions:
        return None
    known = _attributes_and_inputs(node.op_type, target)
    if known is None:
        return f"opset {target} has no such operator"
    changes = _changes(model, node, opset, target)
    for change in changes:
        reason = change.refuse(node)
        if reason is not None:
            return reason
    if changes:
        return None
    attributes, most_inputs = known
    stray = sorted(set(node.attributes) - attributes)
    if stray:
        return f"opset {target} has no attribute {stray[0]}"
    return f"{len(node.inputs)} inputs, at most {most_inputs} allowed" if len(node.inputs) > most_inputs else None


@cache
def _attributes_and_inputs(op_type: str, opset: int) -> tuple[frozenset[str], int] | None:
    """Names of the attributes and the greatest number of inputs of an operator; None: there is none."""
    if not onnx.defs.has(op_type, max_inclusive_version=opset, domain=""):
        return None
    schema = onnx.defs.get_schema(op_type, opset, "")
    return None if schema.deprecated else (frozenset(schema.attributes), schema.max_input)


def _constant(node: ir.Node, array: np.ndarray, suffix: str, names: Names) -> ir.Value:
    """The output of a Constant node put before ``node``: a function body may hold no initializer."""
    name = names.fresh(f"{node.outputs[0].name}_{suffix}")
    # Not ir.tensor() and ir.node(): their checks of protocols take ten times as long as the rest.
    tensor = ir.Tensor(array, name=name)
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], name=f"{name}_constant")
    value = constant.outputs[0]
    value.name, value.dtype, value.const_value = name, tensor.dtype, tensor
    value.shape = ir.Shape(array.shape)
    node.prepend(constant)
    return value


def _refuse_reference(*attributes: str) -> Refuse:
    """Refuse a node that takes one of ``attributes`` from the caller of its function."""

    def refuse(node: ir.Node) -> str | None:
        for name in attributes:
            if name in node.attributes and node.attributes[name].is_ref():
                return f"attribute {name} comes from the function's caller; inline the function first"
        return None

    return refuse


def _put_input(node: ir.Node, index: int, value: ir.Value) -> None:
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _axes_to_input(node: ir.Node, names: Names) -> None:
    axes = node.attributes.pop("axes", None)
    # No axes, and an empty list of axes, both mean all axes; the newer operator reads a missing input so.
    if axes is not None and axes.as_ints():
        _put_input(node, 1, _constant(node, np.array(axes.as_ints(), np.int64), "axes", names))


def _axis_to_input(node: ir.Node, names: Names) -> None:
    axis = node.attributes.pop("axis", None)
    # The default moved from 1 to -2, so a missing attribute is written out as well.
    number = 1 if axis is None else axis.as_int()
    _put_input(node, 2, _constant(node, np.array(number, np.int64), "axis", names))


def _count_outputs(node: ir.Node, names: Names) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _rename_mode(node: ir.Node, names: Names) -> None:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "bilinear"
    newer = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    node.attributes["mode"] = ir.AttrString("mode", newer)


def _state_pixel_grid(node: ir.Node, names: Names) -> None:
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "output_half_pixel"
    )


def _refuse_training(node: ir.Node) -> str | None:
    used = [value for value in node.outputs[1:] if value.name]
    return "training mode; export the model for inference" if used else None


def _refuse_overhang(node: ir.Node) -> str | None:
    """ceil_mode is safe where no window can start in the padding on the right: end pad + stride <= kernel."""
    reason = _refuse_reference("ceil_mode", "auto_pad", "kernel_shape", "strides", "pads", "dilations")(node)
    if reason is not None or not node.attributes.get_int("ceil_mode", 0):
        return reason
    kernel = node.attributes.get_ints("kernel_shape", ())
    ones = (1,) * len(kernel)
    strides = node.attributes.get_ints("strides", ones)
    dilations = node.attributes.get_ints("dilations", ones)
    ends = node.attributes.get_ints("pads", (0,) * 2 * len(kernel))[len(kernel) :]
    for size, stride, dilation, end in zip(kernel, strides, dilations, ends, strict=True):
        if end + stride > (size - 1) * dilation + 1:
            return "ceil_mode with windows that may start in the padding; opset 22 drops those"
    return None


def _refuse_counted_overhang(node: ir.Node) -> str | None:
    reason = _refuse_reference("ceil_mode", "count_include_pad")(node)
    both = node.attributes.get_int("ceil_mode", 0) and node.attributes.get_int("count_include_pad", 0)
    return reason or ("ceil_mode with count_include_pad; opset 19 counts the padding differently" if both else None)


def _refuse_without_kernel(node: ir.Node) -> str | None:
    return f"ONNX Runtime 1.31 runs {node.op_type} up to opset 21 only"


def _refuse_by_group(node: ir.Node) -> str | None:
    return "scale and bias for each group, which ONNX deprecated; opset 21 has them for each channel"


_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)

# Got new types in opset 22, for which ONNX Runtime's CPU provider registers no kernel (get_all_opkernel_def,
# 1.31.1); Bernoulli is a function of RandomUniformLike.
_WITHOUT_KERNEL = (
    *("Bernoulli", "GlobalLpPool", "MaxRoiPool", "Multinomial", "RandomNormal", "RandomNormalLike"),
    *("RandomUniform", "RandomUniformLike"),
)

# Operators whose inputs, attributes or meaning changed between 13 and 24. Every other change in that range
# added types, inputs or attributes with a default that keeps the older meaning.
CHANGES: dict[str, tuple[Change, ...]] = {
    **{name: (Change(22, _refuse_without_kernel),) for name in _WITHOUT_KERNEL},
    **{name: (Change(18, _refuse_reference("axes"), _axes_to_input),) for name in _REDUCTIONS},
    "AveragePool": (Change(19, _refuse_counted_overhang), Change(22, _refuse_overhang)),
    "BatchNormalization": (Change(14, _refuse_training),),
    "DFT": (Change(20, _refuse_reference("axis"), _axis_to_input),),
    "GridSample": (Change(20, _refuse_reference("mode"), _rename_mode),),
    "GroupNormalization": (Change(21, _refuse_by_group),),
    "MaxPool": (Change(22, _refuse_overhang),),
    "RoiAlign": (Change(16, adapt=_state_pixel_grid), Change(22, _refuse_without_kernel)),
    "Split": (Change(18, adapt=_count_outputs),),
}

CONVERT_OPSET = FunctionPass("convert-opset", convert_opset)
