"""``padding="free"``: the model that is compiled, and compared with, gives zeros where its mask hides a token.

The source becomes one whose outputs [batch, length, ...] are chosen by the mask: ``Where(mask, output, 0)``. Every
check then compares with that, all outputs in full: kept positions hold the source's numbers, hidden ones zeros. Nobody
sees hidden positions any more, so the pass ``pack-tokens`` may leave them out, and is exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder, Names
from graphwright.engine.roles import Kind, role_of
from graphwright.engine.shapes import infer_shapes
from graphwright.errors import UsageError
from graphwright.frontends import Source

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

# What transformers calls the mask of tokens; a model that has no such input is asked which one it uses as a mask.
MASK = "attention_mask"
# In the notes of a source, and from there in the manifest.
NOTE = "padding"


def with_free_padding(source: Source) -> Source:
    """Return a source whose outputs are zeros where its mask hides a token; the given one is not changed.

    Raises:
        UsageError: no input of two named axes is a mask of tokens, or several may be.

    Example:
        >>> import onnx_ir as ir
        >>> text = "g (float[B, S] x, int64[B, S] attention_mask) => (float[B, S] y) {y = Exp(x)}"
        >>> model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 24]> {text}')
        >>> [node.op_type for node in with_free_padding(Source(model, "m", "")).model.graph]
        ['Exp', 'Cast', 'Where']
    """
    model = source.model.clone()
    infer_shapes(model)
    mask = token_mask(model, source.name)
    names = [value.name or "" for value in model.graph.outputs if _has_tokens(value, mask)]
    op = Builder(Names(model), NOTE, dict(model.opset_imports))
    for index, value in enumerate(list(model.graph.outputs)):
        if value.name in names:
            model.graph.outputs[index] = _chosen(op, value, mask)
    for constant in op.constants:
        model.graph.register_initializer(constant)
    model.graph.extend(op.nodes)

    def without_padding(run: Run | None) -> Run | None:
        return None if run is None else lambda inputs: zeroed(run(inputs), names, inputs[mask.name or ""])

    return replace(
        source,
        model=model,
        reference=without_padding(source.reference),
        in_double=without_padding(source.in_double),
        notes={**source.notes, NOTE: "free"},
    )


def zeroed(outputs: Mapping[str, np.ndarray], names: list[str], mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return outputs with zeros where a mask [batch, length] is zero, in those of these names.

    Example:
        >>> zeroed({"y": np.float32([[1, 2]])}, ["y"], np.int64([[1, 0]]))["y"].tolist()
        [[1.0, 0.0]]
    """
    found = dict(outputs)
    for name in names:
        kept = (mask != 0).reshape(mask.shape + (1,) * (found[name].ndim - mask.ndim))
        found[name] = np.where(kept, found[name], np.zeros((), found[name].dtype))
    return found


def token_mask(model: ir.Model, name: str) -> ir.Value:
    """Return the input that is the mask of tokens.

    Raises:
        UsageError: there is none, or there are several.
    """
    inputs = [value for value in model.graph.inputs if facts.rank(value) == 2 and not value.is_initializer()]
    usable = [value for value in inputs if isinstance(facts.dim(value, 1), ir.SymbolicDim)]
    found = [value for value in usable if value.name == MASK]
    found = found or [value for value in usable if role_of(value, model).kind is Kind.MASK]
    if len(found) == 1:
        return found[0]
    named = ", ".join(facts.describe(value) for value in found or inputs) or "no input of two axes"
    needed = "one mask [batch, length] whose length has a name"
    hint = 'padding="keep", or export with a dynamic length'
    raise UsageError(f"{name}: padding=free", named, needed=needed, hint=hint)


def _has_tokens(value: ir.Value, mask: ir.Value) -> bool:
    """Tell whether an output has the mask's axes first, by their names: equal numbers prove nothing."""
    if (facts.rank(value) or 0) < 2 or value.dtype in (None, ir.DataType.STRING):
        return False
    return all(facts.same_dim(facts.dim(value, axis), facts.dim(mask, axis)) for axis in (0, 1))


def _chosen(op: Builder, value: ir.Value, mask: ir.Value) -> ir.Value:
    assert value.dtype is not None
    kept = mask if mask.dtype == ir.DataType.BOOL else op.Cast(mask, to=ir.DataType.BOOL.value)
    added = list(range(2, facts.rank(value) or 2))
    kept = op.Unsqueeze(kept, added) if added else kept
    chosen: ir.Value = op.Where(kept, value, np.zeros((), value.dtype.numpy()))
    name = value.name
    if value.is_graph_input():
        # An input that is an output as it is keeps its name; nothing is computed for it.
        return value
    value.name, chosen.name = f"{name}/whole", name
    chosen.type, chosen.shape = value.type, value.shape
    return chosen
