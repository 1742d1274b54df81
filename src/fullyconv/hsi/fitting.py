"""Training a network on the labelled pixels of one scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.checkpoint import load_network
from fullyconv.hsi.trial import SceneTrial, tile_side
from fullyconv.losses import pixel_loss
from fullyconv.networks import build, foreign_trunk
from fullyconv.networks.fcn import FCN, continue_from
from fullyconv.surgery.layers import widen
from fullyconv.tiles import Tile, plan_tiles
from fullyconv.train.batches import Group
from fullyconv.train.folder import RunFolder
from fullyconv.train.job import Job, Schedule, Watcher, make_fabric
from fullyconv.train.optim import make_optimizer
from fullyconv.train.run import Run

ROUND = 50  # updates between two saves


def make_network(trial: SceneTrial) -> FCN:
    """Build the recipe's network for the channels of a trial, with fresh weights or those it starts from."""
    recipe = trial.recipe
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, len(trial.classes), channels=trial.preprocess.channels)
    if recipe.start_from is not None:
        trained, _ = load_network(recipe.start_from, trust=foreign_trunk(recipe.network) or ())
        if not isinstance(trained, FCN):
            raise ValueError(f"{recipe.start_from} is a classifier: start from a segmentation network")
        widen(trained, network.in_channels)
        continue_from(trained, network)
    return network


def fit(trial: SceneTrial, *, folder: RunFolder | None = None, watcher: Watcher | None = None) -> FCN:
    """Train a network on the training pixels of a trial.

    Every update sees the scene (or a tile of it with all that its pixels see), turned at random, and
    learns from a sample of the training pixels that holds as many of each class. With ``folder`` the run
    is written to it, or continued from there; its ``model`` is the network as it is at the end: no test pixel
    chooses among its states. Without it, ``KeyboardInterrupt`` loses it.
    """
    network = make_network(trial)
    views = _Views(trial, network)
    run = Run(make_job(trial, network, views.batches, _loss), folder, watcher)
    position = run.train()
    if folder is not None:
        steps = position.epoch * ROUND + position.step
        notes = {"scene": trial.scene.name, "steps": steps, "seconds": round(position.seconds, 3)}
        folder.replace_model(lambda model: run.write_model(model, notes))
    return network.eval()


def make_job(
    trial: SceneTrial,
    network: nn.Module,
    batches: Callable[[int, int], Iterator[Group]],
    loss: Callable[[Tensor, Tensor, torch.Generator], Tensor],
) -> Job:
    """Put a training on a scene together as its recipe says; its epochs are rounds of ``ROUND`` updates."""
    recipe = trial.recipe
    fabric = make_fabric(recipe.device, recipe.precision)
    return Job(
        network=network.to(fabric.device),
        optimizer=make_optimizer(network, recipe),
        clip=recipe.clip,
        fabric=fabric,
        schedule=Schedule(recipe.steps, ROUND, recipe.rate_at, recipe.minutes),
        seed=recipe.seed,
        batches=batches,
        loss=loss,
        classes=trial.classes,
        preprocess=trial.preprocess,
        smaller="crop (an update then sees a tile of the scene), or components",
    )


def _loss(scores: Tensor, labels: Tensor, _: torch.Generator) -> Tensor:
    return pixel_loss(scores, labels)


class _Views:
    """The views of a scene that updates learn from; each follows from the seed and the update's number alone."""

    def __init__(self, trial: SceneTrial, network: FCN) -> None:
        self._trial, self._labels = trial, trial.training_labels
        height, width = self._labels.shape
        rows, columns = network.plans
        side = tile_side(trial.recipe, (height, width))
        whole = side is None
        reach = (0, 0) if whole else (max(rows.reach, columns.reach),) * 2  # a turned tile sees as far both ways
        cut = partial(plan_tiles, height, width, reach=reach, align=(rows.stride, columns.stride))
        tiles: list[Tile] = cut(core=side or max(height, width))
        counts = np.array([_class_counts(self._labels[_core(tile)], len(trial.classes)) for tile in tiles])
        self._tiles = [tile for tile, count in zip(tiles, counts, strict=True) if count.any()]
        self._counts = counts[counts.any(1)]  # tiles x classes
        self._whole = trial.spectra() if whole else None

    def batches(self, round_: int, start: int) -> Iterator[Group]:
        """Give the views of a round's updates from ``start`` on, one each."""
        for step in range(round_ * ROUND + start, (round_ + 1) * ROUND):
            view, labels = self.draw(step)
            yield [view], [labels]

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the view of an update, 1 x K x h x w, and its labels, 1 x h x w, void but for the sampled pixels."""
        recipe = self._trial.recipe
        rng = np.random.default_rng((recipe.seed, step))
        # A class first, then a tile by how much of it there is: rare classes are seen as often as large ones.
        wanted = rng.choice(np.flatnonzero(self._counts.sum(0)))
        tile = self._tiles[rng.choice(len(self._tiles), p=self._counts[:, wanted] / self._counts[:, wanted].sum())]
        read = slice(tile.rows.start, tile.rows.stop), slice(tile.columns.start, tile.columns.stop)
        labels = np.full(self._labels.shape, -1, np.int64)
        core = _core(tile)
        labels[core] = sample_classes(self._labels[core], recipe.sample, rng)
        image = self._trial.spectra(read) if self._whole is None else self._whole
        labels = labels[read]
        if recipe.turn:
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            image, labels = (np.rot90(each, turns, (-2, -1)) for each in (image, labels))
            if flip:
                image, labels = image[..., ::-1], labels[..., ::-1]
        return tuple(torch.from_numpy(np.ascontiguousarray(each))[None] for each in (image, labels))  # type: ignore[return-value]


def _core(tile: Tile) -> tuple[slice, slice]:
    return slice(tile.rows.core_start, tile.rows.core_stop), slice(tile.columns.core_start, tile.columns.core_stop)


def _class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels[labels >= 0], minlength=classes)


def sample_classes(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Keep up to ``most`` labels of each class, drawn at random; all others become void."""
    kept = np.full(labels.shape, -1, np.int64)
    places = np.flatnonzero(labels >= 0)
    found = labels.flat[places]
    for index in np.unique(found):
        here = places[found == index]
        kept.flat[rng.choice(here, min(most, len(here)), replace=False)] = index
    return kept
