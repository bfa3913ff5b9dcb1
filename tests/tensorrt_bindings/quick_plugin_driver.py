"""HARS's quick plugins through the Python of the real ``tensorrt.plugin``, without the library that would call it.

Runs in a process of its own, with the bindings on the path: reads nodes as JSON from stdin, answers with what TensorRT
would be told of each. What the library does is done here: it looks up the creator of a node, collects the fields, makes
the plugin, and asks it for types, shapes, formats, tactics, launch and kernel. Shape expressions are plain numbers
here. The registry, the expression builder and the setter of further arguments are doubles; the rest is TensorRT's.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any


class Registry:
    """A double of TensorRT's registry: keeps what is registered."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        assert creator.plugin_namespace == namespace
        key = (creator.name, creator.plugin_version, namespace)
        assert key not in self.creators
        self.creators[key] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


class Setter(dict[int, Any]):
    """A double of what takes the further arguments of a kernel."""

    nbSymExprs = 0


def numbers(trt: Any) -> tuple[Any, Any]:
    """Return a class of shape expressions that are numbers, and a double of the builder that computes with them."""
    of = trt.DimensionOperation
    operations = {
        of.SUM: lambda a, b: a + b,
        of.PROD: lambda a, b: a * b,
        of.SUB: lambda a, b: a - b,
        of.MAX: max,
        of.MIN: min,
        of.FLOOR_DIV: lambda a, b: a // b,
        of.CEIL_DIV: lambda a, b: -(-a // b),
        of.EQUAL: lambda a, b: int(a == b),
        of.LESS: lambda a, b: int(a < b),
    }

    class Number(trt.IDimensionExpr):  # type: ignore[misc] # the bindings are not there for the project's type check
        def __init__(self) -> None:
            """Make nothing: only the library may construct its class."""

        @staticmethod
        def of(value: int) -> Any:
            made = Number.__new__(Number)
            made.__dict__["value"] = int(value)
            return made

        def is_constant(self) -> bool:
            return True

        def is_size_tensor(self) -> bool:
            return False

        def get_constant_value(self) -> int:
            return int(self.__dict__["value"])

    class Builder:
        def constant(self, value: int) -> Any:
            return Number.of(value)

        def operation(self, operation: Any, a: Any, b: Any) -> Any:
            return Number.of(operations[operation](a.get_constant_value(), b.get_constant_value()))

    return Number, Builder


def fields_of(trt: Any, creator: Any, attributes: dict[str, Any]) -> tuple[Any, list[Any]]:
    """As the ONNX parser does: what the creator has a field for, with the types that ONNX's attributes have there.

    The values come along, for a field points to its value and does not hold it.
    """
    import numpy as np

    kinds = trt.PluginFieldType
    found, values = [], []
    for field in creator.field_names:
        value = attributes[field.name]
        if isinstance(value, str):
            kind, values = kinds.CHAR, [*values, value.encode()]
        elif isinstance(value, int):
            kind, values = kinds.INT32, [*values, np.array([value], np.int32)]
        else:
            kind, values = kinds.FLOAT32, [*values, np.array([value], np.float32)]
        found.append(trt.PluginField(field.name, values[-1], kind))
    return trt.PluginFieldCollection(found), values


class Plugin:
    """One plugin, from the node to the kernel."""

    def __init__(self, trt: Any, registry: Registry, node: dict[str, Any]) -> None:
        self.trt, self.node = trt, node
        self.number, self.builder = numbers(trt)
        attributes = node["attributes"]
        key = (node["op_type"], attributes["plugin_version"], attributes["plugin_namespace"])
        self.creator = registry.get_creator(*key)
        assert self.creator is not None, f"no creator {key}"
        fields, self.values = fields_of(trt, self.creator, attributes)
        request = trt.QuickPluginCreationRequest
        # The node's attribute `aot`.
        wanted = request.STRICT_AOT if attributes["aot"] else request.STRICT_JIT
        name, _, namespace = key
        self.plugin = self.creator.create_plugin(name, namespace, fields, trt.TensorRTPhase.BUILD, wanted)
        self.types = [getattr(trt, each) for each in node["types"]]
        self.shapes: list[list[int]] = node["shapes"]

    def answer(self) -> dict[str, Any]:
        """Ask in the order in which the library does."""
        said: dict[str, Any] = {"class": type(self.plugin).__name__, "attributes": self.plugin.attrs}
        said["fields"] = [(field.name, str(field.type)) for field in self.creator.field_names]
        types = self.plugin.get_output_data_types(self.types, [len(shape) for shape in self.shapes])
        outputs = self.output_shapes()
        said["outputs"] = [(str(kind), shape) for kind, shape in zip(types, outputs, strict=True)]
        tensors = self.descriptions(outputs, [*self.types, *types])
        inputs = len(self.types)
        formats = self.plugin.get_supported_format_combinations(tensors, inputs)
        said["formats"] = [(str(each.type), str(each.format)) for each in formats]
        self.plugin.configure_plugin(tensors[:inputs], tensors[inputs:])
        (tactic,) = self.plugin.get_valid_tactics()
        self.plugin.set_tactic(tactic)
        return said | {"tactic": tactic} | self.launch(tensors, inputs)

    def output_shapes(self) -> list[list[int]]:
        import tensorrt.plugin._plugin_class as theirs

        class Exprs(list[Any]):
            """A double of DimsExprs, which takes expressions of the library only."""

            def __init__(self, length: int) -> None:
                super().__init__([None] * length)

        real = theirs.trt.DimsExprs
        theirs.trt.DimsExprs = Exprs
        try:
            given = [[self.number.of(size) for size in shape] for shape in self.shapes]
            found = self.plugin.get_output_shapes(given, [], self.builder())
        finally:
            theirs.trt.DimsExprs = real
        return [[size.get_constant_value() for size in shape] for shape in found]

    def descriptions(self, outputs: list[list[int]], types: list[Any]) -> list[Any]:
        found = []
        for shape, kind in zip([*self.shapes, *outputs], types, strict=True):
            each, plain = self.trt.DynamicPluginTensorDesc(), self.trt.PluginTensorDesc()
            plain.type, plain.format, plain.dims = kind, self.trt.TensorFormat.LINEAR, self.trt.Dims(shape)
            each.desc, each.min, each.opt, each.max = plain, plain.dims, plain.dims, plain.dims
            found.append(each)
        return found

    def launch(self, tensors: list[Any], inputs: int) -> dict[str, Any]:
        told: dict[str, Any] = {}
        given = self.plugin.aot_impl_function

        def read(*arguments: Any) -> Any:
            """Note the numbers while their expressions can be computed."""
            name, ptx, launch, extras = given(*arguments)
            sizes = {key: value._expr.get_constant_value() for key, value in vars(launch).items()}
            told.update(launch=sizes, extras=[each._expr.get_constant_value() for each in extras])
            return name, ptx, launch, extras

        self.plugin.aot_impl_function = read
        setter = Setter()
        parameters = SimpleNamespace()
        self.plugin.get_launch_params(None, tensors, inputs, parameters, setter, self.builder())
        assert len(setter) == setter.nbSymExprs == len(told["extras"])
        assert sorted(vars(parameters)) == sorted(told["launch"])
        plain = [each.desc for each in tensors]
        name, code = self.plugin.get_kernel(plain[:inputs], plain[inputs:])
        return told | {"kernel": name, "ptx": code.decode()}


def refusals(trtp: Any) -> dict[str, str]:
    """What the real decorators say of functions that break their rules: they are real, and they look."""
    desc, said = trtp.TensorDesc, {}

    def with_default(x: desc, k: int = 1) -> desc:
        return x.like()

    def fine(x: desc, k: int) -> tuple[desc]:
        return (x.like(),)

    def without_tactic(
        x: desc, k: int, outputs: tuple[desc]
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]:
        raise NotImplementedError

    trtp.register("check::fine", lazy_register=True)(fine)
    cases = {
        "a default": (trtp.register("check::default", lazy_register=True), with_default),
        "a dot": (trtp.register("che.ck::dot", lazy_register=True), fine),
        "no tactic": (trtp.aot_impl("check::fine"), without_tactic),
        "a second one": (trtp.register("check::fine", lazy_register=True), fine),
    }
    for name, (decorator, function) in cases.items():
        try:
            decorator(function)
            said[name] = ""
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def main() -> None:
    """Answer one JSON object: plugins by the order of the nodes, and what is refused."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    from graphwright.plugins.hars import cuda_build
    from graphwright.plugins.hars import tensorrt as ours

    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    request = json.load(sys.stdin)
    if not request["compiles"]:
        cuda_build.ptx = lambda source, flags: " ".join(flags)
    ours.register()
    ours.register()
    answers = [Plugin(trt, registry, node).answer() for node in request["nodes"]]
    creators = ["::".join((namespace, name)) for name, _, namespace in registry.creators]
    print(json.dumps({"plugins": answers, "creators": creators, "refusals": refusals(trtp)}))


if __name__ == "__main__":
    main()
