"""Trunks: image in, feature maps out, fine to coarse; each has ``channels``, one per map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from fullyconv.networks.trunks.caffenet import CaffeNet
from fullyconv.networks.trunks.googlenet import GoogLeNet
from fullyconv.networks.trunks.lenet import LeNet
from fullyconv.networks.trunks.lite import EfficientNetLite0
from fullyconv.networks.trunks.resnet import ResNet18
from fullyconv.networks.trunks.spectral import Spectral
from fullyconv.networks.trunks.vgg import VGG16
from fullyconv.surgery.trunk import Trunk

BACKBONES: dict[str, Callable[[], Trunk]] = {
    "vgg16": VGG16,
    "vgg16-same": partial(VGG16, image_pad=1, fc6_pad=3),
    "vgg16-pool5": partial(VGG16, hidden=False),
    "vgg16-pool4": partial(VGG16, hidden=False, last=4),
    "vgg16-pool3": partial(VGG16, hidden=False, last=3),
    "vgg16-bgrd": partial(VGG16, in_channels=4),
    "resnet18": ResNet18,
    "lite0": EfficientNetLite0,
    "caffenet": CaffeNet,
    "alexnet": partial(CaffeNet, norm_first=True),
    "googlenet": GoogLeNet,
    "lenet": LeNet,
    "spectral1": partial(Spectral, coarsest=1),
    "spectral2": partial(Spectral, coarsest=2),
    "spectral4": partial(Spectral, coarsest=4),
    "spectral8": partial(Spectral, coarsest=8),
}


def backbone(name: str, channels: int | None = None) -> Trunk:
    """Build a trunk with fresh weights, for images of ``channels`` if they are not those it is made for.

    Raises ``ValueError`` for a name that is not in ``BACKBONES``.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown trunk {name!r}: choose one of {', '.join(BACKBONES)}")
    trunk = BACKBONES[name]()
    if channels is not None:
        read_channels(trunk, channels)
    return trunk


def read_channels(trunk: nn.Module, channels: int) -> None:
    """Give the first layer fresh weights for ``channels`` inputs, of a size that keeps its responses alike."""
    if channels < 1:
        raise ValueError(f"an image has at least one channel, not {channels}")
    conv = next(layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d))
    # A tensor, which may be on no device.
    deviation = conv.weight.detach().std().double() * (conv.in_channels / channels) ** 0.5
    conv.weight = nn.Parameter(deviation * torch.randn(conv.out_channels, channels, *conv.kernel_size))
    conv.in_channels = channels
