"""Spell ``graphwright.Linear`` as ONNX Runtime runs it best, by the table of what its providers have.

Before:                                              After:
    x, w, b -- Linear<gelu> -- y                         x -- MatMul w -- BiasGelu b -- y

    x [M,K], w, b -- Linear<relu> -- y                   x, w, b -- FusedGemm<Relu> -- y       (provider=cpu)

    x, w, b, residual -- Linear -- y                     x -- MatMul w -- + b -- + residual -- y

``BiasGelu`` and ``FusedGemm`` are taken where each provider has a kernel for the type that is known, or trusted, to pay
(``ort_capabilities.py``). The residual stays a sum of its own: passes that make skip norms come later, and take it and
the bias into the norm. It runs behind the passes that quantise and narrow, which look for products; the option
``precision`` therefore takes ``spell-linear`` in, which runs before them. Option:

* ``provider``: ``cpu`` or ``cuda``, whose operators may be used; ``both`` (default): those that both have.

Shapes:    x [..., K]; FusedGemm where its rank is known to be 2, BiasGelu where it is known to be another.
Dtypes:    float16, bfloat16, float32, float64; those of the table for ONNX Runtime's own operators.
Refuses:   as ``spell-linear``: OPSET, ATTRIBUTE.
Numerics:  the same formulas.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.BiasGelu and com.microsoft.FusedGemm.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pipeline import RuleMaker
from graphwright.engine.rewrite import Builder, Rule
from graphwright.errors import PipelineError
from graphwright.passes.linear_nodes import MIN_OPSET, activated, is_transposed, known_activation, linear_node, product
from graphwright.passes.lower.ort_capabilities import CPU, CUDA, MICROSOFT, Pays, capability, types

NAME = "lower-linear-for-ort"
PROVIDERS: Mapping[str, tuple[str, ...]] = {"cpu": (CPU,), "cuda": (CUDA,), "both": (CPU, CUDA)}
BIAS_GELU, FUSED_GEMM = f"{MICROSOFT}.BiasGelu", f"{MICROSOFT}.FusedGemm"
# What FusedGemm computes behind the product.
GEMM_ACTIVATIONS = frozenset({"relu", "tanh", "sigmoid"})


def lower_linear_for_ort(model: ir.Model, provider: str = "both") -> Rule:
    """Return the rule for the operators that these providers have.

    Raises:
        PipelineError: a provider that is not one of the three.
    """
    del model
    if provider not in PROVIDERS:
        raise PipelineError(f"{NAME}(provider)", repr(provider), needed=f"one of {', '.join(PROVIDERS)}")
    return Rule(NAME, (linear_node,), partial(_lowered, PROVIDERS[provider]), min_opset=MIN_OPSET)


def _lowered(
    providers: Sequence[str],
    op: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    residual: ir.Value | None,
    y: ir.Value,
) -> ir.Value:
    name, activation = known_activation(op, y)
    transposed = is_transposed(y)
    rank = facts.rank(x)
    if name == "gelu" and bias is not None and rank not in (None, 2) and is_chosen(BIAS_GELU, x.dtype, providers):
        made = op.BiasGelu(product(op, x, weight, None, transposed), bias, _domain=MICROSOFT)
    elif name in GEMM_ACTIVATIONS and rank == 2 and is_chosen(FUSED_GEMM, x.dtype, providers):
        assert activation is not None
        given = {"activation": activation.operator, "transB": int(transposed) or None}
        made = op.FusedGemm(x, weight, *(() if bias is None else (bias,)), _domain=MICROSOFT, **given)
    else:
        made = activated(op, product(op, x, weight, bias, transposed), activation)
    result: ir.Value = made if residual is None else op.Add(made, residual)
    return result


def is_chosen(operator: str, dtype: ir.DataType | None, providers: Sequence[str]) -> bool:
    """Tell whether each provider has an operator for a type, and none is known to lose by it."""
    rows = [capability(operator, provider) for provider in providers]
    pays = all(row is not None and row.pays in (Pays.GAINS, Pays.TRUSTED) for row in rows)
    return pays and dtype in types(operator, *providers)


LOWER_LINEAR_FOR_ORT = RuleMaker(NAME, lower_linear_for_ort)
