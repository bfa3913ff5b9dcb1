"""Sizes of dimensions that a model writes as a name or as an expression such as ``past + seq``.

onnx_ir evaluates such expressions with SymPy. A model file is untrusted, and SymPy computes ``9**9**9`` as
soon as it reads it; a request also pays for the evaluation each time. So this module has its own small one.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
# Longer text is a name, not an expression that an exporter wrote.
_LONGEST = 200
_LARGEST_EXPONENT = 4

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: Fraction(a) / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b if 0 <= b <= _LARGEST_EXPONENT else _refuse(),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "Max": max,
    "min": min,
    "Min": min,
    "floor": math.floor,
    "ceiling": math.ceil,
    "mod": lambda a, b: a % b,
    "Mod": lambda a, b: a % b,
}


def _refuse() -> int:
    raise ValueError("not an expression that a dimension may hold")


def is_name(dim: str) -> bool:
    """Whether the text is one plain name.

    Example:
        >>> is_name("batch"), is_name("past + seq")
        (True, False)
    """
    return _IDENTIFIER.fullmatch(dim) is not None


def symbols(dim: str) -> frozenset[str]:
    """The names that an expression is made of; empty where the text is no expression.

    Example:
        >>> sorted(symbols("past + seq")), symbols("x[0]")
        (['past', 'seq'], frozenset())
    """
    parsed = _parse(dim)
    return frozenset(parsed[1].values()) if parsed else frozenset()


def size(dim: int | str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension, or None where it does not follow from the sizes given.

    Example:
        >>> size("past + seq", {"past": 3, "seq": 4}), size("floor(seq/2)", {"seq": 5}), size("other", {})
        (7, 2, None)
    """
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    parsed = _parse(dim)
    if parsed is None:
        return None
    try:
        value = _value(parsed[0], parsed[1], sizes)
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None
    return int(value) if value == int(value) and 0 <= value < 2**63 else None


@lru_cache(maxsize=4096)
def _parse(dim: str) -> tuple[ast.expr, dict[str, str]] | None:
    """The expression, its names replaced by ones that Python can read (exporters write ``x.45_dim_1``)."""
    if len(dim) > _LONGEST:
        return None
    names: dict[str, str] = {}

    def readable(match: re.Match[str]) -> str:
        text = match.group()
        if text in _FUNCTIONS and dim[match.end() :].lstrip().startswith("("):
            return text
        return names.setdefault(text, f"v{len(names)}")

    try:
        tree = ast.parse(_IDENTIFIER.sub(readable, dim).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    meanings = {new: old for old, new in names.items()}
    try:
        _value(tree, meanings, dict.fromkeys(names, 1))
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None
    return tree, meanings


def _value(node: ast.expr, names: Mapping[str, str], sizes: Mapping[str, int]) -> Any:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return sizes[names[name]]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names, sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, names, sizes), _value(right, names, sizes))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(arg, names, sizes) for arg in args))
        case _:
            return _refuse()
