"""Passes of other packages, by entry points: ``family.name = "module:RULE"`` in the group ``graphwright.passes``."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from graphwright.engine.pipeline import FAMILIES, Catalogue, FunctionPass, Pass, RuleMaker
from graphwright.engine.rewrite import Rule
from graphwright.errors import PipelineError
from graphwright.passes import CATALOGUE

GROUP = "graphwright.passes"


@cache
def catalogue() -> Catalogue:
    """Return the catalogue with the passes of every installed package; they are in no default pipeline.

    Raises:
        PipelineError: an entry that is no pass, cannot be loaded, or has the name of another.
    """
    return extended(CATALOGUE, tuple(entry_points(group=GROUP)))


def extended(own: Catalogue, entries: tuple[EntryPoint, ...]) -> Catalogue:
    """Return a catalogue with the passes that the entries name behind its own of each family.

    Raises:
        PipelineError: as :func:`catalogue` says.
    """
    families = {family: list(passes) for family, passes in own.families.items()}
    owners = {step.name: "graphwright" for step in own.steps()}
    for entry in sorted(entries, key=lambda each: (each.name, each.value)):
        family, found = _load(entry)
        owner = entry.dist.name if entry.dist is not None else entry.value
        if found.name in owners:
            both = f"two passes named {found.name!r}, of {owners[found.name]} and of {owner}"
            raise PipelineError(f"entry point {entry.name}", both, needed="one pass of a name")
        owners[found.name] = owner
        families[family].append(found)
    return Catalogue({family: tuple(passes) for family, passes in families.items()}, own.defaults)


def _load(entry: EntryPoint) -> tuple[str, Pass]:
    where = f"entry point {entry.name} = {entry.value}"
    family, _, name = entry.name.partition(".")
    if family not in FAMILIES or not name:
        raise PipelineError(
            where, f"the name {entry.name!r}", needed=f"{' or '.join(FAMILIES)}, a dot, and the pass's name"
        )
    try:
        found = entry.load()
    except Exception as error:
        raise PipelineError(where, f"{type(error).__name__}: {error}", hint="update or remove the package") from error
    if not isinstance(found, Rule | FunctionPass | RuleMaker) or found.name != name:
        raise PipelineError(where, repr(found), needed=f"a Rule or FunctionPass or RuleMaker named {name!r}")
    return family, found
