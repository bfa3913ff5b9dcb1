"""Merge two ``Transpose`` nodes in a row into one.

Before:                                          After:
    x -- Transpose<p> -- Transpose<q> -- y           x -- Transpose<p[q]> -- y

    x -- Transpose<p> -- Transpose<q> -- y           x            (where p[q] changes nothing)

Axis i of y is axis q[i] of the middle value, which is axis p[q[i]] of x. The first Transpose stays if others
use it.

Shapes:    x [...] of the length of p and q; any size may be dynamic.
Dtypes:    any.
Refuses:   OPSET below 13; ATTRIBUTE a permutation that is not given.
Numerics:  the same.
Source:    composition of permutations; ONNX operator Transpose-24.
"""

import onnx_ir as ir

from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def two_transposes(op: PatternOps, x: Var) -> Op:
    node: Op = op.Transpose(op.keep(op.Transpose(x, perm=op.attr("first"))), perm=op.attr("second"))
    return node


def one_transpose(op: Builder, x: ir.Value, first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> ir.Value:
    given = first is not None and second is not None
    require(given, Reason.ATTRIBUTE, f"the permutations are {first} and {second}; needs both")
    assert first is not None and second is not None
    composed = [first[axis] for axis in second]
    if composed == sorted(composed):
        return x
    merged: ir.Value = op.Transpose(x, perm=composed)
    return merged


MERGE_TRANSPOSES = Rule("merge-transposes", (two_transposes,), one_transpose)
