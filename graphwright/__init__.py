"""graphwright: a compiler for transformer inference graphs that is checked, explained and earned.

The public names are loaded when they are first used, so that ``import graphwright`` is quick and loads
neither torch nor ONNX Runtime.

Example:
    >>> import graphwright as gw
    >>> "fuse-gelu" in [step.name for step in gw.passes().steps()]
    True
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphwright.artifact import Artifact as Artifact
    from graphwright.artifact import load as load
    from graphwright.build_engine import build_engine as build_engine
    from graphwright.diagnose import bisect as bisect
    from graphwright.diagnose import explain as explain
    from graphwright.engine.pipeline import Catalogue
    from graphwright.engine.pipeline import FunctionPass as FunctionPass
    from graphwright.engine.rewrite import Reason as Reason
    from graphwright.engine.rewrite import Rule as Rule
    from graphwright.errors import BuildError as BuildError
    from graphwright.errors import CheckError as CheckError
    from graphwright.errors import ExportError as ExportError
    from graphwright.errors import GraphwrightError as GraphwrightError
    from graphwright.errors import LoadError as LoadError
    from graphwright.errors import MissingDependencyError as MissingDependencyError
    from graphwright.errors import OutputError as OutputError
    from graphwright.errors import PipelineError as PipelineError
    from graphwright.errors import ProfileError as ProfileError
    from graphwright.errors import RequestError as RequestError
    from graphwright.errors import StructureError as StructureError
    from graphwright.errors import UsageError as UsageError
    from graphwright.errors import VerificationError as VerificationError
    from graphwright.optimize import optimize as optimize
    from graphwright.report import Report as Report
    from graphwright.runtime.profile import Profile as Profile
    from graphwright.triton.export import export_triton as export_triton
    from graphwright.triton.serving import Serving as Serving

_HOMES = {
    "Artifact": "artifact",
    "load": "artifact",
    "FunctionPass": "engine.pipeline",
    "Reason": "engine.rewrite",
    "Rule": "engine.rewrite",
    **dict.fromkeys(("BuildError", "CheckError", "ExportError", "GraphwrightError", "LoadError"), "errors"),
    **dict.fromkeys(("MissingDependencyError", "OutputError", "PipelineError", "ProfileError"), "errors"),
    **dict.fromkeys(("RequestError", "StructureError", "UsageError", "VerificationError"), "errors"),
    **dict.fromkeys(("bisect", "explain"), "diagnose"),
    "build_engine": "build_engine",
    "optimize": "optimize",
    "Report": "report",
    "Profile": "runtime.profile",
    "export_triton": "triton.export",
    "Serving": "triton.serving",
}


def passes() -> "Catalogue":
    """Return the catalogue: every pass by family, and each target's default pipeline."""
    from graphwright.passes.discovery import catalogue

    return catalogue()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """Keeps ``optimize``, ``build_engine`` and ``passes`` the functions of these names.

    Importing the module ``graphwright.optimize`` from anywhere would bind the package's attribute to the
    module.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ("optimize", "build_engine", "passes") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
