"""A limit on the time of one run, for models that nobody has vouched for: a Loop in a file need not end."""

from collections.abc import Callable
from threading import Timer
from typing import TypeVar

import onnxruntime as ort

from graphwright.errors import TimeLimitError
from graphwright.runtime.ort_load import ORT_ERRORS

# One run of a model that is being checked may take this long, in seconds.
CHECKED_RUN = 300.0

Result = TypeVar("Result")


def run_within(seconds: float | None, run: Callable[[ort.RunOptions | None], Result]) -> Result:
    """Call ``run`` with the options to give to ONNX Runtime, which ends the run when the time is over.

    Without a limit there are no options: they would cost some 30 us a call.

    Raises:
        TimeLimitError: the time was over.
    """
    if seconds is None:
        return run(None)
    options = ort.RunOptions()
    timer = Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return run(options)
    except ORT_ERRORS as error:
        if not options.terminate:
            raise
        found = f"no end of a run after {seconds:g} s"
        hint = "a smaller profile, or verify='off' for a model you trust"
        raise TimeLimitError("run in ONNX Runtime", found, needed="a model that ends", hint=hint) from error
    finally:
        timer.cancel()
