"""AlexNet and CaffeNet cast to a fully convolutional trunk, under the reference's layer names."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import cast

from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk

HIDDEN = 4096
COLOURS = 3

_norm = partial(nn.LocalResponseNorm, 5, 1e-4, 0.75)  # alpha is divided by the size, as in Caffe
_pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)


class CaffeNet(Trunk):
    """Five convolutions, two of them by halves (groups), and two fully connected layers as convolutions.

    CaffeNet pools, then normalises; AlexNet (Krizhevsky et al. 2012) does the two in the other order:
    ``norm_first``. As a classifier the image is not padded (227 x 227 gives one unit); FCN-AlexNet
    pads it by 100.

    Takes N x 3 x H x W, gives fc7 (stride 32, 4096 channels).
    """

    channels = (HIDDEN,)

    def __init__(self, *, image_pad: int = 100, norm_first: bool = False) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(COLOURS, 96, 11, 4, padding=image_pad)
        layers["relu1"] = nn.ReLU(inplace=True)
        self._reduce(layers, 1, norm_first=norm_first)
        layers["conv2"] = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        layers["relu2"] = nn.ReLU(inplace=True)
        self._reduce(layers, 2, norm_first=norm_first)
        for number, (wide, channels, groups) in enumerate(((256, 384, 1), (384, 384, 2), (384, 256, 2)), start=3):
            layers[f"conv{number}"] = nn.Conv2d(wide, channels, 3, padding=1, groups=groups)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers["pool5"] = _pool()
        layers["fc6"] = nn.Conv2d(256, HIDDEN, 6)
        layers["relu6"], layers["drop6"] = nn.ReLU(inplace=True), nn.Dropout(0.5)
        layers["fc7"] = nn.Conv2d(HIDDEN, HIDDEN, 1)
        layers["relu7"], layers["drop7"] = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.layers = nn.Sequential(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    @staticmethod
    def _reduce(layers: OrderedDict[str, nn.Module], number: int, *, norm_first: bool) -> None:
        pair = [(f"pool{number}", _pool()), (f"norm{number}", _norm())]
        layers.update(reversed(pair) if norm_first else pair)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return fc7."""
        return (cast("Tensor", self.layers(image)),)
