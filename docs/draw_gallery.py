"""Draw the gallery's pictures from generated data: python docs/draw_gallery.py [WORK], about ten minutes on two cores.

Everything is made here: the pictures, the models, the scene. WORK keeps the trained models for another time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fullyconv import Segmenter, load
from fullyconv.crf import CRFParameters
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.synthetic import CLASSES
from fullyconv.draw import colourise, errors, legend
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.pictures import false_colour
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.report import split_picture
from fullyconv.hsi.trial import make_trial
from fullyconv.predict.heatmap import model_heat_map
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.train.recipe import read_recipe
from fullyconv.types import Sample

OUT = Path(__file__).parent / "gallery"
STAGES = ("fcn32s", "fcn16s", "fcn8s")
SHOWN = (3, 10, 17)  # of the forty unseen pictures
GAP_PX = 6


def main(work: Path) -> None:
    """Train what is not there yet, draw everything."""
    OUT.mkdir(exist_ok=True)
    torch.manual_seed(0)
    shapes, staged, scene, run = work / "shapes", work / "staged", work / "scene.npz", work / "scene"
    make(shapes, "data", "demo", str(shapes), "--train", "320", "--val", "40")
    make(staged, "train", "demo-staged", "--data", str(shapes), "--out", str(staged))
    make(scene, "data", "scene", "random", "--bands", "60", "--out", str(scene))
    make(
        run,
        "train",
        "hsi",
        "--data",
        str(scene),
        "--out",
        str(run),
        "--set",
        "network=fcn1s-spectral2",
        "--set",
        "steps=150",
    )
    models = {name: load(staged / name / "model", device="cpu") for name in STAGES}
    draw_stages(models, shapes)
    draw_crf(models["fcn8s"], shapes)
    draw_heat(models["fcn8s"], shapes)
    draw_scene(scene, run)


def make(result: Path, *command: str) -> None:
    """Run a command of the package unless its result is there."""
    if not result.exists():
        subprocess.run([sys.executable, "-m", "fullyconv", *command], check=True)


def draw_stages(models: dict[str, Segmenter], shapes: Path) -> None:
    """Image, the three stages, truth: a row per picture."""
    classes = models["fcn8s"].classes
    rows = []
    for sample in samples(shapes):
        guesses = [colourise(model.predict(sample.image).labels, classes) for model in models.values()]
        rows.append([sample.image, *guesses, colourise(sample.labels, classes)])
    save(rows, "stages.png", below=legend(classes, width=max(width(row) for row in rows)))


def draw_crf(model: Segmenter, shapes: Path) -> None:
    """Image, before, after, truth."""
    parameters = CRFParameters(
        smoothness_weight=1, smoothness_sxy=2, appearance_weight=3, appearance_sxy=25, appearance_srgb=12
    )
    segmenter = CRFSegmenter(model, parameters)
    rows = []
    for sample in samples(shapes):
        before, after = (colourise(each.labels, model.classes) for each in segmenter.predict_both(sample.image))
        rows.append([sample.image, before, after, colourise(sample.labels, model.classes)])
    save(rows, "crf.png")


def draw_heat(model: Segmenter, shapes: Path) -> None:
    """The probability of every class over one picture."""
    found = model_heat_map(model, samples(shapes)[0].image)
    pictures = [np.asarray(found.picture(index, name)) for index, name in enumerate(model.classes.names)]
    save([pictures[:3], pictures[3:]], "heat.png")


def draw_scene(file: Path, run: Path) -> None:
    """False colours, truth, split, map, errors."""
    recipe = read_recipe(run / "recipe.yaml", {"default": SceneRecipe()})
    trial = make_trial(recipe, SceneFiles(file).open())
    guess = load(run / "model", device="cpu").predict(trial.scene).labels
    row = [
        false_colour(trial.scene),
        colourise(trial.labels, trial.classes),
        split_picture(trial.labels, trial.split, trial.classes),
        colourise(guess, trial.classes),
        errors(np.where(trial.split.test, trial.labels, -1), guess),
    ]
    save([row], "scene.png")


def samples(shapes: Path) -> list[Sample]:
    """Return the unseen pictures that are shown."""
    pairs = open_folder(shapes).splits["val"]
    return [read_sample(pairs[index], CLASSES) for index in SHOWN]


def width(row: list[np.ndarray]) -> int:
    """Return how wide pictures beside each other are."""
    return sum(each.shape[1] + GAP_PX for each in row) - GAP_PX


def save(rows: list[list[np.ndarray]], name: str, *, below: np.ndarray | None = None) -> None:
    """Lay rows of pictures on white and save them with as few colours as look the same."""
    heights = [max(each.shape[0] for each in row) for row in rows]
    extra = 0 if below is None else below.shape[0] + GAP_PX
    size = (max(width(row) for row in rows), sum(heights) + GAP_PX * (len(rows) - 1) + extra)
    canvas = Image.new("RGB", size, "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for each in row:
            canvas.paste(Image.fromarray(each), (left, top))
            left += each.shape[1] + GAP_PX
        top += height + GAP_PX
    if below is not None:
        canvas.paste(Image.fromarray(below), (0, top))
    canvas.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(OUT / name, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
