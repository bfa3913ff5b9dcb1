"""Compute in float16 or bfloat16 where that keeps the result, with casts around what stays in float32.

Before:                                      After, with type=fp16:
    x -- MatMul w -- (+ b) -- Softmax -- y       x -- Cast -- MatMul w' -- (+ b') -- Cast -- Softmax -- y

w' and b' are w and b rounded to float16; inputs and outputs of the model keep their types. Options:

* ``type``: ``fp16`` or ``bf16``; pipeline text may say ``precision(bf16)``.
* ``keep``: operators and names of nodes that stay as well, separated by commas, with ``*`` for any text.
* ``observe``, from Python only: a function of the model that runs it and returns the largest finite magnitude of its
  values, by name; ``optimize`` gives it. Without it, only constants and what is made of them tell of ranges.

Softmax inside of Attention is computed in float32, by its attribute; an additive mask beyond the type stays float32,
which Attention takes beside narrower queries. Where a value is used in both types it is cast once.

Shapes:    any; none is read but the head size of Attention.
Dtypes:    float32; nodes of other types stay as they are, and so do nodes inside of If, Loop, Scan and functions.
Refuses:   each node for itself, which then stays in float32. DTYPE an operator that ONNX does not define for the type;
           UNKNOWN a type that is not known; SENSITIVE norms, softmax, reductions, scattered sums, powers and their
           like, a division by what is no constant, numbers made of integers and constants alone (positions, masks), a
           node in ``keep``; CONSTANT a constant that the type cannot hold or would round to little, as -3.4e38 and
           1e-12 are; RANGE numbers above a quarter of the type's largest, observed, or made of constants beyond it;
           STRUCTURE nodes among which no matrix product would gain, and nodes with subgraphs. ``keep`` without such a
           node is an error.
Numerics:  changes the numbers: each node that is not refused rounds to the type. The loss is measured and reported.
Source:    Micikevicius et al. 2018, arXiv:1710.03740 (which operators stay); ONNX operator definitions (which types).
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import FunctionPass
from graphwright.errors import PipelineError
from graphwright.passes.lower.precision_casts import MARK, insert_casts
from graphwright.passes.lower.precision_choice import Choice, Plan

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

Observe = Callable[[ir.Model], Mapping[str, float]]
Refuse = Callable[[ir.Node, Reason, str], None]


def precision(
    model: ir.Model,
    type: str = "fp16",
    keep: str = "",
    *,
    observe: Observe | None = None,
    refuse: Refuse = lambda node, reason, detail: None,
) -> bool:
    """Put the nodes that may round into a narrower type; tell whether there were any.

    Raises:
        PipelineError: a type that is not one of the two, or a ``keep`` that no node fits.
    """
    if type not in TYPES:
        hint = "quantize(type=int8) for 8 bits" if type in ("int8", "fp8") else ""
        raise PipelineError("precision(type)", repr(type), needed=f"one of {', '.join(TYPES)}", hint=hint)
    kept = _patterns(model, keep)
    ranges = observe(model) if observe is not None else {}
    plans, refused = Choice(model, TYPES[type], kept, ranges).made()
    for node, (reason, detail) in refused.items():
        refuse(node, reason, detail)
    if not plans:
        return False
    for node, (reason, detail) in refused.items():
        node.metadata_props[MARK] = f"{reason.name}: {detail}"
    insert_casts(model, TYPES[type], plans)
    return True


def _patterns(model: ir.Model, keep: str) -> tuple[str, ...]:
    patterns = tuple(each.strip() for each in str(keep).split(",") if each.strip())
    nodes = list(model.graph)
    for each in patterns:
        if not any(Plan.fits(node, (each,)) for node in nodes):
            found = f"{each!r}, which no node is called or is an operator of"
            near = ", ".join(sorted({node.op_type for node in nodes})[:8])
            raise PipelineError("precision(keep)", found, needed="names of nodes or operators", hint=near)
    return patterns


def kept_in_float32(model: ir.Model) -> dict[str, str]:
    """Return the nodes that the pass left in float32, with reason and detail.

    Example:
        >>> text = "g (float[N, 4] x, float[4, 4] w) => (y) {h = MatMul(x, w) y = Softmax(h)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> from graphwright.engine.shapes import infer_shapes
        >>> infer_shapes(model), precision(model, "bf16"), list(kept_in_float32(model).values())
        (True, True, ['SENSITIVE: Softmax is computed in float32'])
    """
    return {facts.place(node): node.metadata_props[MARK] for node in model.graph if MARK in node.metadata_props}


PRECISION = FunctionPass("precision", precision, changes_numbers=True, tells=True)
