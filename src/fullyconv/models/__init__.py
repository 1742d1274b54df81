"""Networks by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fullyconv.backbones import BACKBONES, backbone
from fullyconv.models.fcn import FCN
from fullyconv.upsample import Border

SKIPS = {"fcn32s": 0, "fcn16s": 1, "fcn8s": 2}

# The reference lets scores fade towards the edge, as its zero-padded upsampling does; the compact
# trunk has no reference to match and repeats the edge instead.
BORDERS: dict[str, Border] = {"vgg16": "zero", "vgg16-same": "zero", "resnet18": "replicate"}


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build a network again."""

    name: str
    classes: int = 21
    upsampling: Literal["fixed", "learned"] = "fixed"


def network_names() -> list[str]:
    """List the names ``build`` knows."""
    return [f"{variant}-{trunk}" for trunk in BACKBONES for variant in SKIPS]


def build(name: str, classes: int = 21, *, upsampling: Literal["fixed", "learned"] = "fixed") -> FCN:
    """Build a network with fresh weights, N x 3 x H x W -> N x ``classes`` x H x W scores.

    ``name`` is ``fcn32s``, ``fcn16s`` or ``fcn8s``, a hyphen and a trunk: ``vgg16`` (the reference
    form), ``vgg16-same`` (padded by 1 instead of 100) or ``resnet18``. Raises ``ValueError`` for any
    other name.

    >>> build("fcn8s-resnet18", classes=5).smallest_input
    (1, 1)
    """
    variant, _, trunk = name.partition("-")
    if variant not in SKIPS or trunk not in BACKBONES:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(network_names())}")
    network = FCN(backbone(trunk), classes=classes, skips=SKIPS[variant], upsampling=upsampling, border=BORDERS[trunk])
    network.architecture = Architecture(name, classes, upsampling)  # type: ignore[assignment]
    return network


def architecture_of(network: nn.Module) -> Architecture:
    """Tell how a network was built; raises ``ValueError`` if it was not built by name."""
    architecture = getattr(network, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise ValueError(f"{type(network).__name__} was not made by build(): its architecture is not known")
    return architecture
