"""What ``optimize`` returns: a model that can be called, looked at, saved and loaded.

An artifact's folder holds ``model.onnx``, ``model.onnx.data`` (its weights), ``manifest.json`` (what it was
made from and how), ``report.json``, and the tokenizer and configuration files that lay beside the source.
"""

import json
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphwright.errors import LoadError, ProfileError
from graphwright.folder import MANIFEST, MODEL, REPORT, kept_files, read_manifest, write_folder
from graphwright.frontends.onnx import load_onnx, save_onnx
from graphwright.report import Report
from graphwright.runtime.bound import BoundProfile

if TYPE_CHECKING:
    from graphwright.runtime.openvino import OpenVINOSession
    from graphwright.runtime.ort import OrtSession
    from graphwright.runtime.tensorrt.session import TensorRTSession

    Session = OrtSession | OpenVINOSession | TensorRTSession

__all__ = ["Artifact", "load"]


class Artifact:
    """An optimized model. Calling it runs it; several threads may do so at once.

    ``path`` is the file that the model lies in, if it lies in one. With ``discard`` it is a temporary one,
    which :meth:`save` may move and ``discard`` removes when the artifact is dropped. ``files`` are saved
    beside the model.

    Example:
        >>> import numpy as np, graphwright as gw
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
        >>> artifact = gw.optimize(ir.from_onnx_text(text), profile="n=1:4:8", progress=False)
        >>> artifact(x=np.array([-1, 2], np.float32))
        {'y': array([0., 2.], dtype=float32)}
    """

    def __init__(
        self,
        model: ir.Model,
        report: Report,
        profile: BoundProfile,
        manifest: Mapping[str, Any],
        *,
        files: Mapping[str, bytes] | None = None,
        path: Path | None = None,
        discard: Callable[[], object] | None = None,
        session: "Session | None" = None,
    ) -> None:
        self.model = model
        self.report = report
        self.profile = profile
        self.manifest = dict(manifest)
        self.files = dict(files or {})
        self._path = path
        self._session: Session | None = session
        self._lock = threading.RLock()
        self._discard = weakref.finalize(self, discard) if discard is not None else None

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """Run the model on arrays by input name, as keywords, a mapping, or both; torch in gives torch out.

        Raises:
            RequestError: the inputs do not fit the model or its profile.
            MissingDependencyError: the target's provider is not there.
        """
        return self._opened()(inputs, **named)

    @property
    def target(self) -> str:
        """The target that it was made for."""
        return str(self.manifest["target"])

    def session(self, *, threads: int | None = None) -> "Session":
        """Return a session of its own on the model, with that many threads of the CPU.

        For target tensorrt the engine comes from the cache, or is built now, which takes minutes.

        Raises:
            MissingDependencyError: the target's provider, the package openvino, or TensorRT and its device, is not
            there.
            ProfileError, BuildError, OutputError: TensorRT cannot build the engine, as ``build_engine`` says.
        """
        if self.target == "tensorrt":
            return self._tensorrt_session()
        source = self._path if self._path is not None else self.model
        if self.target == "openvino":
            from graphwright.runtime.openvino import OpenVINOSession

            precision = str(self.manifest.get("precision", "fp32"))
            return OpenVINOSession(source, self.profile, threads=threads, precision=precision)
        from graphwright.runtime.ort import OrtSession

        return OrtSession(source, self.profile, target=self.target, threads=threads)

    def _tensorrt_session(self) -> "TensorRTSession":
        from graphwright.build_engine import build_engine
        from graphwright.runtime.tensorrt.session import TensorRTSession

        return TensorRTSession(build_engine(self, progress=False).path)

    def save(self, folder: str | Path, *, overwrite: bool = True) -> None:
        """Write the artifact to a folder, whole or not at all; an artifact that was there is replaced.

        A large result that lies in a temporary file is moved, not copied, where the file system allows it.

        Raises:
            UsageError: the folder holds something else than an artifact, or an artifact and ``overwrite`` is
            False. OutputError: the folder could not be written.
        """
        with self._lock:
            texts = {REPORT: json.dumps(self.report.to_json(), indent=1).encode(), **self.files}
            owned = self._path if self._discard is not None and self._discard.alive else None
            real, manifest = write_folder(
                Path(folder),
                self.manifest,
                texts,
                write_model=lambda path: save_onnx(self.model, path),
                owned=owned,
                before_swap=self._map_weights_in,
                overwrite=overwrite,
            )
            self.manifest = manifest
            if owned is not None and not owned.exists():
                self._path = real / MODEL
                for root in (self.model.graph, *(each.graph for each in self.model.functions.values())):
                    ir.external_data.set_base_dir(root, real)
                assert self._discard is not None
                self._discard()

    def _opened(self) -> "Session":
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = self.session()
        return self._session

    def _map_weights_in(self, folder: Path) -> None:
        """Map the weights that lie in a folder which is about to be replaced; a mapping outlives its file."""
        for graph in self.model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).parent == folder:
                    tensor.numpy()
        # A session of ONNX Runtime has mapped the file; TensorRT has its engine elsewhere, and OpenVINO a copy.
        is_mapped = self.target not in ("tensorrt", "openvino")
        if is_mapped and self._path is not None and self._path.parent == folder:
            self._opened()


def load(folder: str | Path) -> Artifact:
    """Load an artifact that :meth:`Artifact.save` wrote; its weights stay memory-mapped.

    Raises:
        LoadError: no artifact, one of another version, or files that are not those that were written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        data = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(str(folder / REPORT), f"no report ({error})", needed="the report of the artifact") from error
    try:
        profile = BoundProfile.from_json(manifest["profile"])
    except ProfileError as error:
        raise LoadError(str(folder / MANIFEST), error.found, needed="a profile", hint=error.hint) from error
    path = folder.resolve() / MODEL
    return Artifact(load_onnx(path), Report.from_json(data), profile, manifest, files=kept_files(folder), path=path)
