"""The state of a run in files: weights, the optimiser's numbers, averaged weights, and how far the run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.optim import AdamW

from fullyconv.checkpoint import WEIGHTS, save
from fullyconv.files import BadFile, write_json
from fullyconv.tensors import read_tensors, write_tensors
from fullyconv.train.checkpoints import OPTIMIZER, STATE
from fullyconv.train.job import Job, Position
from fullyconv.train.optim import optimizer_tensors, restore_optimizer

AVERAGE = "average."  # before the names of averaged weights, which a checkpoint keeps beside the optimiser's


def run_bytes(job: Job) -> int:
    """Return the disk space that a run takes at most: two states, and the best model while it is replaced."""
    weights: int = sum(tensor.nbytes for tensor in job.network.state_dict().values())
    moments = 2 if isinstance(job.optimizer, AdamW) else 1
    averages = job.average is not None
    return 2 * (1 + moments + averages) * weights + 2 * weights


def write_network(job: Job, network: nn.Module, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write the trained network, or the one that is delivered, as a model folder."""
    notes = {**job.notes, **notes}
    save(network, folder, classes=job.classes, preprocess=job.preprocess, heads=job.heads, notes=notes)


def write_state(job: Job, position: Position, folder: Path) -> None:
    """Write all that a resume needs into a folder."""
    write_network(job, job.network, folder, {})
    tensors = optimizer_tensors(job.optimizer)
    if job.average is not None:
        tensors |= {AVERAGE + name: tensor for name, tensor in job.average.network.state_dict().items()}
    write_tensors(folder / OPTIMIZER, tensors)
    write_json(folder / STATE, asdict(position))


def read_state(job: Job, folder: Path) -> Position:
    """Put weights, optimiser and averages back as a folder has them, and return the position; raises ``BadFile``."""
    position = read_position(folder / STATE)
    job.network.load_state_dict(read_tensors(folder / WEIGHTS))
    tensors = read_tensors(folder / OPTIMIZER)
    averaged = {name: tensors.pop(name) for name in list(tensors) if name.startswith(AVERAGE)}
    restore_optimizer(job.optimizer, tensors)
    if job.average is not None:
        weights = {name.removeprefix(AVERAGE): tensor for name, tensor in averaged.items()}
        job.average.network.load_state_dict(weights)
    return position


def read_position(path: Path) -> Position:
    """Read how far a run has come; raises ``BadFile``."""
    try:
        return TypeAdapter(Position).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFile(path, f"{where}: {first['msg']}", "it is of another version: start a new run") from None
