"""HARS: exact softmax + top-k, and search on top of it. NumPy arrays or torch tensors in, the same kind out.

Source: Wang et al. 2021 (LightSeq), arXiv:2010.13887, section 2.2: retrieve a few candidates by the maxima of groups,
then re-rank. Here k groups are kept instead of a threshold: all of the k largest lie in the k groups with the largest
maxima (Gaihre et al. 2021, Dr. Top-k, arXiv:2109.08219), so the second step reads a fixed number of logits.
What the operators mean to the last case: ``meaning.py`` and docs/design/0005-hars.md.
"""

from typing import Any

import numpy as np

from graphwright.errors import UsageError
from graphwright.plugins.hars import arrays, cuda, native, onnx_run, reference
from graphwright.plugins.hars.choice import KERNELS, Name, choose, implementations
from graphwright.plugins.hars.meaning import MODES, SCORINGS, Mode, Scoring
from graphwright.plugins.hars.search import beam_step, diverse_beam_step, edited_topk, sample

__all__ = [
    "beam_step",
    "diverse_beam_step",
    "edited_topk",
    "implementations",
    "register_torch",
    "router_topk",
    "sample",
    "softmax_topk",
]


def softmax_topk(
    logits: Any,
    k: int,
    *,
    mode: Mode = "logprob",
    bias: Any = None,
    temperature: float = 1.0,
    stats: bool = False,
    axis: int = -1,
    implementation: Name = "auto",
    threads: int | None = None,
) -> tuple[Any, ...]:
    """Return values and indices of the ``k`` largest of each row, and with ``stats`` the row's maximum and log-sum.

    A row is ranked by ``(logits + bias) / temperature``, largest first, then lowest index; NaN is larger than +inf.
    The values are these numbers (mode "logit"), their logarithmic or plain softmax over the whole row ("logprob",
    "prob"), or the softmax over the selected ones alone ("prob_renorm"). "logit" and "prob_renorm" need no sum over the
    row and are faster. A row's result depends neither on the other rows nor on the number of threads.

    Shapes: logits [..., V, ...] with V on ``axis``; bias broadcastable to that; values and indices with k in place of
        V; maximum and log_sum without the axis.
    Dtypes: logits float32, float16, bfloat16 (NumPy: ``ml_dtypes.bfloat16``) or, by the reference alone, float64. bias
        any float, or bool: True may be chosen, False is -inf. values, maximum and log_sum are float32 (float64 for
        float64 logits), indices int64.

    Raises:
        UsageError: k outside 1..V, a single number, a shape, dtype, temperature or option that it does not take.
        MissingDependencyError: the implementation that is asked for cannot run here; see :func:`implementations`.

    Source: arXiv:2010.13887, section 2.2; arXiv:2109.08219.

    Example:
        >>> logits = np.log(np.array([[0.5, 0.125, 0.25, 0.125]], np.float32))
        >>> values, indices = softmax_topk(logits, 3, mode="prob")
        >>> values.round(3).tolist(), indices.tolist()
        ([[0.5, 0.25, 0.125]], [[0, 2, 1]])
    """
    _check_choice("softmax_topk: mode", mode, MODES)
    chosen = choose("softmax_topk", implementation, logits)
    if chosen == "cuda":
        return cuda.softmax_topk(logits, k, mode=mode, bias=bias, temperature=temperature, stats=stats, axis=axis)
    rows = arrays.check_rows("softmax_topk", logits, k, axis, bias, temperature)
    options: dict[str, Any] = {"mode": mode, "temperature": float(temperature), "stats": stats}
    results: tuple[np.ndarray, ...]
    if chosen in KERNELS:
        bias_table, bias_row = arrays.bias_rows(rows)
        flat = native.softmax_topk(
            np.ascontiguousarray(rows.array),
            bias_table,
            bias_row,
            k=k,
            axis_sizes=rows.sizes,
            isa=chosen,
            threads=threads,
            **options,
        )
        shapes = (rows.kept(k), rows.kept(k), rows.rest, rows.rest)
        results = tuple(array.reshape(shape) for array, shape in zip(flat, shapes, strict=False))
    elif chosen == "reference":
        results = reference.softmax_topk(rows.array, k, bias=rows.bias, axis=rows.axis, **options)
    else:
        results = onnx_run.softmax_topk(rows.array, k, bias=rows.bias, axis=rows.axis, implementation=chosen, **options)
    return arrays.like(results, logits)


