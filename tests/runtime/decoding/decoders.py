"""Decoders for the tests: a table in NumPy, and transformers' models without a cache."""

from typing import Any

import numpy as np

from graphwright.plugins import hars
from graphwright.runtime.decoding import Best, Output

SIZE = 997


class TableDecoder:
    """A model whose logits depend on the last two tokens and the position, by a table of random numbers.

    ``ranks``: it answers with the best tokens where these are asked for. ``asked`` lists what it was asked for and
    ``calls`` the tokens and parents of each step.
    """

    def __init__(self, vocabulary: int = 23, seed: int = 0, sharp: float = 2.0, ranks: bool = False) -> None:
        self.vocabulary = vocabulary
        self._table = sharp * np.random.default_rng(seed).standard_normal((SIZE, vocabulary)).astype(np.float32)
        self._ranks = ranks
        self._rows: list[list[int]] = []
        self.asked: list[int | None] = []
        self.calls: list[tuple[list[int], list[int]]] = []

    def prefill(self, ids: np.ndarray, mask: np.ndarray, best: int | None) -> Output:
        self._rows = [[int(token) for token in row[line == 1]] for row, line in zip(ids, mask, strict=True)]
        return self._answer(best)

    def step(self, tokens: np.ndarray, parents: np.ndarray, best: int | None) -> Output:
        self.calls.append((tokens.tolist(), parents.tolist()))
        self._rows = [[*self._rows[parent], int(token)] for token, parent in zip(tokens, parents, strict=True)]
        return self._answer(best)

    def logits(self, row: list[int]) -> np.ndarray:
        before = row[-2] if len(row) > 1 else 5
        return self._table[(31 * row[-1] + 17 * before + 7 * len(row)) % SIZE]

    def logprobs(self, row: list[int]) -> np.ndarray:
        logits = self.logits(row).astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    def _answer(self, best: int | None) -> Output:
        self.asked.append(best)
        rows = np.stack([self.logits(row) for row in self._rows])
        if best is None or not self._ranks:
            return rows
        return Best(*hars.softmax_topk(rows, best, mode="logit", stats=True))


class ModelDecoder:
    """A causal model of transformers; every step computes whole rows anew, padded left."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocabulary = model.config.vocab_size
        self._rows: list[list[int]] = []

    def prefill(self, ids: np.ndarray, mask: np.ndarray, best: int | None) -> Output:
        self._rows = [[int(token) for token in row[line == 1]] for row, line in zip(ids, mask, strict=True)]
        return self._answer()

    def step(self, tokens: np.ndarray, parents: np.ndarray, best: int | None) -> Output:
        self._rows = [[*self._rows[parent], int(token)] for token, parent in zip(tokens, parents, strict=True)]
        return self._answer()

    def _answer(self) -> np.ndarray:
        import torch

        longest = max(map(len, self._rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in self._rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in self._rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        return np.asarray(logits[:, -1].numpy())


class CachedDecoder:
    """A causal model of transformers with its cache, whose rows follow ``parents``; prompts are padded on any side."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.vocabulary = model.config.vocab_size
        self._cache: Any = None
        self._mask: Any = None

    def prefill(self, ids: np.ndarray, mask: np.ndarray, best: int | None) -> Output:
        import torch
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._mask = torch.from_numpy(mask)
        last = [int(np.flatnonzero(line)[-1]) for line in mask]
        return self._run(torch.from_numpy(ids), (self._mask.cumsum(1) - 1).clamp(min=0))[range(len(ids)), last]

    def step(self, tokens: np.ndarray, parents: np.ndarray, best: int | None) -> Output:
        import torch

        rows = torch.from_numpy(parents)
        self._cache.batch_select_indices(rows)
        positions = self._mask[rows].sum(1, keepdim=True)
        self._mask = torch.cat((self._mask[rows], torch.ones_like(positions)), dim=1)
        return self._run(torch.from_numpy(tokens)[:, None], positions)[:, -1]

    def _run(self, ids: Any, positions: Any) -> np.ndarray:
        import torch

        given = {"attention_mask": self._mask, "position_ids": positions, "past_key_values": self._cache}
        with torch.no_grad():
            return np.asarray(self._model(input_ids=ids, use_cache=True, **given).logits.numpy())


def prompts(batch: int = 3, length: int = 4, vocabulary: int = 23, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, vocabulary, (batch, length))
