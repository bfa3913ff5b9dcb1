"""Tiny models with random weights, and inputs for them."""

from typing import Any

import torch
import transformers

from graphwright.damf import DamfAttention

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}


def bert(kind: str = "Bert", implementation: str = "sdpa", **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **SMALL, vocab_size=50, attn_implementation=implementation, **options
    )
    return spread(getattr(transformers, f"{kind}Model")(config))


def vit() -> Any:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SMALL, image_size=8, patch_size=2, num_channels=1)
    return spread(transformers.ViTModel(config))


def gpt2(implementation: str = "sdpa", **options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_head=2, n_layer=2, vocab_size=50, n_positions=64, attn_implementation=implementation, **options
    )
    return spread(transformers.GPT2Model(config))


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16, num_heads=2, num_layers=2, d_kv=8, d_ff=24, vocab_size=50, decoder_start_token_id=0
    )
    return spread(transformers.T5Model(config))


def spread(model: Any) -> Any:
    """Weights and biases large enough for attention to differ from a mean; no dropout."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower() and "ln_" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def ids(batch: int = 3, length: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 50, (batch, length), generator=torch.Generator().manual_seed(seed))


def padding(side: str, batch: int = 3, length: int = 7) -> torch.Tensor | None:
    if side == "none":
        return None
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1, : length // 2] = 0
    mask[2, :2] = 0
    return mask if side == "left" else mask.flip(-1)


def replaced(model: torch.nn.Module) -> list[DamfAttention]:
    return [module for module in model.modules() if isinstance(module, DamfAttention)]
