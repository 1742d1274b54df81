"""The contracting halves that came with decoders of their own: those of SegNet-basic and of U-Net."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from fullyconv.networks.trunks.vgg import initialise
from fullyconv.surgery.trunk import Trunk


class SegNetBasic(Trunk):
    """The encoder of SegNet-basic: four 7 x 7 convolutions of 64 channels, each normalised and pooled.

    Takes N x 3 x H x W, gives pool4 (stride 16). (segnet_basic_train.prototxt, Badrinarayanan et al. 2015.)
    """

    channels = (64,)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, wide in enumerate((3, 64, 64, 64), start=1):
            layers[f"conv{number}"] = nn.Conv2d(wide, 64, 7, padding=3)
            layers[f"norm{number}"], layers[f"relu{number}"] = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
            layers[f"pool{number}"] = nn.MaxPool2d(2, 2)
        self.layers = nn.Sequential(layers)
        initialise(self)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return pool4."""
        return (self.layers(self.norm(image)),)


class Contracting(Trunk):
    """The contracting path of U-Net: five times two unpadded 3 x 3 convolutions, pooled in between.

    Takes N x 3 x H x W, gives five maps at strides 1 to 16 (64 to 1024 channels). (Ronneberger et al. 2015, figure 1.)
    """

    channels = (64, 128, 256, 512, 1024)

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, channels, 3), nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3), nn.ReLU(inplace=True),
            )
            for wide, channels in pairwise((3, *self.channels))
        )  # fmt: skip
        self.pool, self.drop = nn.MaxPool2d(2, 2), nn.Dropout(0.5)
        initialise(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each level."""
        maps: list[Tensor] = []
        for level in self.levels:
            maps.append(level(self.pool(maps[-1]) if maps else image))
        return *maps[:-1], self.drop(maps[-1])
