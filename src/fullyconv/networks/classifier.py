"""Classifiers in fully convolutional form: a trunk and a 1 x 1 score, averaged over positions."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Classifier(nn.Module):
    """N x K x H x W pictures in, N x C class scores out.

    At the size a classifier was made for its trunk gives one position (or, GoogLeNet, those it
    averages), and this is the published network with its fully connected layers written as
    convolutions; on a larger picture it averages over all windows. ``trunk`` is that of the FCN, so
    its weights start one: ``fcn.trunk.load_state_dict(classifier.trunk.state_dict())``.
    """

    def __init__(self, trunk: nn.Module, *, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"a network scores at least one class, not {classes}")
        self.trunk, self.classes = trunk, classes
        self.score = nn.Conv2d(cast("tuple[int, ...]", trunk.channels)[-1], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score whole pictures."""
        return self.heat_map(image).mean((2, 3))

    def heat_map(self, image: Tensor) -> Tensor:
        """Score every window of the trunk, N x C x h x w."""
        scores: Tensor = self.score(self.trunk(image)[-1])
        return scores
