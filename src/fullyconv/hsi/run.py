"""A run on one scene from recipe to report, and the scoring of its model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fullyconv.checkpoint import find_model, read_config
from fullyconv.files import write_json
from fullyconv.hsi.fitting import fit
from fullyconv.hsi.formats.mapped import row_blocks
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.report import write_scene_report
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.scoring import SceneEvaluation, evaluate_map
from fullyconv.hsi.segmenter import SceneSegmenter, load_scene_model
from fullyconv.hsi.splits import PixelSplit
from fullyconv.hsi.trial import SceneTrial, labelled, make_trial, read_split, training_windows, write_split
from fullyconv.networks import foreign_trunk
from fullyconv.networks.fcn import FCN
from fullyconv.report import plot_confusion, save_figure
from fullyconv.train.folder import BEST, CONFUSION, EVALUATION, RECIPE, open_run
from fullyconv.train.job import Watcher
from fullyconv.train.recipe import read_recipe

SPLIT = "split.npz"


def train_scene(
    recipe: SceneRecipe, scene: Scene, out: Path, *, watcher: Watcher | None = None, resume: bool = False
) -> SceneEvaluation:
    """Train on a scene, score the model on the test pixels, and write all of it to a folder.

    It holds ``recipe.yaml``, ``data.json``, ``split.npz`` (its masks), ``model``, ``metrics.jsonl``,
    ``evaluation.json``, ``confusion.png``, ``report.html``.

    Args:
        recipe: The choices.
        scene: The scene with its labels.
        out: The folder.
        watcher: Is shown how far the training has come.
        resume: Continue a run that was stopped.

    Returns:
        The scores.

    Raises:
        BadFile: If ``out`` already holds a run and ``resume`` is false, or if the run to resume was another one or on
            other data.

    """
    with open_run(out, resume=resume, also=(SPLIT,)) as folder:
        trial = make_trial(recipe, scene)
        folder.begin(recipe, data_print(trial))
        write_split(trial.split, out / SPLIT)
        fit(trial, folder=folder, watcher=watcher)
        segmenter = load_scene_model(out / BEST, device=recipe.device, trust=foreign_trunk(recipe.network) or ())
        labels = segmenter.predict(scene).labels
        evaluation = evaluate_network(trial, labels, segmenter.network)
        write_json(out / EVALUATION, evaluation.document())
        save_figure(plot_confusion(evaluation.evaluation), out / CONFUSION)
        write_scene_report(
            out, trial, labels, evaluation, title=f"fullyconv: {out.name}", recipe=(out / RECIPE).read_text()
        )
    return evaluation


def data_print(trial: SceneTrial) -> dict[str, Any]:
    """Describe a trial's data so that a change of them shows: the scene, its labels and classes, the split."""
    cube = hashlib.blake2b(digest_size=16)
    for rows in row_blocks(trial.scene.cube):
        cube.update(np.ascontiguousarray(trial.scene.cube[rows]).data)
    masks = np.stack([trial.split.train, trial.split.test])
    return {
        "scene": [list(trial.scene.cube.shape), trial.scene.cube.dtype.str, cube.hexdigest(), trial.scene.no_data],
        "labels": hashlib.blake2b(np.ascontiguousarray(trial.labels).data, digest_size=16).hexdigest(),
        "classes": dict(zip(trial.classes.names, trial.classes.values, strict=True)),
        "split": hashlib.blake2b(masks.data, digest_size=16).hexdigest(),
    }


def evaluate_network(trial: SceneTrial, labels: np.ndarray, network: FCN) -> SceneEvaluation:
    """Score a network's map of a trial's scene, with the leakage that follows from its geometry.

    Args:
        trial: The scene and its split.
        labels: H x W, the map.
        network: What made it.

    """
    windows = training_windows(network, trial.recipe, (trial.labels.shape[0], trial.labels.shape[1]))
    averaged = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    note = "; its batch normalisation has averaged over the whole scene besides" if averaged else ""
    return evaluate_map(trial, labels, windows, note=note)


def evaluate_scene(
    model: Path, segmenter: SceneSegmenter, scene: Scene, *, masks: Path | None = None
) -> SceneEvaluation:
    """Score a model on a labelled scene.

    Args:
        model: The model's folder, perhaps in a run's.
        segmenter: The model, opened.
        scene: The scene with its labels.
        masks: An .npz file whose mask ``test`` is scored. Without one, the test pixels of the model's run are; of
            a scene that the run was not trained on, every labelled pixel.

    Raises:
        ValueError: If the model has another number of classes than the scene.

    """
    labels, classes = labelled(scene, segmenter.preprocess.bands)
    if len(classes) != len(segmenter.classes):
        raise ValueError(
            f"the model tells {len(segmenter.classes)} classes apart, {scene.name!r} has {len(classes)}: "
            "give the label map that it was trained on"
        )
    config, run = read_config(model), find_model(model).parent
    own = run / SPLIT
    if masks is None and own.is_file() and config.notes.get("scene") == scene.name:
        masks = own
    nothing = np.zeros(labels.shape, bool)
    split = PixelSplit(nothing, labels >= 0, nothing, "masks") if masks is None else read_split(masks, labels)
    recipe = SceneRecipe(network=config.architecture.name)
    if (run / RECIPE).is_file():
        recipe = read_recipe(run / RECIPE, {"default": recipe})
    trial = SceneTrial(recipe, scene, labels, segmenter.classes, split, segmenter.preprocess)
    return evaluate_network(trial, segmenter.predict(scene).labels, segmenter.network)
