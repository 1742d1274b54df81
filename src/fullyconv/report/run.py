"""The page of a run on pictures: scores, curves, confusions, best and worst pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.data.bounds import sample_bounds
from fullyconv.data.pairs import Pair
from fullyconv.draw import ERROR_COLOURS, colourise, errors, false_colours, heat
from fullyconv.evaluation import Evaluation
from fullyconv.evaluation.confidence import Fit
from fullyconv.files import parse_json
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.predict.uncertainty import entropy
from fullyconv.report.confusions import confusion_table
from fullyconv.report.figures import MOST_NUMBERED, embed, plot_confusion, plot_curves, plot_reliability
from fullyconv.report.page import FILE_NAME, Key, class_keys, class_rows, head_place, picture, write_page
from fullyconv.scores.bounds import advise
from fullyconv.scores.metrics import CONVENTION
from fullyconv.train.folder import CHOICES, HEADS, METRICS, RECIPE, read_metrics

SHOWN = 4  # best and worst pictures each
ENTROPY = "uncertainty (entropy)"
PHOTOGRAPHS = ("image", ENTROPY)  # views that need not keep their colours exactly
BOUND_PIXELS = 3_000_000  # of masks that are counted for the upper bounds: a second
LONGEST_PX = 480  # of the pictures on the page: sharp on a phone too


@dataclass(frozen=True)
class Shown:
    """A scored picture as the page shows it: each view's name and its ``data:`` address."""

    name: str
    iu: float
    views: dict[str, str]


def write_report(  # noqa: PLR0913 (what a page shows)
    out: Path,
    segmenter: Segmenter,
    evaluation: Evaluation,
    pairs: Sequence[Pair],
    *,
    title: str,
    confidence: Fit | None = None,
    kin: Sequence[str] = (),
) -> Path:
    """Write ``out/report.html``, of a further head ``out/heads/NAME/report.html``.

    Args:
        out: The run's folder; its ``metrics.jsonl``, if there is one, gives the curves, ``choices.json`` what ``auto``
            chose, ``recipe.yaml`` the recipe.
        segmenter: The model that was scored; it predicts the shown pictures again.
        evaluation: Its scores.
        pairs: The pictures that were scored, by the names in ``evaluation.image_iu``.
        title: The page's heading.
        confidence: Whether the model's probabilities mean what they say, where that was measured.
        kin: What is known of the pictures' likeness to training pictures (``fullyconv.data.kinship``), sentences.

    Returns:
        The page's path.

    Raises:
        BadFile: A shown picture cannot be read any more.

    >>> import tempfile
    >>> from fullyconv.networks import build
    >>> from fullyconv.types import ClassSet, Preprocess
    >>> classes = ClassSet(("a", "b"))
    >>> model = Segmenter(build("fcn4s-lenet", 2), classes=classes, preprocess=Preprocess(), device="cpu")
    >>> counted = Evaluation(classes, np.array([[3, 1], [0, 4]]), 0, {})
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_report(Path(place), model, counted, [], title="a run").name
    'report.html'
    """
    epochs, damaged = read_metrics(out / METRICS)
    if segmenter.head:
        epochs = [_of_head(line, segmenter.head) for line in epochs]
    choices = parse_json((out / CHOICES).read_bytes()) if (out / CHOICES).is_file() else []
    scores = evaluation.scores
    worst, best = worst_and_best(evaluation.image_iu)
    by_name = {pair.name: pair for pair in pairs}
    bounds = sample_bounds(pairs, segmenter.classes, pixels=BOUND_PIXELS)
    small = len(evaluation.classes) <= MOST_NUMBERED
    rows, mistakes = confusion_table(evaluation, segmenter, by_name)
    values = {
        "title": title,
        "evaluation": evaluation,
        "images": len(pairs),
        "headline": {
            "mean IU": scores.mean_iu,
            "pixel accuracy": scores.pixel_accuracy,
            "mean accuracy": scores.mean_accuracy,
            "frequency-weighted IU": scores.frequency_weighted_iu,
        },
        "classes": class_rows(evaluation),
        "curves": embed(plot_curves(epochs)) if epochs else None,
        "damaged": damaged,
        "confusion": None if small else embed(plot_confusion(evaluation)),
        "confusion_rows": rows if small else [],
        "mistakes": mistakes,
        "bounds": {stride: iu for stride, iu in bounds.mean_iu.items() if bounds.pictures},
        "bounds_said": advise(bounds, segmenter.classes.names) if bounds.pictures else "",
        "stride": max(plan.stages[-1].factor for plan in segmenter.network.plans),
        "kin": kin,
        "keys": class_keys(evaluation.classes, void="void, not scored"),
        "error_keys": [Key(colour, meaning) for meaning, colour in ERROR_COLOURS.items()],
        "worst": [_shown(segmenter, by_name[name], evaluation.image_iu[name]) for name in worst],
        "best": [_shown(segmenter, by_name[name], evaluation.image_iu[name]) for name in best],
        "recipe": (out / RECIPE).read_text("utf-8") if (out / RECIPE).is_file() else "",
        "confidence": confidence,
        "reliability": None if confidence is None else embed(plot_reliability(confidence)),
        "choices": [{**choice, "value": json.dumps(choice["value"])} for choice in choices],
        "convention": CONVENTION,
        "intervals": evaluation.intervals,
        "heads": [] if segmenter.head else [page.parent.name for page in sorted((out / HEADS).glob(f"*/{FILE_NAME}"))],
    }
    place = head_place(out, segmenter.head)
    place.mkdir(parents=True, exist_ok=True)
    return write_page(place / FILE_NAME, "run.html", values)


def _of_head(figures: dict[str, Any], head: str) -> dict[str, Any]:
    """Put the figures of a further head in the place of the first's."""
    return figures | {key: figures[f"{head}_{key}"] for key in figures if f"{head}_{key}" in figures}


def worst_and_best(image_iu: dict[str, float], *, most: int = SHOWN) -> tuple[list[str], list[str]]:
    """Choose the pictures to show, each once: the worst first, the best first; NaN is no score.

    Of an odd few the one in the middle counts as one of the worst.

    >>> worst_and_best({"a": 0.5, "b": 0.9, "c": 0.1})
    (['c', 'a'], ['b'])
    """
    ranked = [name for iu, name in sorted((iu, name) for name, iu in image_iu.items() if not np.isnan(iu))]
    half = -(-len(ranked) // 2)
    return ranked[: min(half, most)], ranked[: half - 1 : -1][:most] if half else []


def _shown(segmenter: Segmenter, pair: Pair, iu: float) -> Shown:
    sample = segmenter.sample(pair)
    if isinstance(segmenter, CRFSegmenter):
        before, after = (prediction.labels for prediction in segmenter.predict_both(sample.image))
        guesses = {"before the CRF": before, "after the CRF": after}
    else:
        after = segmenter.predict(sample.image).labels
        guesses = {"prediction": after}
    painted = {
        name: colourise(labels, segmenter.classes) for name, labels in {"truth": sample.labels, **guesses}.items()
    }
    chances = segmenter.predict(sample.image, probabilities=True).probabilities
    views = {"image": false_colours(sample.image), **painted, "errors": errors(sample.labels, after)}
    if chances is not None:
        views[ENTROPY] = heat(false_colours(sample.image), entropy(chances.astype(np.float32)), low=0, high=1)
    return Shown(
        pair.name,
        iu,
        {
            name: picture(pixels, longest=LONGEST_PX, kind="JPEG" if name in PHOTOGRAPHS else "PNG")
            for name, pixels in views.items()
        },
    )
