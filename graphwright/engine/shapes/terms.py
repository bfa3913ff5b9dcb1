"""The text of sizes, read as sums of products and written in one canonical spelling.

The language is what torch writes: numbers, names, ``+ - *``, small powers, ``(a//b)``, ``Min(...)``,
``Max(...)``. A function is one name in a product. Any other text (``seq-len``, ``batch.1``) is one name,
whatever it says.
"""

import ast
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from math import gcd

Size = int | str
Product = tuple[str, ...]
Terms = Mapping[Product, int]

# Nothing a transformer computes comes near these; a hostile graph that squares its sizes does.
MOST_TERMS = 8
MOST_FACTORS = 8
LARGEST_NUMBER = 2**62
LONGEST_TEXT = 200

# What ``ast`` reads as it is written: ASCII, no digit before a letter, and + and - set off by spaces, because
# ``seq-len`` is a name.
_EXPRESSION = re.compile(r"[\w ()+*/,-]+", re.ASCII)
_ONE_NAME = re.compile(r"(?<!\w)\d+[A-Za-z_]|[\w)][+-]|\+[\w(]|\w-", re.ASCII)


class _NotAnExpressionError(Exception):
    """A text outside the language; it is then one name."""


def read(size: Size) -> Terms:
    """Return a size as a sum of products: for each product of names its number."""
    if isinstance(size, int):
        return {(): size} if size else {}
    return _read_text(size)


@lru_cache(maxsize=4096)
def _read_text(text: str) -> Terms:
    name: Terms = {(text,): 1}
    if len(text) > LONGEST_TEXT or not _EXPRESSION.fullmatch(text) or _ONE_NAME.search(text):
        return name
    try:
        return _read_tree(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, _NotAnExpressionError):
        return name


def _read_tree(tree: ast.expr) -> Terms:
    match tree:
        case ast.Constant(value=number) if type(number) is int:
            return read(number)
        case ast.Name(id=name):
            return {(name,): 1}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return times(_read_tree(inner), {(): -1})
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=power)) if type(power) is int:
            return _power(_read_tree(left), power)
        case ast.BinOp(left=left, op=operator, right=right):
            return _read_operation(_read_tree(left), operator, _read_tree(right))
        case ast.Call(func=ast.Name(id="Min" | "Max" as function), args=given, keywords=[]) if given:
            inner_terms = [_read_tree(argument) for argument in given]
            # A function counts as a name, and a name is never negative.
            enough: Callable[[Iterable[bool]], bool] = all if function == "Min" else any
            if enough(no_negative_term(terms) for terms in inner_terms):
                return _function(call(function, {render(terms) for terms in inner_terms}))
    raise _NotAnExpressionError


def _read_operation(left: Terms, operator: ast.operator, right: Terms) -> Terms:
    match operator:
        case ast.Add() | ast.Sub():
            result = total(left, right, 1 if isinstance(operator, ast.Add) else -1)
        case ast.Mult():
            result = times(left, right)
        case ast.FloorDiv() if set(right) == {()} and right[()] > 0:
            result = floored(left, right[()])
        case ast.FloorDiv() if no_negative_term(left) and no_negative_term(right):
            return _function(f"({bracketed(render(left))}//{bracketed(render(right))})")
        case _:
            raise _NotAnExpressionError
    if as_size(result) is None:
        raise _NotAnExpressionError
    return result


def _power(terms: Terms, power: int) -> Terms:
    if not 0 < power <= MOST_FACTORS:
        raise _NotAnExpressionError
    result: Terms = {(): 1}
    for _ in range(power):
        result = times(result, terms)
        if as_size(result) is None:
            raise _NotAnExpressionError
    return result


def _function(text: Size) -> Terms:
    return read(text) if isinstance(text, int) else {(text,): 1}


def no_negative_term(terms: Terms) -> bool:
    """Tell whether a sum cannot be negative, names being sizes."""
    return all(count >= 0 for count in terms.values())


def total(first: Terms, second: Terms, sign: int = 1) -> Terms:
    """Return ``first + sign * second``."""
    result = dict(first)
    for names, count in second.items():
        result[names] = result.get(names, 0) + sign * count
    return {names: count for names, count in result.items() if count}


