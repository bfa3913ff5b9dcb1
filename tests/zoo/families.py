"""Tiny random models of many families: two layers, every parameter perturbed, attention far from uniform.

Sizes are unequal on purpose, so that no pass takes one axis for another: hidden 64, four heads of 16 (or of 12, two of
them with keys and values), a vocabulary of 97, batches of 3 and a length of 11 in the trace. Nothing heavy is
imported with this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import transformers

Arrays = dict[str, np.ndarray]

VOCABULARY = 97
WINDOW = 4  # a sliding window that matters at the length of the trace
IMAGE, CHANNELS = 24, 3
FRAMES = 36  # of Whisper's encoder, which takes twice as many

_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_ENCODER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 88,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 71,
}
_DECODER = {**_ENCODER, **_SPECIAL, "num_key_value_heads": 2}
_HEADS_OF_12 = {**_DECODER, "head_dim": 12}
_SLIDING = {**_HEADS_OF_12, "sliding_window": WINDOW}
_HALVES = {
    **_SPECIAL,
    "d_model": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 71,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 88,
    "decoder_ffn_dim": 104,
    "decoder_start_token_id": 1,
}
_IMAGES = {name: _ENCODER[name] for name in list(_ENCODER)[:4]} | {"image_size": IMAGE, "patch_size": 8}
_GPT = {**_SPECIAL, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 71, "vocab_size": VOCABULARY}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}

CONFIGS: dict[str, dict[str, Any]] = {
    # Encoders of text.
    "bert": _ENCODER,
    "roberta": {**_ENCODER, **_SPECIAL},
    "distilbert": {
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 88,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 71,
    },
    "albert": {**_ENCODER, "embedding_size": 48},
    "electra": {**_ENCODER, "embedding_size": 48},
    "mpnet": {**_ENCODER, **_SPECIAL},
    "deberta_v2": {**_ENCODER, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {
        **_ENCODER,
        **_SPECIAL,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "local_attention": 2 * WINDOW,
        "global_attn_every_n_layers": 2,
    },
    # Decoders of text.
    "gpt2": _GPT,
    "gpt_neox": {**_ENCODER, **_SPECIAL, "rotary_pct": 0.5},
    "opt": {**_ENCODER, **_SPECIAL, "ffn_dim": 88, "word_embed_proj_dim": 64},
    "bloom": {**_SPECIAL, "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY},
    "gptj": {**_GPT, "rotary_dim": 8},
    "llama": _HEADS_OF_12,
    "mistral": _SLIDING,
    "qwen2": _DECODER,
    "qwen3": _HEADS_OF_12,
    "gemma": _HEADS_OF_12,
    "gemma2": {**_SLIDING, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 20},
    "gemma3_text": {**_SLIDING, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 20},
    "phi": {**_ENCODER, **_SPECIAL, "partial_rotary_factor": 0.5},
    "phi3": {**_DECODER, "original_max_position_embeddings": 71},
    "olmo2": _DECODER,
    "granite": {**_DECODER, "attention_multiplier": 0.3, "residual_multiplier": 0.7, "embedding_multiplier": 3.0},
    "starcoder2": {**_DECODER, "sliding_window": WINDOW},
    "cohere": _DECODER,
    # Mixtures of experts.
    "mixtral": {**_HEADS_OF_12, "num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen3_moe": {**_HEADS_OF_12, **_EXPERTS, "decoder_sparse_step": 1},
    "olmoe": {**_DECODER, "num_experts": 6, "num_experts_per_tok": 2},
    "gpt_oss": {
        **_SLIDING,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
        "rope_parameters": _YARN,
    },
    "longcat_flash": {
        **_SPECIAL,
        "hidden_size": 64,
        "num_layers": 1,  # each has two attentions
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 71,
        "ffn_hidden_size": 88,
        "q_lora_rank": 24,
        "kv_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "head_dim": 8,
        "v_head_dim": 14,
        "qk_head_dim": 20,
        "moe_topk": 2,
        "n_routed_experts": 6,
        "zero_expert_num": 2,
        "expert_ffn_hidden_size": 40,
    },
    # An encoder and a decoder.
    "t5": {
        **_SPECIAL,
        "d_model": 64,
        "d_kv": 12,
        "d_ff": 88,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 10,
        "vocab_size": VOCABULARY,
        "decoder_start_token_id": 0,
    },
    "bart": _HALVES,
    "marian": _HALVES,
    "pegasus": _HALVES,
    "m2m_100": _HALVES,
    "whisper": {**_HALVES, "num_mel_bins": 20, "max_source_positions": FRAMES, "max_target_positions": 71},
    # Images, images with text, sound.
    "vit": _IMAGES,
    "deit": _IMAGES,
    "dinov2": {**_IMAGES, "mlp_ratio": 2},
    "clip": {
        "text_config": {**_ENCODER, **_SPECIAL, "hidden_size": 48, "intermediate_size": 72},
        "vision_config": _IMAGES,
        "projection_dim": 20,
    },
    "siglip": {
        # Siglip's text takes the last place for its sum, so its images and its text have one width.
        "text_config": {**_ENCODER, **_SPECIAL, "projection_size": 64},
        "vision_config": _IMAGES,
    },
    "swin": {
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "image_size": IMAGE,
        "patch_size": 2,
        "window_size": 3,
    },
    "wav2vec2": {
        **{name: _ENCODER[name] for name in list(_ENCODER)[:5]},
        "conv_dim": (24, 20),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
}
# The name of the family in transformers, where it is not ours.
_NAMES = {"deberta_v2": "deberta-v2"}

# Projections to queries and keys (packed ones with values), and norms of queries and keys.
_PROJECTION = re.compile(
    r"(^|[._])(q|k|query|key|q_proj|k_proj|qkv_proj|query_key_value|c_attn|Wqkv|q_lin|k_lin|query_proj|key_proj|"
    r"q_b_proj|kv_b_proj)\.weight$"
)
_NORM_OF_HEADS = re.compile(r"(^|[._])(q_norm|k_norm)\.weight$")
_NOISE, _SHARPER = 0.1, 2.0


def build(family: str, attention: str = "sdpa") -> "transformers.PreTrainedModel":
    """The family's tiny model in evaluation mode, whole: both halves where it has an encoder and a decoder.

    ``attention`` is transformers' name of the implementation. Experts run as ``batched_mm``, the only form of them
    whose shapes depend on no routing.

    Raises:
        ValueError: the family has no such attention.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.AutoConfig.for_model(_NAMES.get(family, family), **CONFIGS[family])
    try:
        model = transformers.AutoModel.from_config(config, attn_implementation=attention)
    except ValueError as error:
        if "does not support an attention implementation" not in str(error):
            raise
        raise ValueError(f"{family} has no {attention} attention") from None
    if getattr(model.config, "_experts_implementation", None) is not None:
        model.set_experts_implementation("batched_mm")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * _NOISE)
            if _PROJECTION.search(name):
                parameter.mul_(_SHARPER)
            elif _NORM_OF_HEADS.search(name):
                parameter.add_(1.0)
    return model.eval()


