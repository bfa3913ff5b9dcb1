"""Softmax and top-k over a vocabulary in one read: as a function, and inside a model that ONNX Runtime runs.

python examples/03_topk.py
"""

import time

import torch

import graphwright as gw
from graphwright.plugins import hars

VOCABULARY, WIDTH, BEST = 50257, 256, 5


class NextWords(torch.nn.Module):
    """An output layer: the most likely next words and their log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.log_softmax(self.head(hidden), dim=-1)
        values, words = torch.topk(logprobs, BEST)
        return values, words


def milliseconds(call: object, runs: int = 20) -> float:
    """Return the fastest of some runs."""
    assert callable(call)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def main() -> None:
    """Show the function, the rewritten model, and what was made of it."""
    torch.manual_seed(0)
    model = NextWords().eval()
    hidden = torch.randn(8, WIDTH)

    print("usable here, fastest first:", ", ".join(hars.implementations()))
    with torch.inference_mode():
        logits = model.head(hidden)
        expected = model(hidden)
    values, words = hars.softmax_topk(logits, BEST)
    assert torch.equal(words, expected[1])
    torch.testing.assert_close(values, expected[0], rtol=1e-5, atol=1e-5)
    print(f"torch log_softmax + topk: {milliseconds(lambda: torch.log_softmax(logits, -1).topk(BEST)):.2f} ms")
    print(f"hars.softmax_topk:        {milliseconds(lambda: hars.softmax_topk(logits, BEST)):.2f} ms")

    artifact = gw.optimize(
        model, {"hidden": hidden}, profile="hidden=1x256:8x256:32x256", verify="region", progress=False
    )
    print(artifact.report.table())
    found = list(artifact(hidden=hidden).values())
    assert torch.equal(found[1], expected[1])


if __name__ == "__main__":
    main()
