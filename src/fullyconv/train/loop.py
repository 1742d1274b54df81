"""The training loop: epochs of updates, a validation after each, nothing lost on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from fullyconv.checkpoint import read_tensors, save, write_tensors
from fullyconv.data.dataset import Views
from fullyconv.evaluation import Evaluation
from fullyconv.files import BadFile, write_json
from fullyconv.losses import Normalization, pixel_loss, sample_terms
from fullyconv.networks.fcn import FCN
from fullyconv.train.batches import prepare_batches, steps_per_epoch, update_batches
from fullyconv.train.optim import optimizer_tensors, restore_optimizer
from fullyconv.train.stop import StopRequest
from fullyconv.types import ClassSet, Preprocess

BEST, LAST, METRICS, STATE = "model", "last", "metrics.jsonl", "state.json"


class Watcher(Protocol):
    """Who is told how a run goes."""

    def step(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """An update has been made; ``step`` counts within the epoch."""

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """An epoch has been validated."""


@dataclass(frozen=True)
class Job:
    """Everything a run needs, already built; numbers are as in ``Recipe``."""

    network: FCN
    optimizer: Optimizer
    views: Views
    validate: Callable[[FCN], Evaluation]
    pictures: Callable[[FCN], np.ndarray]  # H x W x 3 uint8: some validation images, truth, prediction
    rate: Callable[[float], float]
    classes: ClassSet
    preprocess: Preprocess
    normalization: Normalization
    sampling: float
    keep: float | Tensor  # the probability of a loss term, for all pixels or by class: ``sampling`` on the whole
    weights: Tensor | None
    precision: str
    device: torch.device
    out: Path
    epochs: int
    minutes: float | None
    batch: int
    accumulate: int
    workers: int
    validate_every: int
    learning_rate: float
    seed: int


@dataclass
class Position:
    """How far a run has come; with the weights and the optimiser's state, all that a resume needs."""

    epoch: int = 0
    step: int = 0  # updates made in this epoch
    seconds: float = 0.0
    best: float = -1.0
    rate: float = 0.0  # the learning rate of the last update
    losses: list[float] = field(default_factory=list)  # of the epoch under way
    finished: bool = False  # the schedule is done


def fit(job: Job, watcher: Watcher, *, resume: bool = False) -> Position:
    """Train to the end of the schedule, or until interrupted.

    Writes ``model`` (the best by mean IU), ``last`` (weights and optimiser, for ``resume``),
    ``metrics.jsonl`` and TensorBoard events into ``job.out``. On Ctrl-C or SIGTERM the update
    under way is finished and the state saved, then ``KeyboardInterrupt`` is raised. A resumed run
    continues bit for bit, unless a time budget shortened it.
    """
    fabric = Fabric(
        accelerator="cuda" if job.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if job.precision == "bf16" else "32-true",
    )
    wired = _Wired(fabric, *fabric.setup(job.network.to(memory_format=torch.channels_last), job.optimizer))  # type: ignore[call-overload]
    position = _restore(job) if resume else Position()
    started = time.monotonic() - position.seconds
    writer = SummaryWriter(str(job.out / "tensorboard"), purge_step=position.epoch)
    steps = steps_per_epoch(job.views, job.batch * job.accumulate)
    try:
        with StopRequest() as stop:
            while position.epoch < job.epochs and _progress(job, position, steps, started) < 1:
                wired.network.train()
                chosen = update_batches(
                    job.views, epoch=position.epoch, start=position.step, batch=job.batch, accumulate=job.accumulate
                )
                for images, labels in prepare_batches(
                    job.views, chosen, accumulate=job.accumulate, workers=job.workers
                ):
                    progress = _progress(job, position, steps, started)
                    if progress >= 1 or stop.asked:
                        break
                    place = (position.epoch, position.step)
                    loss = _update(job, wired, (images, labels), progress=progress, place=place)
                    position.step += 1
                    position.rate = job.optimizer.param_groups[0]["lr"]
                    position.losses.append(loss)
                    watcher.step(epoch=position.epoch, step=position.step, steps=steps, loss=loss)
                position.seconds = time.monotonic() - started
                if stop.asked:
                    _save_last(job, position)
                    raise KeyboardInterrupt
                last = position.epoch + 1 == job.epochs or _progress(job, position, steps, started) >= 1
                validate = last or (position.epoch + 1) % job.validate_every == 0
                _end_epoch(job, position, watcher, writer, validate=validate)
    finally:
        writer.close()
    position.finished = True
    write_json(job.out / LAST / STATE, position.__dict__)
    return position


def begun(run: Path) -> bool:
    """Return whether a folder holds a run that can be resumed."""
    return (run / LAST / STATE).is_file()


def finished(run: Path) -> bool:
    """Return whether the run in a folder has come to the end of its schedule."""
    return begun(run) and bool(json.loads((run / LAST / STATE).read_text()).get("finished", False))


