"""Late fusion: two networks for two kinds of picture, their scores averaged (paper, section 5: RGB-HHA)."""

from __future__ import annotations

from torch import Tensor, nn

from fullyconv.networks.architecture import Upsampling
from fullyconv.networks.fcn import FCN, score_heads
from fullyconv.surgery.trunk import Trunk

WEIGHTS = (0.5, 0.5)  # the paper says sum; its release averages


class LateFusion(FCN):
    """Two trunks with score heads of their own, one upsampling of the weighted sum of their scores.

    Takes N x (K + L) x H x W: the K channels of ``trunk`` (colour), then the L of ``second`` (HHA).
    The trunks have the same layers, so their maps lie on one grid; raises ``ValueError`` if they do not.
    """

    def __init__(
        self,
        trunk: Trunk,
        second: Trunk,
        *,
        classes: int,
        skips: int,
        upsampling: Upsampling = "fixed",
    ) -> None:
        super().__init__(trunk, classes=classes, skips=skips, upsampling=upsampling)
        other = FCN(second, classes=classes, skips=skips)
        if other.plans != self.plans:
            raise ValueError("the two trunks have different strides or windows: fuse networks of the same layers")
        self.first_channels, self.in_channels = self.in_channels, self.in_channels + other.in_channels
        self.second, self.second_heads = second, score_heads(second, classes, skips)

    @property
    def streams(self) -> dict[str, Trunk]:
        """The trunks by the names of their modules."""
        return {**super().streams, "second": self.second}

    @property
    def score_layers(self) -> dict[str, nn.ModuleList]:
        """The layers that score the maps, coarse to fine, by the names of their modules."""
        return {**super().score_layers, "second_heads": self.second_heads}

    def scored(self, padded: Tensor) -> list[Tensor]:
        """Score the maps of both trunks, of N x (K + L) x H x W, and weigh them; coarse to fine."""
        first, second = padded[:, : self.first_channels], padded[:, self.first_channels :]
        pairs = zip(
            self._score(self.trunk(first), self.heads), self._score(self.second(second), self.second_heads), strict=True
        )
        return [WEIGHTS[0] * one + WEIGHTS[1] * other for one, other in pairs]
