"""What TensorRT says, kept for the errors that graphwright raises: its calls answer None or False and nothing more.

One object for the whole process: TensorRT keeps the first that it is given as the global one, and its registry of
plugins talks to no other.
"""

import re
import threading
from collections import deque
from functools import cache
from typing import Any

# The last ones tell what is wrong; a chain of errors is seldom longer.
_KEPT = 20
# Such as "[engine.cpp::read::1234] Error Code 6: API Usage Error (...)": the place in its source says nothing here.
_PLACE = re.compile(r"\[[\w./]+::\S*?::\d+\]\s*|\s*In \w+ at \S+:\d+")
_CODE = re.compile(r"Error Code \d+: ")


@cache
def logger(trt: Any) -> Any:
    """Return the logger to give to TensorRT, the same for every call."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the library that is loaded
        """Keeps errors; warnings and the rest are let go, as a result shows them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: deque[str] = deque(maxlen=_KEPT)
            # Of a thread that holds it, a collection may drop an engine, which may log.
            self.lock = threading.RLock()

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                with self.lock:
                    self.kept.append(msg)

    return Logger()


def taken(trt: Any, otherwise: str) -> str:
    """Return the errors since the last call as one line, and forget them; ``otherwise`` where there are none."""
    own = logger(trt)
    with own.lock:
        kept = list(own.kept)
        own.kept.clear()
    return "; ".join(dict.fromkeys(text for text in map(clean, kept) if text)) or otherwise


def clean(text: str) -> str:
    """Return a message without the places in TensorRT's source.

    Example:
        >>> clean("[run.cpp::check::12] Error Code 3: API Usage Error (the shape is wrong. In check at a/b.cpp:12)")
        'API Usage Error (the shape is wrong.)'
    """
    return " ".join(_CODE.sub("", _PLACE.sub("", text)).split())
