"""Pack the two projections of a gated unit, as in SwiGLU and GeGLU, into one product.

Before:                                            After:
        +-- MatMul wg -- + bg -- Swish --+
    x --+                                +-- Mul       x -- MatMul [wg|wu] -- + [bg|bu] -- Split --+-- Swish --+-- Mul
        +-- MatMul wu -- + bu -----------+                                                        +-----------+

The results must meet in a ``Mul``, one of them behind an activation: one of the operators below, or the product of the
value and its ``Sigmoid``. Opt-in, as ``pack-qkv`` is: of a larger product alone the Split takes back what it gains on
ONNX Runtime's CPU (docs/design/0004).

Shapes:    x [..., E], weights [E, N] constant, or [N, E] of a Gemm that transposes them; biases [N] constant. A missing
           bias beside another is zeros.
Dtypes:    any that MatMul takes; it has one for all.
Refuses:   OPSET below 13; RANK a weight that is no matrix, a bias that is no vector; SHAPE a bias whose length is not
           its weight's columns; ATTRIBUTE weights of which one is transposed; SHARED and GRAPH_OUTPUT interior values.
           What is refused for its bias is packed without it, and the bias stays behind the Split. A product with what
           is not constant is no projection.
Numerics:  the same sums, each in the order that the backend's product takes.
Source:    Shazeer 2020, arXiv:2002.05202; block matrix product.
"""

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from graphwright.engine.pattern import AnyOf, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.projections import packed, projections, result_of, siblings

# Of one input, element by element. Not those that a gate is not made of, such as Exp.
ACTIVATIONS = frozenset(
    {
        *("Gelu", "Swish", "Sigmoid", "HardSigmoid", "HardSwish", "Relu", "LeakyRelu", "Elu", "Selu", "Celu"),
        *("Tanh", "Mish", "Softplus", "Softsign"),
    }
)


def gate_and_up(op: PatternOps, x: Var) -> tuple[AnyOf, ...]:
    return projections(op, x, 2, of_one_gate)


def of_one_gate(product: ir.Value) -> tuple[ir.Value, ...]:
    """Return the two siblings of a gated unit of which a product is one."""
    found = siblings(product)
    results = {result_of(each): each for each in found} if len(found) > 1 else {}
    for result, gate in results.items():
        for other in _multiplied_with(result):
            up = results.get(other)
            if up is not None and up is not gate and product in (gate, up):
                return tuple(each for each in found if each in (gate, up))
    return ()


def _multiplied_with(value: ir.Value) -> Iterator[ir.Value]:
    """Yield what an activation of a value is multiplied with."""
    activated = [user.outputs[0] for user, _ in value.uses() if user.op_type in ACTIVATIONS and not user.domain]
    for each in activated:
        for other, product in _factors(each):
            if other is not value:
                yield other
            else:  # x * Sigmoid(x), which is an activation again
                yield from (factor for factor, _ in _factors(product))


def _factors(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the other factor and the result of each product that a value is in."""
    for user, place in value.uses():
        other = user.inputs[1 - place] if user.op_type == "Mul" and not user.domain else None
        if other is not None:
            yield other, user.outputs[0]


def one_product(op: Builder, x: ir.Value, **bound: Any) -> tuple[ir.Value, ...]:
    return packed(op, x, 2, bound)


PACK_GATE_UP = Rule("pack-gate-up", (gate_and_up,), one_product, min_opset=13)
