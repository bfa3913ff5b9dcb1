"""What goes into a Trainer's loss: the penalty with its schedule, and the teacher's answers."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from graphwright.damf import (  # noqa: E402
    DamfCallback,
    DamfTrainerMixin,
    distillation_loss,
    hidden_distance,
    replace_attention,
    spectral_penalty,
)
from graphwright.errors import UsageError  # noqa: E402
from tests.damf.models import SMALL, bert, ids  # noqa: E402


class OwnLoss:
    """The part of transformers.Trainer that the mixin calls; Trainer itself needs one more package."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Trainer(DamfTrainerMixin, OwnLoss):
    pass


def classifier() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, vocab_size=50, num_labels=3)
    return transformers.BertForSequenceClassification(config).eval()


INPUTS = {"input_ids": ids(), "labels": torch.tensor([0, 1, 2])}


def test_the_loss_gains_penalty_and_distillation() -> None:
    model, teacher, trainer = classifier(), classifier(), Trainer()
    plain = model(**INPUTS)
    assert trainer.compute_loss(model, INPUTS).item() == pytest.approx(plain.loss.item())
    trainer.damf_callback = DamfCallback(weight=3.0, rise=0.0)
    penalty = 3 * spectral_penalty(model).item()
    assert trainer.compute_loss(model, INPUTS).item() == pytest.approx(plain.loss.item() + penalty)
    replace_attention(model, 1)
    trainer.teacher, trainer.distillation = teacher, 0.75
    student = model(**INPUTS)
    far = distillation_loss(student.logits, teacher(ids()).logits)
    loss, outputs = trainer.compute_loss(model, INPUTS, return_outputs=True)
    assert loss.item() == pytest.approx(0.25 * student.loss.item() + 0.75 * far.item())
    torch.testing.assert_close(outputs.logits, student.logits)
    assert "labels" in INPUTS


def test_training_brings_a_student_to_its_teacher() -> None:
    torch.manual_seed(0)
    teacher, student, trainer = classifier(), classifier(), Trainer()
    with torch.no_grad():
        teacher.classifier.weight.normal_()
    replace_attention(student, 1)
    trainer.teacher, trainer.distillation = teacher, 1.0
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = trainer.compute_loss(student, INPUTS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_weight_rises_and_is_logged() -> None:
    callback, seen, logs = DamfCallback(weight=2.0, rise=0.5), [], {}
    handler = transformers.trainer_callback.CallbackHandler([callback], bert(), None, None, None)
    for step in (0, 10, 20, 40, 99):
        state = transformers.TrainerState(global_step=step, max_steps=80)
        handler.on_step_begin(None, state, transformers.TrainerControl())
        seen.append(callback.current)
    assert seen == [0, 0.5, 1, 2, 2]
    handler.on_log(None, state, transformers.TrainerControl(), logs)
    assert logs["damf_weight"] == 2 and 1 / 8 < logs["damf_share"] < 1


@pytest.mark.parametrize(("weight", "rise"), [(-1.0, 0.1), (1.0, 1.1), (1.0, -0.1)])
def test_wrong_schedules_are_refused(weight: float, rise: float) -> None:
    with pytest.raises(UsageError, match="DamfCallback"):
        DamfCallback(weight, rise)


def test_distillation_keeps_the_size_of_its_gradient() -> None:
    """For small logits the divergence is a square of their differences, whatever the temperature."""
    student, teacher = torch.tensor([[0.01, -0.01]]), torch.tensor([[-0.01, 0.01]])
    low, high = (distillation_loss(student, teacher, temperature).item() for temperature in (1.0, 8.0))
    assert low == pytest.approx(high, rel=1e-2) and low > 0


def test_hidden_states_count_where_tokens_are() -> None:
    state, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    other = state.clone()
    other[0, 2], other[1, 1:] = 9, 9
    assert hidden_distance(other, state, mask).item() == 0
    assert hidden_distance(2 * state, state, mask).item() == pytest.approx(1)
    logits = torch.randn(2, 3)
    assert distillation_loss(logits, logits, hidden=(2 * state, state), mask=mask).item() == pytest.approx(1, abs=1e-5)