@dataclass(frozen=True)
class Sizes:
    """One set of sizes and the side that padding is on: "", "left" or "right"."""

    batch: int
    length: int
    decoder: int = 0
    padding: str = ""


TRACED = Sizes(3, 11, 9, "right")
# Sizes that no trace has seen.
POINTS = (
    Sizes(2, 7, 5, "right"),
    Sizes(5, 13, 3, "left"),
    Sizes(1, 1, 1),
    Sizes(1, 17, 6),
    Sizes(4, 5, 13, "left"),
)


def kind_of(family: str) -> str:
    """What the family reads: "text", "halves" (two texts), "image", "both" (text and image), "sound" or "speech"."""
    if family in {"vit", "deit", "dinov2", "swin"}:
        return "image"
    if family in {"clip", "siglip"}:
        return "both"
    special = {"whisper": "speech", "wav2vec2": "sound"}
    if family in special:
        return special[family]
    return "halves" if family in {"t5", "bart", "marian", "pegasus", "m2m_100"} else "text"


def make_inputs(family: str, sizes: Sizes = TRACED, seed: int = 0) -> Arrays:
    """Inputs of these sizes, seeded: ids with a mask [B, S], pixels [B, 3, 24, 24], sound [B, samples]."""
    random = np.random.default_rng([seed, sizes.batch, sizes.length])
    kind, found = kind_of(family), {}
    if kind in {"text", "halves", "both"}:
        found["input_ids"] = random.integers(5, VOCABULARY, (sizes.batch, sizes.length))
        found["attention_mask"] = _mask(sizes)
    if kind in {"image", "both"}:
        # Pixels of another number than the texts: the axes are two.
        images = sizes.batch + (1 if kind == "both" else 0)
        found["pixel_values"] = random.standard_normal((images, CHANNELS, IMAGE, IMAGE)).astype(np.float32)
    if kind == "speech":
        found["input_features"] = random.standard_normal((sizes.batch, 20, 2 * FRAMES)).astype(np.float32)
    if kind == "sound":
        found["input_values"] = random.standard_normal((sizes.batch, 60 + 10 * sizes.length)).astype(np.float32)
    if kind in {"halves", "speech"}:
        found["decoder_input_ids"] = random.integers(5, VOCABULARY, (sizes.batch, sizes.decoder))
    return found


def _mask(sizes: Sizes) -> np.ndarray:
    """Ones, but zeros at a third of every row after the first, on the side of the padding."""
    mask = np.ones((sizes.batch, sizes.length), np.int64)
    missing = max(1, sizes.length // 3)
    if sizes.padding == "right":
        mask[1:, -missing:] = 0
    elif sizes.padding == "left":
        mask[1:, :missing] = 0
    return mask


def dynamic_axes(inputs: Mapping[str, np.ndarray]) -> dict[str, dict[int, str]]:
    """The axes of each input that are dynamic, with their names."""
    axes = {
        "input_ids": {0: "batch", 1: "seq"},
        "attention_mask": {0: "batch", 1: "seq"},
        "decoder_input_ids": {0: "batch", 1: "decoder_seq"},
        "pixel_values": {0: "images" if "input_ids" in inputs else "batch"},
        "input_features": {0: "batch"},
        "input_values": {0: "batch", 1: "samples"},
    }
    return {name: axes[name] for name in inputs}
