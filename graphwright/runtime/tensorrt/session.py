"""Run a TensorRT plan: checked requests, NumPy or torch in and out, the interface of ``OrtSession``."""

import weakref
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

from graphwright.errors import ProfileError, RequestError, UsageError
from graphwright.runtime import tensors
from graphwright.runtime.bind import bind
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.profile import Profile
from graphwright.runtime.tensorrt import cuda_driver, library
from graphwright.runtime.tensorrt.engine import Engine
from graphwright.runtime.tensorrt.graphs import Graphs
from graphwright.runtime.tensorrt.plan import read_plan
from graphwright.runtime.tensorrt.runner import Runner
from graphwright.runtime.tensorrt.scratch import SharedScratch
from graphwright.runtime.tensorrt.sidecar import Sidecar

# Requests of different shapes whose checks and profiles are remembered.
_SIGNATURES_KEPT = 1024


class TensorRTSession:
    """A plan in TensorRT, callable with arrays by input name. Several threads may call it at once; runs take turns.

    torch tensors on the device are read where they lie, and results are such tensors, in the order of torch's current
    stream, without waiting. Everything else is copied to the device and back, through buffers that are allocated once;
    a result then belongs to the caller, as with ``OrtSession``. An output that TensorRT writes into an input's memory,
    such as a key-value cache, is that input's tensor.

    Of the plan's profiles the one runs whose optimum is nearest to a request. ``profile`` narrows what is accepted.
    ``scratch`` is shared with other sessions (``scratch.SharedScratch``); without one the plan's profiles share their
    own. ``cuda_graphs`` records the launches of each shape at its second call, in a context of its own: inputs and
    outputs are then copied to fixed addresses, which pays where launches are the larger part. ``plugins`` are libraries
    to load first; ``sidecar`` is for a plan given as bytes, since a path has its own beside it. ``weights`` is the
    model file that fills a plan which was built without its weights, or whose weights may be changed.

    Raises:
        LoadError: no plan, a broken one, or one of another version or for another GPU.
        ProfileError: the profile does not lie inside the plan's.
        MissingDependencyError: TensorRT, the GPU or a plugin is not there, or the GPU lacks memory.
        UsageError: a plan that is neither a path nor bytes, or a scratch on another GPU.

    Example:
        ::

            session = TensorRTSession("encoder.plan", cuda_graphs=True)
            session(input_ids=ids, attention_mask=mask)["last_hidden_state"]
    """

    def __init__(
        self,
        plan: str | Path | bytes,
        profile: BoundProfile | Profile | str | None = None,
        *,
        scratch: SharedScratch | None = None,
        cuda_graphs: bool = False,
        device: int = 0,
        plugins: Sequence[str | Path] = (),
        sidecar: Sidecar | None = None,
        weights: str | Path | None = None,
    ) -> None:
        if scratch is not None and scratch.device != device:
            raise UsageError("scratch", f"one on cuda:{scratch.device}", needed=f"one on cuda:{device}, the session's")
        file = read_plan(plan, sidecar)
        # What is missing is told in the order in which one installs it.
        library.tensorrt_library()
        cuda = cuda_driver.cuda(device)
        with cuda.current():
            engine = Engine(file, device=device, plugins=plugins, weights=weights)
            self._engine_profile = engine.profile
            self.profile = _bound(profile, engine.profile)
            self.outputs = tuple(each.port for each in engine.outputs)
            used = scratch or SharedScratch(device)
            self._own_scratch = used if scratch is None else None
            self._runner = Runner(engine, cuda, used, with_graphs=cuda_graphs)
        self._close = weakref.finalize(self, self._runner.close)
        self._device = device
        self._signatures: dict[Any, int] = {}

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """Run the plan: a mapping, keywords, or both. torch tensors among the inputs give torch tensors.

        Raises:
            RequestError: the request does not fit the plan or the profile, or TensorRT refuses its values.
            MissingDependencyError: the GPU lacks memory, or CUDA reports an error.
            UsageError: the session or its scratch is closed.
        """
        request = {**inputs, **named} if inputs else named
        if inputs and len(request) < len(inputs) + len(named):
            twice = ", ".join(name for name in named if name in inputs)
            raise RequestError("request", f"input {twice} given twice", needed="each input once")
        return self._runner.run(self._chosen(request), request)

    @property
    def graphs(self) -> Graphs | None:
        """The CUDA graphs, where they were asked for: how many there are, and why there are no more."""
        return self._runner.graphs

    def close(self) -> None:
        """Free the engine and its memory; also done when the object is dropped."""
        self._close()
        if self._own_scratch is not None:
            self._own_scratch.close()

    def _chosen(self, request: Mapping[str, Any]) -> int:
        """Check a request and choose its profile, once for each signature."""
        try:
            key = tuple((name, value.dtype, value.shape, _place(value)) for name, value in request.items())
            known = self._signatures.get(key)
        except (AttributeError, TypeError):
            key, known = None, None
        if known is not None:
            return known
        self.profile.check(request)
        self._check_places(request)
        # The dimensions of a profile that was given may have other names than the plan's.
        chosen = nearest(self._engine_profile, self._engine_profile.check(request))
        if key is not None:
            if len(self._signatures) >= _SIGNATURES_KEPT:
                self._signatures.clear()
            self._signatures[key] = chosen
        return chosen

    def _check_places(self, request: Mapping[str, Any]) -> None:
        for name, value in request.items():
            if tensors.is_torch(value):
                where = value.device
                if where.type not in ("cpu", "cuda") or (where.type == "cuda" and where.index != self._device):
                    hint = f"call .to('cuda:{self._device}'), or open the session with device={where.index}"
                    raise RequestError(
                        f"input {name}", f"a tensor on {where}", needed=f"one on cuda:{self._device}", hint=hint
                    )
            elif hasattr(value, "__cuda_array_interface__"):
                needed, hint = "a NumPy array or a torch tensor", "torch.from_dlpack(array) takes its memory over"
                raise RequestError(f"input {name}", f"a {type(value).__name__} on a device", needed=needed, hint=hint)


