"""A run as one self-contained page: curves, scores, confusions, best and worst pictures. No network needed."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fullyconv.data.dataset import read_sample
from fullyconv.data.pairs import Pair
from fullyconv.draw import colourise, errors
from fullyconv.evaluation import Evaluation
from fullyconv.files import whole_file
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.train.loop import METRICS

FILE_NAME = "report.html"
SHOWN = 4  # best and worst images each
PICTURE_PX = 360  # width of the pictures on the page

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0; }
.figures div { background: var(--soft); border-radius: 8px; padding: .6rem 1.2rem; }
.figures b { display: block; font-size: 1.7rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
.swatch { display: inline-block; width: 1em; height: 1em; border: 1px solid #888; vertical-align: -2px; }
.swatch { margin-right: .5em; }
.bar { background: #2979ff; height: .8em; border-radius: 2px; }
.plots img { max-width: 100%; background: white; border-radius: 6px; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; margin-bottom: 12px; }
.row img { width: 100%; image-rendering: auto; border-radius: 3px; } .row p { grid-column: 1 / -1; margin: 0; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; }
"""


def write_report(
    out: Path, segmenter: Segmenter, evaluation: Evaluation, pairs: Sequence[Pair], *, title: str, recipe: str = ""
) -> Path:
    """Write ``out/report.html`` from an evaluation, the run's ``metrics.jsonl`` and the scored pairs."""
    epochs = read_epochs(out / METRICS)
    scored = sorted((iu, name) for name, iu in evaluation.image_iu.items() if not np.isnan(iu))
    by_name = {pair.name: pair for pair in pairs}
    worst = [(by_name[name], iu) for iu, name in scored[:SHOWN]]
    best = [(by_name[name], iu) for iu, name in scored[::-1][:SHOWN]]
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(pairs)} images, {evaluation.void_share:.1%} of their pixels void. {_absent(evaluation)}</p>",
        _headline(evaluation),
        "<h2>Classes</h2>" + class_table(evaluation),
        f'<h2>Curves</h2><div class="plots">{embed(plot_curves(epochs))}</div>' if epochs else "",
        f'<h2>Confusions</h2><div class="plots">{embed(plot_confusion(evaluation))}</div>',
        "<h2>Worst images</h2>" + "".join(_row(segmenter, pair, iu) for pair, iu in worst),
        "<h2>Best images</h2>" + "".join(_row(segmenter, pair, iu) for pair, iu in best),
        f"<h2>Recipe</h2><pre>{html.escape(recipe)}</pre>" if recipe else "",
        f"<p>Scores: {html.escape(evaluation.document()['convention'])}.</p>",
    ]
    return write_page(out / FILE_NAME, title, sections)


def write_page(path: Path, title: str, sections: Sequence[str]) -> Path:
    """Write sections of HTML as one page."""
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><body>{''.join(sections)}</body></html>"
    )
    with whole_file(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Read a run's ``metrics.jsonl``; none if it has not been written."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def plot_curves(epochs: Sequence[dict[str, Any]]) -> Figure:
    """Plot loss, learning rate and scores over the epochs."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = [entry["epoch"] for entry in epochs]
    left.plot(x, [entry["loss"] for entry in epochs], color="#d62839", label="training loss")
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    rate = left.twinx()
    rate.plot(x, [entry["learning_rate"] for entry in epochs], color="#999", linestyle=":", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    scored = [entry for entry in epochs if entry.get("mean_iu") is not None]
    for key in ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu"):
        name = key.replace("_iu", " IU").replace("_", " ")
        right.plot([e["epoch"] for e in scored], [e[key] for e in scored], label=name, marker=".")
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    right.grid(alpha=0.3)
    right.legend()
    left.grid(alpha=0.3)
    left.legend(loc="upper right")
    return figure


def plot_confusion(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix, each row as shares of the true class."""
    counts, names = evaluation.counts, evaluation.classes.names
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(
        xticks=range(len(names)), yticks=range(len(names)), xlabel="predicted", ylabel="truth",
        title="share of the true class's pixels, %",
    )  # fmt: skip
    axes.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(names)
    if len(names) <= 40:
        for row, column in np.ndindex(shares.shape):
            if shares[row, column] >= 0.005:
                shade = "white" if shares[row, column] > 0.5 else "black"
                axes.text(
                    column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=shade, size=8
                )
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120, format="png")


def _absent(evaluation: Evaluation) -> str:
    if not evaluation.absent:
        return "Every class occurs."
    return f"Never in the truth: {html.escape(', '.join(evaluation.absent))}."


def _headline(evaluation: Evaluation) -> str:
    scores = evaluation.scores
    shown = {
        "mean IU": scores.mean_iu,
        "pixel accuracy": scores.pixel_accuracy,
        "mean accuracy": scores.mean_accuracy,
        "frequency-weighted IU": scores.frequency_weighted_iu,
    }
    return (
        f'<div class="figures">{"".join(f"<div>{name}<b>{value:.3f}</b></div>" for name, value in shown.items())}</div>'
    )


def class_table(evaluation: Evaluation) -> str:
    """Lay out the scores of every class."""
    scores, classes = evaluation.scores, evaluation.classes
    shares = evaluation.counts.sum(1) / max(1, evaluation.counts.sum())
    rows = []
    for index, name in enumerate(classes.names):
        iu, accuracy, f1 = (
            figures[index] for figures in (scores.per_class_iu, scores.per_class_accuracy, scores.per_class_f1)
        )
        width = 0 if np.isnan(iu) else 100 * iu
        swatch = f'<span class="swatch" style="background:rgb{classes.colours[index]}"></span>'
        rows.append(
            f"<tr><td>{swatch}{html.escape(name)}</td>"
            f"<td>{shares[index]:.1%}</td><td>{_figure(accuracy)}</td><td>{_figure(f1)}</td><td>{_figure(iu)}</td>"
            f'<td style="width:320px"><div class="bar" style="width:{width:.1f}%"></div></td></tr>'
        )
    head = "<tr><th>class</th><th>share</th><th>accuracy</th><th>F1</th><th>IU</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _figure(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _row(segmenter: Segmenter, pair: Pair, iu: float) -> str:
    sample = read_sample(pair, segmenter.classes)
    truth = colourise(sample.labels, segmenter.classes)
    if isinstance(segmenter, CRFSegmenter):
        before, after = (prediction.labels for prediction in segmenter.predict_both(sample.image))
        pictures = {
            "image": sample.image,
            "before the CRF": colourise(before, segmenter.classes),
            "after": colourise(after, segmenter.classes),
            "truth": truth,
        }
    else:
        guess = segmenter.predict(sample.image).labels
        pictures = {
            "image": sample.image,
            "truth": truth,
            "prediction": colourise(guess, segmenter.classes),
            "errors": errors(sample.labels, guess),
        }
    cells = "".join(_picture(pixels, alt) for alt, pixels in pictures.items())
    caption = f"{html.escape(pair.name)}: mean IU {iu:.3f} ({', '.join(pictures)})"
    return f'<div class="row"><p>{caption}</p>{cells}</div>'


def _picture(pixels: np.ndarray, alt: str) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_PX, 4 * PICTURE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def embed(figure: Figure) -> str:
    """Put a plot on the page."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "fullyconv"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="plot" src="data:image/svg+xml;base64,{encoded}">'
