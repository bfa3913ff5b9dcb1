"""The attentions that can be replaced: those of transformers, told by class name, and any that follow the protocol.

Names and not imports, so that nothing here needs transformers. Exactly these classes: one that derives from them may
do something between projection and scores.
"""

import copy
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from graphwright.damf.core import DamfAttention, Parts, Projection
from graphwright.errors import RequestError

_BERT = (
    "Bert Roberta Electra XLMRoberta Camembert Ernie Data2VecText BertGeneration Xmod RobertaPreLayerNorm XLMRobertaXL"
)
_VIT = "ViT DeiT ViTMSN ViTMAE Dinov2 IJepa Vivit"
BERT_SELF = frozenset(f"{name}SelfAttention" for name in _BERT.split())
BERT_CROSS = frozenset(f"{name}CrossAttention" for name in _BERT.split())
VIT = frozenset(f"{name}Attention" for name in _VIT.split())
GPT2 = frozenset({"GPT2Attention"})
T5 = frozenset({"T5Attention", "MT5Attention"})
KNOWN = BERT_SELF | BERT_CROSS | VIT | GPT2 | T5


@runtime_checkable
class FactorableAttention(Protocol):
    """What an attention of one's own needs, as attributes, so that it can be replaced.

    ``output(softmax(scaling * Q K^T + mask) V)`` must be all that it computes, with nothing between the projections and
    the scores, and its call must be ``forward(hidden_states, attention_mask=None, key_value_states=None) -> Tensor``
    with the mask [B, T], or [B, 1, S, T] boolean or additive. The replacement is called and answers the same way.

    Attributes:
        query, key, value: ``nn.Linear``, heads side by side; used by this module alone.
        output: any module, for the heads' results side by side; ``nn.Identity()`` where there is nothing to do.
        num_heads: heads of queries, keys and values alike.
        scaling: what the scores are multiplied by.
        is_causal: does a query see earlier positions alone?
        is_cross_attention: do keys come from another sequence?
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Module
    num_heads: int
    scaling: float
    is_causal: bool
    is_cross_attention: bool


def is_attention(module: nn.Module) -> bool:
    """Tell whether it is an original attention that can be taken apart."""
    if isinstance(module, DamfAttention):
        return False
    return _is_known(module) or isinstance(module, FactorableAttention)


def _is_known(module: nn.Module) -> bool:
    return type(module).__name__ in KNOWN and type(module).__module__.startswith("transformers.")


def parts_of(module: nn.Module, where: str) -> Parts:
    """Take an original attention apart, without a change to it.

    Raises:
        RequestError: a projection that is no plain layer, such as a quantised one.
    """
    name, attention = type(module).__name__, module
    if not _is_known(module):
        return _plain(attention, where)
    if name in GPT2:
        return _gpt2(attention, where)
    if name in T5:
        return _t5(attention, where)
    return _vit(attention, where) if name in VIT else _bert(attention, where)


def _plain(attention: Any, where: str) -> Parts:
    query, key, value = (_projection(getattr(attention, name), f"{where}.{name}") for name in ("query", "key", "value"))
    return Parts(
        query,
        key,
        value,
        heads=attention.num_heads,
        scale=attention.scaling,
        causal=attention.is_causal,
        cross=attention.is_cross_attention,
        output=attention.output,
        dropout=0.0,
        calling="plain",
    )


def _bert(attention: Any, where: str) -> Parts:
    cross = type(attention).__name__ in BERT_CROSS
    query, key, value = (_projection(getattr(attention, name), f"{where}.{name}") for name in ("query", "key", "value"))
    return Parts(
        query,
        key,
        value,
        heads=attention.num_attention_heads,
        scale=attention.scaling,
        causal=attention.is_causal and not cross,
        cross=cross,
        output=nn.Identity(),
        dropout=attention.dropout.p,
        calling="cross" if cross else "encoder",
        layer=attention.layer_idx,
    )


def _vit(attention: Any, where: str) -> Parts:
    query, key, value = (
        _projection(getattr(attention, name), f"{where}.{name}") for name in ("q_proj", "k_proj", "v_proj")
    )
    return Parts(
        query,
        key,
        value,
        heads=attention.num_attention_heads,
        scale=attention.scaling,
        causal=False,
        cross=False,
        output=attention.o_proj,
        dropout=attention.attention_dropout,
        calling="encoder",
    )


def _gpt2(attention: Any, where: str) -> Parts:
    packed = _projection(attention.c_attn, f"{where}.c_attn")
    slices = [
        _columns(packed, number, attention.embed_dim) for number in range(2 if attention.is_cross_attention else 3)
    ]
    if attention.is_cross_attention:
        slices.insert(0, _projection(attention.q_attn, f"{where}.q_attn"))
    query, key, value = slices
    return Parts(
        query,
        key,
        value,
        heads=attention.num_heads,
        scale=attention.scaling,
        causal=attention.is_causal,
        cross=attention.is_cross_attention,
        output=nn.Sequential(attention.c_proj, attention.resid_dropout),
        dropout=attention.attn_dropout.p,
        calling="gpt2",
        layer=attention.layer_idx,
    )


def _t5(attention: Any, where: str) -> Parts:
    # Only a decoder's attention may lack the mark of causality: it reads the encoder's states.
    cross = attention.is_decoder and not attention.is_causal
    query, key, value = (_projection(getattr(attention, name), f"{where}.{name}") for name in ("q", "k", "v"))
    return Parts(
        query,
        key,
        value,
        heads=attention.n_heads,
        scale=attention.scaling,
        causal=attention.is_causal,
        cross=cross,
        output=attention.o,
        dropout=attention.dropout,
        calling="t5",
        layer=attention.layer_idx,
        bias=_bias_alone(attention) if attention.has_relative_attention_bias else None,
    )


def _bias_alone(attention: nn.Module) -> nn.Module:
    """A copy of the attention without projections: what still makes the bias of relative positions."""
    alone = copy.copy(attention)
    alone._modules = {"relative_attention_bias": attention._modules["relative_attention_bias"]}
    return alone


def _projection(layer: nn.Module, where: str) -> Projection:
    """The weight as [d, H * D]; of plain layers alone, whose weight is what they multiply by."""
    kind, bias = type(layer), getattr(layer, "bias", None)
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        if kind is nn.Linear:
            return Projection(weight.T, bias)
        if kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils":
            return Projection(weight, bias)
    hint = "replace the attention first, then quantise or adapt the model"
    raise RequestError(
        where, f"a layer {kind.__module__}.{kind.__name__}", needed="torch.nn.Linear with floats", hint=hint
    )


def _columns(packed: Projection, number: int, width: int) -> Projection:
    columns = slice(number * width, (number + 1) * width)
    assert packed.bias is not None
    return Projection(packed.weight[:, columns], packed.bias[columns])
