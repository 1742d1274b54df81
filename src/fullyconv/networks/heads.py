"""An FCN with a second task on the same features: the SIFT Flow nets (paper, section 5)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from fullyconv.networks.architecture import Upsampling
from fullyconv.networks.fcn import FCN, score_heads
from fullyconv.surgery.trunk import Trunk


class SceneScores(NamedTuple):
    """What a two-headed network says of N x 3 x H x W pixels."""

    semantic: Tensor  # N x C x H x W
    geometric: Tensor  # N x G x H x W


class TwoHeads(FCN):
    """An FCN that also scores ``geometric`` classes (sky, horizontal, vertical) from the same maps.

    The two tasks share the trunk and nothing else. ``classes`` and all arguments are those of the
    semantic task and of ``FCN``.
    """

    def __init__(
        self, trunk: Trunk, *, classes: int, geometric: int, skips: int, upsampling: Upsampling = "fixed"
    ) -> None:
        super().__init__(trunk, classes=classes, skips=skips, upsampling=upsampling)
        self.geometric = geometric
        self.geometric_heads = score_heads(trunk, geometric, skips)
        self.geometric_upsamplers = self._upsamplers(geometric)

    @property
    def score_layers(self) -> dict[str, nn.ModuleList]:
        """The layers that score the maps, coarse to fine, by the names of their modules."""
        return {**super().score_layers, "geometric_heads": self.geometric_heads}

    @property
    def ladders(self) -> dict[str, nn.ModuleList]:
        """The steps that upsample scores to the image, by the names of their modules."""
        return {**super().ladders, "geometric_upsamplers": self.geometric_upsamplers}

    def forward(self, image: Tensor) -> SceneScores:  # type: ignore[override]
        """Score every pixel of N x 3 x H x W for both tasks."""
        self.check(image)
        features, size = self.trunk(image), (image.shape[2], image.shape[3])
        tasks = ((self.heads, self.upsamplers), (self.geometric_heads, self.geometric_upsamplers))
        return SceneScores(
            *(
                self._to_image(self._climb(self._score(features, heads), ladder), ladder, size)
                for heads, ladder in tasks
            )
        )
