"""A run on one scene as one self-contained page: map, truth, split, errors, scores, spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullyconv.draw import ERROR_COLOURS, colourise, errors
from fullyconv.hsi.pictures import false_colour
from fullyconv.hsi.plots import plot_spectra
from fullyconv.hsi.scoring import SceneEvaluation
from fullyconv.hsi.splits import PixelSplit
from fullyconv.hsi.trial import SceneTrial
from fullyconv.report.figures import embed, plot_confusion
from fullyconv.report.page import FILE_NAME, Key, class_keys, class_rows, picture, write_page
from fullyconv.scores.metrics import CONVENTION
from fullyconv.types import ClassSet

DISCARDED, UNLABELLED = (90, 90, 90), (235, 235, 235)
SHOWN_PX = 1000  # the longer side of the pictures on the page, at most


def split_picture(labels: np.ndarray, split: PixelSplit, classes: ClassSet) -> np.ndarray:
    """Paint a split, H x W x 3 uint8: training pixels in their class's colour, test pixels in a light shade of it."""
    painted = np.empty((*labels.shape, 3), np.uint8)
    painted[:] = UNLABELLED
    colours = colourise(labels, classes)
    painted[split.train] = colours[split.train]
    painted[split.test] = colours[split.test] // 3 + 170
    painted[split.discarded] = DISCARDED
    return painted


def scene_pictures(trial: SceneTrial, guess: np.ndarray) -> dict[str, np.ndarray]:
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
    out: Path, trial: SceneTrial, guess: np.ndarray, result: SceneEvaluation, *, title: str, recipe: str = ""
) -> Path:
    """Write ``out/report.html`` of a map and its scores."""
    scores = result.scores
    pictures = scene_pictures(trial, guess)
    values = {
        "title": title,
        "result": result,
        "headline": {
            "overall accuracy": scores.pixel_accuracy,
            "average accuracy": scores.mean_accuracy,
            "kappa": scores.kappa,
            "leakage": result.leakage,
        },
        "maps": {name: picture(pixels, longest=SHOWN_PX, kind="PNG") for name, pixels in pictures.items()},
        "keys": class_keys(trial.classes, void="not labelled"),
        "split_keys": [Key(DISCARDED, "discarded"), Key(UNLABELLED, "not labelled")],
        "error_keys": [Key(colour, meaning) for meaning, colour in ERROR_COLOURS.items()],
        "classes": class_rows(result.evaluation),
        "pixels": list(zip(trial.classes.names, result.pixels.tolist(), strict=True)),
        "confusion": embed(plot_confusion(result.evaluation)),
        "spectra": embed(plot_spectra(trial.scene)),
        "recipe": recipe,
        "convention": CONVENTION,
    }
    return write_page(out / FILE_NAME, "scene.html", values, package="fullyconv.hsi")
