"""Classifiers in fully convolutional form: a trunk and a 1 x 1 score, averaged over positions."""

from __future__ import annotations

from torch import Tensor, nn

from fullyconv.networks.architecture import Architecture, class_count
from fullyconv.surgery.trunk import Trunk


class Classifier(nn.Module):
    """N x K x H x W pictures in, N x C class scores out.

    At the size a classifier was made for its trunk gives one position (or, GoogLeNet, those it
    averages), and this is the published network with its fully connected layers written as
    convolutions; on a larger picture it averages over all windows. ``trunk`` is that of the FCN, so
    its weights start one: ``fcn.trunk.load_state_dict(classifier.trunk.state_dict())``.
    """

    architecture: Architecture | None = None

    def __init__(self, trunk: Trunk, *, classes: int) -> None:
        super().__init__()
        self.trunk, self.classes = trunk, class_count(classes)
        self.score = nn.Conv2d(trunk.channels[-1], self.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score whole pictures."""
        return self.heat_map(image).mean((2, 3))

    def heat_map(self, image: Tensor) -> Tensor:
        """Score every window of the trunk, N x C x h x w."""
        scores: Tensor = self.score(self.trunk(image)[-1])
        return scores
