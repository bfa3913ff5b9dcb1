"""What a model file must satisfy before it is read further: a file is untrusted input.

The checks need no weight in memory and no operator run: the walk is iterative, function calls are followed
through a call graph and never expanded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from graphwright.errors import LoadError
from graphwright.frontends.onnx_weights import check_tensor

OLDEST_IR_VERSION = 3
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# A function that calls a function that calls ... may stand for any number of nodes; more than this is
# refused.
MOST_EXPANDED_NODES = 10_000_000
# Tensors above this size are left out of the copy that onnx.checker reads.
_CHECKED_BYTES = 4096
# A part of an error is cut here.
_LONGEST_PART = 400

FunctionKey = tuple[str, str, str]


def check_proto(proto: onnx.ModelProto, where: str, folder: Path | None) -> None:
    """Refuse a model that is not valid ONNX, or whose weights are not inside ``folder`` (None: it has none).

    Raises:
        LoadError: the first thing found wrong.
    """
    try:
        _check(proto, where, folder)
    except LoadError as error:
        # Names come from the file: one paragraph without control characters is for us to see to.
        found, needed, hint = map(_plain, (error.found, error.needed, error.hint))
        raise LoadError(_plain(error.where), found, needed=needed, hint=hint) from None


def _plain(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= _LONGEST_PART else plain[:_LONGEST_PART] + "..."


def _check(proto: onnx.ModelProto, where: str, folder: Path | None) -> None:
    _check_text(proto, where)
    if proto.ir_version == 0 or not proto.HasField("graph"):
        hint = "check that the file is complete and an .onnx file"
        raise LoadError(where, "no ONNX model inside", needed="a ModelProto with a graph", hint=hint)
    if not OLDEST_IR_VERSION <= proto.ir_version <= onnx.IR_VERSION:
        needed = f"IR version {OLDEST_IR_VERSION} to {onnx.IR_VERSION}"
        hint = "install a newer onnx or export again"
        raise LoadError(where, f"IR version {proto.ir_version}", needed=needed, hint=hint)
    _check_functions(proto, where)
    _check_operators(proto, where)
    _check_sizes(proto, where)
    for tensor in tensors(proto):
        check_tensor(tensor, where, folder)
    _check_structure(proto, where)


def nodes(root: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph or function, those of its subgraphs included."""
    pending = list(root.node)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.g.node or attribute.graphs else ():
                pending.extend(graph.node)


def graphs(root: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto]:
    """Every graph in ``root``: itself, if it is one, and the subgraphs of its nodes."""
    if isinstance(root, onnx.GraphProto):
        yield root
    for node in nodes(root):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    for root in (proto.graph, *proto.functions):
        for graph in graphs(root):
            yield from graph.initializer
        for node in nodes(root):
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _check_text(proto: onnx.ModelProto, where: str) -> None:
    """Protobuf hands a text that is no UTF-8 out as bytes, which nothing after this expects."""
    pending: list[Any] = [proto]
    while pending:
        for field, content in pending.pop().ListFields():
            items = content if field.is_repeated else (content,)
            if field.type == field.TYPE_MESSAGE:
                pending.extend(items)
            elif field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in items):
                raise LoadError(where, f"a {field.name} that is no text", needed="UTF-8", hint="copy it again")