def router_topk(
    scores: Any,
    k: int,
    *,
    bias: Any = None,
    scoring: Scoring = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    implementation: Name = "auto",
    threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """Return weights and numbers of each token's ``k`` experts, and the weight of its identity experts.

    Experts are chosen by ``s + bias`` and weighed by ``s``, the softmax or sigmoid of the scores; the weights are then
    divided by their sum (``renormalize``) and multiplied by ``scale``. The last ``zero_experts`` are identity experts:
    they appear as expert -1 with weight 0, and the sum of their weights is ``identity_weight``, so that the result of a
    token is its experts' plus ``identity_weight`` times itself. ``scale_zero_experts=False`` scales only the others.
    With ``groups`` above 1, experts are chosen among the ``top_groups`` groups whose two best keys add up to the most.
    A weight that would be NaN is 0; the experts are distinct even then.

    Shapes: scores [..., E], bias [E]; weights and experts [..., k], identity_weight [...].
    Dtypes: as in :func:`softmax_topk`; weights and identity_weight float32, experts int64.

    Raises:
        UsageError: sizes, dtypes or options that it does not take.
        MissingDependencyError: the implementation that is asked for cannot run here.

    Source: DeepSeek-V3, arXiv:2412.19437, section 2.1.2; LongCat-Flash, arXiv:2509.01322, section 2.1; Mixtral,
        arXiv:2401.04088, section 2.1.

    Example:
        >>> scores = np.log(np.array([[1, 2, 5]], np.float32))
        >>> weights, experts, identity = router_topk(scores, 2, renormalize=True)
        >>> weights.astype(float).round(3).tolist(), experts.tolist(), identity.tolist()
        ([[0.714, 0.286]], [[2, 1]], [0.0])
    """
    _check_choice("router_topk: scoring", scoring, SCORINGS)
    chosen = choose("router_topk", implementation, scores)
    options: dict[str, Any] = {
        "scoring": scoring,
        "renormalize": renormalize,
        "scale": float(scale),
        "zero_experts": zero_experts,
        "scale_zero_experts": scale_zero_experts,
        "groups": groups,
        "top_groups": top_groups,
    }
    if chosen == "cuda":
        return cuda.router_topk(scores, k, bias=bias, **options)
    array, offset = arrays.check_router("router_topk", scores, k, bias, zero_experts, groups, top_groups)
    results: tuple[np.ndarray, ...]
    if chosen in KERNELS:
        rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
        flat = native.router_topk(rows, offset, k=k, isa=chosen, threads=threads, **options)
        shapes = ((*array.shape[:-1], k), (*array.shape[:-1], k), array.shape[:-1])
        results = tuple(each.reshape(shape) for each, shape in zip(flat, shapes, strict=True))
    elif chosen == "reference":
        results = reference.router_topk(array, k, bias=offset, **options)
    else:
        results = onnx_run.router_topk(array, k, bias=offset, implementation=chosen, **options)
    weights, experts, identity_weight = arrays.like(results, scores)
    return weights, experts, identity_weight


def register_torch() -> None:
    """Register ``torch.ops.hars.softmax_topk`` and ``router_topk``; calling it again does nothing.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    from graphwright.plugins.hars import torch_ops

    torch_ops.register()


def _check_choice(where: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise UsageError(where, repr(given), needed=f"one of {', '.join(choices)}")
