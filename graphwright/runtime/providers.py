"""Which execution providers this machine's ONNX Runtime has."""

import onnxruntime as ort

from graphwright.runtime.openvino_engines import has_engine
from graphwright.runtime.ort_load import PROVIDERS


def available_providers() -> list[str]:
    """Return the providers in ONNX Runtime's order of preference.

    Example:
        >>> "CPUExecutionProvider" in available_providers()
        True
    """
    return list(ort.get_available_providers())


def has_provider_for(target: str) -> bool:
    """Tell whether what a target runs on is here: ONNX Runtime's provider, or OpenVINO in one of its forms.

    Example:
        >>> has_provider_for("ort-cpu"), has_provider_for("another")
        (True, False)
    """
    if target == "openvino":
        return has_engine()
    return target in PROVIDERS and PROVIDERS[target][0] in available_providers()
