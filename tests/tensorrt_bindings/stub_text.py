"""What pybind11-stubgen writes of TensorRT's bindings, corrected so that a type checker can use it.

Every correction has one cause, and fails loudly where a newer version of the bindings no longer has it.
"""

import re

# C++ classes whose Python name is another one.
RENAMED = {"IBuilder": "Builder", "IParserError": "ParserError", "detail_accessor": "IPluginRegistry"}
# The documentation says that these give None where they fail; the bindings' signatures do not.
MAY_BE_NONE = (
    "build_serialized_network",
    "build_engine_with_config",
    "create_execution_context",
    "create_timing_cache",
    "deserialize_cuda_engine",
)


def corrected(text: str) -> str:
    """Return a stub that mypy reads.

    Raises:
        AssertionError: a correction finds nothing to correct.
    """
    text = _without_docstrings(_callbacks(text))
    for correct in (
        _cpp_names,
        _syntax,
        _bool,
        _optional,
        _whole_numbers,
        _plugin_self,
        _shapes,
        _items,
        _none,
        _buffer,
    ):
        changed = correct(text)
        assert changed != text, f"{correct.__name__} finds nothing to correct"
        text = changed
    return text.replace("import collections.abc\n", "import builtins\nimport collections.abc\n", 1)


def corrected_plugin(text: str) -> str:
    """Return a file of ``tensorrt.plugin``, which has types but was never checked with them."""
    # The decorator puts the name into the package, and has no types.
    text = re.sub(r" *@public_api\(\)\n", "", text)
    # What says a tuple of one takes anything that can be gone through, and gives what its class says.
    text = re.sub(r"Tuple\[(Union\[\w+, int\])\]\) -> \"\w+\"", r"typing.Iterable[\1]) -> 'typing.Self'", text)
    # An attribute that is set is converted.
    text = re.sub(r"(self\.(?:grid_|block_|shared_)\w+) = SymInt32", r"\1: SymInt32 | ShapeExpr | int = SymInt32", text)
    return "import typing\n" + text


def _callbacks(text: str) -> str:
    """Some interfaces tell only in their documentation which methods the library calls, and with how many arguments."""
    pattern = r'^class (\w+)(\(\w+\))?:\n( *r?"""(?:(?!""").)*?class My\w+\(trt\.\1\):(?:(?!""").)*?""")\n'

    def with_methods(found: re.Match[str]) -> str:
        methods = re.findall(r"def (\w+)\(self, ([\w, ]+)\):", found[3])
        lines = [f"    def {name}(self, {_untyped(names)}) -> typing.Any:\n        ...\n" for name, names in methods]
        return found[0] + "".join(lines)

    changed, count = re.subn(pattern, with_methods, text, flags=re.MULTILINE | re.DOTALL)
    assert count, "no interface tells its methods in its documentation"
    return changed


def _untyped(names: str) -> str:
    return ", ".join(f"{name.strip()}: typing.Any" for name in names.split(","))


def _without_docstrings(text: str) -> str:
    return re.sub(r'^( *)r?""".*?"""\n', r"\1...\n", text, flags=re.MULTILINE | re.DOTALL)


def _cpp_names(text: str) -> str:
    """A signature made before its types were bound names them as C++ does: nvinfer1::v_1_0::IErrorRecorder."""
    text = re.sub(r"detail::accessor<[\w:<>]*>+", "nvinfer1::detail_accessor", text)
    classes = set(re.findall(r"^class (\w+)", text, re.MULTILINE))

    def in_python(found: re.Match[str]) -> str:
        name = RENAMED.get(found[1], found[1])
        assert name in classes, f"{found[0]} is no class of the bindings"
        return name

    return re.sub(r"\b(?:nvinfer1|nvonnxparser)::(?:v_\d+_\d+::)?(\w+)", in_python, text)


def _syntax(text: str) -> str:
    """An argument called ``in``; arguments without a default after one that has it."""
    text = re.sub(r"(?<=, )in(?=: )", "in_", text)
    return re.sub(r"(power: Weights = None, channel_axis: [\w.]+)\)", r"\1 = ...)", text)


def _bool(text: str) -> str:
    """``tensorrt.bool`` is a data type, and hides Python's."""
    text = re.sub(r"(?:(?<=[:>|,] )|(?<=\[))bool(?=\s*[],)=:|\n])", "builtins.bool", text)
    return re.sub(r"^bool: builtins.bool", "bool: DataType", text, flags=re.MULTILINE)


def _optional(text: str) -> str:
    """``x: T = None`` means that None may be given."""
    return re.sub(r"(: )([\w.\[\], ]+?) = None(?=[,)])", r"\1\2 | None = None", text)


def _whole_numbers(text: str) -> str:
    """pybind11 takes no float for a whole number, though a float has __int__; what overrides gets an int."""
    return text.replace("typing.SupportsInt", "int")


def _plugin_self(text: str) -> str:
    """The first argument of some interfaces has the type of another one."""
    return re.sub(r"\(self: IPluginV3(?=[,)])", "(self", text)


def _shapes(text: str) -> str:
    """Lists and tuples are converted to Dims where an argument is one."""
    text = re.sub(r"(?<![>\w] )(\b\w+: )Dims(?=[,) ])", r"\1DimsLike", text)
    return text + "\nDimsLike: typing.TypeAlias = Dims | collections.abc.Sequence[int]\n"


def _items(text: str) -> str:
    """Dims has a length and items, so Python goes through it, which mypy wants to be told."""
    method = "    def __iter__(self) -> collections.abc.Iterator[int]: ...\n"
    return text.replace("class Dims:\n", "class Dims:\n" + method, 1)


def _none(text: str) -> str:
    names = "|".join(MAY_BE_NONE)
    return re.sub(rf"(def (?:{names})\(.*\) -> )(\w+):", r"\1\2 | None:", text)


def _buffer(text: str) -> str:
    """A plan supports the buffer protocol."""
    method = "    def __buffer__(self, flags: int, /) -> memoryview: ...\n"
    return text.replace("class IHostMemory:\n", "class IHostMemory:\n" + method, 1)
