"""Count what a torch module computes by kind (attention, norm, rotary, activation, router), while torch runs it once.

The count reads torch's operators and where their results go, and no name of a class, a module or a model. It is what a
lifted graph should hold, found in another way than by the graph's rules.

    attention    a fused operator of torch, or a softmax whose result a matrix product takes
    norm         a layer norm or RMS norm of torch, or a root of the mean square over the last axes
    rotary       a tensor whose pairs are turned: ``x * c + turned(x) * s``; ``a*c - b*s`` with ``b*c + a*s``; complex
    activation   Gelu in any form, x times its sigmoid, Mish; not Relu and Tanh, which are one operator in every graph
    router       the choice of the largest of what a softmax or sigmoid made, or a softmax of the largest
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from graphwright.engine.kinds import KINDS
from graphwright.frontends.torch_flow import CASTS, NOTHING, PLACES, Call, Known, Marks, flat, inherited

# Operators of torch that are whole ones of a kind.
WHOLE = {
    "_native_multi_head_attention": {"attention": 1},
    "_transformer_encoder_layer_fwd": {"attention": 1, "norm": 2},
    "native_layer_norm": {"norm": 1},
    "_fused_rms_norm": {"norm": 1},
    "gelu": {"activation": 1},
    "silu": {"activation": 1},
    "mish": {"activation": 1},
}
FUSED_ATTENTION = "_scaled_dot_product_"
# The argument of _transformer_encoder_layer_fwd that chooses Gelu before Relu.
_USE_GELU = 7


class Counter(TorchDispatchMode):
    """Counts what torch computes while it is on.

    Example:
        >>> with torch.no_grad(), Counter() as counter:
        ...     _ = torch.nn.functional.silu(torch.ones(2, 3)).softmax(-1) @ torch.ones(3, 4)
        >>> counter.counts
        {'attention': 1, 'norm': 0, 'rotary': 0, 'activation': 1, 'router': 0}
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no type here
        self.found: dict[str, set[int]] = {kind: set() for kind in KINDS}
        # Both factors of every product of two tensors, and of every sum that may be half of a rotation.
        self.factors: dict[int, tuple[int, int]] = {}
        self.halves: set[frozenset[frozenset[int]]] = set()
        self._known = WeakIdKeyDictionary()
        self._contents: dict[tuple[Any, ...], int] = {}
        self._numbers = count(1)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(found) for kind, found in self.found.items()}

    def new(self) -> int:
        """A number that was not given before."""
        return next(self._numbers)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note what it made of what."""
        kwargs = kwargs or {}
        tensors = [each for each in flat([args, kwargs]) if isinstance(each, torch.Tensor)]
        # Read before it runs: it may write into its own argument.
        known = [self._of(tensor) for tensor in tensors]
        result = func(*args, **kwargs)
        outputs = [each for each in flat([result]) if isinstance(each, torch.Tensor)]
        self._note(Call(func.overloadpacket.__name__.removesuffix("_"), args, kwargs, tensors, known, outputs))
        return result

    def _of(self, tensor: torch.Tensor) -> Known:
        if tensor not in self._known:
            number = self.new()
            self._known[tensor] = Known(number, number)
        known: Known = self._known[tensor]
        return known

    def _note(self, call: Call) -> None:
        whole = WHOLE.get(call.name, {"attention": 1} if call.name.startswith(FUSED_ATTENTION) else {})
        for kind, number in whole.items():
            self.found[kind].update(self.new() for _ in range(number))
        if call.name == "_transformer_encoder_layer_fwd" and call.args[_USE_GELU]:
            self.found["activation"].add(self.new())
        marks = inherited(call)
        if call.name in _READERS:
            marks |= _READERS[call.name](self, call)
        is_move = call.name in PLACES and bool(call.known)
        keeps = bool(call.known) and (call.name in CASTS or (call.name in {"mul", "div"} and call.is_scaling))
        for index, output in enumerate(call.outputs):
            content = self._contents.setdefault((index, *call.key), self.new()) if is_move else self.new()
            base = call.known[0].base if keeps else content
            self._known[output] = Known(content, base, marks)


def _power(counter: Counter, call: Call) -> Marks:
    if call.number == 2:
        return frozenset({("square", counter.new())})
    return _root(counter, call) if call.number in (0.5, -0.5) else NOTHING


def _root(counter: Counter, call: Call) -> Marks:
    counter.found["norm"] |= call.known[0].of("mean square")
    return NOTHING


def _mean(counter: Counter, call: Call) -> Marks:
    axes = call.args[1] if len(call.args) > 1 else None
    if call.known[0].of("square") and call.is_over_last_axes(axes):
        return frozenset({("mean square", counter.new())})
    return NOTHING


def _variance(counter: Counter, call: Call) -> Marks:
    axes = call.args[1] if len(call.args) > 1 else None
    biased = call.kwargs.get("correction", 1) == 0
    return frozenset({("mean square", counter.new())}) if biased and call.is_over_last_axes(axes) else NOTHING


def _step(counter: Counter, call: Call) -> Marks:
    return frozenset({("step", counter.new())})


def _tanh(counter: Counter, call: Call) -> Marks:
    gates = frozenset(("gate of", base) for base in call.known[0].of("softplus of"))
    return gates | _step(counter, call)


def _softplus(counter: Counter, call: Call) -> Marks:
    return frozenset({("softplus of", call.known[0].base)})


def _sigmoid(counter: Counter, call: Call) -> Marks:
    return frozenset({("gate of", call.known[0].base), ("row", counter.new())})


def _softmax(counter: Counter, call: Call) -> Marks:
    counter.found["router"] |= call.known[0].of("chosen")
    number = counter.new()
    return frozenset({("softmax", number), ("row", number)})


def _row(counter: Counter, call: Call) -> Marks:
    return frozenset({("row", counter.new())})


def _choice(counter: Counter, call: Call) -> Marks:
    is_row = bool(call.known[0].of("row"))
    # The largest number alone is also what a softmax is kept from overflowing with.
    if call.name != "topk" and not is_row:
        return NOTHING
    # A choice that another choice goes by (groups of experts, before experts) is part of that one.
    counter.found["router"] -= call.known[0].of("chosen")
    number = counter.new()
    if is_row:
        counter.found["router"].add(number)
    return frozenset({("chosen", number)})


def _matmul(counter: Counter, call: Call) -> Marks:
    for each in call.known:
        counter.found["attention"] |= each.of("softmax")
    return NOTHING


def _product(counter: Counter, call: Call) -> Marks:
    if len(call.known) < 2 or call.is_scaling:
        return NOTHING
    first, second = call.known[:2]
    if first.content == second.content:
        return frozenset({("square", counter.new())})
    for one, other in ((first, second), (second, first)):
        counter.found["activation"] |= one.of("1 + step")
        if other.base in one.of("gate of"):
            counter.found["activation"].add(counter.new())
    if all(tensor.is_complex() for tensor in call.tensors[:2]):
        counter.found["rotary"].add(counter.new())
    number = counter.new()
    counter.factors[number] = (first.content, second.content)
    turned = {("turned product", number)} if first.of("turned") | second.of("turned") else NOTHING
    return frozenset({("product", number)}) | turned


def _sum(counter: Counter, call: Call) -> Marks:
    if call.number == 1 and call.name == "add":
        return frozenset(("1 + step", number) for number in call.known[0].of("step"))
    if len(call.known) < 2 or not all(each.of("product") for each in call.known[:2]):
        return NOTHING
    if any(each.of("turned product") for each in call.known[:2]):
        counter.found["rotary"].add(counter.new())
        return NOTHING
    products = [counter.factors[number] for each in call.known[:2] for number in each.of("product")]
    # a*c - b*s turns with b*c + a*s: the same four, the other way round.
    half = frozenset(frozenset(pair) for pair in products)
    for a, b in ((0, 0), (0, 1)):
        first, second = products[0], products[1][:: 1 - 2 * b]
        other = frozenset({frozenset({first[a], second[1]}), frozenset({first[1], second[0]})})
        if other in counter.halves:
            counter.halves.discard(other)
            counter.found["rotary"].add(counter.new())
            return NOTHING
    counter.halves.add(half)
    return NOTHING


_READERS: dict[str, Callable[[Counter, Call], Marks]] = {
    "pow": _power,
    "sqrt": _root,
    "rsqrt": _root,
    "mean": _mean,
    "var": _variance,
    "var_mean": _variance,
    "erf": _step,
    "tanh": _tanh,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    **dict.fromkeys(("_softmax", "_safe_softmax", "softmax"), _softmax),
    "_log_softmax": _row,
    **dict.fromkeys(("topk", "max", "argmax"), _choice),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "dot", "_grouped_mm"), _matmul),
    "mul": _product,
    "add": _sum,
    "sub": _sum,
}
