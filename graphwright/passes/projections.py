"""What the passes that pack projections share: their pattern, which products are siblings, and the packed product.

A projection is a product with a constant matrix, and the constant vector that is added to it, if there is one:
``MatMul``, ``MatMul`` and ``Add``, or ``Gemm``, with its weight as it is or transposed. Siblings are projections of one
input. Which siblings are packed together is a pass's own: it hands in a function from a product to its group, and the
pattern binds product i of a group at place i, so that a group is found once however many siblings there are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.engine.weights import concatenated, static_shape

# From a product to those that are packed with it, itself included, in the order of ``siblings``; empty for none.
Group = Callable[[ir.Value], tuple[ir.Value, ...]]


def projections(op: PatternOps, x: Var, count: int, group: Group) -> tuple[AnyOf, ...]:
    """Return the roots of a group of so many: they bind ``weight_i``, ``bias_i`` and, for a Gemm, ``transposed_i``."""
    return tuple(_projection(op, x, place, partial(_is_member, group, count, place)) for place in range(count))


def _is_member(group: Group, count: int, place: int, product: ir.Value) -> bool:
    found = group(product)
    return len(found) == count and found[place] is product


def _projection(op: PatternOps, x: Var, place: int, is_member: Callable[[ir.Value], bool]) -> AnyOf:
    weight, bias = op.var(f"weight_{place}"), op.var(f"bias_{place}")
    attributes = {"alpha": 1.0, "transA": 0, "transB": op.attr(f"transposed_{place}")}
    needed = "a product that belongs to the others"
    product = op.check(op.MatMul(x, weight), needed, is_member)
    gemm = op.check(op.Gemm(x, weight, **attributes), needed, is_member)
    biased = op.check(op.Gemm(x, weight, bias, beta=1.0, **attributes), needed, is_member)
    return op.any_of(op.Add(product, bias), product, biased, gemm)


def siblings(product: ir.Value) -> tuple[ir.Value, ...]:
    """Return the products of this one's input with constant matrices, this one among them if it is one.

    Example:
        >>> text = "g (float[N, 2] x) => (float[N, 2] a, float[N, 2] b) <float[2, 2] w = {1, 2, 3, 4}>"
        >>> body = "a = MatMul(x, w) b = MatMul(x, x)"
        >>> model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 24]> {text} {{{body}}}')
        >>> [value.name for value in siblings(model.graph[0].outputs[0])]
        ['a']
    """
    node = product.producer()
    x = node.inputs[0] if node is not None and node.inputs else None
    if node is None or x is None:
        return ()
    users = dict.fromkeys(user for user, place in x.uses() if place == 0)
    return tuple(user.outputs[0] for user in users if user.graph is node.graph and _is_product(user))


def _is_product(node: ir.Node) -> bool:
    is_product = node.op_type in ("MatMul", "Gemm") and not node.domain and len(node.inputs) > 1
    return is_product and facts.constant(node.inputs[1]) is not None


def result_of(product: ir.Value) -> ir.Value:
    """Return what becomes of a product: itself, or with its bias where a constant is all that it is added to."""
    users = product.uses()
    if len(users) != 1 or product.is_graph_output():
        return product
    ((user, place),) = users
    is_bias = user.op_type == "Add" and not user.domain and facts.constant(user.inputs[1 - place]) is not None
    return user.outputs[0] if is_bias else product


def packed(op: Builder, x: ir.Value, count: int, bound: Mapping[str, Any]) -> tuple[ir.Value, ...]:
    """Return the results of so many projections as the parts of one product, from what their pattern has bound."""
    given = [bound.get(f"transposed_{place}") for place in range(count)]
    turned = bool(given[0])
    same = all(bool(each) == turned for each in given)
    require(same, Reason.ATTRIBUTE, f"of {count} weights some are transposed, and some are not")
    axis = 0 if turned else 1
    weights = [_constant(bound[f"weight_{place}"], 2) for place in range(count)]
    sizes = [static_shape(weight)[axis] for weight in weights]
    bias = _packed_bias(op, [bound.get(f"bias_{place}") for place in range(count)], weights, sizes)
    weight = op.constant(concatenated(weights, axis), "packed_weight")
    if any(each is not None for each in given):
        product = op.Gemm(x, weight, *(() if bias is None else (bias,)), transB=int(turned) or None)
    else:
        product = op.MatMul(x, weight)
        product = product if bias is None else op.Add(product, bias)
    outputs: tuple[ir.Value, ...] = op.Split(product, sizes, axis=-1, _outputs=count)
    return outputs


def _packed_bias(
    op: Builder, biases: list[ir.Value | None], weights: list[ir.TensorProtocol], sizes: list[int]
) -> ir.Value | None:
    """Return the biases in a row, with zeros in the place of one that is not there, or None where none is."""
    if all(bias is None for bias in biases):
        return None
    parts: list[ir.TensorProtocol] = []
    for bias, weight, size in zip(biases, weights, sizes, strict=True):
        if bias is None:
            parts.append(ir.tensor(np.zeros(size, weight.dtype.numpy()), dtype=weight.dtype))
            continue
        parts.append(_constant(bias, 1))
        detail = f"the bias {facts.describe(bias)} for {size} columns"
        require(static_shape(parts[-1])[0] == size, Reason.SHAPE, detail)
    return op.constant(concatenated(parts, 0), "packed_bias")


def _constant(value: ir.Value, rank: int) -> ir.TensorProtocol:
    tensor = facts.constant(value)
    require(tensor is not None, Reason.CONSTANT, f"{facts.describe(value)} is not a constant")
    assert tensor is not None
    count = len(tensor.shape)
    require(count == rank, Reason.RANK, f"{facts.describe(value)} has {count} axes, needs {rank}")
    return tensor
