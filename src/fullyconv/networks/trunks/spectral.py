"""A trunk for one hyperspectral scene: spectra are reduced first, then looked at together."""

from __future__ import annotations

from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk

WIDTHS = (64, 96, 128, 128)  # of the maps at strides 1, 2, 4 and 8


class Spectral(Trunk):
    """1 x 1 convolutions over each spectrum, then an encoder of 3 x 3 convolutions.

    Takes N x B x H x W, gives the maps at strides 1, 2, 4, … ``coarsest`` (1, 2, 4 or 8), which also decides how
    far it sees: a split without leakage must leave that much room between training and test. There is
    no normalisation over pixels, so nothing but that window reaches a training pixel.
    """

    def __init__(self, *, coarsest: int, in_channels: int = 3) -> None:
        super().__init__()
        self.channels = WIDTHS[: coarsest.bit_length()]
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, WIDTHS[0], 1), nn.ReLU(), nn.Conv2d(WIDTHS[0], WIDTHS[0], 1), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        for index, wide in enumerate(self.channels):
            before, stride = (self.channels[index - 1], 2) if index else (WIDTHS[0], 1)
            layers = [nn.Conv2d(before, wide, 3, stride, padding=1), nn.ReLU()]
            if index:
                layers += [nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, scene: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, fine to coarse."""
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else self.reduce(scene)))
        return tuple(maps)
