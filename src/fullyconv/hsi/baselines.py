"""What a scene is usually labelled with, pixel by pixel: SVM, random forest, a CNN on the patch around each pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.hsi.fitting import ROUND, make_job, sample_classes
from fullyconv.hsi.trial import SceneTrial
from fullyconv.losses import pixel_loss
from fullyconv.machine import evaluating
from fullyconv.train.batches import Group
from fullyconv.train.run import Run

Labeller = Callable[[], np.ndarray]
"""Labels the whole scene of a trial, H x W."""

PATCH_PX = 15
PATCH_BATCH = 64  # patches of the full map that go through the network at once
SPECTRA_BATCH = 65_536


def fit_svm(trial: SceneTrial) -> Labeller:
    """Train a support vector machine with radial kernel on the spectra of the training pixels."""
    return _fit_spectra(trial, _sklearn("svm").SVC(C=100.0, cache_size=500))


def fit_forest(trial: SceneTrial) -> Labeller:
    """Train a random forest of 200 trees on the spectra of the training pixels."""
    forest = _sklearn("ensemble").RandomForestClassifier(200, n_jobs=-1, random_state=trial.recipe.seed)
    return _fit_spectra(trial, forest)


def _sklearn(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"sklearn.{module}")
    except ImportError as missing:
        raise ImportError("SVM and random forest need scikit-learn: pip install 'fullyconv[hsi]'") from missing


def _fit_spectra(trial: SceneTrial, classifier: Any) -> Labeller:
    train = trial.split.train
    spectra = trial.preprocess(trial.scene.cube[train][None])[:, 0].T  # training pixels x K
    classifier.fit(spectra, trial.labels[train])

    def label() -> np.ndarray:
        every = trial.spectra().reshape(trial.preprocess.channels, -1).T  # pixels x K
        parts = [
            classifier.predict(every[start : start + SPECTRA_BATCH]) for start in range(0, len(every), SPECTRA_BATCH)
        ]
        return np.concatenate(parts).reshape(train.shape)

    return label


class PatchCNN(nn.Module):
    """A classifier of 15 x 15 patches, N x K x 15 x 15 -> N x C: the network most hyperspectral papers use.

    Its spectra are reduced by a 1 x 1 convolution first, as the spectral trunk's are, which makes it several
    times faster than without.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2),  # 6 x 6
            nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2),  # 2 x 2
            nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, classes),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """Score the centre of every patch."""
        scores: Tensor = self.layers(patches)
        return scores


def fit_patches(trial: SceneTrial) -> Labeller:
    """Train a patch CNN: as many updates, samples, turns and the same learning rate as the recipe gives the FCN."""
    torch.manual_seed(trial.recipe.seed)
    network = PatchCNN(trial.preprocess.channels, len(trial.classes))
    job = make_job(trial, network, partial(_patch_batches, trial, patches_of(trial)), _patch_loss)
    Run(job).train()
    device, size = job.fabric.device, trial.labels.shape

    def label() -> np.ndarray:
        with evaluating(network):
            # Batches along a row are views that fit the cache: three times faster than gathering hundreds.
            found = [
                network(batch.to(device)).argmax(1).cpu()
                for row in patches_of(trial)
                for batch in row.split(PATCH_BATCH)
            ]
        return torch.cat(found).view(size).numpy()

    return label


def _patch_batches(trial: SceneTrial, patches: Tensor, round_: int, start: int) -> Iterator[Group]:
    """Give the patches around the pixels that each update of a round learns from, and their labels."""
    recipe, labels = trial.recipe, trial.training_labels
    for step in range(round_ * ROUND + start, (round_ + 1) * ROUND):
        rng = np.random.default_rng((recipe.seed, step))
        sampled = sample_classes(labels, recipe.sample, rng)
        rows, columns = np.nonzero(sampled >= 0)
        batch = patches[torch.from_numpy(rows), torch.from_numpy(columns)]  # n x K x 15 x 15
        if recipe.turn:
            batch = torch.rot90(batch, int(rng.integers(4)), (2, 3))
            batch = batch.flip(3) if rng.integers(2) else batch
        yield [batch], [torch.from_numpy(sampled[rows, columns])[:, None, None]]


def _patch_loss(scores: Tensor, labels: Tensor, _: torch.Generator) -> Tensor:
    return pixel_loss(scores[:, :, None, None], labels)  # n x C: a picture of one pixel each


def patches_of(trial: SceneTrial) -> Tensor:
    """Show the patch around every pixel, H x W x K x 15 x 15: a view of the padded scene, not yet a copy."""
    scene = torch.from_numpy(trial.spectra())
    around = functional.pad(scene, (PATCH_PX // 2,) * 4)
    return around.unfold(1, PATCH_PX, 1).unfold(2, PATCH_PX, 1).permute(1, 2, 0, 3, 4)
