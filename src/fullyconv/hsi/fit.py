"""Training a network on the labelled pixels of one scene."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fullyconv.checkpoint import load_network, read_tensors, save, write_tensors
from fullyconv.files import write_json
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.trial import Trial, tile_side
from fullyconv.losses import pixel_loss
from fullyconv.machine import choose_device
from fullyconv.networks import build
from fullyconv.networks.fcn import FCN, continue_from
from fullyconv.surgery.layers import widen
from fullyconv.tiles import Tile, plan_tiles
from fullyconv.train.loop import BEST, LAST, STATE
from fullyconv.train.optim import make_optimizer, optimizer_tensors, rate_at, restore_optimizer
from fullyconv.train.stop import StopRequest

Watch = Callable[[int, int, float], None]
"""Called with (updates made, updates in all, loss)."""


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0


def make_network(trial: Trial) -> FCN:
    """Build the recipe's network for the channels of a trial, with fresh weights or those it starts from."""
    recipe = trial.recipe
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, len(trial.classes), channels=trial.preprocess.channels)
    if recipe.start_from is not None:
        trained, _ = load_network(recipe.start_from)
        if not isinstance(trained, FCN):
            raise ValueError(f"{recipe.start_from} is a classifier: start from a segmentation network")
        widen(trained, network.in_channels)
        continue_from(trained, network)
    return network


def fit(trial: Trial, *, out: Path | None = None, watch: Watch | None = None, resume: bool = False) -> FCN:
    """Train a network on the training pixels of a trial.

    Every update sees the scene (or a tile of it with all that its pixels see), turned at random, and
    learns from a sample of the training pixels that holds as many of each class. With ``out`` the
    network is saved to ``out/model``. On Ctrl-C or SIGTERM the update under way is finished, the state
    saved to ``out/last``, and ``KeyboardInterrupt`` raised; ``resume`` continues from there (from the
    start, if nothing was saved), bit for bit unless a time budget shortened the run.
    """
    recipe, device = trial.recipe, choose_device(trial.recipe.device)
    network = make_network(trial).to(device)
    optimizer = make_optimizer(
        network, "adamw", learning_rate=recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
    )
    position = _restore(network, optimizer, out) if resume and out is not None else Position()
    views = _Views(trial, network)
    started = time.monotonic() - position.seconds
    network.train()
    with StopRequest() as stop:
        while (progress := _progress(recipe, position, started)) < 1:
            rate = rate_at(progress, schedule="poly", power=recipe.power, warmup=recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate
            loss = _update(network, optimizer, *views.draw(position.step))
            position.step, position.seconds = position.step + 1, time.monotonic() - started
            if watch is not None:
                watch(position.step, recipe.steps, loss)
            if stop.asked:
                if out is not None:
                    _save_last(trial, network, optimizer, position, out)
                raise KeyboardInterrupt
    if out is not None:
        notes = {"scene": trial.scene.name, "steps": position.step, "seconds": round(position.seconds, 3)}
        save(network, out / BEST, classes=trial.classes, preprocess=trial.preprocess, notes=notes)
    return network.eval()


def _update(network: FCN, optimizer: Optimizer, scene: Tensor, labels: Tensor) -> float:
    device = next(network.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    loss = pixel_loss(network(scene.to(device)), labels.to(device))
    loss.backward()  # type: ignore[no-untyped-call]
    value = float(loss.detach())
    if not np.isfinite(value):
        raise ValueError(f"the loss became {value}: lower learning_rate, or raise warmup")
    optimizer.step()
    return value


def _progress(recipe: SceneRecipe, position: Position, started: float) -> float:
    """Return how much of the schedule is behind: by updates, or by the clock where that is further."""
    by_steps = position.step / recipe.steps
    if recipe.minutes is None:
        return by_steps
    return max(by_steps, (time.monotonic() - started) / (60 * recipe.minutes))


class _Views:
    """The views of a scene that updates learn from; each follows from the seed and the update's number alone."""

    def __init__(self, trial: Trial, network: FCN) -> None:
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
        self._whole = trial.preprocess(trial.scene.cube) if whole else None

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
        image = self._trial.preprocess(self._trial.scene.cube[read]) if self._whole is None else self._whole
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


def _save_last(trial: Trial, network: FCN, optimizer: Optimizer, position: Position, out: Path) -> None:
    folder = save(network, out / LAST, classes=trial.classes, preprocess=trial.preprocess)
    write_tensors(folder / "optimizer.safetensors", optimizer_tensors(optimizer))
    write_json(folder / STATE, asdict(position))


def _restore(network: FCN, optimizer: Optimizer, out: Path) -> Position:
    folder = out / LAST
    if not (folder / STATE).is_file():  # the run ended before it could save anything
        return Position()
    network.load_state_dict(read_tensors(folder / "model.safetensors"))
    restore_optimizer(optimizer, read_tensors(folder / "optimizer.safetensors"))
    return Position(**json.loads((folder / STATE).read_text()))
