"""VGG-16 cast to a fully convolutional trunk, under the reference's layer names (paper, section 4)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk

# Convolutions per block and their channels; each block ends in a 2 x 2 pool.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
HIDDEN = 4096


class VGG16(Trunk):
    """VGG-16 whose two fully connected layers are convolutions, fc6 with a 7 x 7 window.

    The reference pads the image by 100 and leaves fc6 unpadded; the "same-padding" form pads the
    image by 1 and fc6 by 3, which sees the same windows at 60 % of the arithmetic.

    Takes N x ``in_channels`` x H x W, gives the three maps that FCN scores: pool3, pool4, fc7 (strides 8, 16, 32;
    256, 512, 4096 channels).
    """

    channels = (BLOCKS[2][1], BLOCKS[3][1], HIDDEN)

    def __init__(self, *, in_channels: int = 3, image_pad: int = 100, fc6_pad: int = 0) -> None:
        super().__init__()
        wide = in_channels
        blocks = []
        for number, (convs, channels) in enumerate(BLOCKS, start=1):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(1, convs + 1):
                pad = image_pad if number == index == 1 else 1
                layers[f"conv{number}_{index}"] = nn.Conv2d(wide, channels, 3, padding=pad)
                layers[f"relu{number}_{index}"] = nn.ReLU(inplace=True)
                wide = channels
            # Ceil mode as in Caffe: floor would lose the last rows of most heights.
            layers[f"pool{number}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
            blocks.append(nn.Sequential(layers))
        self.block1, self.block2, self.block3, self.block4, self.block5 = blocks
        self.fc6 = nn.Conv2d(wide, HIDDEN, 7, padding=fc6_pad)
        self.fc7 = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)  # element-wise as in Caffe, not whole maps
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pool3, pool4 and fc7."""
        pool3 = self.block3(self.block2(self.block1(image)))
        pool4 = self.block4(pool3)
        pool5 = self.block5(pool4)
        fc6 = self.drop(self.relu(self.fc6(pool5)))
        return pool3, pool4, self.drop(self.relu(self.fc7(fc6)))
