"""LeNet as Caffe has it (LeCun et al. 1998), its first fully connected layer a convolution."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk

HIDDEN = 500
WINDOW = 28  # the side of the digits it was made for


class LeNet(Trunk):
    """Two convolutions and pools, and a 4 x 4 convolution that stands for the fully connected layer.

    Unpadded, a 28 x 28 digit gives one unit; padded by half of that, any image gives units all over it.

    Takes N x 1 x H x W (grey), gives ip1 (stride 4, 500 channels).
    """

    channels = (HIDDEN,)

    def __init__(self, *, image_pad: int = WINDOW // 2) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(1, 20, 5, padding=image_pad)
        layers["pool1"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        layers["conv2"] = nn.Conv2d(20, 50, 5)
        layers["pool2"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        layers["ip1"] = nn.Conv2d(50, HIDDEN, 4)
        layers["relu1"] = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return ip1."""
        return (cast("Tensor", self.layers(image)),)
