"""Replace a model's attentions by factored ones, and cut the factors down."""

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from graphwright.damf.core import DamfAttention, heads_of, linear_of_factors
from graphwright.damf.families import T5, is_attention, parts_of
from graphwright.damf.modules import CALLINGS
from graphwright.errors import GraphwrightError, RequestError, UsageError
from graphwright.plugins.damf.factors import check_rank, factorize, homogeneous
from graphwright.plugins.damf.reference import SOFTMAXES, Softmax


def replace_attention(
    model: nn.Module,
    rank: int | None = 1,
    softmax: Softmax = "maclaurin",
    layers: Collection[int | str] | None = None,
) -> list[str]:
    """Replace attentions in place by :class:`DamfAttention`, and return the names of the modules replaced.

    Attentions of BERT, ViT, GPT-2 and T5 and their siblings in transformers are known; any other follows
    :class:`FactorableAttention`. ``rank`` None keeps the projections as they are (rank D), under the chosen softmax.
    ``layers`` selects attentions by number, in the order of the model, or by name; None is all of them. Output
    projections and what is around the attention stay. Factors and values are new parameters that train, so make the
    optimizer afterwards. Where everything is replaced by a form without an S x T matrix, models of transformers
    also stop making masks of that size.

    A bias that T5 adds to scores belongs to pairs of positions, so its self attention takes ``exact`` alone; its cross
    attention, which has none, takes every form.

    Raises:
        RequestError: a rank outside 1..D, weights that are NaN or infinite, a projection that is quantised or shared,
            or an attention that the softmax does not suit; the model is as it was.
        UsageError: no attention that can be replaced, or layers that it does not have.

    Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion".

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
        >>> model = BertModel(config)
        >>> replace_attention(model, rank=1)
        ['encoder.layer.0.attention.self']
        >>> model.encoder.layer[0].attention.self.query
        Linear(in_features=8, out_features=2, bias=True)
    """
    if softmax not in SOFTMAXES:
        raise UsageError("damf: softmax", repr(softmax), needed=f"one of {', '.join(SOFTMAXES)}")
    found = attentions(model)
    chosen = _chosen(found, layers, model)
    _check_unshared(model, chosen)
    made = {name: _made(found[name], name, rank, softmax) for name in chosen}
    for name, module in made.items():
        model.set_submodule(name, module)
    if not attentions(model) and all(each.softmax == "maclaurin" for each in _replaced(model).values()):
        _mask_keys_alone(model)
    return list(made)


