"""How long one attention layer and a whole model take, exact and factored, for examples/04_damf.py."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers

import graphwright as gw
from graphwright.bench import measure
from graphwright.damf import replace_attention
from graphwright.frontends.torch import trace
from graphwright.frontends.transformers import from_pretrained
from graphwright.report import Latency
from graphwright.runtime.ort import OrtSession

ARMS = {"exact": None, "rank 1, linear": 1, "rank 8, linear": 8}


def encoder(positions: int, layers: int) -> Any:
    """Return an encoder of MiniLM's size with random weights, for lengths that its own positions do not reach."""
    config = transformers.BertConfig(
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=positions,
        vocab_size=1000,
    )
    torch.manual_seed(0)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def layer_graph(rank: int | None) -> Any:
    """Return the graph of one attention, without its output projection."""
    model = encoder(positions=8, layers=1)
    if rank is not None:
        replace_attention(model, rank)
    example = {"hidden_states": np.zeros((2, 33, 384), np.float32)}
    return trace(model.encoder.layer[0].attention.self, example, dims={"hidden_states": {0: "batch", 1: "seq"}}).model


def model_graph(rank: int | None, positions: int, layers: int) -> Any:
    """Return the graph of a whole encoder."""
    model = encoder(positions, layers)
    if rank is not None:
        replace_attention(model, rank)
    return from_pretrained(model).model


def sessions(graphs: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Return what runs each graph: ONNX Runtime alone, and for the exact one also what graphwright makes of it."""
    found: dict[str, Any] = {name: OrtSession(graph, threads=threads) for name, graph in graphs.items()}
    optimized = gw.optimize(graphs["exact"], progress=False)
    return {"exact, optimized": optimized.session(threads=threads), **found}


def latencies(lengths: list[int], layers: int, threads: int, seconds: float) -> dict[str, list[Latency]]:
    """Return times of one layer and of the whole model of so many layers, at these lengths, batch 1."""
    random = np.random.default_rng(0)
    layer = sessions({name: layer_graph(rank) for name, rank in ARMS.items()}, threads)
    model = f"whole model of {layers} layers"
    found: dict[str, list[Latency]] = {"one attention layer": [], model: []}
    for length in lengths:
        inputs = {"hidden_states": random.normal(size=(1, length, 384)).astype(np.float32)}
        found["one attention layer"] += _timed(layer, inputs, length, seconds)
    del layer
    whole = sessions({name: model_graph(rank, max(lengths), layers) for name, rank in ARMS.items()}, threads)
    for length in lengths:
        ids = random.integers(0, 1000, (1, length))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found[model] += _timed(whole, inputs, length, seconds)
    return found


def _timed(
    contenders: Mapping[str, Any], inputs: Mapping[str, np.ndarray], length: int, seconds: float
) -> list[Latency]:
    calls = {name: partial(session, inputs) for name, session in contenders.items()}
    return measure(calls, str(length), runs=30, warmup=1, seconds=seconds)
