"""Names of the dynamic dimensions of a traced model.

The exporter calls them ``s77`` and ``s27``. The names here follow from the inputs, in their order:

* axis 0 is ``batch``, for the first size that stands there;
* axis 1 of an input of rank 2 or 3 is ``seq``, inputs of integers first;
* axes 2 and 3 of an input of rank 4 are ``height`` and ``width``;
* any other is ``<input>_dim<axis>``; so is one whose name is taken.

Two sizes that the tracer did not tie together share a name where they have the same role and the same size in
the example: axis 0 of any inputs, axis 1 of inputs of integers. A mask that is only broadcast belongs to the
batch too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
# Functions that an expression of a size may hold, as onnx_ir writes them; no dimensions.
_FUNCTIONS = frozenset({"Max", "Min", "Mod", "floor", "ceiling", "max", "min", "Abs"})


def name_dims(
    model: ir.Model,
    given: Mapping[str, Mapping[int, str]] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, str]:
    """Rename the dimensions of ``model`` in place; old name to new.

    ``given`` names dimensions by input and axis; ``sizes`` are the shapes of the example inputs.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (int64[a,b] x) => (int64[a,b] y) {y = Neg(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> name_dims(model), str(model.graph.outputs[0].shape)
        ({'a': 'batch', 'b': 'seq'}, '[batch,seq]')
    """
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([_number(dim) for dim in value.shape])
    names = _chosen_names(model, given or {}, sizes or {})
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([_rename(dim, names) for dim in value.shape])
    return names


def _chosen_names(
    model: ir.Model, given: Mapping[str, Mapping[int, str]], sizes: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    names: dict[str, str] = {}
    sized: dict[tuple[str, int], str] = {}
    for value, axis, symbol in _input_dims(model):
        if axis in given.get(value.name or "", {}):
            names[symbol] = given[value.name or ""][axis]
    for value, axis, symbol in _input_dims(model):
        role, size = _role(value, axis), _size(sizes.get(value.name or ""), axis)
        own = f"{value.name}_dim{axis}"
        is_tied = role == "batch" or (role == "seq" and value.dtype in _INTEGERS)
        if symbol not in names:
            alike = sized.get((role or own, size)) if is_tied and size >= 0 else None
            names[symbol] = alike or (role if role is not None and role not in names.values() else own)
        if role is not None and is_tied:
            sized.setdefault((role, size), names[symbol])
    return names


def _size(shape: Sequence[int] | None, axis: int) -> int:
    return -1 if shape is None else shape[axis]


def _input_dims(model: ir.Model) -> Iterator[tuple[ir.Value, int, str]]:
    """Every dynamic dimension of the inputs, by importance: axis 0, integers, the rest."""
    found = [
        (axis != 0, value.dtype not in _INTEGERS, order, axis, value, dim)
        for order, value in enumerate(model.graph.inputs)
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    ]
    for *_, axis, value, dim in sorted(found, key=lambda entry: entry[:4]):
        yield value, axis, str(dim.value)


def _role(value: ir.Value, axis: int) -> str | None:
    rank = 0 if value.shape is None else len(value.shape)
    if axis == 0:
        return "batch"
    if axis == 1 and rank in (2, 3):
        return "seq"
    return {2: "height", 3: "width"}.get(axis) if rank == 4 else None


def _number(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    """The exporter writes a size that it found to be fixed as a symbol called ``4``."""
    text = "" if isinstance(dim, int) or dim.value is None else dim.value
    return int(text) if text.isdecimal() else dim


def _rename(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if not isinstance(dim, ir.SymbolicDim):
        return dim
    if dim.value is None or dim.value in names:
        return None if dim.value is None else names[dim.value]
    symbols = [text for text in _SYMBOL.findall(dim.value) if text not in _FUNCTIONS]
    if any(symbol in names for symbol in symbols):
        return _SYMBOL.sub(lambda match: names.get(match.group(), match.group()), dim.value)
    return dim.value


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from (value for node in graph for value in node.outputs)
