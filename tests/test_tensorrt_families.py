"""Every family that target tensorrt is for: no node that the parser's table lacks, and the source's numbers.

Numbers are ONNX Runtime's on the CPU, with HARS as function bodies; TensorRT itself is not run here.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

import graphwright as gw
from graphwright.engine.compare import TOLERANCES, compare
from graphwright.frontends import load
from graphwright.passes.lower.precision import TYPES
from graphwright.passes.lower.tensorrt_support import SUPPORTED_VERSIONS, unsupported
from graphwright.runtime.profile import Profile
from graphwright.runtime.reference import evaluate

Arrays = Mapping[str, np.ndarray]

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 97,
    "max_position_embeddings": 64,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {**TEXT, **SPECIAL, "num_key_value_heads": 2, "head_dim": 8}
IMAGE = {name: TEXT[name] for name in list(TEXT)[:4]} | {"image_size": 16, "patch_size": 8}
SHORT = {"d_model": 32, "vocab_size": 97, **SPECIAL}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": TEXT,
    "roberta": {**TEXT, **SPECIAL},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64, "vocab_size": 97},
    "deberta-v2": {**TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {
        **TEXT,
        **SPECIAL,
        "num_hidden_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "local_attention": 8,
    },
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": 97, **SPECIAL},
    "llama": DECODER,
    "qwen3": DECODER,
    "gemma2": {**DECODER, "num_hidden_layers": 2},
    "t5": {**SHORT, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},
    "bart": {
        **SHORT,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    },
    "vit": IMAGE,
    "clip": {"text_config": {**TEXT, **SPECIAL}, "vision_config": IMAGE, "projection_dim": 16},
    "swin": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "image_size": 16,
        "patch_size": 4,
        "window_size": 2,
    },
    "mixtral": {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2},
}
# Swin takes images of any size, and with those free torch's exporter needs minutes.
PROFILES = {"swin": "pixel_values=1x3x16x16:2x3x16x16:4x3x16x16"}
# Products of unit vectors times 14. Random ones are near right angles, so the result is small, and its rounding is not.
AMPLIFIED = {"clip": ("logits_per_image", "logits_per_text")}
FAST = ("roberta", "distilbert", "gpt2", "vit", "mixtral")
CHOSEN = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FAMILIES]


def built(family: str) -> transformers.PreTrainedModel:
    """A model of the family with tiny random weights, noise on every one; of two halves the encoder."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **FAMILIES[family]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return (model.get_encoder() if model.config.is_encoder_decoder else model).eval()


def inputs_of(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """Ids with padding, pixels, or both, as the model's forward pass takes them."""
    random = np.random.default_rng(0)
    takes = inspect.signature(model.forward).parameters
    found: dict[str, np.ndarray] = {}
    if "input_ids" in takes:
        found["input_ids"] = random.integers(5, 97, (2, 11))
        found["attention_mask"] = np.ones((2, 11), np.int64)
        found["attention_mask"][-1, -3:] = 0
    if "pixel_values" in takes:
        found["pixel_values"] = random.standard_normal((2, 3, 16, 16)).astype(np.float32)
    return found


@cache
def traced(family: str) -> tuple[ir.Model, Arrays, Callable[[Arrays], dict[str, np.ndarray]]]:
    """The exported model, inputs for it, and what torch makes of them."""
    model = built(family)
    source = load(model, inputs_of(model), profile=Profile.parse(PROFILES.get(family, "*")))
    assert source.reference is not None
    return source.model, inputs_of(model), source.reference


@cache
def compiled(family: str, precision: str = "fp32") -> gw.Artifact:
    source, inputs, _ = traced(family)
    profile = PROFILES.get(family, "*")
    return gw.optimize(source, inputs, profile=profile, target="tensorrt", precision=precision, progress=False)


def operators(model: ir.Model) -> set[str]:
    return {f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.all_nodes()}


def problems(model: ir.Model) -> Mapping[str, list[str]]:
    found = {
        version: [f"{each.node}: {each.reason}" for each in unsupported(model, version)]
        for version in SUPPORTED_VERSIONS
    }
    return {version: texts for version, texts in found.items() if texts}


@pytest.mark.parametrize("family", CHOSEN)
def test_a_family_is_taken_by_every_version_and_keeps_its_numbers(family: str) -> None:
    artifact = compiled(family)
    assert problems(artifact.model) == {}
    assert not [each for each in artifact.report.explanations if each.pass_name == "target"]
    found = operators(artifact.model)
    assert "Attention" not in found and not any(name.startswith("com.microsoft") for name in found)
    assert "Softmax" in found and "MatMul" in found
    assert {function.domain for function in artifact.model.functions.values()} <= {"hars"}
    verification = artifact.report.verification
    assert verification is not None and not verification.by_design
    assert len(verification.points) >= 3
    assert verification.worst is not None and verification.worst < 1e-4
    _, inputs, reference = traced(family)
    wanted, got = reference(inputs), evaluate(artifact.model, inputs)
    assert not compare(wanted, got)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("family", CHOSEN)
def test_a_family_in_half_precision_is_within_its_type_s_tolerance(family: str, precision: str) -> None:
    artifact = compiled(family, precision)
    assert problems(artifact.model) == {}
    assert TYPES[precision] in {value.dtype for node in artifact.model.graph for value in node.outputs}
    allowed = TOLERANCES[TYPES[precision]]
    verification = artifact.report.verification
    assert verification is not None and verification.deviations
    for each in verification.deviations:
        factor = 2 if each.output in AMPLIFIED.get(family, ()) else 1
        assert each.relative <= factor * allowed.relative or each.absolute <= allowed.absolute, each


def test_the_router_of_a_mixture_becomes_a_plugin() -> None:
    artifact = compiled("mixtral")
    nodes = [node for node in artifact.model.graph if node.domain == "hars"]
    assert len(nodes) == 1 and all("plugin_namespace" in node.attributes for node in nodes)
    found = unsupported(artifact.model, plugins=())
    assert [each.operator for each in found] == [f"hars::{node.op_type}" for node in nodes]
