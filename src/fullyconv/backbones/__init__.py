"""Trunks: image in, feature maps out, fine to coarse; each has ``channels``, one per map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from fullyconv.backbones.caffenet import CaffeNet
from fullyconv.backbones.googlenet import GoogLeNet
from fullyconv.backbones.lenet import LeNet
from fullyconv.backbones.resnet import ResNet18
from fullyconv.backbones.vgg import VGG16

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "vgg16": VGG16,
    "vgg16-same": partial(VGG16, image_pad=1, fc6_pad=3),
    "vgg16-bgrd": partial(VGG16, in_channels=4),
    "resnet18": ResNet18,
    "caffenet": CaffeNet,
    "alexnet": partial(CaffeNet, norm_first=True),
    "googlenet": GoogLeNet,
    "lenet": LeNet,
}


def backbone(name: str) -> nn.Module:
    """Build a trunk with fresh weights; raises ``ValueError`` for a name that is not in ``BACKBONES``."""
    if name not in BACKBONES:
        raise ValueError(f"unknown trunk {name!r}: choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]()