def collapse(model: nn.Module, rank: int = 1) -> list[str]:
    """Cut the factors of every :class:`DamfAttention` down to a rank in place; return the names of those it changed.

    What is kept is the best approximation of the scores by that rank. Modules of that rank or less stay as they are.
    The factors of the others are new parameters, so make the optimizer afterwards.

    Raises:
        RequestError: a rank below 1, or weights that are NaN or infinite.
        UsageError: the model has no DamfAttention; the hint tells how to get one.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
        >>> model = BertModel(config)
        >>> names = replace_attention(model, rank=None)
        >>> collapse(model) == names
        True
    """
    modules = _replaced(model)
    if not modules:
        raise UsageError(type(model).__name__, "no DamfAttention", needed="one", hint="call replace_attention first")
    check_rank(rank, max(module.rank for module in modules.values()))
    wide = {name: module for name, module in modules.items() if module.rank > rank}
    factors = {name: _cut(*module.factors(), 1.0, rank, name) for name, module in wide.items()}
    for name, module in wide.items():
        u, v = factors[name]
        module.query = linear_of_factors(u, module.query.weight)
        module.key = linear_of_factors(v, module.key.weight)
        module.rank = rank
    return list(wide)


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the original attentions of a model by name, in its order."""
    return {name: module for name, module in model.named_modules() if name and is_attention(module)}


def _replaced(model: nn.Module) -> dict[str, DamfAttention]:
    return {name: module for name, module in model.named_modules() if isinstance(module, DamfAttention)}


def _chosen(found: dict[str, nn.Module], layers: Collection[int | str] | None, model: nn.Module) -> list[str]:
    if not found:
        raise _nothing_found(model)
    names = list(found)
    if layers is None:
        return names
    wrong = [each for each in layers if each not in (names if isinstance(each, str) else range(len(names)))]
    if wrong or not layers:
        needed = f"numbers from 0 to {len(names) - 1}, or names such as {names[0]!r}"
        raise UsageError("damf: layers", repr(wrong[0]) if wrong else "none", needed=needed)
    wanted = {each if isinstance(each, str) else names[each] for each in layers}
    return [name for name in names if name in wanted]


def _nothing_found(model: nn.Module) -> UsageError:
    """Why nothing can be replaced: done already, rotary, unknown or no attention."""
    where, kinds = type(model).__name__, {type(module).__name__: module for module in model.modules()}
    if any(isinstance(module, DamfAttention) for module in kinds.values()):
        return UsageError(where, "DamfAttention alone", needed="an attention that is not yet replaced")
    if any("Rotary" in name for name in kinds):
        found = "rotary positions between the projections and the scores"
        return UsageError(
            where, found, needed="query and key weights that meet", hint="a model with absolute positions"
        )
    unknown = sorted(name for name in kinds if "Attention" in name)
    if unknown:
        hint = "give it the attributes of graphwright.damf.FactorableAttention"
        return UsageError(where, f"no attention but {', '.join(unknown[:3])}", needed="one that is known", hint=hint)
    return UsageError(where, "no attention", needed="a transformer of BERT, ViT, GPT-2 or T5 form, or the protocol")


def _check_unshared(model: nn.Module, chosen: list[str]) -> None:
    """Weights that another module uses as well cannot be taken away from it."""
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name)
    for name in chosen:
        for parameter in model.get_submodule(name).parameters():
            others = users[id(parameter)]
            if len(others) > 1:
                needed = "weights that one attention uses alone"
                raise RequestError(name, f"weights shared by {' and '.join(others[:2])}", needed=needed)


def _made(attention: nn.Module, name: str, rank: int | None, softmax: Softmax) -> DamfAttention:
    parts = parts_of(attention, name)
    if softmax != "exact" and type(attention).__name__ in T5 and not parts.cross:
        found = f"softmax {softmax!r} and a bias for each pair of positions"
        raise RequestError(name, found, needed='softmax="exact"', hint="or name the cross attentions in layers")
    query, key = (heads_of(each, parts.heads).detach() for each in (parts.query, parts.key))
    if rank is None:
        u, v = _whole(query, key, parts.scale, name)
    else:
        u, v = _cut(query, key, parts.scale, rank, name)
    made = CALLINGS[parts.calling](parts, u, v, softmax)
    made.train(attention.training)
    return made


def _whole(query: torch.Tensor, key: torch.Tensor, scale: float, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    with _named(name):
        for each in (query, key):
            homogeneous(_array(each).reshape(-1, each.shape[-1]), None)
    return query * scale, key


def _cut(
    query: torch.Tensor, key: torch.Tensor, scale: float, rank: int, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of every head, from weights whose last row is the bias."""
    with _named(name):
        pairs = [
            factorize(one[:-1], one[-1], other[:-1], other[-1], scale, rank)
            for one, other in zip(_array(query), _array(key), strict=True)
        ]
    u, v = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
    return u, v


def _array(weights: torch.Tensor) -> np.ndarray:
    return weights.detach().to("cpu", torch.float64).numpy()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors say which module they are about."""
    try:
        yield
    except GraphwrightError as error:
        raise type(error)(f"{name}: {error.where}", error.found, needed=error.needed, hint=error.hint) from error


def _mask_keys_alone(model: nn.Module) -> None:
    """Let models of transformers pass masks on as [B, 1, 1, T]: they take a mask of four axes for a finished one."""
    for module in model.modules():
        base: Any = module
        config = getattr(module, "config", None)
        if config is None or getattr(base, "base_model", None) is not module:
            continue
        names = list(inspect.signature(module.forward).parameters)
        if "attention_mask" in names and not getattr(config, "is_encoder_decoder", False):
            module.register_forward_pre_hook(partial(_keys_alone, names.index("attention_mask")), with_kwargs=True)


def _keys_alone(
    place: int, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if named.get("attention_mask") is not None:
        return arguments, named | {"attention_mask": _widened(named["attention_mask"])}
    if len(arguments) > place and arguments[place] is not None:
        return (*arguments[:place], _widened(arguments[place]), *arguments[place + 1 :]), named
    return arguments, named


def _widened(mask: torch.Tensor) -> torch.Tensor:
    return (mask != 0)[:, None, None, :] if mask.ndim == 2 else mask
