"""The option ``tune`` of a compilation: at which shapes, with which limits, and what is said where it cannot be."""

from collections.abc import Callable

from graphwright.compilation.settings import Settings
from graphwright.engine.pipeline import Pipeline
from graphwright.engine.sample import sample_inputs
from graphwright.errors import RequestError, UsageError
from graphwright.frontends import Source
from graphwright.runtime.bound import BoundProfile
from graphwright.tuning.cache import ChoiceCache, default_folder
from graphwright.tuning.spellings import Arrays
from graphwright.tuning.tune import Tuned, Tuner


def tune(
    source: Source, pipeline: Pipeline, profile: BoundProfile, settings: Settings, tell: Callable[[str], None]
) -> Tuned:
    """Tune a pipeline for a source at the opt shapes of each profile.

    Raises:
        UsageError: a profile without bounds, which has no shape to be fast at.
        RequestError: inputs cannot be drawn, and there are no examples.
        MissingDependencyError: the device is not there.
    """
    if not profile.is_bounded:
        free = sorted({dim for ranges in profile.profiles for dim, given in ranges.items() if given.max is None})
        text = ",".join(f"{dim}=1:8:32" for dim in free)
        needed = "a profile with the shapes to be fast at"
        raise UsageError("option tune", f"no bounds for {', '.join(free)}", needed=needed, hint=f"--profile {text}")
    points = [_inputs(source, profile, index) for index in range(len(profile.profiles))]
    shapes = tuple(_text(profile, index) for index in range(len(profile.profiles)))
    cache = ChoiceCache(settings.tuning_cache or default_folder())
    tuner = Tuner(settings.target, points, shapes, cache, settings.tuning_seconds, tell=tell)
    return tuner.tune(source.model, pipeline)


def _inputs(source: Source, profile: BoundProfile, index: int) -> Arrays:
    """Draw inputs at a profile's opt; where that cannot be, the examples stand for them."""
    try:
        return sample_inputs(source.model, profile.shapes("opt", index), seed=index)
    except RequestError:
        if source.example_inputs is None:
            raise
        return source.example_inputs


def _text(profile: BoundProfile, index: int) -> str:
    return ",".join(f"{dim}={size}" for dim, size in profile.sizes("opt", index).items()) or "fixed"