def _rest_frozen_norms(network: torch.nn.Module) -> None:
    """Keep the batch statistics of frozen layers as they are."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _progress(job: Job, position: Position, steps: int, started: float) -> float:
    """Return how much of the schedule is behind: by updates, or by the clock where that is further."""
    by_steps = (position.epoch * steps + position.step) / (job.epochs * steps)
    if job.minutes is None:
        return by_steps
    return max(by_steps, (time.monotonic() - started) / (60 * job.minutes))


@dataclass(frozen=True)
class _Wired:
    """Network and optimiser as Fabric drives them: device, precision, processes."""

    fabric: Fabric
    network: torch.nn.Module
    optimizer: Optimizer


def _update(
    job: Job,
    wired: _Wired,
    batches: tuple[list[Tensor], list[Tensor]],
    *,
    progress: float,
    place: tuple[int, int],
) -> float:
    """Make one update from ``accumulate`` batches; gives the mean loss."""
    # Dropout follows from the position, not from what was drawn before: a resumed run draws the same.
    seed = int(np.random.SeedSequence((job.seed, *place)).generate_state(1)[0])
    torch.manual_seed(seed)
    generator = torch.Generator(job.device).manual_seed(seed)
    for group in wired.optimizer.param_groups:
        group["lr"] = job.learning_rate * job.rate(progress)
    _rest_frozen_norms(wired.network)
    wired.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for images, labels in zip(*batches, strict=True):
        scores = wired.network(images.to(job.device, memory_format=torch.channels_last))
        loss = _loss(job, scores, labels.to(job.device), generator) / job.accumulate
        wired.fabric.backward(loss)
        total += float(loss.detach())
    if not np.isfinite(total):
        raise ValueError(
            f"the loss became {total} at learning rate {wired.optimizer.param_groups[0]['lr']:.2g}: "
            "lower learning_rate, or raise warmup; the last whole epoch is saved"
        )
    wired.optimizer.step()
    return total


def _loss(job: Job, scores: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of one batch, whose expectation does not depend on how many terms are sampled."""
    kept = sample_terms(labels, probability=job.keep, generator=generator)
    loss = pixel_loss(scores, kept, weights=job.weights, normalization=job.normalization)
    return loss if job.normalization == "valid" else loss / job.sampling


def _end_epoch(job: Job, position: Position, watcher: Watcher, writer: SummaryWriter, *, validate: bool) -> None:
    """Validate, write the figures down, keep the best, save the state for a resume."""
    figures: dict[str, Any] = {
        "epoch": position.epoch + 1,
        "loss": float(np.mean(position.losses)) if position.losses else None,
        "learning_rate": position.rate,
        "seconds": round(position.seconds, 3),
    }
    if validate:
        document = job.validate(job.network).document()
        figures |= {key: document[key] for key in _LOGGED}
        writer.add_image(
            "validation: image, truth, prediction", job.pictures(job.network), position.epoch + 1, dataformats="HWC"
        )
        if figures["mean_iu"] > position.best:
            position.best = figures["mean_iu"]
            _save_best(job, figures)
    for key, value in figures.items():
        if isinstance(value, float) and key != "seconds":
            writer.add_scalar(key, value, position.epoch + 1)
    with (job.out / METRICS).open("a") as file:
        file.write(json.dumps(_finite(figures)) + "\n")
    position.epoch, position.step, position.losses = position.epoch + 1, 0, []
    _save_last(job, position)
    watcher.epoch(figures)


_LOGGED = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu", "per_class_iu")


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        key: [None if entry != entry else entry for entry in value] if isinstance(value, list | tuple) else value
        for key, value in figures.items()
    }


def _save_best(job: Job, figures: dict[str, Any]) -> None:
    notes = {key: value for key, value in figures.items() if key in ("epoch", "mean_iu", "pixel_accuracy")}
    save(job.network, job.out / BEST, classes=job.classes, preprocess=job.preprocess, notes=notes)


def _save_last(job: Job, position: Position) -> None:
    folder = save(job.network, job.out / LAST, classes=job.classes, preprocess=job.preprocess)
    write_tensors(folder / "optimizer.safetensors", optimizer_tensors(job.optimizer))
    write_json(folder / STATE, position.__dict__)


def _restore(job: Job) -> Position:
    """Put weights and optimiser back as the interrupted run left them; raises ``BadFile`` if it left nothing."""
    folder = job.out / LAST
    if not begun(job.out):
        raise BadFile(folder, "no run to resume", "leave out --resume to start anew")
    job.network.load_state_dict(read_tensors(folder / "model.safetensors"))
    restore_optimizer(job.optimizer, read_tensors(folder / "optimizer.safetensors"))
    return Position(**json.loads((folder / STATE).read_text()))
