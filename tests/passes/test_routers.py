"""Routers and output heads as the exporters of real models write them, each with the pass that is to fire on it."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DeepseekV3Config,
    GPT2Config,
    GPT2LMHeadModel,
    LongcatFlashConfig,
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashTopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM, MixtralTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from graphwright.engine.observe import Record
from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.engine.structure import check_onnx
from graphwright.engine.verify import RegionVerifier
from graphwright.frontends.torch import trace
from graphwright.optimize import optimize
from graphwright.passes import CATALOGUE, LIFT, TRANSFORM
from graphwright.runtime.reference import Reference, evaluate
from graphwright.testing import assert_equivalent

HIDDEN, EXPERTS = 16, 8
COMMON = {"hidden_size": HIDDEN, "num_experts_per_tok": 3}


def qwen(kind: Any, config: Any, renormalizes: bool) -> torch.nn.Module:
    module: torch.nn.Module = kind(config(**COMMON, num_experts=EXPERTS, norm_topk_prob=renormalizes))
    return module


def deepseek(groups: int, renormalizes: bool) -> torch.nn.Module:
    config = DeepseekV3Config(
        **COMMON,
        n_routed_experts=EXPERTS,
        num_local_experts=EXPERTS,
        n_group=groups,
        topk_group=(groups + 1) // 2,
        norm_topk_prob=renormalizes,
    )
    module: torch.nn.Module = DeepseekV3TopkRouter(config)
    return module


def longcat() -> torch.nn.Module:
    config = LongcatFlashConfig(**COMMON, n_routed_experts=6, zero_expert_num=2, moe_topk=3)
    module: torch.nn.Module = LongcatFlashTopkRouter(config)
    return module


def softmax_topk(mode: str, k: int = 3) -> dict[str, Any]:
    return {"k": k, "mode": mode}


def router_topk(scoring: str, renormalize: int, scale: float, groups: int = 1, top_groups: int = 1) -> dict[str, Any]:
    options = {"scoring": scoring, "renormalize": renormalize, "scale": scale}
    return {"k": 3, "groups": groups, "top_groups": top_groups, **options}


MIXTRAL = MixtralConfig(hidden_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=2)
ROUTERS: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, Any]]] = {
    "mixtral": (lambda: MixtralTopKRouter(MIXTRAL), softmax_topk("prob_renorm", 2)),
    "qwen2": (lambda: qwen(Qwen2MoeTopKRouter, Qwen2MoeConfig, False), softmax_topk("prob")),
    "qwen2-renormalized": (lambda: qwen(Qwen2MoeTopKRouter, Qwen2MoeConfig, True), softmax_topk("prob_renorm")),
    "qwen3": (lambda: qwen(Qwen3MoeTopKRouter, Qwen3MoeConfig, False), softmax_topk("prob")),
    "qwen3-renormalized": (lambda: qwen(Qwen3MoeTopKRouter, Qwen3MoeConfig, True), softmax_topk("prob_renorm")),
    "deepseek": (lambda: deepseek(1, True), router_topk("sigmoid", 1, 2.5)),
    "deepseek-plain": (lambda: deepseek(1, False), router_topk("sigmoid", 0, 2.5)),
    "deepseek-groups": (lambda: deepseek(4, True), router_topk("sigmoid", 1, 2.5, 4, 2)),
    "deepseek-groups-plain": (lambda: deepseek(2, False), router_topk("sigmoid", 0, 2.5, 2, 1)),
    "longcat": (longcat, router_topk("softmax", 0, 6.0)),
}


@cache
def router(name: str) -> torch.nn.Module:
    """The router of that name with random weights and biases."""
    torch.manual_seed(0)
    module = ROUTERS[name][0]()
    for parameter in (*module.parameters(), *module.buffers()):
        torch.nn.init.normal_(parameter.data, std=0.5)
    return module


EXAMPLE = np.random.default_rng(0).normal(size=(2, 5, HIDDEN)).astype(np.float32)


def lifted(module: torch.nn.Module, example: np.ndarray = EXAMPLE, opset: int = 24) -> ir.Model:
    source = trace(module, {"hidden_states": example}, opset=opset)
    return run_pipeline(Run(source.model), Pipeline(tuple(Step(each, "lift") for each in LIFT)))


def transformed(before: ir.Model) -> tuple[ir.Model, Record, RegionVerifier]:
    """The model after every transform that makes HARS operators, each application compared with what it replaces."""
    record, verifier = Record(), RegionVerifier(evaluate, prepare=Reference)
    steps = tuple(Step(each, "transform") for each in TRANSFORM if each.name.startswith(("fuse-", "pick-")))
    after = run_pipeline(Run(before.clone(), [record, verifier]), Pipeline(steps))
    check_onnx(after)
    return after, record, verifier


def options_of(node: ir.Node) -> dict[str, Any]:
    return {name: given.value for name, given in node.attributes.items()}


def ours(given: ir.Model) -> Iterator[ir.Node]:
    return (node for node in given.graph if node.domain == "hars")


# Lifting makes the two opsets alike, so one of each family is enough at the older one.
OLDER = ("mixtral", "qwen2", "qwen3-renormalized", "deepseek", "deepseek-groups", "longcat")


@pytest.mark.parametrize(("name", "opset"), [*((name, 24) for name in ROUTERS), *((name, 18) for name in OLDER)])
def test_each_router_becomes_one_operator(name: str, opset: int) -> None:
    before = lifted(router(name), opset=opset)
    after, record, verifier = transformed(before)
    (node,) = ours(after)
    assert node.op_type == ("softmax_topk" if "mode" in ROUTERS[name][1] else "router_topk")
    assert ROUTERS[name][1].items() <= options_of(node).items()
    assert {each.op_type for each in after.graph} - {"Reshape", "Shape", "Concat"} == {"Gemm", node.op_type}
    assert sum(each.applied for each in record.outcomes) == 1
    assert verifier.verification.passed and not verifier.verification.unverified
    for batch, length in ((1, 1), (2, 7), (3, 2)):
        assert_equivalent(before, after, sizes={"batch": batch, "seq": length})


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("mixtral", ["Gemm", "softmax_topk"]),
        ("qwen3-renormalized", ["Gemm", "softmax_topk", "Cast"]),
        ("deepseek-groups", ["Cast", "Gemm", "router_topk"]),
        ("longcat", ["Cast", "Gemm", "router_topk"]),
    ],
)
def test_half_precision_leaves_only_the_casts_of_tokens_and_weights(name: str, operators: list[str]) -> None:
    before = lifted(copy.deepcopy(router(name)).half(), EXAMPLE.astype(np.float16))
    after, _, verifier = transformed(before)
    assert [node.op_type for node in after.graph if node.op_type not in ("Reshape", "Shape", "Concat")] == operators
    assert verifier.verification.passed and not verifier.verification.unverified


@pytest.mark.parametrize("verify", ["region", "each"])
def test_an_order_that_torch_leaves_open_passes_every_check(verify: str) -> None:
    """torch gives the experts of ``sorted=False`` in an order of its own."""
    passes = "default,fuse-router"
    found = optimize(
        router("deepseek-groups"), {"hidden_states": EXAMPLE}, passes=passes, verify=verify, progress=False
    )
    assert "router_topk" in [node.op_type for node in found.model.graph]


def test_the_model_around_the_routers_keeps_its_numbers() -> None:
    """Both layers of a tiny Mixtral, whose experts sort their tokens by TopK from the smallest."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=40,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        use_cache=False,
    )
    model = MixtralForCausalLM(config).eval()
    model.set_experts_implementation("batched_mm")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    source = trace(Head(model, lambda logits: logits), {"input_ids": np.arange(10).reshape(2, 5)})
    before = run_pipeline(Run(source.model.clone()), CATALOGUE.default("onnx"))
    after, _, verifier = transformed(before)
    assert [node.attributes["mode"].value for node in ours(after)] == ["prob_renorm"] * 2
    assert verifier.verification.passed
    inputs = {"input_ids": np.random.default_rng(1).integers(0, 40, (3, 4))}
    due, found = source.reference(inputs), evaluate(after, inputs)
    for key, value in due.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4)


