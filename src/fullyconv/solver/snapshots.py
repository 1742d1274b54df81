"""Snapshots of a training: a caffemodel and a solverstate, as Caffe writes them; they hold numbers, never code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from fullyconv.caffe import Net
from fullyconv.caffe.wire import SolverState, read_solverstate, read_weights, write_solverstate, write_weights
from fullyconv.files import BadFile
from fullyconv.outputs import Outputs
from fullyconv.solver.updates import Update

STATE = re.compile(r".*_iter_(\d+)\.solverstate")


def names(prefix: str, iteration: int) -> tuple[str, str]:
    """Return the names of a snapshot's two files."""
    return f"{prefix}_iter_{iteration}.caffemodel", f"{prefix}_iter_{iteration}.solverstate"


def save(outputs: Outputs, prefix: str, net: Net, update: Update, iteration: int) -> Path:
    """Write a snapshot: the weights first, so that a state is never without them. Returns the path of the weights."""
    model, state = names(prefix, iteration)
    layers = {
        layer.name: (layer.kind, [tensor.detach().float().cpu().numpy() for _, tensor in net.blobs(layer)])
        for layer in net.described
        if net.blobs(layer)
    }
    history = [tensor.float().cpu().numpy() for tensor in update.history]
    with outputs.writing(model, state):
        write_weights(outputs.folder / model, net.name, layers)
        write_solverstate(outputs.folder / state, SolverState(iteration, model, history, update.step))
    return outputs.folder / model


def newest(folder: Path, prefix: str) -> Path:
    """Return the last snapshot's state; raises ``BadFile`` where there is none."""
    found = {
        int(match[1]): file for file in folder.glob("*.solverstate") if (match := STATE.fullmatch(file.name))
        if file.name.startswith(f"{prefix}_iter_")
    }  # fmt: skip
    if not found:
        raise BadFile(folder, f"no snapshot {prefix}_iter_….solverstate", "start without --resume")
    return found[max(found)]


@torch.no_grad()
def restore(path: Path, net: Net, update: Update) -> int:
    """Take weights and history from a snapshot and return its iteration.

    The weights are looked for beside the state, whatever folder it names. Raises ``BadFile`` for a snapshot of another
    net or solver.
    """
    state = read_solverstate(path)
    weights = path.parent / Path(state.learned_net).name
    if weights.suffix not in (".caffemodel", ".h5") or not weights.is_file():
        weights = path.with_suffix(".caffemodel")
    blobs = read_weights(weights)
    for layer in net.described:
        own, given = net.blobs(layer), blobs.get(layer.name, [])
        if len(own) != len(given):
            raise BadFile(
                weights, f"{layer.label} has {len(given)} blobs here, not {len(own)}", "give its own snapshot"
            )
        for (name, tensor), blob in zip(own, given, strict=True):
            _fill(tensor, blob, weights, f"{name} of {layer.label}")
    if len(state.history) != len(update.history):
        what = f"a history of {len(state.history)} blobs, this solver has {len(update.history)}"
        raise BadFile(path, what, "give a snapshot of the same net and type of solver")
    for index, (tensor, blob) in enumerate(zip(update.history, state.history, strict=True)):
        _fill(tensor, blob, path, f"history {index}")
    update.step = state.current_step
    return state.iteration


def _fill(tensor: torch.Tensor, blob: np.ndarray, path: Path, what: str) -> None:
    if blob.size != tensor.numel():
        raise BadFile(path, f"{what} has {blob.size} numbers, not {tensor.numel()}", "give a snapshot of the same net")
    tensor.copy_(torch.from_numpy(blob.reshape(tuple(tensor.shape))))
