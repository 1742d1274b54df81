"""Scores of a scene's test pixels, each with the leakage of its split, and their spread over several runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fullyconv.evaluation import Evaluation
from fullyconv.hsi.splits import SplitKind, Windows
from fullyconv.hsi.trial import SceneTrial
from fullyconv.scores.metrics import Scores, confusion, score


@dataclass(frozen=True)
class SceneEvaluation:
    """The counts of a scene's test pixels, and how its split was made."""

    evaluation: Evaluation
    kind: SplitKind
    guard: int
    leakage: float  # the share of the test pixels that training has seen
    pixels: np.ndarray  # training, test and discarded pixels of each class, C x 3
    note: str = ""

    @property
    def scores(self) -> Scores:
        """The scores of the test pixels."""
        return self.evaluation.scores

    @property
    def leakage_line(self) -> str:
        """The split and its leakage in words."""
        train, test, discarded = self.pixels.sum(0)
        guard = f" behind a guard of {self.guard} px" if self.kind == "blocks" else ""
        return (
            f"split {self.kind}{guard}: {train} training, {test} test, {discarded} discarded pixels; "
            f"leakage {self.leakage:.2%} of the test pixels lie in what training has seen{self.note}"
        )

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; per-class figures in the order of ``classes``."""
        columns = zip(("train", "test", "discarded"), self.pixels.T.tolist(), strict=True)
        return {
            **self.evaluation.document(),
            "split": {"kind": self.kind, "guard": self.guard, **dict(columns)},
            "leakage": self.leakage,
        }


def evaluate_map(trial: SceneTrial, labels: np.ndarray, windows: Windows, *, note: str = "") -> SceneEvaluation:
    """Score a map of the whole scene on the test pixels alone.

    Args:
        trial: The scene and its split.
        labels: H x W, the map.
        windows: What the method reads to label each pixel, from which the leakage follows.
        note: What else its leakage line is to say.

    """
    truth = np.where(trial.split.test, trial.labels, -1)
    counts = confusion(truth, labels, classes=len(trial.classes))
    return SceneEvaluation(
        Evaluation(trial.classes, counts, truth.size - int(counts.sum()), {trial.scene.name: score(counts).mean_iu}),
        trial.split.kind,
        trial.split.guard,
        trial.leakage(windows),
        trial.split.counts(trial.labels, len(trial.classes)),
        note,
    )


@dataclass(frozen=True)
class MeanAndDeviation:
    """The mean of several runs' figure, and its standard deviation (n - 1; NaN for a single run)."""

    mean: float
    deviation: float

    def __str__(self) -> str:
        return self.to(2)

    def to(self, digits: int) -> str:
        """Write it with so many digits after the point."""
        mean = f"{self.mean:.{digits}f}"
        return mean if np.isnan(self.deviation) else f"{mean} ± {self.deviation:.{digits}f}"


def spread(values: Sequence[float]) -> MeanAndDeviation:
    """Summarise one figure of several runs, without those where it has no value.

    >>> str(spread([1.0, 2.0, 3.0]))
    '2.00 ± 1.00'
    """
    known = np.array([value for value in values if not np.isnan(value)])
    if not known.size:
        return MeanAndDeviation(float("nan"), float("nan"))
    return MeanAndDeviation(float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else float("nan"))


FIGURES: dict[str, Callable[[SceneEvaluation], float]] = {
    "OA": lambda run: 100 * run.scores.pixel_accuracy,
    "AA": lambda run: 100 * run.scores.mean_accuracy,
    "kappa × 100": lambda run: 100 * run.scores.kappa,
    "leakage %": lambda run: 100 * run.leakage,
}

ClassFigure = Literal["accuracy", "F1"]
CLASS_FIGURES: dict[ClassFigure, Callable[[Scores], tuple[float, ...]]] = {
    "accuracy": lambda scores: scores.per_class_accuracy,
    "F1": lambda scores: scores.per_class_f1,
}


def summary(runs: Sequence[SceneEvaluation]) -> dict[str, MeanAndDeviation]:
    """Summarise runs: overall and average accuracy, kappa and leakage, all in hundredths."""
    return {name: spread([figure(run) for run in runs]) for name, figure in FIGURES.items()}


def summary_document(methods: Mapping[str, Sequence[SceneEvaluation]]) -> dict[str, Any]:
    """Return the figures of every method and run as plain values for JSON."""
    return {
        method: {
            "summary": {name: [each.mean, each.deviation] for name, each in summary(runs).items()},
            "runs": [run.document() for run in runs],
        }
        for method, runs in methods.items()
    }


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose first row is its head."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def score_rows(methods: Mapping[str, Sequence[SceneEvaluation]]) -> list[list[str]]:
    """Lay out overall scores: a row per method."""
    rows = [["method", *FIGURES]]
    return rows + [[method, *map(str, summary(runs).values())] for method, runs in methods.items()]


def class_rows(methods: Mapping[str, Sequence[SceneEvaluation]], figure: ClassFigure) -> list[list[str]]:
    """Lay out one figure of every class: a row per class, a column per method."""
    classes = next(iter(methods.values()))[0].evaluation.classes
    rows = [[f"class: {figure}", *methods]]
    for index, name in enumerate(classes.names):
        columns = [[100 * CLASS_FIGURES[figure](run.scores)[index] for run in runs] for runs in methods.values()]
        rows.append([name, *map(str, map(spread, columns))])
    return rows


def tables(methods: Mapping[str, Sequence[SceneEvaluation]]) -> list[list[list[str]]]:
    """Lay out everything: overall scores, then accuracy and F1 of every class."""
    return [score_rows(methods), class_rows(methods, "accuracy"), class_rows(methods, "F1")]
