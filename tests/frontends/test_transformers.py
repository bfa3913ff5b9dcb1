"""Hugging Face models and saved folders, with tiny random weights, at shapes that were never traced."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers

from graphwright.errors import LoadError, UsageError
from graphwright.frontends import Source, load
from graphwright.frontends.transformers import from_pretrained

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 97,
}


def perturbed(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Noise on every parameter, queries and keys scaled up: zero biases and flat attention hide faults."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if any(part in name for part in ("query", "key", "q_proj", "k_proj")):
                parameter.mul_(3)
    return model.eval()


def bert() -> transformers.PreTrainedModel:
    return perturbed(transformers.BertModel(transformers.BertConfig(max_position_embeddings=64, **SIZES)))


def llama() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(num_key_value_heads=2, max_position_embeddings=64, **SIZES)
    return perturbed(transformers.LlamaForCausalLM(config))


def requests() -> list[tuple[int, int, str]]:
    long = [(batch, length, padding) for batch in (1, 3) for length in (7, 23) for padding in ("", "left", "right")]
    return [(1, 1, ""), (3, 1, ""), *long]


def assert_right(source: Source) -> None:
    data = ir.to_proto(source.model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    random = np.random.default_rng(3)
    for batch, length, padding in requests():
        mask = np.ones((batch, length), np.int64)
        padded = {"left": slice(None, 3), "right": slice(-3, None), "": slice(0, 0)}[padding]
        mask[-1, padded] = 0
        inputs = {"input_ids": random.integers(5, 97, (batch, length)), "attention_mask": mask}
        if "token_type_ids" in [value.name for value in source.model.graph.inputs]:
            inputs["token_type_ids"] = random.integers(0, 2, (batch, length))
        assert source.reference is not None
        expected = source.reference(inputs)
        found = dict(zip(names, session.run(None, inputs), strict=True))
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-5)


def names(source: Source) -> dict[str, str]:
    values = (*source.model.graph.inputs, *source.model.graph.outputs)
    return {value.name or "": str(value.shape) for value in values}


def test_an_encoder_is_right_at_shapes_never_traced() -> None:
    model = bert()
    source = load(model)
    assert source.task == "feature-extraction" and source.notes["attention"] == "sdpa"
    assert names(source) == {
        "input_ids": "[batch,seq]",
        "attention_mask": "[batch,seq]",
        "token_type_ids": "[batch,seq]",
        "last_hidden_state": "[batch,seq,32]",
        "pooler_output": "[batch,32]",
    }
    assert sum(node.op_type == "Attention" for node in source.model.graph) == 2
    assert_right(source)


def test_a_decoder_is_right_in_one_forward_pass_without_a_cache() -> None:
    source = load(llama())
    assert source.task == "text-generation"
    expected = {"input_ids": "[batch,seq]", "attention_mask": "[batch,seq]", "logits": "[batch,seq,97]"}
    assert names(source) == expected
    assert_right(source)


def test_the_models_own_attention_comes_back() -> None:
    model = bert()
    model.set_attn_implementation("eager")
    source = from_pretrained(model, attention="sdpa")
    assert model.config._attn_implementation == "eager" and source.notes["attention"] == "sdpa"
    eager = from_pretrained(model, attention="eager")
    assert not any(node.op_type == "Attention" for node in eager.model.graph)


def test_a_saved_folder_loads_with_the_hash_of_its_files(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path)
    source = load(tmp_path)
    assert source.name == tmp_path.name
    files = (tmp_path / "config.json").read_bytes() + (tmp_path / "model.safetensors").read_bytes()
    assert source.sha256 == hashlib.sha256(files).hexdigest()
    assert source.reference is not None and source.example_inputs is not None
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in source.example_inputs.items()}
        expected = model(**tensors).last_hidden_state.numpy()
    np.testing.assert_allclose(source.reference(source.example_inputs)["last_hidden_state"], expected, atol=1e-6)


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    model = bert()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match="pickle"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(LoadError, match="no weights"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"architectures": 3}', "[" * 100_000])
def test_a_broken_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(LoadError):
        load(tmp_path)


def test_broken_weights_and_code_of_the_folders_own_are_refused(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(LoadError, match="cannot load"):
        load(tmp_path)
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    config["architectures"] = ["Mine"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(LoadError, match="cannot load"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_task_and_a_folder_without_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'sorcery'"):
        load(bert(), task="sorcery")
    with pytest.raises(LoadError, match="a folder without config"):
        load(tmp_path)
