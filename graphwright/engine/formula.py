"""Numbers that depend on sizes with names: sums of products, as costs are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Union

import onnx_ir as ir

from graphwright.engine.sample import size_of
from graphwright.engine.shapes.terms import Size, Terms, read, render, times, total

# A graph with a name for each of its sizes gives sums that nobody reads.
_MOST_SHOWN = 24
# What every name is taken for where formulas are put in order.
_NOMINAL = 64


@dataclass(frozen=True)
class Formula:
    """A sum of products of names, with their numbers; the spelling is that of sizes.

    Example:
        >>> length = Formula.of("seq")
        >>> cost = length * length * 24 + length * 3 + 1
        >>> str(cost), cost.at({"seq": 10}), cost.at({"batch": 1})
        ('24*seq**2 + 3*seq + 1', 2431, None)
    """

    terms: Terms

    @classmethod
    def of(cls, size: Size) -> "Formula":
        """Return a size as a formula."""
        return cls(read(size))

    def __add__(self, other: Union["Formula", int]) -> "Formula":
        return Formula(total(self.terms, _terms(other)))

    def __sub__(self, other: Union["Formula", int]) -> "Formula":
        return Formula(total(self.terms, _terms(other), -1))

    def __mul__(self, other: Union["Formula", int]) -> "Formula":
        return Formula(times(self.terms, _terms(other)))

    def __str__(self) -> str:
        if len(self.terms) > _MOST_SHOWN:
            return f"a sum of {len(self.terms)} products"
        return str(render(self.terms))

    @property
    def size(self) -> Size:
        """The number, or the text where it depends on names."""
        return str(self) if self.names else self.terms.get((), 0)

    @property
    def names(self) -> set[str]:
        """All names, and functions such as ``(seq//2)``, that it depends on."""
        return {name for product in self.terms for name in product}

    @property
    def magnitude(self) -> int:
        """A number to order formulas by: the value where every name is of the same middling size."""
        return sum(count * _NOMINAL ** len(product) for product, count in self.terms.items())

    def at(self, dims: Mapping[str, int]) -> int | None:
        """Return the number at these sizes, or None where it does not follow from them."""
        found = {name: size_of(ir.SymbolicDim(name), dims) for name in self.names}
        result = 0
        for product, count in self.terms.items():
            for name in product:
                size = found[name]
                if size is None:
                    return None
                count *= size
            result += count
        return result


ZERO = Formula({})


def product_of(formulas: Iterable[Formula]) -> Formula:
    """Return the product of all."""
    result = Formula.of(1)
    for each in formulas:
        result = result * each
    return result


def sum_of(formulas: Iterable[Formula]) -> Formula:
    """Return the sum of all."""
    terms: dict[tuple[str, ...], int] = {}
    for each in formulas:
        for names, count in each.terms.items():
            terms[names] = terms.get(names, 0) + count
    return Formula({names: count for names, count in terms.items() if count})


def _terms(given: Formula | int) -> Terms:
    return given.terms if isinstance(given, Formula) else read(given)
