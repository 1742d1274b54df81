"""DeepLab on any trunk: holes instead of strides, and wide windows on the map (Chen et al. 2015; 2018, section 3)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from fullyconv.networks.dense import to_atrous
from fullyconv.networks.trunks.vgg import initialise
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace import input_channels, outputs
from fullyconv.trace.recording import usual_size

STRIDE = 8  # of the map that is scored (both papers)
PUBLISHED_WIDTH, WIDTH = 1024, 256
SHARES = (Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2))
"""Rates of ASPP's branches as shares of LargeFOV's: 6, 12, 18 and 24 on VGG-16."""


class Holes(Trunk):
    """A trunk's coarsest map at a finer stride: N x K x H x W in, one map out.

    Strides beyond ``stride`` are removed and the taps of all later windows spread out instead, so that its every
    so-manieth unit is the trunk's own (``networks.dense``). Layers are shared with the trunk. ``reduction`` says by how
    much the map is finer than the trunk's.
    """

    def __init__(self, trunk: Trunk, stride: int = STRIDE) -> None:
        super().__init__()
        self.in_channels, self.example = input_channels(trunk), (input_channels(trunk), *usual_size(trunk))
        self.reduction = max(int(outputs(trunk).strides[0]) // stride, 1)
        self.layers, self.channels = to_atrous(_Coarsest(trunk), stride), trunk.channels[-1:]
        self.layers.train(trunk.training)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the map."""
        return (self.layers(image),)


class _Coarsest(nn.Module):
    """The coarsest map of a trunk."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk, self.in_channels = trunk, input_channels(trunk)
        self.example = (self.in_channels, *usual_size(trunk))

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.trunk(image)[-1]
        return found


class DeepLab(Trunk):
    """What DeepLab reads off a map with holes: N x K x H x W in, one map of its stride out.

    A branch is a 3 x 3 convolution whose taps lie ``rate`` units apart and a 1 x 1 convolution, both rectified.
    LargeFOV has one, as wide as a window of the classifier: on VGG-16, whose 224 px are 7 units of its coarsest map,
    rate 12. ASPP lays four side by side, at half to twice that rate; the 1 x 1 convolutions that score a class in each
    and are summed are one over all of them.

    Args:
        trunk: Gives one map (``Holes``).
        aspp: Four branches instead of one.
        published: The layers of the papers' VGG-16: 1024 channels, dropout; else 256 channels, normalised.
        reduction: By how much the map is finer than the classifier's coarsest.
    """

    def __init__(self, trunk: Trunk, *, aspp: bool, published: bool = False, reduction: int = 1) -> None:
        super().__init__()
        self.trunk = trunk
        self.in_channels, self.example = input_channels(trunk), (input_channels(trunk), *usual_size(trunk))
        stride = outputs(trunk).strides[0]
        # From the first to the last unit of the classifier's window there is one less than it has.
        units = (Fraction(self.example[1]) / (stride * reduction) - 1) * reduction
        self.rates = tuple(max(1, round(units / 2 * share)) for share in (SHARES if aspp else (Fraction(1),)))
        self.field_of_view = int((2 * self.rates[len(self.rates) > 1] + reduction) * stride)
        width = PUBLISHED_WIDTH if published else WIDTH
        self.branches = nn.ModuleList(
            _branch(trunk.channels[-1], width, rate, published=published) for rate in self.rates
        )
        self.channels = (width * len(self.rates),)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the branches' maps side by side."""
        (found,) = self.trunk(image)
        return (torch.cat([branch(found) for branch in self.branches], 1),)


def _branch(channels: int, width: int, rate: int, *, published: bool) -> nn.Sequential:
    def finish() -> list[nn.Module]:
        return [nn.ReLU(inplace=True), nn.Dropout(0.5)] if published else [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]

    branch = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=rate, dilation=rate, bias=published), *finish(),
        nn.Conv2d(width, width, 1, bias=published), *finish(),
    )  # fmt: skip
    initialise(branch)
    return branch
