"""What the passes that lower ``graphwright.Linear`` share: the node's pattern, its options, its product; no rule."""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.plugins.linear.meaning import ACTIVATIONS, DOMAIN, NONE, Activation

# MatMul, Gemm and Add of these versions take bfloat16 too.
MIN_OPSET = 13


def linear_node(op: PatternOps, x: Var, weight: Var, bias: Var | None = None, residual: Var | None = None) -> Named:
    return op.named("y", op.Linear(x, weight, bias, residual, _domain=DOMAIN))


def known_activation(op: Builder, y: ir.Value) -> tuple[str, Activation | None]:
    """Return the name of a node's activation and what it is; refuse one that is not known, or newer than the model."""
    node = y.producer()
    assert node is not None
    given = node.attributes.get("activation")
    name = NONE if given is None else facts.attribute(node, "activation")
    known = name == NONE or name in ACTIVATIONS
    require(known, Reason.ATTRIBUTE, f"{facts.place(node)} has the activation {name!r}; needs {', '.join(ACTIVATIONS)}")
    activation = None if name == NONE else ACTIVATIONS[str(name)]
    least = MIN_OPSET if activation is None else activation.opset
    require(op.opset >= least, Reason.OPSET, f"{name} needs opset {least}, model has {op.opset}")
    return str(name), activation


def is_transposed(y: ir.Value) -> bool:
    """Tell whether a node's weight is [N, K]; refuse where its caller says so."""
    node = y.producer()
    assert node is not None
    given = node.attributes.get("transposed")
    require(given is None or not given.is_ref(), Reason.ATTRIBUTE, f"{facts.place(node)} has no value for transposed")
    return given is not None and bool(given.value)


def product(op: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, transposed: bool) -> ir.Value:
    """Return a product with its bias: ``Gemm`` of two axes where that saves a node, else ``MatMul`` and ``Add``."""
    made: ir.Value
    if facts.rank(x) == 2 and (bias is not None or transposed):
        made = op.Gemm(x, weight, *(() if bias is None else (bias,)), transB=int(transposed) or None)
        return made
    made = op.MatMul(x, op.Transpose(weight, perm=[1, 0]) if transposed else weight)
    return made if bias is None else op.Add(made, bias)


def activated(op: Builder, x: ir.Value, activation: Activation | None) -> ir.Value:
    """Return the activation of a value; attributes at their defaults are left out."""
    if activation is None:
        return x
    given = {name: value for name, value in activation.attributes.items() if value != "none"}
    made: ir.Value = getattr(op, activation.operator)(x, **given)
    return made
