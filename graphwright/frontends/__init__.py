"""Outside models to ``onnx_ir`` models: ONNX files, PyTorch modules, Hugging Face models and saved folders.

Importing this package loads neither torch nor transformers; the frontend that is needed is imported when it
is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import ModelProto  # the name `onnx` becomes that of the submodule

from graphwright.errors import LoadError, MissingDependencyError, UsageError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """A model to work on, and what is known about where it comes from.

    ``reference`` runs the original (the torch module) on the same inputs; None where the model is its own
    reference. ``in_double`` runs it in float64, and raises ExportError where it cannot. ``notes`` says what the
    frontend decided, such as the attention implementation.
    """

    model: ir.Model
    name: str
    sha256: str
    reference: Callable[[Arrays], dict[str, np.ndarray]] | None = None
    example_inputs: dict[str, np.ndarray] | None = None
    task: str = "auto"
    notes: dict[str, str] = field(default_factory=dict)
    in_double: Callable[[Arrays], dict[str, np.ndarray]] | None = None


def load(
    model: object,
    example_inputs: object = None,
    *,
    task: str = "auto",
    profile: object = None,
    attention: str | None = None,
) -> Source:
    """Whatever stands for a model, read or traced.

    ``model`` is an ``onnx_ir.Model``, an ``ModelProto``, the path of an .onnx file or of a saved Hugging Face
    folder, a ``PreTrainedModel`` or any ``torch.nn.Module`` (then with ``example_inputs``).

    Raises:
        LoadError, ExportError: the model cannot be read, or not be traced.
        MissingDependencyError: torch or transformers is needed and not installed.
        UsageError: no such kind of model, or a module without example inputs.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (y) {y = Relu(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> load(model).name
        'g'
    """
    if isinstance(model, ir.Model | ModelProto):
        return _from_onnx(model, example_inputs, task)
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_dir():
            return _from_onnx(path, example_inputs, task)
        if not (path / "config.json").is_file():
            needed = "an .onnx file or a saved Hugging Face folder (config.json and model.safetensors)"
            raise LoadError(str(path), "a folder without config.json", needed=needed)
        return _pretrained(path, example_inputs, task, profile, attention)
    return _from_object(model, example_inputs, task, profile, attention)


def _from_onnx(source: str | Path | ModelProto | ir.Model, example_inputs: object, task: str) -> Source:
    from graphwright.frontends.onnx import load_onnx, sha256_of

    model = load_onnx(source)
    name = Path(source).stem if isinstance(source, str | Path) else model.graph.name or "model"
    if example_inputs is not None and not isinstance(example_inputs, Mapping):
        raise UsageError("example_inputs", type(example_inputs).__name__, needed="a mapping from input name to array")
    examples = None if example_inputs is None else {key: np.asarray(item) for key, item in example_inputs.items()}
    return Source(model, name, sha256_of(source), example_inputs=examples, task=task)


def _from_object(model: Any, example_inputs: object, task: str, profile: object, attention: str | None) -> Source:
    classes = {f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__}
    if "transformers.modeling_utils.PreTrainedModel" in classes:
        return _pretrained(model, example_inputs, task, profile, attention)
    if "torch.nn.modules.module.Module" not in classes:
        needed = "an .onnx file, a saved Hugging Face folder, a torch module, an ModelProto or an onnx_ir.Model"
        raise UsageError("model", f"a {type(model).__name__}", needed=needed)
    if example_inputs is None:
        hint = 'pass example_inputs={"x": array, ...}'
        raise UsageError("model", f"{type(model).__name__} without example inputs", needed="one of each", hint=hint)
    traced: Source = _frontend("torch").trace(model, example_inputs, profile=profile, task=task)
    return traced


def _pretrained(model: Any, example_inputs: object, task: str, profile: object, attention: str | None) -> Source:
    loaded: Source = _frontend("transformers").from_pretrained(
        model, task=task, attention=attention, example_inputs=example_inputs, profile=profile
    )
    return loaded


def _frontend(name: str) -> ModuleType:
    try:
        return import_module(f"graphwright.frontends.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or name).split(".")[0]
        hint = "pip install graphwright[torch]"
        raise MissingDependencyError(f"{name} models", f"no package {package}", needed=package, hint=hint) from error
