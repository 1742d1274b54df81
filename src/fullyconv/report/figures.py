"""The plots of a run (matplotlib)."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fullyconv.evaluation import Evaluation
from fullyconv.evaluation.confidence import Fit
from fullyconv.files import whole_file

MOST_NUMBERED = 40  # classes of a confusion matrix whose cells have room for a number


def plot_curves(epochs: Sequence[dict[str, Any]]) -> Figure:
    """Plot loss, learning rate and scores over the epochs (the lines of ``metrics.jsonl``)."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = [entry["epoch"] for entry in epochs]
    left.plot(x, [entry["loss"] for entry in epochs], color="#d62839", label="training loss", marker=".")
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    rate = left.twinx()
    rate.plot(x, [entry["learning_rate"] for entry in epochs], color="#999", linestyle=":", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    scored = [entry for entry in epochs if entry.get("mean_iu") is not None]
    for key in ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu"):
        name = key.replace("_iu", " IU").replace("_", " ")
        right.plot([e["epoch"] for e in scored], [e.get(key) for e in scored], label=name, marker=".")
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.grid(alpha=0.3)
    right.legend()
    left.grid(alpha=0.3)
    rate.legend(
        handles=[*left.lines, *rate.lines], loc="upper right"
    )  # of the upper axes, whose line it would lie under
    return figure


def plot_confusion(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix, each row as percentages of the true class's pixels.

    Args:
        evaluation: Counts and names.

    Returns:
        A figure; numbers stand in the cells of up to 40 classes.

    >>> from fullyconv.types import ClassSet
    >>> figure = plot_confusion(Evaluation(ClassSet(("a", "b")), np.array([[3, 1], [0, 4]]), 0, {}))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['75', '25', '100']
    """
    counts, names = evaluation.counts, evaluation.classes.names
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side, room = 1.5 + 0.45 * len(names), 0.085 * max(map(len, names))  # inches: the cells, the longest name
    figure = Figure(figsize=(side + room + 1, side + room), layout="constrained")
    axes = figure.subplots()
    cells = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="predicted", ylabel="truth")
    # A name with two dollar signs is a name, not a formula.
    axes.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticklabels(names, parse_math=False)
    if len(names) <= MOST_NUMBERED:
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            shade = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=shade, size=8)
    figure.colorbar(cells, ax=axes, shrink=0.8, label="share of the true\nclass's pixels, %")
    return figure


def plot_reliability(fit: Fit) -> Figure:
    """Plot how often the model is right against how certain it is, as the network gives it and tempered.

    Args:
        fit: Calibrations before and after.

    >>> from fullyconv.scores.calibration import Calibration, count_calibration
    >>> seen = count_calibration(np.array([[[0.75]], [[0.25]]]), np.array([[0]]))
    >>> [line.get_label() for line in plot_reliability(Fit(1.0, seen, seen, 1)).axes[0].lines[1:]]
    ['as the network gives them: error 0.250', 'at temperature 1.00: error 0.250']
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#999", linestyle=":")
    found = {"as the network gives them": fit.before, f"at temperature {fit.temperature:.2f}": fit.after}
    for name, calibration in found.items():
        filled = [(mean, share) for count, mean, share in calibration.bins if count]
        left.plot(*zip(*filled, strict=True), marker=".", label=f"{name}: error {calibration.error:.3f}")
    left.set(xlabel="probability of the most probable class", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    left.legend()
    left.grid(alpha=0.3)
    pixels = np.array([count for count, _, _ in fit.after.bins])
    places = (np.arange(len(pixels)) + 0.5) / len(pixels)
    right.bar(places, pixels / max(1, pixels.sum()), width=0.9 / len(pixels))
    right.set(xlabel="probability of the most probable class, tempered", ylabel="share of the pixels", xlim=(0, 1))
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, 120 pixels to the inch; the file appears whole or not at all.

    Args:
        figure: The figure.
        path: The file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save_figure(Figure(figsize=(1, 1)), Path(place, "empty.png"))
    ...     Path(place, "empty.png").read_bytes()[1:4]
    b'PNG'
    """
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120, format="png")


def embed(figure: Figure) -> str:
    """Return a figure as a ``data:`` address (SVG); the same figure gives the same text.

    Its words stay words, so that the browser finds glyphs for scripts that matplotlib's font lacks.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "fullyconv", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
