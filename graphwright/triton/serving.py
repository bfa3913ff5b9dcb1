"""How a model is to be served: the options of ``export-triton``, checked as far as they can be without the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from graphwright.errors import UsageError
from graphwright.triton.config import Backend

Device = Literal["cpu", "gpu"]
# Of an artifact's target, or "tensorrt" for a plan: where Triton can run it, the usual place first.
DEVICES: dict[str, tuple[Device, ...]] = {
    "ort-cpu": ("cpu",),
    "onnx": ("cpu", "gpu"),
    "ort-cuda": ("gpu",),
    "tensorrt": ("gpu",),
}


@dataclass(frozen=True)
class Serving:
    """Options of :func:`graphwright.export_triton`.

    ``max_batch``: None is what the profile allows, 0 no batching. ``profiles``: numbers of those to serve, None for
    all. ``device``: None is the target's own. ``instances`` run at the same time, on each of ``gpus`` or each GPU.
    ``threads`` of each instance, None for ONNX Runtime's choice. ``queue_delay``: microseconds to wait for a fuller
    batch. ``kernels``: the folder in which the server sees the repository; with it the compiled kernels go along.
    ``check_rows``: compare rows in a batch with the same rows alone, and try the warm-up.

    Raises:
        UsageError: a value out of its range.

    Example:
        >>> Serving(instances=0)
        Traceback (most recent call last):
        graphwright.errors.UsageError: instances: found 0; needed at least 1
    """

    max_batch: int | None = None
    profiles: Sequence[int] | None = None
    device: Device | None = None
    instances: int = 1
    gpus: tuple[int, ...] = ()
    threads: int | None = None
    queue_delay: int = 0
    kernels: str | None = None
    cuda_graphs: bool = False
    warmup: bool = True
    check_rows: bool = True

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max batch", self.max_batch, 0),
            ("instances", self.instances, 1),
            ("threads", self.threads, 1),
            ("queue delay", self.queue_delay, 0),
            *(("gpu", number, 0) for number in self.gpus),
        ):
            if value is not None and value < least:
                raise UsageError(name, str(value), needed=f"at least {least}")
            # The fields of Triton's messages are 32-bit numbers.
            if value is not None and value >= 2**31:
                raise UsageError(name, str(value), needed=f"less than {2**31}")
        as_device(self.device)
        if self.kernels is not None and not PurePosixPath(self.kernels).is_absolute():
            needed = "an absolute path, since Triton hands it to the system's loader as it is"
            raise UsageError("kernels", repr(self.kernels), needed=needed, hint="--with-kernels /models")

    def device_for(self, target: str) -> Device:
        """Return where a model of a target runs.

        Raises:
            UsageError: not on the device that is wanted.
        """
        possible = DEVICES[target]
        if self.device is not None and self.device not in possible:
            hint = "optimize for another target" if target != "tensorrt" else "export an artifact instead of a plan"
            raise UsageError("device", self.device, needed=f"{possible[0]}, as {target} runs on", hint=hint)
        return self.device or possible[0]

    def check(self, backend: Backend, target: str) -> None:
        """Refuse options that the backend or the device has no use for.

        Raises:
            UsageError: there is one.
        """
        device = self.device_for(target)
        unused = {
            "gpus": bool(self.gpus) and device == "cpu",
            "threads": self.threads is not None and backend == "tensorrt",
            "kernels": self.kernels is not None and device == "gpu",
            "cuda graphs": self.cuda_graphs and backend != "tensorrt",
        }
        for name, is_unused in unused.items():
            if is_unused:
                found = f"it for the backend {backend} on the {device}"
                raise UsageError(f"option {name}", found, needed="an option that has an effect", hint="leave it out")


def as_device(text: str | None) -> Device | None:
    """Return the device that a text names.

    Raises:
        UsageError: none does.

    Example:
        >>> as_device("gpu")
        'gpu'
    """
    if text is None:
        return None
    if text == "cpu":
        return "cpu"
    if text == "gpu":
        return "gpu"
    raise UsageError("device", repr(text), needed="cpu or gpu")
