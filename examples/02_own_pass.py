"""Write a rewrite of your own, see it verified, and see what happens to a wrong one.

python examples/02_own_pass.py
"""

import tempfile
from contextlib import chdir
from typing import Any

import onnx_ir as ir

import graphwright as gw
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 8] x) => (float[batch, 8] y) {
    n = Neg(x)
    m = Neg(n)
    s = Add(m, m)
    y = Tanh(s)
}"""


def two_negations(op: PatternOps, x: Var) -> Op:
    return op.Neg(op.Neg(x))


def itself(op: Builder, x: ir.Value) -> ir.Value:
    require(x.dtype == ir.DataType.FLOAT, Reason.DTYPE, f"{x.name} is {x.dtype}, needs float32")
    return x


def sum_of_one_value(op: PatternOps, x: Var) -> Op:
    return op.Add(x, x)


def thrice(op: Builder, x: ir.Value) -> Any:
    """Wrong on purpose: the sum of a value with itself is twice the value."""
    return op.Mul(x, 3.0)


DROP_TWO_NEGATIONS = Rule("drop-two-negations", (two_negations,), itself)
SCALE_INSTEAD = Rule("scale-instead", (sum_of_one_value,), thrice)


def main() -> None:
    """Optimize with the right rule; then catch the wrong one, and find it."""
    model = ir.from_onnx_text(MODEL)
    artifact = gw.optimize(model, passes=["default", DROP_TWO_NEGATIONS], verify="region", progress=False)
    print(artifact.report.table())

    both = ["default", DROP_TWO_NEGATIONS, SCALE_INSTEAD]
    try:
        gw.optimize(model, passes=both, verify="region", progress=False)
    except gw.VerificationError as error:
        print(f"caught: {error}\n")
    print(gw.bisect(model, passes=both))


if __name__ == "__main__":
    # A failed check leaves its case in the current folder.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        main()
