"""What goes into a Trainer's loss: the penalty with its schedule, and the teacher's answers."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
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
from graphwright.frontends.transformers import from_pretrained  # noqa: E402
from graphwright.runtime.ort import OrtSession  # noqa: E402
from tests.damf.models import SMALL, bert, ids  # noqa: E402


class OwnLoss:
    """The part of transformers.Trainer that gives a loss, without a run."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Trainer(DamfTrainerMixin, OwnLoss):
    pass


def classifier(**options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, vocab_size=50, num_labels=3, **options)
    return transformers.BertForSequenceClassification(config).eval()


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
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


class Reporter(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """What a reporter gets that stands before the callback."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        self.logs.append(dict(logs))


def mixed_trainer() -> type:
    return type("MyTrainer", (DamfTrainerMixin, transformers.Trainer), {})


def trainer_of(kind: type, model: Any, accumulated: int, **options: Any) -> Any:
    """A Trainer of transformers for 4 steps of 8 random rows each, which writes nothing."""
    arguments = transformers.TrainingArguments(
        output_dir="out",
        max_steps=4,
        per_device_train_batch_size=8 // accumulated,
        gradient_accumulation_steps=accumulated,
        learning_rate=0.01,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"input_ids": row, "labels": index % 3} for index, row in enumerate(ids(8))]
    return kind(model=model, args=arguments, train_dataset=rows, **options)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_trainer_of_transformers(accumulated: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first loss has all parts, over all batches that it accumulates; its logs, and reporters, get the share."""
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    model, teacher = classifier(**NO_DROPOUT), classifier(**NO_DROPOUT)
    with torch.no_grad():
        teacher.classifier.weight.normal_(std=3)
    replace_attention(model, 3)
    # Of accumulated batches, the model's own loss is what Trainer makes of it: a mean, or a sum.
    own = trainer_of(transformers.Trainer, copy.deepcopy(model), accumulated)
    own.train()
    far, penalty = distillation_loss(model(ids(8)).logits, teacher(ids(8)).logits), spectral_penalty(model)
    assert min(far.item(), penalty.item()) > 0.1
    expected = 0.25 * own.state.log_history[0]["loss"] + 0.75 * far.item() + 3 * penalty.item()

    reporter, callback = Reporter(), DamfCallback(weight=3.0, rise=0.0)
    trainer = trainer_of(mixed_trainer(), model, accumulated, callbacks=[reporter, callback])
    trainer.damf_callback, trainer.teacher, trainer.distillation = callback, teacher, 0.75
    trainer.train()
    history = trainer.state.log_history
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert history[3]["loss"] < 0.8 * history[0]["loss"]
    for logs in (history, reporter.logs):
        shares = [each["damf_share"] for each in logs if "loss" in each]
        assert len(shares) == 4 and shares[-1] > shares[0] + 0.05
        assert {each["damf_weight"] for each in logs} == {3.0}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_the_trainer_tuned_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    model = classifier(**NO_DROPOUT)
    replace_attention(model, 2)
    before = model(ids(8)).logits.detach().numpy()
    trainer = trainer_of(mixed_trainer(), model, 1)
    trainer.damf_callback = DamfCallback(rise=0.0)
    trainer.train()
    source = from_pretrained(model.eval())
    inputs = {"input_ids": ids(8).numpy(), "attention_mask": np.ones((8, 7), np.int64)}
    inputs |= {"token_type_ids": np.zeros((8, 7), np.int64)}
    (found,) = OrtSession(source.model)(inputs).values()
    np.testing.assert_allclose(found, model(ids(8)).logits.detach().numpy(), atol=2e-5)
    assert np.abs(found - before).max() > 0.01


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
