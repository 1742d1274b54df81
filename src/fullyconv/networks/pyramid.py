"""A feature pyramid on any trunk: coarse maps flow into finer ones by convolutions (Lin et al. 2017, section 3)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.networks.alignment import Meeting, meetings
from fullyconv.surgery.trunk import Trunk
from fullyconv.trace import input_channels, outputs
from fullyconv.trace.recording import usual_size
from fullyconv.upsample import bilinear_taps

WIDTH = 96


class Enlarge(nn.Module):
    """Upsamples a map by fixed bilinear kernels to the grid and the size of a finer one.

    In float32: PyTorch's transposed convolutions by channel are many times slower in bfloat16.
    """

    weight: Tensor

    def __init__(self, channels: int, rows: Meeting, columns: Meeting) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        kernel = torch.outer(bilinear_taps(rows.kernel), bilinear_taps(columns.kernel)).float()
        self.register_buffer("weight", kernel.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, coarse: Tensor) -> Tensor:
        """Return N x C x H x W for N x C x h x w."""
        rows, columns = self.rows, self.columns
        place = self.weight.device.type  # "meta", which knows no autocast, where there are only shapes
        with torch.autocast("cpu" if place == "meta" else place, enabled=False):
            wide = functional.conv_transpose2d(
                coarse.to(self.weight.dtype),
                self.weight,
                stride=(rows.factor, columns.factor),
                groups=self.weight.shape[0],
            )
        return functional.pad(wide, (-columns.before, -columns.after, -rows.before, -rows.after))


class Pyramid(Trunk):
    """A trunk whose maps are brought together: N x K x H x W in, one map of the finest stride out.

    Each map is projected to ``width`` channels, coarse to fine; the coarser one, upsampled to where the finer map's
    units look, is added, and a 3 x 3 convolution mixes the sum. Kernels and cuts follow from the trunk's graph, as
    those of an FCN's scores do. Sides have to be multiples of the coarsest stride; an ``FCN`` on it pads them.

    Args:
        trunk: Gives feature maps fine to coarse.
        maps: How many of them to bring together, from the coarsest on; default: all.
        width: Channels of the pyramid.

    Raises:
        ValueError: For a trunk whose maps do not meet.

    >>> from fullyconv.networks.fcn import FCN
    >>> from fullyconv.networks.trunks import backbone
    >>> network = FCN(Pyramid(backbone("resnet18"), width=16), classes=3, skips=0, cover=True, border="replicate")
    >>> network(torch.zeros(1, 3, 33, 47)).shape
    torch.Size([1, 3, 33, 47])
    """

    def __init__(self, trunk: Trunk, maps: int | None = None, *, width: int = WIDTH) -> None:
        super().__init__()
        self.trunk, self.channels = trunk, (width,)
        self.in_channels, self.example = input_channels(trunk), (input_channels(trunk), *usual_size(trunk))
        paths = outputs(trunk).paths[::-1][:maps]  # coarse to fine
        pairs = [meetings(coarse, fine, paths[0]) for coarse, fine in pairwise(paths)]
        self.laterals = nn.ModuleList(_normalised(channels, width, 1) for channels in trunk.channels[::-1][:maps])
        self.enlarge = nn.ModuleList(Enlarge(width, *pair) for pair in pairs)
        self.mixers = nn.ModuleList(_normalised(width, width, 3) for _ in paths)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the finest map, mixed with all coarser ones."""
        coarsest, *finer = self.trunk(image)[::-1][: len(self.laterals)]
        mixed = self.mixers[0](self.laterals[0](coarsest).relu()).relu()
        for found, lateral, enlarge, mixer in zip(
            finer, list(self.laterals)[1:], self.enlarge, list(self.mixers)[1:], strict=True
        ):
            mixed = mixer((lateral(found) + enlarge(mixed)).relu()).relu()
        return (mixed,)


def _normalised(channels: int, width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(width))
