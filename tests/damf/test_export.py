"""The trained module exports to a graph of the same numbers, in which nothing has the size of all pairs."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from graphwright.damf import DamfAttention, replace_attention  # noqa: E402
from graphwright.frontends.torch import trace  # noqa: E402
from graphwright.frontends.transformers import from_pretrained  # noqa: E402
from graphwright.runtime.ort import OrtSession  # noqa: E402
from tests.damf.models import bert, gpt2, ids, padding, replaced, vit  # noqa: E402


def dims_twice(model: ir.Model, name: str = "seq") -> list[str]:
    """Values with the sequence's dimension on two axes."""
    found = []
    for node in model.graph.all_nodes():
        for value in node.outputs:
            assert value.shape is not None, f"{value.name} has no known shape"
            if sum(name in str(dim) for dim in value.shape) > 1:
                found.append(f"{node.op_type} {value.name} {value.shape}")
    return found


def check(model: Any, source: Any, inputs: dict[str, np.ndarray]) -> None:
    expected = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).last_hidden_state
    found = OrtSession(source.model)(inputs)["last_hidden_state"]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("rank", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [bert, gpt2])
def test_a_model_of_the_linear_form_exports_without_pairs(make: Any, rank: int) -> None:
    model = make()
    replace_attention(model, rank)
    source = from_pretrained(model)
    assert dims_twice(source.model) == []
    for batch, length in ((1, 1), (2, 13), (3, 7)):
        mask = np.ones((batch, length), np.int64)
        mask[-1, length // 2 + 1 :] = 0
        inputs = {"input_ids": ids(batch, length).numpy(), "attention_mask": mask}
        if make is bert:
            inputs["token_type_ids"] = np.zeros_like(mask)
        check(model, source, inputs)


def test_the_walk_finds_pairs_where_there_are_some() -> None:
    """Of the original, and of a model where one layer still needs them."""
    assert dims_twice(from_pretrained(bert()).model)
    model = bert()
    replace_attention(model, 1, layers=[0])
    assert dims_twice(from_pretrained(model).model)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_exact_softmax_exports(make: Any) -> None:
    model = make()
    replace_attention(model, 3, "exact")
    mask = padding("right").numpy()
    inputs = {"input_ids": ids().numpy(), "attention_mask": mask}
    if make is bert:
        inputs["token_type_ids"] = np.zeros_like(mask)
    check(model, from_pretrained(model), inputs)


def test_an_image_model_exports() -> None:
    model = vit()
    replace_attention(model, 2)
    check(model, from_pretrained(model), {"pixel_values": np.random.default_rng(0).random((3, 1, 8, 8), np.float32)})


@pytest.mark.parametrize("masked", [False, True])
def test_one_layer_exports_by_itself(masked: bool) -> None:
    model = bert()
    replace_attention(model, 2)
    layer: DamfAttention = replaced(model)[0]
    x = np.random.default_rng(1).normal(size=(3, 11, 16)).astype(np.float32)
    inputs = {"hidden_states": x} | ({"attention_mask": np.arange(11) < np.array([[11], [5], [1]])} if masked else {})
    source = trace(layer, inputs, dims={"hidden_states": {0: "batch", 1: "seq"}})
    assert dims_twice(source.model) == []
    (found,) = OrtSession(source.model)(inputs).values()
    expected = layer(**{name: torch.from_numpy(value) for name, value in inputs.items()})[0]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-5)
