"""An FCN with a second task on the same features: the SIFT Flow nets (paper, section 5)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from fullyconv.networks.architecture import Upsampling
from fullyconv.networks.fcn import FCN, score_heads
from fullyconv.surgery.trunk import Trunk
from fullyconv.upsample import LastStep


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

    def both(self, image: Tensor) -> SceneScores:
        """Score N x 3 x H x W for both tasks up to the finest map that is scored."""
        self.check(image)
        features = self.trunk(image)
        tasks = ((self.heads, self.upsamplers), (self.geometric_heads, self.geometric_upsamplers))
        return SceneScores(*(self._climb(self._score(features, heads), ladder) for heads, ladder in tasks))

    @property
    def steps(self) -> tuple[LastStep, LastStep]:
        """The steps from those scores to the image, of both tasks."""
        return self.last_step, self._last_step(self.geometric_upsamplers)

    def geometric_network(self) -> FCN:
        """Return the same network as one of the geometric task alone; it shares all layers."""
        view = FCN.__new__(FCN)
        nn.Module.__init__(view)
        vars(view).update({name: value for name, value in vars(self).items() if name not in vars(view)})
        view.trunk, view.heads, view.upsamplers = self.trunk, self.geometric_heads, self.geometric_upsamplers
        view.classes, view.architecture = self.geometric, None
        return view.train(self.training)

    def forward(self, image: Tensor) -> SceneScores:  # type: ignore[override]
        """Score every pixel of N x 3 x H x W for both tasks."""
        size = (image.shape[2], image.shape[3])
        return SceneScores(*(step(scores, size) for step, scores in zip(self.steps, self.both(image), strict=True)))
