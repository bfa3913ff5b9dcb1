"""Every exception of graphwright, and the exit code each one gives.

::

    GraphwrightError            1  base of all; never raised itself
    ├── UsageError              2  a wrong option, name or value
    │   ├── PipelineError       2  pipeline text that cannot be read, an unknown pass
    │   ├── ProfileError        2  profile text that cannot be read or does not fit the model
    │   └── RequestError        2  inputs that the model or the profile does not allow
    ├── LoadError               3  a file that is no model, or a broken or hostile one
    ├── ExportError             3  a model that could not be traced
    ├── OutputError             3  a result that could not be written
    ├── MissingDependencyError  4  a package, device or library that is not there
    ├── BuildError              5  an engine that could not be built
    └── CheckError              1  a check that failed
        ├── StructureError      1  a pass left a graph that is not valid
        └── VerificationError   1  numbers differ from the source model's
            └── TimeLimitError  1  a run of a model that is checked did not end in time
"""


class GraphwrightError(Exception):
    """One paragraph: where, what was found, what was needed, what to try.

    Example:
        >>> print(UsageError("--precision", "'fp12'", needed="fp32, fp16 or bf16", hint="see --help"))
        --precision: found 'fp12'; needed fp32, fp16 or bf16; try: see --help
    """

    exit_code = 1

    def __init__(self, where: str, found: str, *, needed: str = "", hint: str = "") -> None:
        self.where = where
        self.found = found
        self.needed = needed
        self.hint = hint
        super().__init__(where, found, needed, hint)

    def __str__(self) -> str:
        text = f"{self.where}: found {self.found}"
        if self.needed:
            text += f"; needed {self.needed}"
        if self.hint:
            text += f"; try: {self.hint}"
        return text


class UsageError(GraphwrightError):
    """A wrong option, name or value."""

    exit_code = 2


class PipelineError(UsageError):
    """Pipeline text that cannot be read, an unknown pass, or an argument it does not take."""


class ProfileError(UsageError):
    """Profile text that cannot be read, or that does not fit the model's inputs."""


class RequestError(UsageError):
    """Inputs that the model or its profiles do not allow."""


class LoadError(GraphwrightError):
    """A file that is no model, or a broken or hostile one."""

    exit_code = 3


class ExportError(GraphwrightError):
    """A model that could not be traced to a graph."""

    exit_code = 3


class OutputError(GraphwrightError):
    """A result that could not be written; nothing of it was left behind."""

    exit_code = 3


class MissingDependencyError(GraphwrightError):
    """A package, device or library that is needed and not there."""

    exit_code = 4


class BuildError(GraphwrightError):
    """An engine that could not be built."""

    exit_code = 5


class CheckError(GraphwrightError):
    """A check that failed."""


class StructureError(CheckError):
    """A pass left a graph that is not valid ONNX."""


class VerificationError(CheckError):
    """Numbers differ from those of the source model."""


class TimeLimitError(VerificationError):
    """A run of a model that is being checked did not end in time."""
