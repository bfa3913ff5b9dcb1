"""Losses for training with DAMF, and what puts them into transformers' Trainer."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from graphwright.damf.penalty import largest_shares, spectral_penalty
from graphwright.errors import UsageError


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 2.0,
    hidden: tuple[torch.Tensor, torch.Tensor] | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return how far the student's answers are from the exact model's: on logits, and on hidden states where given.

    The divergence is multiplied by temperature squared, so that its gradient keeps its size; the squared difference of
    hidden states is divided by the teacher's mean square, so that 1 means "as far as zero is".

    Shapes: logits [..., C]; hidden [B, S, E] of student and teacher; mask [B, S], 1 for the tokens that count.

    Source: Hinton et al. 2015, arXiv:1503.02531; hidden states as in Jiao et al. 2020 (TinyBERT), arXiv:1909.10351.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> float(distillation_loss(logits, logits))
        0.0
        >>> float(distillation_loss(logits, -logits)) > 1
        True
    """
    guess = F.log_softmax(student.float().flatten(0, -2) / temperature, dim=-1)
    truth = F.log_softmax(teacher.detach().float().flatten(0, -2) / temperature, dim=-1)
    loss = F.kl_div(guess, truth, reduction="batchmean", log_target=True) * temperature**2
    return loss if hidden is None else loss + hidden_distance(*hidden, mask)


def hidden_distance(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the squared difference of hidden states over the tokens that count, relative to the teacher's square.

    Shapes: student and teacher [B, S, E], mask [B, S]; result a scalar.

    Example:
        >>> state = torch.ones(1, 2, 4)
        >>> float(hidden_distance(0 * state, state, torch.tensor([[1, 0]])))
        1.0
    """
    teacher = teacher.detach()
    count = 1.0 if mask is None else mask.unsqueeze(-1).to(student.dtype)
    size = (teacher.square() * count).sum().clamp_min(torch.finfo(student.dtype).tiny)
    return ((student - teacher).square() * count).sum() / size


class DamfCallback(TrainerCallback):
    """Raises the weight of the spectral penalty over the first steps, and logs the share of the largest value.

    ``rise`` is the part of all steps over which the weight grows from 0 to ``weight``. A callback cannot change a loss:
    :class:`DamfTrainerMixin` reads ``current`` and adds it. Logs gain ``damf_share`` and ``damf_weight``.

    Raises:
        UsageError: a negative weight, or a rise outside 0..1.

    Example:
        >>> from transformers import TrainerState
        >>> callback = DamfCallback(weight=4.0, rise=0.5)
        >>> callback.on_step_begin(None, TrainerState(global_step=25, max_steps=100), None)
        >>> callback.current
        2.0
    """

    def __init__(self, weight: float = 1.0, rise: float = 0.1) -> None:
        if weight < 0:
            raise UsageError("DamfCallback: weight", str(weight), needed="0 or more")
        if not 0 <= rise <= 1:
            raise UsageError("DamfCallback: rise", str(rise), needed="a part of all steps, 0 to 1")
        self.weight, self.rise = weight, rise
        self.current = 0.0 if rise else weight

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Set the weight for this step."""
        steps = self.rise * state.max_steps
        self.current = self.weight * (min(1.0, state.global_step / steps) if steps else 1.0)

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **others: Any) -> None:
        """Add the share and the weight to what is logged, unless they are there."""
        if model is not None and logs is not None and "damf_share" not in logs:
            logs.update(self.told(model))

    def told(self, model: torch.nn.Module) -> dict[str, float]:
        """Return what logs gain."""
        with torch.no_grad():
            return {"damf_share": float(largest_shares(model).mean()), "damf_weight": self.current}


class DamfTrainerMixin:
    """Adds the penalty of a :class:`DamfCallback`, and distillation from an exact teacher, to a Trainer's loss.

    Put it before the Trainer: ``class MyTrainer(DamfTrainerMixin, Trainer)``, and set the attributes on the trainer.
    Trainer needs the package accelerate.

    Attributes:
        damf_callback: whose ``current`` is the penalty's weight; add it to the trainer's callbacks as well.
        teacher: the exact model, or None.
        distillation: the part of the loss that is the teacher's, 0 to 1.
        temperature: of both models' logits.
    """

    damf_callback: DamfCallback | None = None
    teacher: torch.nn.Module | None = None
    distillation: float = 0.5
    temperature: float = 2.0

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **others: Any
    ) -> Any:
        """Return the trainer's own loss with both additions, and the model's outputs where they are asked for."""
        trainer: Any = super()
        # A trainer takes the labels out of its inputs, so the teacher's are put aside before.
        asked = {name: value for name, value in inputs.items() if name != "labels"}
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True, **others)
        batches = self._batches(model, others.get("num_items_in_batch"))
        if self.teacher is not None:
            with torch.no_grad():
                truth = self.teacher.eval()(**asked)
            far = distillation_loss(outputs["logits"], truth["logits"], self.temperature)
            loss = (1 - self.distillation) * loss + self.distillation * far / batches
        if self.damf_callback is not None and self.damf_callback.current:
            loss = loss + self.damf_callback.current * spectral_penalty(model) / batches
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *rest: Any, **others: Any) -> None:
        """Add the share and the weight before the trainer keeps its history and calls reporters that precede ours."""
        this, trainer = cast(Any, self), cast(Any, super())
        if self.damf_callback is not None:
            logs.update(self.damf_callback.told(this.model))
        trainer.log(logs, *rest, **others)

    def _batches(self, model: torch.nn.Module, items: Any) -> int:
        """Return by how many batches the additions are divided.

        Gradients of accumulated batches are summed. A trainer divides each loss by their number, unless its own loss is
        already one of the items of all of them.
        """
        counts_all: bool | None = getattr(self, "loss_is_scaled_for_ga", None)
        if counts_all is None:
            takes_items = getattr(self, "model_accepts_loss_kwargs", False) and items is not None
            counts_all = takes_items or getattr(self, "compute_loss_func", None) is not None
        return getattr(self, "current_gradient_accumulation_steps", 1) if model.training and counts_all else 1
