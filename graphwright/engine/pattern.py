"""The pattern language. The matcher is in ``match.py``; neither ever edits a graph.

A pattern is a plain function from variables to the value, or the tuple of values, that a rule replaces::

    def gated_by_own_sigmoid(op: PatternOps, x: Var) -> Op:
        return op.Mul(x, op.Sigmoid(x))

Its parameters bind values of the graph; a parameter with default None may bind a missing input. Number and
list literals stand for constants of that value, whatever their rank. Attributes given as keywords must be
equal, where schema defaults count as given and negative axes as resolved. Commutative operators match in both
orders. Two operators of a pattern never bind the same node.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"})
# Binary only: these take any number of inputs.
COMMUTATIVE_PAIRS = frozenset({"Max", "Min", "Sum", "Mean"})


class Pattern:
    """Base of everything that can stand where a value is expected."""


@dataclass(eq=False)
class Var(Pattern):
    """A value of any producer, bound to one name throughout the pattern."""

    name: str
    optional: bool = False


@dataclass(eq=False)
class Literal(Pattern):
    """A constant with these contents; one number matches one element of any rank, unless the rank is given."""

    contents: float | Sequence[float]
    rank: int | None = None


# What a constant of a graph may be to a number of the rule: how the one is made of the other, and back.
RELATIONS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "equal": (lambda number: number, lambda found: found),
    "negated": (lambda number: -number, lambda found: -found),
    "reciprocal": (lambda number: 1 / number, lambda found: 1 / found),
    "half": (lambda number: number / 2, lambda found: 2 * found),
    "square root": (math.sqrt, lambda found: found * found),
    "reciprocal square root": (lambda number: 1 / math.sqrt(number), lambda found: 1 / (found * found)),
}


@dataclass(eq=False)
class Parameter(Pattern):
    """A constant of one element, or an attribute, that tells a number of the rule and binds it to a name."""

    name: str
    relation: str = "equal"


@dataclass(eq=False)
class Axes(Pattern):
    """A constant list of axes, equal after negative ones are resolved by the rank of the node's first input."""

    axes: tuple[int, ...]


@dataclass(eq=False)
class AttrVar:
    """An attribute of any value, bound to a name; the rewrite takes it as a parameter."""

    name: str


@dataclass(eq=False)
class Default:
    """An attribute with this default of the schema, or one that the node's version of the operator does not have."""

    contents: Any


@dataclass(eq=False)
class Op(Pattern):
    """One node; used as a value it stands for the node's first output."""

    op_type: str
    inputs: tuple[Pattern | None, ...]
    attributes: dict[str, Any]
    domain: str = ""
    outputs: int = 1
    kept: bool = False

    @property
    def is_commutative(self) -> bool:
        """Tell whether the first two inputs may be swapped."""
        if self.domain or len(self.inputs) != 2:
            return False
        return self.op_type in COMMUTATIVE or self.op_type in COMMUTATIVE_PAIRS


@dataclass(eq=False)
class Output(Pattern):
    """One of several outputs of a node."""

    op: Op
    index: int


@dataclass(eq=False)
class AnyOf(Pattern):
    """The first alternative that leads to a match of the whole; the tag binds its index."""

    alternatives: tuple[Pattern, ...]
    tag: str | None = None


@dataclass(eq=False)
class Checked(Pattern):
    """A pattern whose value must also satisfy a predicate."""

    pattern: Pattern
    needed: str
    predicate: Callable[[ir.Value], bool]


@dataclass(eq=False)
class Named(Pattern):
    """A pattern whose value is bound to a name too, so that the rewrite can look at it."""

    name: str
    pattern: Pattern


