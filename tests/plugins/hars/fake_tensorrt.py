"""A stand-in for ``tensorrt`` and ``tensorrt.plugin`` that knows the rules for quick plugins and nothing else.

The rules are those of TensorRT 11.4 (Python API reference, ``tensorrt.plugin``): every parameter of a registered
function has a type, tensors come before attributes, nothing has a default; the other two functions repeat them; shape
expressions know ``+ - * //`` with the expression on the left; further arguments are 32-bit.
"""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_args, get_origin


class Size:
    """A shape expression with a known value."""

    def __init__(self, value: "int | Size") -> None:
        self.value: int = value.value if isinstance(value, Size) else value

    def __add__(self, other: "int | Size") -> "Size":
        return Size(self.value + Size(other).value)

    def __mul__(self, other: "int | Size") -> "Size":
        return Size(self.value * Size(other).value)

    def __floordiv__(self, other: "int | Size") -> "Size":
        return Size(self.value // Size(other).value)


class SymInt32(Size):
    pass


class SymExprs(list[Size]):
    @classmethod
    def from_tuple(cls, values: Any) -> "SymExprs":
        return cls(Size(value) if isinstance(value, int) else value for value in values)


class SymIntExprs(SymExprs):
    pass


class ShapeExprs(SymExprs):
    def numel(self) -> Size:
        total = Size(1)
        for size in self:
            total = total * size
        return total

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, Size(value))


class TensorDesc:
    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape_expr = ShapeExprs.from_tuple(shape)

    @property
    def ndim(self) -> int:
        return len(self.shape_expr)

    def like(self) -> "TensorDesc":
        return TensorDesc(self.dtype, tuple(size.value for size in self.shape_expr))


class KernelLaunchParams:
    def __init__(self) -> None:
        for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"):
            self.__dict__[name] = Size(1)
        self.__dict__["shared_mem"] = Size(0)

    def __setattr__(self, name: str, value: "int | Size") -> None:
        assert name in self.__dict__, f"no launch parameter {name}"
        self.__dict__[name] = Size(value)


class AutoTuneCombination:
    def __init__(self, types: str, layouts: str, tactics: list[int]) -> None:
        assert all(tactic > 0 for tactic in tactics)
        self.types, self.layouts, self.tactics = types, layouts, tactics


class Plugin:
    """What was registered under one name."""

    def __init__(self, describe: Callable[..., Any]) -> None:
        signature = inspect.signature(describe)
        parameters = signature.parameters.values()
        assert all(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)
        is_tensor = [each.annotation is TensorDesc for each in parameters]
        assert is_tensor == sorted(is_tensor, reverse=True), "tensors come first"
        self.describe = describe
        self.tensors = [each.name for each in parameters if each.annotation is TensorDesc]
        self.attributes = {each.name: each.annotation for each in parameters if each.annotation is not TensorDesc}
        assert set(self.attributes.values()) <= {int, float, str, bool, bytes}
        self.outputs = _outputs_of(signature.return_annotation)
        self.tune: Callable[..., Any] | None = None
        self.compile: Callable[..., Any] | None = None

    def check(self, function: Callable[..., Any], *more: str) -> inspect.Signature:
        signature = inspect.signature(function)
        assert list(signature.parameters) == [*self.tensors, *self.attributes, *more]
        for name, kind in self.attributes.items():
            assert signature.parameters[name].annotation is kind
        assert _outputs_of(signature.parameters["outputs"].annotation) == self.outputs
        return signature


def _outputs_of(annotation: Any) -> int:
    assert get_origin(annotation) is tuple and set(get_args(annotation)) == {TensorDesc}
    return len(get_args(annotation))


def make() -> tuple[ModuleType, ModuleType, dict[str, Plugin]]:
    """Return the two modules, and what gets registered with them."""
    plugins: dict[str, Plugin] = {}

    def register(name: str, lazy_register: bool = False) -> Callable[[Any], Any]:
        namespace, _, plain = name.partition("::")
        assert plain and "." not in name and namespace not in {"", "trt", "tensorrt", "std"}
        assert name not in plugins, f"{name} is there already"
        return lambda function: plugins.setdefault(name, Plugin(function)).describe

    def autotune(name: str) -> Callable[[Any], Any]:
        def take(function: Any) -> Any:
            signature = plugins[name].check(function, "outputs")
            assert get_origin(signature.return_annotation) is list
            plugins[name].tune = function
            return function

        return take

    def aot_impl(name: str) -> Callable[[Any], Any]:
        def take(function: Any) -> Any:
            signature = plugins[name].check(function, "outputs", "tactic")
            assert signature.parameters["tactic"].annotation is int
            returned = get_args(signature.return_annotation)
            assert returned == (str | bytes, str | bytes, KernelLaunchParams, SymExprs)
            plugins[name].compile = function
            return function

        return take

    tensorrt, plugin = ModuleType("tensorrt"), ModuleType("tensorrt.plugin")
    vars(tensorrt).update(
        __version__="11.4", plugin=plugin, float32="FP32", float16="FP16", bfloat16="BF16", int32="INT32"
    )
    vars(plugin).update(register=register, autotune=autotune, aot_impl=aot_impl)
    for each in (TensorDesc, ShapeExprs, SymInt32, SymIntExprs, SymExprs, KernelLaunchParams, AutoTuneCombination):
        setattr(plugin, each.__name__, each)
    return tensorrt, plugin, plugins
