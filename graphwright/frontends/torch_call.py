"""A torch module as a function of named tensors: arguments bound by name, outputs flattened and named."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch

from graphwright.errors import ExportError, UsageError


def named_arguments(module: torch.nn.Module, given: object) -> dict[str, Any]:
    """Arguments by the names of ``forward``; a tuple or list is in its order, one tensor is its first.

    Raises:
        UsageError: more arguments than ``forward`` takes.
    """
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items() if value is not None}
    values = list(given) if isinstance(given, list | tuple) else [given]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        names += [f"input_{index}" for index in range(len(names), len(values))]
    if len(values) > len(names):
        needed = f"at most {len(names)}: {', '.join(names)}"
        raise UsageError(type(module).__name__, f"{len(values)} example inputs", needed=needed)
    return {name: value for name, value in zip(names, values, strict=False) if value is not None}


def to_torch(value: Any, device: torch.device) -> torch.Tensor:
    """A tensor with memory of its own, so that nothing a module does reaches the caller's array."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device, copy=True)
    array = np.asarray(value)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(np.array(array)).to(device)


def to_numpy(value: torch.Tensor) -> np.ndarray:
    """The tensor's content, bfloat16 as ``ml_dtypes`` has it."""
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        return np.array(value.contiguous().view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    return np.array(value.numpy())


class NamedCall(torch.nn.Module):
    """``module`` as a function of positional tensors called ``names``; its outputs' names go to ``outputs``.

    Positions, because torch's own call refuses an argument called ``self``.
    """

    def __init__(self, module: torch.nn.Module, names: list[str], constants: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.names = names
        self.constants = dict(constants)
        self.outputs: list[str] = []
        # The module is only lent: this wrapper must not put it into training mode.
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Bind, call, flatten."""
        named = {**self.constants, **dict(zip(self.names, tensors, strict=True))}
        positional = []
        for parameter in inspect.signature(self.module.forward).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                positional += [named.pop(name) for name in list(named) if name.startswith("input_")]
                break
            if parameter.kind is parameter.KEYWORD_ONLY or parameter.name not in named:
                break
            positional.append(named.pop(parameter.name))
        call = self.module.forward if "self" in named else self.module
        pairs = list(_flatten("", call(*positional, **named)))
        self.outputs[:] = [name for name, _ in pairs]
        return tuple(value for _, value in pairs)


def _flatten(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in an output with their names: keys, fields or positions, joined with ``_``."""
    if value is None:
        return
    if isinstance(value, torch.Tensor):
        yield name or "output_0", value
        return
    if isinstance(value, Mapping):
        items = list(value.items())
    elif dataclasses.is_dataclass(value):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        found = f"output {name or '0'!r} of type {type(value).__name__}"
        raise ExportError("outputs", found, needed="tensors, in tuples, dicts or dataclasses")
    for key, item in items:
        joined = f"{name}_{key}" if name else f"output_{key}" if isinstance(key, int) else str(key)
        yield from _flatten(joined, item)


@contextmanager
def inference(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode comes back afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
