"""What a runtime that rounds more than the graph says costs: measured against the source, and reported, not judged."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from graphwright.compilation.checking import Checked, Failure, Stretch, verified_point
from graphwright.compilation.running import Arrays, Call, outputs_at, runner
from graphwright.engine.deviation import Deviation, broken, deviations, worst_of
from graphwright.errors import GraphwrightError
from graphwright.frontends import Source
from graphwright.report import VerifiedPoint


def with_loss(
    checked: Checked,
    source: Source,
    original: Path | None,
    finished: ir.Model,
    rounding: Call,
    inputs: Sequence[Arrays],
    *,
    one_at_a_time: bool = False,
) -> Checked:
    """Return a check that has passed with the points of a call that runs the same graph in a narrower type.

    It fails where that call gives NaN or infinities for finite numbers, or another form. Points at which the source
    cannot run have been skipped before, and are again.
    """
    points: list[VerifiedPoint] = []
    found: list[Deviation] = []
    with outputs_at(lambda: runner(source, original if one_at_a_time else None), inputs, one_at_a_time) as expected:
        for index, given in enumerate(inputs):
            try:
                due = expected(index)
            except GraphwrightError:
                continue
            got = rounding(given)
            lost = broken(due, got)
            if lost:
                stretch = Stretch(checked.reference, source.model, expected, finished)
                return replace(checked, failure=Failure(tuple(lost), given, stretch, is_lost=True))
            points.append(verified_point(given, due, got))
            found.extend(deviations(due, got))
    kept = max((point.absolute for point in checked.points), default=0.0)
    relative = max((point.relative for point in checked.points), default=0.0)
    return replace(checked, points=tuple(points), kept=(kept, relative), deviations=worst_of(found))
