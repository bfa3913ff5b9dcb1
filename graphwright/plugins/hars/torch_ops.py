"""The HARS operators in torch: ``torch.ops.hars.softmax_topk`` and ``router_topk``, and their way to ONNX.

They are there after ``register()``; importing this module registers nothing. They run on CPU and CUDA, trace with
``torch.compile`` and ``torch.export`` (any size may be dynamic). A gradient through them is an error.
"""

from collections.abc import Callable
from typing import Any

import torch

from graphwright.errors import RequestError
from graphwright.plugins.hars import meaning, torch_translations

SOFTMAX_TOPK = (
    "softmax_topk(Tensor logits, int k, Tensor? bias=None, int axis=-1, str mode='logprob', float temperature=1.0, "
    "bool stats=False) -> (Tensor values, Tensor indices, Tensor maximum, Tensor log_sum)"
)
ROUTER_TOPK = (
    "router_topk(Tensor scores, int k, Tensor? bias=None, str scoring='softmax', bool renormalize=False, "
    "float scale=1.0, int zero_experts=0, bool scale_zero_experts=True, int groups=1, int top_groups=1) "
    "-> (Tensor weights, Tensor experts, Tensor identity_weight)"
)

Tensors = tuple[torch.Tensor, ...]

# The library that holds the registration: it ends when this object does.
_registered: list[torch.library.Library] = []


def register() -> None:
    """Define the operators for this process; a second call changes nothing.

    Without ``stats`` the outputs ``maximum`` and ``log_sum`` are empty, of shape [0].

    Raises:
        RequestError: by the operators, for what they do not take (eager mode).

    Example:
        >>> register()
        >>> values, indices, _, _ = torch.ops.hars.softmax_topk(torch.tensor([1.0, 3.0, 2.0]), 2, mode="logit")
        >>> values.tolist(), indices.tolist()
        ([3.0, 2.0], [1, 2])
    """
    if _registered:
        return
    untyped: Any = torch.library
    library = untyped.Library(meaning.DOMAIN, "DEF")
    for schema, run, fake in (
        (SOFTMAX_TOPK, _run_softmax_topk, _fake_softmax_topk),
        (ROUTER_TOPK, _run_router_topk, _fake_router_topk),
    ):
        name = schema.split("(")[0]
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for device in ("CPU", "CUDA"):
            library.impl(name, run, device)
        untyped.register_fake(f"{meaning.DOMAIN}::{name}", fake, lib=library)
        untyped.register_autograd(f"{meaning.DOMAIN}::{name}", _refuse_gradient, lib=library)
    _registered.append(library)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what ``torch.onnx.export`` needs as ``custom_translation_table``; empty before ``register()``.

    The exported model holds nodes without bodies: ``attach_bodies(program.model)`` (``bodies.py``) adds them, so
    that any runtime can run the file. ``graphwright.optimize`` does both by itself.

    Example:
        >>> register()
        >>> [operator.name() for operator in onnx_translations()]
        ['hars::softmax_topk', 'hars::router_topk']
    """
    if not _registered:
        return {}
    operators = torch.ops.hars
    return {
        operators.softmax_topk.default: torch_translations.softmax_topk,
        operators.router_topk.default: torch_translations.router_topk,
    }


def _run_softmax_topk(
    logits: torch.Tensor,
    k: int,
    bias: torch.Tensor | None = None,
    axis: int = -1,
    mode: str = "logprob",
    temperature: float = 1.0,
    stats: bool = False,
) -> Tensors:
    from graphwright.plugins import hars

    results = hars.softmax_topk(
        logits, k, mode=_one_of(meaning.MODES, mode, "mode"), bias=bias, temperature=temperature, stats=stats, axis=axis
    )
    # The tracer promised contiguous results, each with memory of its own.
    results = tuple(result.contiguous() for result in results)
    return results if stats else (*results, results[0].new_empty(0), results[0].new_empty(0))


def _run_router_topk(
    scores: torch.Tensor,
    k: int,
    bias: torch.Tensor | None = None,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
) -> Tensors:
    from graphwright.plugins import hars

    results = hars.router_topk(
        scores,
        k,
        bias=bias,
        scoring=_one_of(meaning.SCORINGS, scoring, "scoring"),
        renormalize=renormalize,
        scale=scale,
        zero_experts=zero_experts,
        scale_zero_experts=scale_zero_experts,
        groups=groups,
        top_groups=top_groups,
    )
    return tuple(result.contiguous() for result in results)


def _refuse_gradient(_context: Any, *_gradients: torch.Tensor) -> None:
    raise RequestError("hars operators", "a gradient through one", needed="inference", hint="use torch.no_grad()")


def _one_of(known: tuple[Any, ...], given: str, name: str) -> Any:
    if given not in known:
        raise RequestError(name, repr(given), needed=", ".join(known))
    return given


def _fake_softmax_topk(
    logits: torch.Tensor,
    k: int,
    bias: torch.Tensor | None = None,
    axis: int = -1,
    mode: str = "logprob",
    temperature: float = 1.0,
    stats: bool = False,
) -> Tensors:
    axis = _counted(logits, axis)
    _check_k(k, logits.shape[axis])
    _check_bias(bias, logits)
    before, behind = logits.shape[:axis], logits.shape[axis + 1 :]
    kept, rest = (*before, k, *behind), (*before, *behind) if stats else (0,)
    real = _real(logits)
    return (
        logits.new_empty(kept, dtype=real),
        logits.new_empty(kept, dtype=torch.int64),
        logits.new_empty(rest, dtype=real),
        logits.new_empty(rest, dtype=real),
    )


def _fake_router_topk(
    scores: torch.Tensor, k: int, bias: torch.Tensor | None = None, *_args: Any, **_options: Any
) -> Tensors:
    _check_k(k, scores.shape[_counted(scores, -1)])
    _check_bias(bias, scores)
    rest = scores.shape[:-1]
    real = _real(scores)
    return (
        scores.new_empty((*rest, k), dtype=real),
        scores.new_empty((*rest, k), dtype=torch.int64),
        scores.new_empty(rest, dtype=real),
    )


def _counted(tensor: torch.Tensor, axis: int) -> int:
    """Return the axis counted from the front."""
    if not -tensor.ndim <= axis < tensor.ndim:
        raise RequestError("axis", str(axis), needed=f"one of the {tensor.ndim} axes")
    return axis % tensor.ndim


def _check_k(k: int, width: int | torch.SymInt) -> None:
    if isinstance(width, torch.SymInt):
        untyped: Any = torch
        untyped._check(width >= k, lambda: f"k is {k}; the axis has {width}")
    elif not 1 <= k <= width:
        raise RequestError("k", str(k), needed=f"1 to {width}, the size of the axis")


def _check_bias(bias: torch.Tensor | None, logits: torch.Tensor) -> None:
    """Raise unless the bias broadcasts to the logits; the tracer learns which of their sizes are equal."""
    if bias is None:
        return
    untyped: Any = torch
    try:
        fits = untyped.broadcast_shapes(bias.shape, logits.shape) == logits.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise RequestError("bias", f"shape {list(bias.shape)}", needed=f"one that broadcasts to {list(logits.shape)}")


def _real(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype that the operators compute in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