class Head(torch.nn.Module):
    """A model with something computed from its logits."""

    def __init__(self, model: torch.nn.Module, then: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.model, self.then = model, then

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.then(self.model(input_ids).logits)


def gpt2() -> torch.nn.Module:
    sizes = {"n_embd": HIDDEN, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 61}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    model: torch.nn.Module = GPT2LMHeadModel(GPT2Config(**sizes, use_cache=False)).eval()
    return model


def bert() -> torch.nn.Module:
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model: torch.nn.Module = BertForSequenceClassification(BertConfig(**sizes, vocab_size=61, num_labels=5)).eval()
    return model


def likely_tokens(logits: torch.Tensor) -> Any:
    return torch.log_softmax(logits[:, -1].float(), -1).topk(4)


def sharper_tokens(logits: torch.Tensor) -> Any:
    return torch.softmax(logits[:, -1] / 0.7, -1).topk(4)


def candidates_of_beams(logits: torch.Tensor) -> Any:
    """As transformers' beam search: two beams of each item stand one after the other."""
    scores = torch.log_softmax(logits[:, -1], -1).unflatten(0, (-1, 2)) + torch.tensor([[[-0.5], [-0.25]]])
    return torch.topk(scores.flatten(1), 4)


def likeliest(logits: torch.Tensor) -> Any:
    return tuple(torch.softmax(logits, -1).max(-1))


def label(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, -1).argmax(-1)


def probability_of_one(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, -1)[:, 1]


HEADS = {
    "gpt2-log-softmax-topk": (gpt2, likely_tokens, {"k": 4, "mode": "logprob", "temperature": 1.0}),
    "gpt2-temperature": (gpt2, sharper_tokens, {"k": 4, "mode": "prob", "temperature": np.float32(0.7)}),
    "gpt2-beams": (gpt2, candidates_of_beams, {"k": 4, "mode": "logprob"}),
    "bert-softmax-max": (bert, likeliest, {"k": 1, "mode": "prob"}),
    "bert-softmax-argmax": (bert, label, {"k": 1, "mode": "logit"}),
    "bert-one-probability": (bert, probability_of_one, {"k": 1, "mode": "logprob"}),
}


@pytest.mark.parametrize("name", HEADS)
def test_each_output_head_becomes_one_operator(name: str) -> None:
    make, then, options = HEADS[name]
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.5)
    ids = np.random.default_rng(0).integers(0, 61, (4, 5))
    source = trace(Head(model, then), {"input_ids": ids})
    before = run_pipeline(Run(source.model.clone()), Pipeline(tuple(Step(each, "lift") for each in LIFT)))
    after, _, verifier = transformed(before)
    (node,) = ours(after)
    assert options.items() <= options_of(node).items()
    assert verifier.verification.passed and not verifier.verification.unverified
    due, found = source.reference({"input_ids": ids}), evaluate(after, {"input_ids": ids})
    for key, value in due.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)
