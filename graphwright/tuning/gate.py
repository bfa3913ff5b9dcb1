"""Which rules may fire where: the choices that were made, as an observer of the run."""

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from graphwright.engine.observe import Observer
from graphwright.engine.rewrite import source_names
from graphwright.tuning.choices import CHOICES, Alternative, Choice, choice_of
from graphwright.tuning.regions import Region


class Chosen(Observer):
    """Lets the rules of a choice fire in the regions whose alternative names them, and leaves all other rules alone.

    A rule on nodes of no region fires where the pipeline has it without tuning (``base``).
    """

    def __init__(
        self,
        decisions: Iterable[tuple[Region, Alternative]],
        base: Iterable[str],
        choices: tuple[Choice, ...] = CHOICES,
    ) -> None:
        self.choices = choices
        self.base = frozenset(base)
        self._owners: dict[tuple[str, str], list[Alternative]] = {}
        for region, alternative in decisions:
            for name in region.sources:
                self._owners.setdefault((region.choice.name, name), []).append(alternative)

    def slower_than(self, pass_name: str, nodes: Sequence[ir.Node]) -> str:
        """Name the alternative that was chosen where it does not have this rule."""
        choice = choice_of(pass_name, self.choices)
        if choice is None:
            return ""
        names = {name for node in nodes for name in source_names(node)}
        owners = [each for name in names for each in self._owners.get((choice.name, name), ())]
        other = next((each for each in owners if pass_name not in each.passes), None)
        if other is not None:
            return f"{other.name}, by measurement on this machine"
        if not owners and pass_name not in self.base:
            return "the default pipeline: nothing was measured for these nodes"
        return ""
