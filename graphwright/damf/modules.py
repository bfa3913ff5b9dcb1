"""The same module called and answering as each original does, so that the model around it notices nothing."""

from typing import Any

import torch
from torch import nn

from graphwright.damf.core import DamfAttention, Parts
from graphwright.plugins.damf.reference import Softmax


class PlainDamf(DamfAttention):
    """Called as the protocol says: hidden states and a mask; answers with the output alone."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the output of the attention."""
        return self.attend(hidden_states, key_value_states, attention_mask)


class EncoderDamf(DamfAttention):
    """Called as self attention of BERT and ViT; answers with the output and no weights."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the output of the attention, and None for its weights."""
        return self.attend(hidden_states, None, attention_mask, past_key_values), None


class CrossDamf(DamfAttention):
    """Called as cross attention of BERT; answers with the output and no weights."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the output of the attention, and None for its weights."""
        return self.attend(hidden_states, encoder_hidden_states, attention_mask, past_key_values), None


class Gpt2Damf(DamfAttention):
    """Called as attention of GPT-2; answers with the output and no weights."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the output of the attention, and None for its weights."""
        mask = encoder_attention_mask if self.is_cross else attention_mask
        return self.attend(hidden_states, encoder_hidden_states, mask, past_key_values), None


class T5Damf(DamfAttention):
    """Called as attention of T5: makes the bias of relative positions, or takes the one that another layer made."""

    def __init__(self, parts: Parts, u: torch.Tensor, v: torch.Tensor, softmax: Softmax) -> None:
        super().__init__(parts, u, v, softmax)
        # The original attention makes the bias; all of it that is still used is its small embedding.
        self.position: nn.Module | None = parts.bias

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Return the output, the bias for the next layer, and None for the weights."""
        if position_bias is None and self.position is not None:
            position_bias = self._bias(hidden_states, past_key_values)
        result = self.attend(hidden_states, key_value_states, mask, past_key_values, position_bias)
        return result, position_bias, None

    def _bias(self, hidden_states: torch.Tensor, cache: Any) -> torch.Tensor:
        length = hidden_states.shape[1]
        past = cache.get_seq_length(self.layer_idx) if cache is not None else 0
        position: Any = self.position
        made: torch.Tensor = position.compute_bias(length, length + past, hidden_states.device, past_seen_tokens=past)
        return made


# How a module is called -> the class that is called so.
CALLINGS: dict[str, type[DamfAttention]] = {
    "plain": PlainDamf,
    "encoder": EncoderDamf,
    "cross": CrossDamf,
    "gpt2": Gpt2Damf,
    "t5": T5Damf,
}