class PatternOps:
    """Makes patterns: ``op.Anything(...)`` is an operator of that name.

    ``_domain`` names a domain other than ONNX's; ``_outputs`` above 1 gives a tuple of values.
    """

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def make(*inputs: Any, _domain: str = "", _outputs: int = 1, **attributes: Any) -> Any:
            node = Op(op_type, tuple(_as_pattern(value) for value in inputs), attributes, _domain, _outputs)
            return node if _outputs == 1 else tuple(Output(node, index) for index in range(_outputs))

        return make

    def any_of(self, *alternatives: Any, tag: str | None = None) -> AnyOf:
        """Match the first of several spellings; ``tag`` binds the index of the one that matched."""
        made = (_as_pattern(alternative) for alternative in alternatives)
        return AnyOf(tuple(value for value in made if value is not None), tag)

    def var(self, name: str) -> Var:
        """Return a variable that is no parameter of the pattern function; the rewrite takes it by this name."""
        return Var(name)

    def named(self, name: str, pattern: Pattern) -> Named:
        """Bind the value of a part of the pattern to a name."""
        return Named(name, pattern)

    def attr(self, name: str) -> AttrVar:
        """Bind an attribute (or its schema default) to a parameter of the rewrite."""
        return AttrVar(name)

    def axes(self, *axes: int) -> Axes:
        """Match a constant list of axes, negative or not."""
        return Axes(axes)

    def check(self, pattern: Pattern, needed: str, predicate: Callable[[ir.Value], bool]) -> Checked:
        """Match a pattern whose value satisfies the predicate; ``needed`` says what that is."""
        return Checked(pattern, needed, predicate)

    def keep(self, pattern: Op) -> Op:
        """Match a node without consuming it: others may use its output, and it stays if they do."""
        pattern.kept = True
        return pattern


def _as_pattern(value: Any) -> Pattern | None:
    if value is None or isinstance(value, Pattern):
        return value
    return Literal(value)


@dataclass(frozen=True)
class Condition:
    """What must hold of all that a match bound, by name; asked when the match is complete."""

    needed: str
    holds: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class GraphPattern:
    """What a pattern function describes: its outputs, and the number of operators a full match binds.

    ``bound`` are names that every match binds to the same thing, whatever it found.
    """

    name: str
    roots: tuple[Pattern, ...]
    variables: tuple[Var, ...]
    size: int
    conditions: tuple[Condition, ...] = ()
    bound: Mapping[str, Any] = field(default_factory=dict)

    @property
    def root_ops(self) -> list[tuple[str, str]]:
        """The (domain, operator) pairs at which a match may start."""
        return list(dict.fromkeys((op.domain, op.op_type) for op in _root_ops(self.roots[0])))


def _root_ops(pattern: Pattern | None) -> Iterator[Op]:
    if isinstance(pattern, Op):
        yield pattern
    elif isinstance(pattern, Output):
        yield pattern.op
    elif isinstance(pattern, Checked | Named):
        yield from _root_ops(pattern.pattern)
    elif isinstance(pattern, AnyOf):
        for alternative in pattern.alternatives:
            yield from _root_ops(alternative)


def trace(function: Callable[..., Any]) -> GraphPattern:
    """Call a pattern function with fresh variables and return what it describes.

    Raises:
        TypeError: the function returns no operator, so that nothing says where a match starts.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variables = tuple(Var(each.name, each.default is None) for each in parameters)
    result = function(PatternOps(), *variables)
    roots = result if isinstance(result, tuple) else (result,)
    if not any(_root_ops(roots[0])):
        raise TypeError(f"pattern {function.__name__} returns no operator: a match needs one to start from")
    return GraphPattern(function.__name__, roots, variables, size_of(roots))


def size_of(patterns: Sequence[Any]) -> int:
    """Count the operators of a pattern, each once, the longest of alternatives."""
    seen: set[int] = set()

    def count(pattern: Any) -> int:
        if isinstance(pattern, AnyOf):
            return max(count(alternative) for alternative in pattern.alternatives)
        if isinstance(pattern, Checked | Named):
            return count(pattern.pattern)
        node = pattern.op if isinstance(pattern, Output) else pattern
        if not isinstance(node, Op) or id(node) in seen:
            return 0
        seen.add(id(node))
        return 1 + sum(count(each) for each in node.inputs)

    return sum(count(pattern) for pattern in patterns)


def describe(needed: Any) -> str:
    """Return what a pattern asks for, in a few words."""
    if isinstance(needed, Op):
        return needed.op_type
    if isinstance(needed, Output):
        return f"output {needed.index} of {needed.op.op_type}"
    if isinstance(needed, AnyOf):
        return " or ".join(dict.fromkeys(describe(each) for each in needed.alternatives))
    if isinstance(needed, Literal):
        return f"the constant {needed.contents}"
    if isinstance(needed, Parameter):
        return f"a number for {needed.name}" + ("" if needed.relation == "equal" else f" ({needed.relation})")
    if isinstance(needed, Axes):
        return f"the constant axes {list(needed.axes)}"
    if isinstance(needed, Var):
        return f"a value for {needed.name}"
    return describe(needed.pattern) if isinstance(needed, Checked | Named) else str(needed)
