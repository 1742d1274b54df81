"""U-Net on any trunk: coarse maps are enlarged, laid beside the next finer one, and mixed (Ronneberger et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.geometry import Path, Spread, Window
from fullyconv.networks.alignment import Meeting, meetings
from fullyconv.networks.trunks.vgg import initialise
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace import input_channels, outputs
from fullyconv.trace.recording import usual_size

WIDEST = 512  # channels of the original's widest step up


class Rise(nn.Module):
    """One step up: enlarge a coarse map by a transposed convolution, lay a finer map beside it, mix both.

    Where one of them reaches beyond the other it is cut, so no unit is made up.
    """

    def __init__(
        self, channels: tuple[int, int, int], rows: Meeting, columns: Meeting, *, padded: bool, norm: bool
    ) -> None:
        super().__init__()
        coarse, fine, width = channels
        self.rows, self.columns = rows, columns
        self.up = nn.ConvTranspose2d(coarse, width, (rows.kernel, columns.kernel), stride=(rows.factor, columns.factor))
        self.mix = nn.Sequential(
            *_convolution(fine + width, width, padded=padded, norm=norm),
            *_convolution(width, width, padded=padded, norm=norm),
        )
        initialise(self)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return N x C x H x W for N x D x h x w and the finer map."""
        ends = (self.columns.before, self.columns.after, self.rows.before, self.rows.after)
        wide, fine = (
            functional.pad(each, [-max(sign * end, 0) for end in ends]) if any(sign * end > 0 for end in ends) else each
            for sign, each in ((1, self.up(coarse)), (-1, fine))
        )
        mixed: Tensor = self.mix(torch.cat((fine, wide), 1))
        return mixed


def _convolution(channels: int, width: int, *, padded: bool, norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=int(padded), bias=not norm)]
    return [*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True)] if norm else [*layers, nn.ReLU(inplace=True)]


class UNet(Trunk):
    """The expanding path of U-Net over the maps of a trunk: N x K x H x W in, one map of the finest stride out.

    Each step up has the channels of the finer map that it meets, at most 512. The taps of its transposed convolution
    (as few as put it on the finer grid: 2 over pools, 3 over padded convolutions of stride 2) and all cuts follow from
    the trunk's graph. Sides have to be multiples of the coarsest stride; an ``FCN`` on it pads them.

    Args:
        trunk: Gives feature maps fine to coarse.
        padded: Pad the 3 x 3 convolutions; else, as in the original, every one cuts a unit off each side.
        norm: Normalise behind each convolution of the expanding path.

    Raises:
        ValueError: For a trunk whose maps do not meet.

    >>> from fullyconv.networks.fcn import FCN
    >>> from fullyconv.networks.trunks import backbone
    >>> network = FCN(UNet(backbone("resnet18")), classes=3, skips=0, cover=True, border="replicate")
    >>> network(torch.zeros(1, 3, 33, 47)).shape
    torch.Size([1, 3, 33, 47])
    """

    def __init__(self, trunk: Trunk, *, padded: bool = True, norm: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.in_channels, self.example = input_channels(trunk), (input_channels(trunk), *usual_size(trunk))
        mixed, *paths = coarsest, *_ = outputs(trunk).paths[::-1]
        wide, *channels = trunk.channels[::-1]
        if not paths:
            raise ValueError("a U-Net needs maps at two strides at least, and its trunk has one")
        self.rises = nn.ModuleList()
        for fine, path in zip(channels, paths, strict=True):
            pair, width = meetings(mixed, path, coarsest, learned=True), min(fine, WIDEST)
            self.rises.append(Rise((wide, fine, width), *pair, padded=padded, norm=norm))
            mixed, wide = _risen(mixed, pair, padded=padded), width
        self.channels = (wide,)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the finest map."""
        mixed, *finer = self.trunk(image)[::-1]
        for rise, fine in zip(self.rises, finer, strict=True):
            mixed = rise(mixed, fine)
        return (mixed,)


def _risen(coarse: tuple[Path, Path], meeting: tuple[Meeting, Meeting], *, padded: bool) -> tuple[Path, Path]:
    """Return the layers behind what a step up gives."""

    def risen(path: Path, met: Meeting) -> Path:
        cut = Window(1, pad=-max(met.before, 0), pad_end=-max(met.after, 0))
        return *path, Spread(met.kernel, met.factor), cut, *(Window(3, pad=int(padded)),) * 2

    return risen(coarse[0], meeting[0]), risen(coarse[1], meeting[1])
