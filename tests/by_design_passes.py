"""A model and passes for it: some change its numbers by design, one loses them, others are right or nearly so."""

from graphwright.engine.rewrite import Rule

MODEL = """<ir_version: 10, opset_import: ["": 20]>
g (float[N] x) => (float[N] y) {
    a = Abs(x)
    b = Tanh(a)
    c = Neg(b)
    y = Tanh(c)
}"""


def of_abs(name: str, factor: float) -> Rule:
    return Rule(name, (lambda op, x: op.Abs(x),), lambda op, x: op.Max(x, op.Mul(x, -factor)))


def of_neg(name: str, factor: float) -> Rule:
    return Rule(name, (lambda op, x: op.Neg(x),), lambda op, x: op.Mul(x, -factor))


FLIP, FLIP_NEARLY = of_abs("abs-as-max", 1.0), of_abs("abs-as-max-nearly", 1.0001)
NEG, NEG_WRONG = of_neg("neg-as-product", 1.0), of_neg("neg-as-product-nearly", 1.0001)
CLIP = Rule(
    "clip-tanh", (lambda op, x: op.Tanh(x),), lambda op, x: op.Clip(x, -1.0, 1.0), min_opset=13, changes_numbers=True
)
# The second Tanh of the model alone.
CLIP_ONE = Rule(
    "clip-behind-neg",
    (lambda op, x: op.Tanh(op.named("negated", op.Neg(x))),),
    lambda op, x: op.Clip(op.Neg(x), -1.0, 1.0),
    changes_numbers=True,
)
NAN = Rule("nan-tanh", (lambda op, x: op.Tanh(x),), lambda op, x: op.Sqrt(op.Sub(x, 1e9)), changes_numbers=True)
