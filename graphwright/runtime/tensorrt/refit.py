"""Give an engine its weights from the model file: one that was built without them, or with other ones.

Source: "Weight stripping" in the developer guide of TensorRT 11; ``OnnxParserRefitter`` of its Python API reference.
"""

from pathlib import Path
from typing import Any

import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs among the pins

from graphwright.errors import LoadError
from graphwright.runtime.tensorrt import messages
from graphwright.runtime.tensorrt.fingerprint import graph_sha256
from graphwright.runtime.tensorrt.plan import PlanFile
from graphwright.runtime.tensorrt.plugins import with_plugins

_HINT = "give the model that it was built from with weights=..."


def check_weights(plan: PlanFile, weights: str | Path | None) -> None:
    """Refuse a plan without weights that gets none, and other weights where it may hold only those it was built with.

    Raises:
        LoadError: as said, or no such file.
    """
    flags = plan.sidecar.flags if plan.sidecar is not None else {}
    if weights is None:
        if flags.get("strip_weights"):
            raise LoadError(plan.where, "a plan without its weights", needed="the weights as well", hint=_HINT)
        return
    if not Path(weights).is_file():
        raise LoadError(str(weights), "no such file", needed=f"the model with the weights for {plan.where}")
    # TensorRT then keeps what it folded of the weights, so others would give numbers of neither model.
    is_identical = flags.get("refit") == "identical" or (flags.get("strip_weights") and flags.get("refit") != "all")
    if is_identical and plan.sidecar is not None and plan.sidecar.onnx_sha256 != _digest(Path(weights)):
        needed = f"the model that {plan.where} was built from"
        raise LoadError(str(weights), "another graph or other weights", needed=needed, hint="build with --refit all")


def _digest(path: Path) -> str:
    """Return the digest of a model as a build turns it into what TensorRT parses."""
    return graph_sha256(with_plugins(read_model(path)))


def read_model(path: Path) -> ir.Model:
    """Return the model of a file.

    Raises:
        LoadError: there is none.
    """
    try:
        return ir.load(path)
    except (DecodeError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise LoadError(str(path), f"no model ({error})", needed="an .onnx file") from error


def refit(trt: Any, engine: Any, where: str, weights: Path) -> None:
    """Fill an engine with the weights of a model file, before any context of it runs.

    Raises:
        LoadError: TensorRT does not take them: the engine cannot be refitted, or the model is another one.
    """
    refitter = trt.Refitter(engine, messages.logger(trt)) if engine.refittable else None
    if refitter is None:
        raise LoadError(where, "a plan whose weights are fixed", needed="one built with --refit or --strip-weights")
    parser = trt.OnnxParserRefitter(refitter, messages.logger(trt))
    if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
        missing = ", ".join(list(refitter.get_missing_weights())[:3])
        found = messages.taken(trt, f"no weights for {missing}" if missing else "weights that TensorRT does not take")
        raise LoadError(str(weights), found, needed=f"the model that {where} was built from", hint=_HINT)
