"""Table II of the paper, computed: one attention layer, exact and with DAMF, in three ways of counting.

``FORMULAS`` has them all. The paper's own figures mix one head with all heads; its ratios mix configurations: 284 is
BERT-small over BERT-base with DAMF, 2.21 is BERT-base over BERT-small. Its ratio of memory traffic, 2.71, does not
follow from what it says.

Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", Table II.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Convention = Literal["paper", "consistent", "complete"]
_BYTES, _MIB = 4, 2**20
FORMULAS: dict[Convention, tuple[str, ...]] = {
    "paper": (
        "what gives the figures of the paper: scores and their scale count, the product with the values does not;",
        "of DAMF's vectors u and v, and of its scores, one head counts, of the products with u and v all heads",
        "exact:  P = 4 d^2, S = 4 L d^2, D = L^2 (d + h)",
        "DAMF:   P = 2 d^2 + 2 d r, S = 2 L d^2 + 2 L d h r, D = (1 + r) L^2",
    ),
    "consistent": (
        "the same operations, of all heads everywhere",
        "exact:  as above",
        "DAMF:   P = 2 d^2 + 2 d h r, S as above, D = (1 + r) L^2 h",
    ),
    "complete": (
        "every product of activations, no scale, biases are parameters; linear is the form that graphwright makes",
        "exact:  P = 4 d^2 + 4 d, S = 4 L d^2, D = 2 L^2 d",
        "DAMF:   P = 2 d^2 + 2 d + 2 (d + 1) h r, S as above, D = L^2 (h r + d)",
        "linear: P and S as DAMF, D = 2 L (r + 1) (d + h)",
    ),
}
SYMBOLS = (
    "width d, heads h, length L, rank r; P parameters (four bytes each), S products of an activation and a weight,\n"
    "D products of two activations (dynamic), MACs = S + D"
)


@dataclass(frozen=True)
class Layer:
    """One layer of self attention: exact where it has no rank, else DAMF's, in linear form or with all scores."""

    name: str
    width: int
    heads: int
    length: int = 128
    rank: int | None = None
    is_linear: bool = False


BERT_BASE = Layer("BERT-base", 768, 12)
BERT_SMALL = Layer("BERT-small", 512, 8)
BERT_DAMF = Layer("BERT-base + DAMF", 768, 12, rank=1)
BERT_LINEAR = Layer("BERT-base + DAMF, linear", 768, 12, rank=1, is_linear=True)


@dataclass(frozen=True)
class Figures:
    """What a layer costs in one way of counting."""

    layer: Layer
    convention: Convention
    parameters: int
    static_macs: int
    dynamic_macs: int

    @property
    def macs(self) -> int:
        """All MACs."""
        return self.static_macs + self.dynamic_macs

    @property
    def mebibytes(self) -> float:
        """The parameters, four bytes each."""
        return self.parameters * _BYTES / _MIB

    @property
    def dynamic_share(self) -> float:
        """The dynamic MACs' part of all."""
        return self.dynamic_macs / self.macs

    def row(self) -> tuple[str, str, str, str, str, str]:
        """Return layer, convention, MiB, dynamic MACs in millions, their percentage, and MACs in millions, as text."""
        numbers = (self.mebibytes, self.dynamic_macs / 1e6, 100 * self.dynamic_share, self.macs / 1e6)
        mebibytes, dynamic, share, macs = (f"{number:.2f}" for number in numbers)
        return self.layer.name, self.convention, mebibytes, dynamic, share, macs


def figures(layer: Layer, convention: Convention) -> Figures:
    """Return what a layer costs; the linear form counts completely only, the paper does not have it.

    Raises:
        ValueError: the linear form in another convention than ``complete``.

    Example:
        >>> for layer in (BERT_BASE, BERT_SMALL, BERT_DAMF):
        ...     print(*figures(layer, "paper").row()[2:])
        9.00 12.78 4.06 314.77
        4.00 8.52 5.97 142.74
        4.51 0.03 0.02 153.39
        >>> print(*figures(BERT_DAMF, "consistent").row()[2:])
        4.57 0.39 0.26 153.75
    """
    width, heads, length = layer.width, layer.heads, layer.length
    weights, projected = 4 * width**2, 4 * length * width**2
    if layer.rank is None:
        if convention == "complete":
            return Figures(layer, convention, weights + 4 * width, projected, 2 * length**2 * width)
        return Figures(layer, convention, weights, projected, length**2 * (width + heads))
    if layer.is_linear and convention != "complete":
        raise ValueError(f"the convention {convention} has no linear form")
    rank = layer.rank
    static = projected // 2 + 2 * length * width * heads * rank
    if convention == "paper":
        return Figures(layer, convention, weights // 2 + 2 * width * rank, static, (1 + rank) * length**2)
    if convention == "consistent":
        return Figures(
            layer, convention, weights // 2 + 2 * width * heads * rank, static, (1 + rank) * length**2 * heads
        )
    parameters = weights // 2 + 2 * width + 2 * (width + 1) * heads * rank
    pairs = length**2 * (heads * rank + width)
    dynamic = 2 * length * (rank + 1) * (width + heads) if layer.is_linear else pairs
    return Figures(layer, convention, parameters, static, dynamic)


def table() -> list[Figures]:
    """Return Table II, layer by layer: as the paper counts, then consistently, then completely."""
    conventions: tuple[Convention, ...] = ("paper", "consistent", "complete")
    found = [figures(layer, each) for layer in (BERT_BASE, BERT_SMALL, BERT_DAMF) for each in conventions]
    return [*found, figures(BERT_LINEAR, "complete")]


@dataclass(frozen=True)
class Ratio:
    """How many times less DAMF needs than BERT-base: as the paper prints it, and of one configuration.

    ``origin`` tells what the paper divided. ``complete`` is of the linear form.
    """

    what: str
    printed: float
    origin: str
    consistent: float
    complete: float


def ratios() -> list[Ratio]:
    """Return the ratios of Table II.

    Example:
        >>> for each in ratios():
        ...     print(each.what, each.printed, round(each.consistent, 2), round(each.complete, 2))
        parameters 1.99 1.97 1.97
        dynamic MACs 284.0 32.5 63.02
        MACs 2.21 2.05 2.13
    """
    pairs = [
        (figures(BERT_BASE, "consistent"), figures(BERT_DAMF, "consistent")),
        (figures(BERT_BASE, "complete"), figures(BERT_LINEAR, "complete")),
    ]
    parameters = [exact.parameters / damf.parameters for exact, damf in pairs]
    dynamic = [exact.dynamic_macs / damf.dynamic_macs for exact, damf in pairs]
    macs = [exact.macs / damf.macs for exact, damf in pairs]
    return [
        Ratio("parameters", 1.99, "BERT-base / DAMF, one head's vectors", *parameters),
        Ratio("dynamic MACs", 284.0, "BERT-small / DAMF, 8.52 / 0.03 as printed", *dynamic),
        Ratio("MACs", 2.21, "BERT-base / BERT-small", *macs),
    ]


def to_json() -> dict[str, Any]:
    """Return the table, the ratios and the formulas as JSON takes them."""
    rows = [
        {**asdict(each), "mebibytes": each.mebibytes, "macs": each.macs, "dynamic_share": each.dynamic_share}
        for each in table()
    ]
    formulas = {name: list(lines) for name, lines in FORMULAS.items()}
    return {"rows": rows, "ratios": [asdict(each) for each in ratios()], "symbols": SYMBOLS, "formulas": formulas}
