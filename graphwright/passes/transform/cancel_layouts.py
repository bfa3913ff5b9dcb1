"""Remove a change of shape or of axes that is undone behind a function of single elements.

Before:                                                                    After:
    x [B*S,N] -- Reshape -- [B,S,N] -- Gelu -- Reshape -- y [B*S,N]            x -- Gelu -- y

    x -- Transpose<p> -- Relu -- Transpose<q> -- y                             x -- Relu -- y    (p[q] changes nothing)

Such a function does not ask where an element stands. As GPT-2's exports have it: the products of its layers are of two
axes, what is between them of three.

Shapes:    x and y of the same shape, known by number or by name.
Dtypes:    any.
Refuses:   OPSET below 13; UNKNOWN shapes that are not known to be equal; ATTRIBUTE permutations that do not undo each
           other, or are not given; SHARED and GRAPH_OUTPUT interior values.
Numerics:  the same.
Source:    ONNX operators Reshape-21 and Transpose-24.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Named, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

# Of one input, each element of the result from the same element of the input.
BY_ELEMENT = (
    *(
        "Abs",
        "Cast",
        "Ceil",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
    ),
    *("Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt"),
    *("Swish", "Tanh"),
)


def _by_element(op: PatternOps, inner: Pattern) -> AnyOf:
    return op.any_of(*(op.named("function", getattr(op, each)(inner)) for each in BY_ELEMENT))


def reshaped_and_back(op: PatternOps, x: Var) -> Named:
    inner = op.Reshape(x, op.var("_there"))
    return op.named("y", op.Reshape(_by_element(op, inner), op.var("_back")))


def transposed_and_back(op: PatternOps, x: Var) -> Op:
    inner = op.Transpose(x, perm=op.attr("first"))
    node: Op = op.Transpose(_by_element(op, inner), perm=op.attr("second"))
    return node


def function_alone(
    op: Builder,
    x: ir.Value,
    function: ir.Value,
    y: ir.Value | None,
    first: tuple[int, ...] | None,
    second: tuple[int, ...] | None,
) -> ir.Value:
    if y is not None:
        same = facts.same_shape(x, y)
        require(same, Reason.UNKNOWN, f"{facts.describe(x)} is not known to have the shape of {facts.describe(y)}")
    else:
        undone = first is not None and second is not None and [first[axis] for axis in second] == sorted(first)
        require(undone, Reason.ATTRIBUTE, f"the permutations are {first} and {second}")
    node = function.producer()
    assert node is not None
    return op.copy(node, [x])


CANCEL_LAYOUTS = Rule("cancel-layouts", (reshaped_and_back, transposed_and_back), function_alone)
