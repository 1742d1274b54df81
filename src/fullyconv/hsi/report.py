"""A run on one scene as one self-contained page: map, truth, split, errors, scores, spectra."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from fullyconv.draw import colourise, errors, legend
from fullyconv.hsi.pictures import false_colour
from fullyconv.hsi.plots import plot_spectra
from fullyconv.hsi.scoring import SceneEvaluation
from fullyconv.hsi.splits import Split
from fullyconv.hsi.trial import Trial
from fullyconv.report import FILE_NAME, class_table, embed, plot_confusion, write_page
from fullyconv.types import ClassSet

DISCARDED, UNLABELLED = (90, 90, 90), (235, 235, 235)
SHOWN_PX = 1000  # the longer side of the pictures on the page, at most
MAPS = ".maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 12px; } "
MAPS += ".maps img { width: 100%; image-rendering: pixelated; } figure { margin: 0; }"


def split_picture(labels: np.ndarray, split: Split, classes: ClassSet) -> np.ndarray:
    """Paint a split, H x W x 3 uint8: training pixels in their class's colour, test pixels in a light shade of it."""
    painted = np.empty((*labels.shape, 3), np.uint8)
    painted[:] = UNLABELLED
    colours = colourise(labels, classes)
    painted[split.train] = colours[split.train]
    painted[split.test] = colours[split.test] // 3 + 170
    painted[split.discarded] = DISCARDED
    return painted


def scene_pictures(trial: Trial, guess: np.ndarray) -> dict[str, np.ndarray]:
    """Paint a scene, its labels, split and map, and the errors on the test pixels, H x W x 3 uint8 each."""
    truth = np.where(trial.split.test, trial.labels, -1)
    return {
        "scene in false colours": false_colour(trial.scene),
        "truth": colourise(trial.labels, trial.classes),
        "split: training, test (light), discarded (dark)": split_picture(trial.labels, trial.split, trial.classes),
        "map": colourise(guess, trial.classes),
        "errors on the test pixels": errors(truth, guess),
    }


def write_scene_report(
    out: Path, trial: Trial, guess: np.ndarray, result: SceneEvaluation, *, title: str, recipe: str = ""
) -> Path:
    """Write ``out/report.html`` of a map and its scores."""
    maps = "".join(
        f"<figure>{_map(pixels, alt)}<figcaption>{alt}</figcaption></figure>"
        for alt, pixels in scene_pictures(trial, guess).items()
    )
    scores = result.scores
    shown = {
        "overall accuracy": scores.pixel_accuracy,
        "average accuracy": scores.mean_accuracy,
        "kappa": scores.kappa,
        "leakage": result.leakage,
    }
    figures = "".join(f"<div>{name}<b>{value:.4f}</b></div>" for name, value in shown.items())
    sections = [
        f"<style>{MAPS}</style><h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(result.leakage_line)}.</p>",
        f'<div class="figures">{figures}</div>',
        f'<h2>Maps</h2><div class="maps">{maps}</div><p>{_map(legend(trial.classes, width=900), "legend")}</p>',
        "<h2>Classes</h2>" + class_table(result.evaluation) + _counts(result),
        f'<h2>Confusions</h2><div class="plots">{embed(plot_confusion(result.evaluation))}</div>',
        f'<h2>Spectra</h2><div class="plots">{embed(plot_spectra(trial.scene))}</div>',
        f"<h2>Recipe</h2><pre>{html.escape(recipe)}</pre>" if recipe else "",
        f"<p>Scores, of the test pixels alone: {html.escape(result.evaluation.document()['convention'])}.</p>",
    ]
    return write_page(out / FILE_NAME, title, sections)


def _counts(result: SceneEvaluation) -> str:
    rows = zip(result.evaluation.classes.names, result.pixels.tolist(), strict=True)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{count}</td>' for count in counts)}</tr>"
        for name, counts in rows
    )
    head = "<tr><th>pixels</th><th>training</th><th>test</th><th>discarded</th></tr>"
    return f"<p></p><table>{head}{body}</table>"


def _map(pixels: np.ndarray, alt: str) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
