"""The pipeline of a compilation: from text, from a list of all that can be a pass, and from scripts."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from graphwright.engine.pipeline import FunctionPass, Pipeline, Step
from graphwright.errors import PipelineError
from graphwright.passes.adapt import adapt
from graphwright.passes.discovery import catalogue
from graphwright.tracing import prepare

# The family of passes that are not of the catalogue.
USER = "user"


def build_pipeline(passes: str | Sequence[object] | None, target: str, scripts: Sequence[str] = ()) -> Pipeline:
    """Return the steps to run; a list may hold text, ``file.py:function``, and whatever ``adapt`` takes.

    Texts that stand beside each other are read as one, so that ``["default", "-fuse-gelu"]`` means what it
    says.

    Raises:
        PipelineError: text that cannot be read, an unknown pass, or a thing that is no pass.
        UsageError: a script that cannot be loaded.
        MissingDependencyError, ExportError: a rule's traced pattern that nobody has traced yet, and that cannot be.

    Example:
        >>> str(build_pipeline(["fuse-gelu", lambda graph: None], "ort-cpu"))
        'fuse-gelu,gs:<lambda>'
    """
    if passes is None:
        steps = list(catalogue().default(target).steps)
    elif isinstance(passes, str):
        steps = list(catalogue().parse(passes, target).steps)
    elif isinstance(passes, Sequence):
        steps = [step for is_text, items in groupby(passes, _is_text) for step in _steps(items, is_text, target)]
    else:
        raise PipelineError("passes", f"a {type(passes).__name__}", needed="pipeline text or a list of passes")
    prepare(step.implementation for step in steps)
    return Pipeline((*(_script(text) for text in scripts), *steps))


def _is_text(item: object) -> bool:
    return isinstance(item, str) and not _is_script(item)


def _is_script(item: object) -> bool:
    return isinstance(item, str) and ".py:" in item


def _steps(items: Any, is_text: bool, target: str) -> list[Step]:
    if is_text:
        return list(catalogue().parse(",".join(items), target).steps)
    return [_script(item) if isinstance(item, str) else _step(item) for item in items]


def _step(item: object) -> Step:
    known = next((step for step in catalogue().steps() if step.implementation is item), None)
    if known is not None:
        return known
    try:
        return Step(adapt(item), USER)
    except PipelineError:
        if not callable(item):
            raise
    return Step(_graphsurgeon(item), USER)


def _script(text: str) -> Step:
    from graphwright.frontends.graphsurgeon import apply, load_script

    script = load_script(text)
    return Step(FunctionPass(f"gs:{script.name}", partial(apply, script)), USER)


def _graphsurgeon(function: Callable[..., Any]) -> FunctionPass:
    from graphwright.frontends.graphsurgeon import Script, apply

    name = getattr(function, "__name__", type(function).__name__)
    script = Script(getattr(function, "__module__", None) or "function", name, function)
    return FunctionPass(f"gs:{name}", partial(apply, script))
