"""Which arithmetic ``auto`` is: the quick one where a measurement that is kept with the model allows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fullyconv.checkpoint import CONFIG, find_own_model, read_config
from fullyconv.files import write_json
from fullyconv.machine import Arithmetic, fast_bf16
from fullyconv.predict.quantised import weights_sum

NOTE = "labels_changed"
ALLOWED = 0.001
"""The share of labels that ``auto`` may change."""


def trusted_precision(folder: Path, network: nn.Module, device: torch.device) -> Arithmetic:
    """Choose the arithmetic of a model.

    It is bfloat16 on a CPU with instructions for it, where ``fullyconv bench --accuracy MODEL DATA --store`` has found
    that at most 0.1 % of the labels change, whatever the engine, and the weights are still those; else float32.

    Args:
        folder: The model's folder.
        network: The network as it is now.
        device: Where it computes.

    Returns:
        ``bfloat16`` or ``float32``.
    """
    if device.type != "cpu" or not fast_bf16(device):
        return "float32"
    note = read_config(folder).notes.get(NOTE)
    if not isinstance(note, dict) or not isinstance(share := note.get("bfloat16"), float) or not 0 <= share <= ALLOWED:
        return "float32"
    return "bfloat16" if note.get("weights") == weights_sum(network) else "float32"


def store_changes(folder: Path, network: nn.Module, changed: Mapping[str, float]) -> None:
    """Keep with a model which share of labels each arithmetic changes; raises ``BadFile`` where there is no model."""
    folder = find_own_model(folder)
    config = read_config(folder)
    note = {"weights": weights_sum(network), **{name: round(share, 6) for name, share in changed.items()}}
    write_json(folder / CONFIG, config.model_copy(update={"notes": config.notes | {NOTE: note}}).model_dump())