def _check_functions(proto: onnx.ModelProto, where: str) -> None:
    bodies: dict[FunctionKey, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in bodies:
            raise LoadError(where, f"two functions {_spell(key)}", needed="one body for each function")
        bodies[key] = function
    calls = {key: [_called(node) for node in nodes(body)] for key, body in bodies.items()}
    sizes: dict[FunctionKey, int] = {}
    for start in bodies:
        _measure(start, calls, sizes, where)
    total = sum(sizes.get(_called(node), 1) for node in nodes(proto.graph))
    if total > MOST_EXPANDED_NODES:
        found = f"functions that stand for {total:.1e} nodes"
        raise LoadError(where, found, needed=f"at most {MOST_EXPANDED_NODES:.0e}")


def _measure(
    start: FunctionKey, calls: dict[FunctionKey, list[FunctionKey]], sizes: dict[FunctionKey, int], where: str
) -> None:
    """Put how many nodes ``start`` stands for into ``sizes``; refuse a function that reaches itself."""
    path: dict[FunctionKey, None] = {}
    pending = [start]
    while pending:
        key = pending[-1]
        waiting = [] if key in sizes else [called for called in calls[key] if called in calls and called not in sizes]
        if not waiting:
            pending.pop()
            path.pop(key, None)
            sizes.setdefault(key, sum(sizes.get(called, 1) for called in calls[key]))
            continue
        path[key] = None
        if waiting[0] in path:
            raise LoadError(where, f"function {_spell(waiting[0])} calls itself", needed="functions without recursion")
        pending.append(waiting[0])


def _called(node: onnx.NodeProto) -> FunctionKey:
    return (node.domain, node.op_type, node.overload)


def _spell(key: FunctionKey) -> str:
    return f"{key[0]}::{key[1]}" + (f":{key[2]}" if key[2] else "")


def _check_operators(proto: onnx.ModelProto, where: str) -> None:
    functions = {(function.domain, function.name, function.overload) for function in proto.functions}
    for root in (proto.graph, *proto.functions):
        imports = _opsets(proto if isinstance(root, onnx.GraphProto) else root, where)
        for node in nodes(root):
            if _called(node) not in functions:
                _check_operator(node, imports, where)


def _opsets(owner: onnx.ModelProto | onnx.FunctionProto, where: str) -> dict[str, int]:
    imports: dict[str, int] = {}
    for entry in owner.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if imports.setdefault(domain, entry.version) != entry.version:
            found = f"opsets {imports[domain]} and {entry.version} of domain {domain or 'ai.onnx'!r}"
            raise LoadError(where, found, needed="one opset for each domain")
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= imports.get("", 1) <= newest:
        needed = f"1 to {newest}, which onnx {onnx.__version__} knows"
        raise LoadError(where, f"opset {imports['']}", needed=needed, hint="install a newer onnx or export again")
    return imports


def _check_operator(node: onnx.NodeProto, imports: dict[str, int], where: str) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    place = f"{where}: {node.name or (node.output[0] if node.output else '?')} ({node.op_type})"
    if domain not in imports:
        hint = "export the model again"
        raise LoadError(place, f"no opset for domain {domain or 'ai.onnx'!r}", needed="an opset_import", hint=hint)
    if domain not in STANDARD_DOMAINS:
        return
    version = imports[domain]
    known = onnx.defs.has(node.op_type, max_inclusive_version=version, domain=domain)
    if not known or onnx.defs.get_schema(node.op_type, version, domain).deprecated:
        found = f"operator {node.op_type}, unknown in opset {version} of {domain or 'ai.onnx'!r}"
        hint = "put an operator of your own into a domain of its own, with a function body"
        raise LoadError(place, found, needed="an operator of that opset", hint=hint)


def _check_sizes(proto: onnx.ModelProto, where: str) -> None:
    for graph in (graph for root in (proto.graph, *proto.functions) for graph in graphs(root)):
        for value in (*graph.input, *graph.output, *graph.value_info):
            sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
            if any(size < 0 for size in sizes):
                hint = "a size that varies has a name, or nothing"
                raise LoadError(f"{where}: {value.name}", f"sizes {sizes}", needed="none below 0", hint=hint)


def _check_structure(proto: onnx.ModelProto, where: str) -> None:
    """onnx.checker on a copy without weights: names, order, cycles, attributes, numbers of inputs."""
    if any(graph.sparse_initializer for graph in graphs(proto.graph)):
        raise LoadError(where, "sparse initializers", needed="dense ones", hint="store the weights densely")
    try:
        onnx.checker.check_model(_without_weights(proto))
    except (onnx.checker.ValidationError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        found = " ".join(lines[:1] + [line for line in lines[1:] if line.startswith("==>")])
        raise LoadError(where, found, needed="a valid ONNX graph", hint="export the model again") from None


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    for field, content in proto.ListFields():
        if field.name == "graph":
            _copy_graph(copy.graph, content)
        elif field.is_repeated:
            getattr(copy, field.name).extend(content)
        else:
            setattr(copy, field.name, content)
    for tensor in tensors(copy):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > _CHECKED_BYTES:
            _empty(tensor)
    return copy


def _copy_graph(copy: onnx.GraphProto, graph: onnx.GraphProto) -> None:
    for field, content in graph.ListFields():
        if field.name == "initializer":
            for tensor in content:
                small = tensor.ByteSize() <= _CHECKED_BYTES
                new = copy.initializer.add()
                new.CopyFrom(
                    tensor if small else onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0])
                )
        elif field.is_repeated:
            getattr(copy, field.name).extend(content)
        else:
            setattr(copy, field.name, content)


def _empty(tensor: onnx.TensorProto) -> None:
    name, data_type = tensor.name, tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, data_type
    tensor.dims.append(0)