def times(first: Terms, second: Terms) -> Terms:
    """Return the product of two sums."""
    result: dict[Product, int] = {}
    for names, count in first.items():
        for others, number in second.items():
            key = tuple(sorted(names + others))
            result[key] = result.get(key, 0) + count * number
    return {names: count for names, count in result.items() if count}


def floored(whole: Terms, part: int) -> Terms:
    """Return ``whole // part`` for a part above zero, rounded down as Python does; the sum may be negative.

    Multiples of the part leave the division, and a division inside is one with this: (a//5 - 4)//2 = a//10 - 2.
    """
    outside = {names: count // part for names, count in whole.items() if count // part}
    inside = {names: count % part for names, count in whole.items() if count % part}
    products = [names for names in inside if names]
    if not products:
        return outside  # A number below the part.
    common = gcd(part, *(inside[names] for names in products))
    if common > 1:  # (2*a + 1)//4 = a//2
        smaller = {names: count // common for names, count in inside.items() if count // common}
        return total(outside, floored(smaller, part // common))
    is_name = len(products) == len(products[0]) == inside[products[0]] == 1
    below = _division(products[0][0]) if is_name else None
    if below is not None:
        numerator, denominator = below
        return total(outside, floored(total(numerator, {(): inside.get((), 0) * denominator}), denominator * part))
    return total(outside, {(f"({bracketed(render(inside))}//{part})",): 1})


@lru_cache(maxsize=4096)
def _division(name: str) -> tuple[Terms, int] | None:
    """Return the two sides of a division by a number; None for any other name."""
    try:
        match ast.parse(name, mode="eval").body if name.startswith("(") else None:
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=ast.Constant(value=part)) if (
                type(part) is int and part > 0
            ):
                return _read_tree(left), part
    except (SyntaxError, RecursionError, MemoryError, _NotAnExpressionError):
        return None
    return None


def as_size(terms: Terms) -> Size | None:
    """Return the canonical spelling of a sum, or None where it is beyond the limits of this module."""
    if len(terms) > MOST_TERMS:
        return None
    if any(len(names) > MOST_FACTORS or abs(count) > LARGEST_NUMBER for names, count in terms.items()):
        return None
    return within_limits(render(terms))


def within_limits(size: Size) -> Size | None:
    """Return a size, or None where its text is too long to go on with."""
    return None if isinstance(size, str) and len(size) > LONGEST_TEXT else size


def render(terms: Terms) -> Size:
    """Return the canonical spelling: products from the highest power down, names in alphabetical order."""
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    everything = sorted({name for names in terms for name in names})
    ordered = sorted(terms, key=lambda names: [-names.count(name) for name in everything])
    text = _render_term(ordered[0], terms[ordered[0]])
    for names in ordered[1:]:
        count = terms[names]
        text += f" {'-' if count < 0 else '+'} {_render_term(names, abs(count))}"
    return text


def _render_term(names: Product, count: int) -> str:
    counts = {name: names.count(name) for name in names}
    powers = [f"{name}**{power}" if power > 1 else name for name, power in counts.items()]
    if count == -1 and powers:
        return "-" + "*".join(powers)
    return "*".join(powers if count == 1 and powers else [str(count), *powers])


def bracketed(size: Size) -> Size:
    """Return a size as it stands inside a division."""
    is_name = isinstance(size, int) or read(size).keys() == {(size,)}
    return size if is_name else f"({size})"


def call(function: str, given: Collection[Size]) -> Size:
    """Return the text of ``Min`` or ``Max``: numbers first, then names; of one argument, that argument."""
    if len(given) == 1:
        return next(iter(given))
    ordered = sorted(given, key=lambda size: (isinstance(size, str), str(size)))
    return f"{function}({', '.join(map(str, ordered))})"


@lru_cache(maxsize=4096)
def arguments(size: Size, function: str) -> tuple[Size, ...]:
    """Return what a size is the ``Min`` or ``Max`` of; itself where it is none."""
    if not isinstance(size, str) or not size.startswith(function + "(") or len(read(size)) != 1:
        return (size,)
    try:
        tree = ast.parse(size, mode="eval").body
    except SyntaxError:
        return (size,)
    if not isinstance(tree, ast.Call):
        return (size,)
    return tuple(render(_read_tree(argument)) for argument in tree.args)
