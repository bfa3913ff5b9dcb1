"""The plugins that a model's nodes need: which they are, the digest of their code, and how TensorRT learns of them.

A plugin is a node of a domain that is not ONNX's. HARS nodes are compiled into the engine ("quick") unless a library
brings them; every other plugin comes from a library that the user names.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphwright.errors import MissingDependencyError
from graphwright.plugins.hars import meaning
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS, Variant, for_tensorrt
from graphwright.runtime.tensorrt.sidecar import Plugin

HARS_NAMES = tuple(f"{meaning.DOMAIN}::{variant.name}" for variant in VARIANTS)
_STANDARD = ("", "ai.onnx")
# ONNX Runtime's own operators: no TensorRT plugin has these names, whoever lends a library.
_NEVER = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.ml")
_KERNEL_TYPES = {
    ir.DataType.FLOAT: "Float32",
    ir.DataType.FLOAT16: "Float16",
    ir.DataType.BFLOAT16: "Bfloat16",
}


@dataclass(frozen=True)
class PluginNode:
    """A node that a plugin runs: ``type``, ``version`` and ``namespace`` are what TensorRT's registry is asked for."""

    node: ir.Node
    type: str
    version: str
    namespace: str

    @property
    def name(self) -> str:
        """The plugin's name with its namespace."""
        return f"{self.namespace}::{self.type}"

    @property
    def is_hars(self) -> bool:
        """Whether it is one of ours."""
        return self.namespace == meaning.DOMAIN


def plugin_nodes(model: ir.Model) -> list[PluginNode]:
    """Return the nodes that plugins run; those with a function body are expanded by the parser instead.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24, "mine": 1]> g (float[N] x) => (float[N] y) {y = mine.F(x)}'
        >>> [each.name for each in plugin_nodes(ir.from_onnx_text(text))]
        ['mine::F']
    """
    found = []
    for node in all_nodes(model):
        if node.domain in (*_STANDARD, *_NEVER):
            continue
        # A node that names a plugin is one, though it has a function body for other runtimes.
        if "plugin_namespace" in node.attributes or node.op_identifier() not in model.functions:
            version = _text(node, "plugin_version", "1")
            found.append(PluginNode(node, node.op_type, version, _text(node, "plugin_namespace", node.domain)))
    return found


def with_plugins(model: ir.Model) -> ir.Model:
    """Return a copy with every HARS node as the plugin of its kind, and without the bodies of what plugins run.

    The parser would have to choose between the two, and what nobody reads shall not count as a part of the engine.
    """
    copy = model.clone()
    if any(node.domain == meaning.DOMAIN for node in all_nodes(copy)):
        for_tensorrt(copy)
    for each in plugin_nodes(copy):
        copy.functions.pop(each.node.op_identifier(), None)
    return copy


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Return every node of a model, those in subgraphs and functions too."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.graph.all_nodes()


def _text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.value)


def library_plugin(path: Path) -> Plugin:
    """Return what is noted of a plugin library: its file's name and digest.

    Raises:
        MissingDependencyError: no such file.
    """
    try:
        with path.open("rb") as file:
            return Plugin(path.name, "", hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        found, hint = f"{error.strerror or error}", "check the path of the plugin library"
        raise MissingDependencyError(f"plugin library {path}", found, needed="a compiled library", hint=hint) from error


def hars_plugins(nodes: Iterable[PluginNode]) -> tuple[Plugin, ...]:
    """Return the quick plugins that HARS nodes need, each with the digest of its kernels.

    Raises:
        MissingDependencyError: the kernels cannot be compiled here.
    """
    kernels: dict[str, set[tuple[str, bool]]] = {}
    variants = {variant.name: variant for variant in VARIANTS}
    for each in nodes:
        if each.is_hars and each.type in variants:
            dtype = each.node.inputs[0].dtype if each.node.inputs[0] is not None else None
            # Where the type is not known, any of the three may be the one.
            types = [_KERNEL_TYPES[dtype]] if dtype in _KERNEL_TYPES else list(_KERNEL_TYPES.values())
            has_temperature = float(_text(each.node, "temperature", "1.0")) != 1.0
            kernels.setdefault(each.type, set()).update((one, has_temperature) for one in types)
    return tuple(_quick(variants[name], sorted(kernels[name])) for name in sorted(kernels))


def _quick(variant: Variant, kernels: Sequence[tuple[str, bool]]) -> Plugin:
    from graphwright.plugins.hars import tensorrt

    digest = hashlib.sha256()
    for type_name, has_temperature in kernels:
        digest.update(tensorrt.ptx(variant, type_name, has_temperature=has_temperature).encode())
    return Plugin(f"{meaning.DOMAIN}::{variant.name}", str(meaning.VERSION), digest.hexdigest())


def provide(trt: Any, paths: Sequence[Path], nodes: Sequence[PluginNode], *, quick: bool) -> None:
    """Make the plugins known to TensorRT and check that every node has one.

    Raises:
        MissingDependencyError: a library that cannot be loaded, or a node without a plugin.
    """
    # It brings ONNX Runtime's types of tensors along, which deciding does not need.
    from graphwright.runtime.tensorrt.engine import load_plugins

    load_plugins(trt, paths)
    if quick and any(each.is_hars for each in nodes):
        from graphwright.plugins.hars import tensorrt

        tensorrt.register()
    registry = trt.get_plugin_registry()
    for each in nodes:
        is_known = quick and each.is_hars and each.name in HARS_NAMES
        if not is_known and registry.get_creator(each.type, each.version, each.namespace) is None:
            _refuse(each, registry, paths)


def _refuse(each: PluginNode, registry: Any, paths: Sequence[Path]) -> None:
    known = {_creator_name(one) for one in registry.all_creators}
    near = sorted(text for text in known if each.type.lower() in text.lower())
    given = ", ".join(path.name for path in paths) or "no plugin library"
    raise MissingDependencyError(
        f"{each.node.name or 'a node'} ({each.name})",
        f"no plugin {each.name} version {each.version} in {given}" + (f", but {', '.join(near[:3])}" if near else ""),
        needed="a plugin library that has it",
        hint="name the library with --plugins FILE.so",
    )


def _creator_name(creator: Any) -> str:
    # Some kinds of creators are listed by their interface alone, which has no names.
    namespace, name = getattr(creator, "plugin_namespace", ""), getattr(creator, "name", "")
    return f"{namespace}::{name} version {getattr(creator, 'plugin_version', '')}"
