"""A plan as a torch module: torch-tensorrt's own where it can run the plan, else one around ``TensorRTSession``.

torch-tensorrt's module is known to ``torch.compile`` and ``torch.export``; but each of its releases is made for one
release of TensorRT, which is seldom the newest, and it runs the first profile of a plan only. So it is taken where the
versions agree and nothing is asked of it that it lacks, and its absence changes nothing but that.

Source: ``torch_tensorrt.dynamo.runtime.TorchTensorRTModule``, torch-tensorrt 2.13.
"""

from collections.abc import Container, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from graphwright.errors import MissingDependencyError, RequestError, UsageError
from graphwright.runtime import dims
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.engine import load_plugins
from graphwright.runtime.tensorrt.plan import PlanFile, check_fits, read_plan
from graphwright.runtime.tensorrt.session import TensorRTSession
from graphwright.runtime.tensorrt.sidecar import Sidecar

Runtime = Literal["auto", "torch-tensorrt", "graphwright"]
_RUNTIMES = ("auto", "torch-tensorrt", "graphwright")


class EngineModule(torch.nn.Module):
    """A session as a module. It has no parameters, and needs the plan again wherever it goes: it cannot be pickled.

    ``forward`` takes tensors in the order of the plan's inputs, or by name, and gives the outputs in their order: one
    tensor, or a tuple of several.
    """

    def __init__(self, session: TensorRTSession) -> None:
        super().__init__()
        self.session = session
        self.input_names = tuple(port.name for port in session.profile.inputs)
        self.output_names = tuple(port.name for port in session.outputs)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Run the plan.

        Raises:
            RequestError: more inputs than the plan has, or as ``TensorRTSession`` says.
        """
        if len(inputs) > len(self.input_names):
            needed = f"at most {len(self.input_names)}: {', '.join(self.input_names)}"
            raise RequestError("request", f"{len(inputs)} inputs", needed=needed)
        given = dict(zip(self.input_names, inputs, strict=False))
        found = self.session(given, **named)
        outputs = tuple(found[name] for name in self.output_names)
        return outputs[0] if len(outputs) == 1 else outputs


def as_torch_module(
    plan: str | Path | bytes,
    *,
    runtime: Runtime = "auto",
    cuda_graphs: bool = False,
    device: int = 0,
    plugins: Sequence[str | Path] = (),
    sidecar: Sidecar | None = None,
    weights: str | Path | None = None,
) -> torch.nn.Module:
    """Return a module that runs a plan on tensors; ``runtime`` says whose, the rest is as for ``TensorRTSession``.

    Raises:
        UsageError: no such runtime.
        LoadError: no plan, a broken one, or one of another version or for another GPU.
        MissingDependencyError: TensorRT, the GPU or a plugin is not there, or torch-tensorrt cannot run the plan.

    Example:
        ``as_torch_module("encoder.plan")(input_ids, attention_mask)``
    """
    if runtime not in _RUNTIMES:
        raise UsageError("option runtime", repr(runtime), needed=" or ".join(_RUNTIMES))
    file = read_plan(plan, sidecar)
    # torch-tensorrt has graphs for the whole process or not at all, and refits from a torch module only.
    is_ours = runtime == "graphwright" or cuda_graphs or weights is not None
    reason = "CUDA graphs or weights" if is_ours else _why_not(file)
    if runtime == "torch-tensorrt" and reason:
        hint = "leave runtime out: graphwright's own module runs it"
        raise MissingDependencyError(f"{file.where} in torch-tensorrt", reason, needed="a plan that it runs", hint=hint)
    if not reason:
        check_fits(file, library.version_of(library.tensorrt_library()), library.device(device))
        load_plugins(library.tensorrt_library(), plugins)
        return _torch_tensorrt_module(file, device)
    session = TensorRTSession(
        file.content, cuda_graphs=cuda_graphs, device=device, plugins=plugins, sidecar=file.sidecar, weights=weights
    )
    return EngineModule(session)


def _why_not(plan: PlanFile) -> str:
    """Return what keeps torch-tensorrt from running a plan as it should be, or nothing."""
    sidecar = plan.sidecar
    if sidecar is None:
        return "a plan without a sidecar, which names its inputs in their order"
    if len(sidecar.profiles) != 1:
        return f"{len(sidecar.profiles)} profiles, of which it runs one"
    if sidecar.flags.get("strip_weights"):
        return "a plan without its weights"
    known = {dim for port in sidecar.inputs for dim in port.dims or ()}
    if not all(port.dims is not None and all(_follows(dim, known) for dim in port.dims) for port in sidecar.outputs):
        return "an output whose size may follow from values, for which it must be told"
    if find_spec("torch_tensorrt") is None:
        return "no torch-tensorrt"
    made_for, made_by = _made_for(), sidecar.tensorrt
    if made_for is None or library.release(made_for) != library.release(made_by):
        return f"torch-tensorrt for TensorRT {made_for or 'of unknown version'}, and a plan of {made_by}"
    return ""


def _follows(dim: int | str, known: Container[int | str]) -> bool:
    """Whether a size is a number, or made of sizes of the inputs."""
    if isinstance(dim, int) or dim in known:
        return True
    names = dims.symbols(dim)
    return bool(names) and all(name in known for name in names)


def _made_for() -> str | None:
    """Return the version of TensorRT that torch-tensorrt was built for, as far as it tells."""
    try:
        # The package itself does not pass the name on.
        from torch_tensorrt._version import __tensorrt_version__
    except (ImportError, OSError, RuntimeError):
        # It loads TensorRT's libraries, and those that are there may be others.
        return None
    return str(__tensorrt_version__).lstrip("><=~ ") or None


def _torch_tensorrt_module(plan: PlanFile, device: int) -> torch.nn.Module:
    import torch_tensorrt
    from torch_tensorrt.dynamo import CompilationSettings
    from torch_tensorrt.dynamo.runtime import TorchTensorRTModule

    assert plan.sidecar is not None
    settings: Any = CompilationSettings(
        device=torch_tensorrt.Device(gpu_id=device),
        hardware_compatible=plan.sidecar.flags.get("hardware_compatibility") == "AMPERE_PLUS",
        version_compatible=plan.is_version_compatible,
    )
    module: torch.nn.Module = TorchTensorRTModule(
        plan.content,
        [port.name for port in plan.sidecar.inputs],
        [port.name for port in plan.sidecar.outputs],
        name=plan.sidecar.key,
        settings=settings,
    )
    return module
