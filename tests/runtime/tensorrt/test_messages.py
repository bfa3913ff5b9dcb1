"""What TensorRT says: kept by a logger of ours, taken once, whoever else speaks meanwhile."""

import threading

import pytest

from graphwright.runtime.tensorrt import messages
from tests.runtime.tensorrt.runtime_double import ILogger, TensorRTDouble


def test_errors_are_taken_once_and_the_rest_is_let_go(trt: TensorRTDouble) -> None:
    own = messages.logger(trt)
    for severity, text in ((ILogger.Severity.WARNING, "slow"), (ILogger.Severity.ERROR, "Error Code 3: no shape")):
        own.log(severity, text)
    assert [messages.taken(trt, "nothing") for _ in range(2)] == ["no shape", "nothing"]


def test_what_is_said_while_messages_are_taken_does_not_wait(
    trt: TensorRTDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection may come anywhere, and drop an engine that has something to say in the same thread."""
    own, found = messages.logger(trt), []
    own.log(ILogger.Severity.ERROR, "first")

    def clean(text: str) -> str:
        with own.lock:
            own.log(ILogger.Severity.ERROR, "second")
        return text

    monkeypatch.setattr(messages, "clean", clean)
    thread = threading.Thread(target=lambda: found.append(messages.taken(trt, "")), daemon=True)
    thread.start()
    thread.join(10)
    assert found == ["first"]