def nearest(profile: BoundProfile, sizes: Mapping[str, int]) -> int:
    """Return which of several profiles allows these sizes and is optimal for sizes the fewest doublings away.

    Raises:
        RequestError: each allows some of the sizes, none all of them.

    Example:
        >>> from graphwright.runtime.bound import Range
        >>> short, long = {"seq": Range(1, 16, 128)}, {"seq": Range(1, 256, 512)}
        >>> both = BoundProfile((), (short, long))
        >>> [nearest(both, {"seq": size}) for size in (8, 100, 200)]
        [0, 1, 1]
    """
    fitting = {
        index: sum(abs(log(max(sizes[dim], 1) / max(given.opt, 1))) for dim, given in ranges.items() if dim in sizes)
        for index, ranges in enumerate(profile.profiles)
        if all(sizes[dim] in given for dim, given in ranges.items() if dim in sizes)
    }
    if not fitting:
        found = ", ".join(f"{dim} = {size}" for dim, size in sizes.items())
        raise RequestError("request", found, needed="sizes that one profile of the plan allows together")
    return min(fitting, key=lambda index: fitting[index])


def _place(value: Any) -> Any:
    # An array of another library may have the type and the shape of one of NumPy's, and lie on a device.
    return value.device if tensors.is_torch(value) else type(value)


def _bound(profile: BoundProfile | Profile | str | None, engine: BoundProfile) -> BoundProfile:
    """Return the plan's own profiles, or the one given where each of its ranges lies inside one of the plan's."""
    if profile is None:
        return engine
    if not isinstance(profile, BoundProfile):
        profile = Profile.parse(profile) if isinstance(profile, str) else profile
        if not profile.alternatives:
            return engine
        profile = bind(profile, engine.inputs)
    wanted, there = (sorted((port.name, port.dtype or 0) for port in of.inputs) for of in (profile, engine))
    if wanted != there:
        found = f"one bound to inputs {', '.join(map(str, profile.inputs))}"
        needed = f"the plan's own: {', '.join(map(str, engine.inputs))}"
        raise ProfileError("profile", found, needed=needed, hint="bind it to this plan's inputs")
    for index, ranges in enumerate(profile.profiles):
        corners = [profile.shapes("min", index), profile.shapes("max", index)]
        if not any(_allows(engine, one, corners) for one in range(len(engine.profiles))):
            text = ",".join(f"{dim}={given}" for dim, given in ranges.items())
            raise ProfileError("profile", text, needed=f"one inside the plan's: {_text(engine)}", hint="build it wider")
    return profile


def _allows(engine: BoundProfile, index: int, corners: Sequence[Mapping[str, tuple[int, ...]]]) -> bool:
    least, most = engine.shapes("min", index), engine.shapes("max", index)
    return all(
        len(shape) == len(least[name])
        and all(low <= size <= high for low, size, high in zip(least[name], shape, most[name], strict=True))
        for shapes in corners
        for name, shape in shapes.items()
    )


def _text(engine: BoundProfile) -> str:
    return ";".join(",".join(f"{dim}={given}" for dim, given in ranges.items()) for ranges in engine.profiles)
