"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer


def make_optimizer(
    network: nn.Module,
    kind: Literal["sgd", "adamw"],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> Optimizer:
    """Make an optimiser over the trainable parameters.

    Weights of convolutions decay; biases and normalisation parameters do not. ``fused`` runs the
    whole update in one pass over memory.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if kind == "sgd":
        return SGD(groups, lr=learning_rate, momentum=momentum, fused=True)
    return AdamW(groups, lr=learning_rate, betas=(momentum, 0.999), fused=True)


def rate_at(progress: float, *, schedule: Literal["poly", "fixed"], power: float, warmup: float) -> float:
    """Give the factor on the learning rate at ``progress`` (0..1) through the run.

    ``poly`` is (1 - progress) ** power, as DeepLab and most segmentation recipes use it.
    """
    rise = min(1.0, (progress + 1e-4) / warmup) if warmup else 1.0
    return rise * ((1 - min(progress, 1.0)) ** power if schedule == "poly" else 1.0)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Flatten an optimiser's state to named tensors."""
    return {
        f"{index}.{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Fused updates walk memory: state must lie as its parameter does (channels last).
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
