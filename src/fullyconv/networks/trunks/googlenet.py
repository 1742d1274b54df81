"""GoogLeNet (Szegedy et al. 2014) without its average pool and auxiliary classifiers, under Caffe's layer names."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk

COLOURS = 3

# Channels per block: 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj.
BLOCKS = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
POOLED = {"inception_3b": "pool3/3x3_s2", "inception_4e": "pool4/3x3_s2"}  # blocks that a pool follows

_pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
_norm = partial(nn.LocalResponseNorm, 5, 1e-4, 0.75)


def width(block: str) -> int:
    """Return the channels that a block puts out."""
    one, _, three, _, five, pool = BLOCKS[block]
    return one + three + five + pool


class Inception(nn.ModuleDict):
    """Four branches side by side, N x C x h x w to the same size."""

    def __init__(self, wide: int, channels: tuple[int, int, int, int, int, int]) -> None:
        one, three_reduced, three, five_reduced, five, pool = channels
        super().__init__(
            {
                "1x1": nn.Conv2d(wide, one, 1),
                "3x3_reduce": nn.Conv2d(wide, three_reduced, 1),
                "3x3": nn.Conv2d(three_reduced, three, 3, padding=1),
                "5x5_reduce": nn.Conv2d(wide, five_reduced, 1),
                "5x5": nn.Conv2d(five_reduced, five, 5, padding=2),
                "pool": nn.MaxPool2d(3, 1, padding=1),
                "pool_proj": nn.Conv2d(wide, pool, 1),
                "relu": nn.ReLU(inplace=True),
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """Join the branches' channels."""
        relu = self["relu"]
        three = relu(self["3x3"](relu(self["3x3_reduce"](features))))
        five = relu(self["5x5"](relu(self["5x5_reduce"](features))))
        pool = relu(self["pool_proj"](self["pool"](features)))
        return torch.cat((relu(self["1x1"](features)), three, five, pool), 1)


class GoogLeNet(Trunk):
    """Twenty-one convolutional layers deep; its classifier averages over positions and is not part of the trunk.

    Takes N x 3 x H x W, gives inception_5b (stride 32, 1024 channels) behind GoogLeNet's dropout.
    """

    channels = (width("inception_5b"),)

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            {
                "conv1/7x7_s2": nn.Conv2d(COLOURS, 64, 7, 2, padding=3),
                "conv1/relu_7x7": nn.ReLU(inplace=True),
                "pool1/3x3_s2": _pool(),
                "pool1/norm1": _norm(),
                "conv2/3x3_reduce": nn.Conv2d(64, 64, 1),
                "conv2/relu_3x3_reduce": nn.ReLU(inplace=True),
                "conv2/3x3": nn.Conv2d(64, 192, 3, padding=1),
                "conv2/relu_3x3": nn.ReLU(inplace=True),
                "conv2/norm2": _norm(),
                "pool2/3x3_s2": _pool(),
            }
        )
        wide = 192
        for name, channels in BLOCKS.items():
            layers[name] = Inception(wide, channels)
            wide = width(name)
            if name in POOLED:
                layers[POOLED[name]] = _pool()
        layers["drop"] = nn.Dropout(0.4)
        self.layers = nn.Sequential(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return inception_5b."""
        return (cast("Tensor", self.layers(image)),)
