"""Hugging Face models and saved folders: one forward pass, traced with dimensions ``batch`` and ``seq``.

A folder is read locally and without code or pickle of its own: ``config.json`` and safetensors. Attention is
traced as ``sdpa``, which becomes one ONNX Attention each; where that fails, as ``eager``. Experts are traced as
``batched_mm``, whose shapes depend on no routing. KV caches are switched off.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils import logging as transformers_logging

from graphwright.errors import ExportError, LoadError, UsageError
from graphwright.frontends import Source
from graphwright.frontends.torch import trace
from graphwright.frontends.torch_call import named_arguments

# Hugging Face task -> the class that loads it.
LOADERS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "text-generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
# End of an architecture's name -> its task; the first that fits counts.
_ENDINGS = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
}
_ATTENTION = ("sdpa", "eager")
_CHUNK = 1 << 22
# Sizes of made-up inputs: unequal, and no size that a model is likely to be built with.
_BATCH, _LENGTH = 2, 11


def from_pretrained(
    path_or_model: str | Path | transformers.PreTrainedModel,
    *,
    task: str = "auto",
    attention: str | None = None,
    example_inputs: object = None,
    profile: Any = None,
) -> Source:
    """Trace a ``PreTrainedModel``, or one read from a saved folder.

    ``task`` "auto" is told from the architecture in the config; ``attention`` None tries "sdpa", then
    "eager", and the one used is in ``Source.notes``. A model given as an object comes back with the attention
    it had.

    Raises:
        LoadError: a folder that is no saved model, or whose weights are pickles.
        ExportError: the model cannot be traced.
        UsageError: a task that this frontend does not have.
    """
    if task != "auto" and task not in LOADERS:
        raise UsageError("task", repr(task), needed=f"auto or one of {', '.join(sorted(LOADERS))}")
    notes: dict[str, str] = {}
    if isinstance(path_or_model, str | Path):
        model, task, notes = _read(Path(path_or_model), task)
    else:
        model, task = path_or_model, _task_of(type(path_or_model).__name__) if task == "auto" else task
    if example_inputs is None:
        example_inputs = make_inputs(model, task)
    source, used = _trace(model, example_inputs, attention, profile, task)
    digest, name = source.sha256, type(model).__name__
    if isinstance(path_or_model, str | Path):
        digest, name = _folder_hash(Path(path_or_model)), Path(path_or_model).resolve().name
    notes |= {"attention": used, "architecture": type(model).__name__}
    return replace(source, name=name, sha256=digest, task=task, notes=notes)


def make_inputs(model: transformers.PreTrainedModel, task: str) -> dict[str, np.ndarray]:
    """Inputs as the model takes them, seeded: ids with padding on the right, or an image.

    Raises:
        ExportError: the model takes neither.
    """
    config, random = model.config, np.random.default_rng(0)
    main = model.main_input_name
    if main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        channels = getattr(config, "num_channels", 3)
        pixels = random.standard_normal((_BATCH, channels, height, width))
        return {"pixel_values": pixels.astype(np.float32)}
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    if main != "input_ids" or vocabulary is None or config.is_encoder_decoder:
        found = f"a model with main input {main!r}" + (" and a decoder" if config.is_encoder_decoder else "")
        hint = "pass example_inputs, or export its encoder"
        raise ExportError(type(model).__name__, found, needed="input_ids or pixel_values", hint=hint)
    shape = (_BATCH, 3, _LENGTH) if task == "multiple-choice" else (_BATCH, _LENGTH)
    ids = random.integers(min(5, vocabulary - 1), vocabulary, shape)
    mask = np.ones(shape, np.int64)
    mask[-1, ..., -3:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 0 and _takes(model, "token_type_ids"):
        inputs["token_type_ids"] = np.zeros(shape, np.int64)
    return inputs


def _takes(model: torch.nn.Module, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def _trace(
    model: transformers.PreTrainedModel, inputs: Any, attention: str | None, profile: Any, task: str
) -> tuple[Source, str]:
    """Trace with the attention asked for, or with the first that works."""
    constants: dict[str, Any] = {"return_dict": True}
    if hasattr(model.config.get_text_config(), "use_cache") and _takes(model, "use_cache"):
        constants["use_cache"] = False
    dims = _dims(inputs) if isinstance(inputs, dict) else None
    tries = (attention,) if attention is not None else _ATTENTION
    for number, implementation in enumerate(tries, 1):
        try:
            with _experts(model), _attention(model, implementation) as used:
                arguments = {**named_arguments(model, inputs), **constants}
                return trace(model, arguments, profile=profile, dims=dims, task=task), used
        except ExportError:
            if number == len(tries):
                raise
    raise AssertionError("no attention was tried")


def _dims(inputs: dict[str, Any]) -> dict[str, dict[int, str]]:
    """Axes that must be dynamic: ids and masks in both, or the batch of images."""
    names = {
        1: {0: "batch"},
        2: {0: "batch", 1: "seq"},
        3: {0: "batch", 1: "choices", 2: "seq"},
        4: {0: "batch"},
    }
    return {name: names.get(np.ndim(value), {0: "batch"}) for name, value in inputs.items()}


@contextmanager
def _attention(model: transformers.PreTrainedModel, implementation: str) -> Iterator[str]:
    """Trace with ``implementation``; gives the one in force, as some models have only their own."""
    before = model.config._attn_implementation
    with _silent():
        try:
            model.set_attn_implementation(implementation)
        except (ValueError, ImportError) as error:
            found = f"attention {implementation!r} ({str(error).splitlines()[0][:200]})"
            needed = f"one of {', '.join(_ATTENTION)}"
            raise ExportError(type(model).__name__, found, needed=needed) from error
    try:
        yield model.config._attn_implementation or "its own"
    finally:
        if before is not None:
            with _silent():
                model.set_attn_implementation(before)


@contextmanager
def _experts(model: transformers.PreTrainedModel) -> Iterator[None]:
    """Trace a mixture of experts in a form that ONNX can say: the default form is an operator of torch alone."""
    before = getattr(model.config, "_experts_implementation", None)
    if before is None:
        yield
        return
    with _silent():
        model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _task_of(architecture: str) -> str:
    return next((task for ending, task in _ENDINGS.items() if architecture.endswith(ending)), "feature-extraction")


def _read(folder: Path, task: str) -> tuple[transformers.PreTrainedModel, str, dict[str, str]]:
    """The model saved in ``folder``, its task, and what there is to say about the weights."""
    config = _config(folder)
    _check_weights(folder)
    architecture = (config.get("architectures") or [""])[0]
    task = _task_of(architecture) if task == "auto" else task
    loader = getattr(transformers, architecture if _loads(architecture, task) else LOADERS[task])
    with _silent():
        try:
            model, info = loader.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            hint = "save it again with save_pretrained; code of the folder's own is never run"
            found = f"a model that transformers cannot load ({lines[0][:300]})"
            raise LoadError(str(folder), found, needed="a saved model", hint=hint) from error
    missing = sorted(info["missing_keys"])
    return model, task, {"weights not in the file, random": ", ".join(missing)} if missing else {}


def _loads(architecture: str, task: str) -> bool:
    """Is ``architecture`` a class of transformers that does ``task``? Encoders alone have no Auto class."""
    known = getattr(transformers, architecture, None) if architecture else None
    is_model = isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)
    return is_model and _task_of(architecture) == task


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        needed = "a saved Hugging Face model"
        raise LoadError(str(path), f"no readable config ({type(error).__name__})", needed=needed) from error
    if not isinstance(config, dict) or not isinstance(config.get("architectures") or [], list):
        raise LoadError(str(path), "a config of another form", needed="an object with a list of architectures")
    return config


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    found = f"weights as pickle only ({pickles[0]})" if pickles else "no weights"
    hint = "load it where you trust it, and save_pretrained(..., safe_serialization=True)" if pickles else ""
    raise LoadError(str(folder), found, needed="model.safetensors", hint=hint)


def _folder_hash(folder: Path) -> str:
    """SHA-256 over config and weights: ``cat config.json *.safetensors | sha256sum``."""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bars and advice from transformers while it loads."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has no type here
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # as above
