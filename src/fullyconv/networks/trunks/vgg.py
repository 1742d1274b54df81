"""VGG-16 cast to a fully convolutional trunk, under the reference's layer names (paper, section 4)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk

# Convolutions per block and their channels; each block ends in a 2 x 2 pool.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
HIDDEN = 4096
FINEST = 2  # the block whose pool is the finest map that is scored, from 0


class VGG16(Trunk):
    """VGG-16 whose two fully connected layers are convolutions, fc6 with a 7 x 7 window.

    The reference pads the image by 100 and leaves fc6 unpadded; the "same-padding" form pads the
    image by 1 and fc6 by 3, which sees the same windows at 60 % of the arithmetic.

    Takes N x ``in_channels`` x H x W, gives the three maps that FCN scores: pool3, pool4, fc7 (strides 8, 16, 32;
    256, 512, 4096 channels). Without its fully connected layers (``hidden=False``) the last is pool5 (512 channels), or
    the pool of the block that it ends with (``last``).
    ``norm`` normalises behind every convolution, as SegNet and DeconvNet do.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_pad: int = 100,
        fc6_pad: int = 0,
        norm: bool = False,
        hidden: bool = True,
        last: int = len(BLOCKS),
    ) -> None:
        super().__init__()
        if hidden and last < len(BLOCKS):
            raise ValueError(f"fc6 stands on pool{len(BLOCKS)}, not on pool{last}")
        wide = in_channels
        self.last = last
        for number, (_, channels) in enumerate(BLOCKS[:last], start=1):
            # Ceil mode as in Caffe: floor would lose the last rows of most heights.
            pool = nn.MaxPool2d(2, 2, ceil_mode=True)
            layers = convolutions(number, wide, norm=norm, first_pad=image_pad if number == 1 else 1)
            self.add_module(f"block{number}", nn.Sequential(layers | {f"pool{number}": pool}))
            wide = channels
        self.hidden = hidden
        pools = tuple(channels for _, channels in BLOCKS[FINEST:last])
        self.channels = (*pools[:-1], HIDDEN) if hidden else pools
        if hidden:
            self.fc6 = nn.Conv2d(wide, HIDDEN, 7, padding=fc6_pad)
            self.fc7 = nn.Conv2d(HIDDEN, HIDDEN, 1)
            self.norm6, self.norm7 = (nn.BatchNorm2d(HIDDEN) if norm else None for _ in range(2))
            self.relu = nn.ReLU(inplace=True)
            self.drop = nn.Dropout(0.5)  # element-wise as in Caffe, not whole maps
        initialise(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return pool3, pool4 and fc7 (or pool5), or the first of them."""
        maps = [image]
        for number in range(1, self.last + 1):
            maps.append(self.get_submodule(f"block{number}")(maps[-1]))
        pools = maps[FINEST + 1 :]
        if not self.hidden:
            return tuple(pools)
        fc6 = self._answer(self.fc6(pools[-1]), self.norm6)
        return (*pools[:-1], self._answer(self.fc7(fc6), self.norm7))

    def _answer(self, sums: Tensor, norm: nn.Module | None) -> Tensor:
        found: Tensor = self.drop(self.relu(sums if norm is None else norm(sums)))
        return found


class HoleVGG16(Trunk):
    """VGG-16 as DeepLab's prototxts have it: 3 x 3 pools, the last two without stride, holes in the last block.

    Takes N x 3 x H x W, gives one map of stride 8 and 512 channels: pool5, or with ``average`` (LargeFOV) its mean
    over 3 x 3 units. ``reduction`` says by how much it is finer than VGG-16's.
    """

    channels = (BLOCKS[-1][1],)
    reduction = 4

    def __init__(self, *, average: bool = False) -> None:
        super().__init__()
        wide = 3
        blocks = []
        for number, (_, channels) in enumerate(BLOCKS, start=1):
            layers = convolutions(number, wide, holes=2 if number == 5 else 1)
            pool = nn.MaxPool2d(3, 2 if number < 4 else 1, padding=1)
            blocks.append(nn.Sequential(layers | {f"pool{number}": pool}))
            wide = channels
        self.block1, self.block2, self.block3, self.block4, self.block5 = blocks
        self.pool5a = nn.AvgPool2d(3, 1, padding=1) if average else None
        initialise(self)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the last map."""
        pool5 = self.block5(self.block4(self.block3(self.block2(self.block1(image)))))
        return (pool5 if self.pool5a is None else self.pool5a(pool5),)


def convolutions(
    number: int, wide: int, *, first_pad: int = 1, holes: int = 1, norm: bool = False
) -> OrderedDict[str, nn.Module]:
    """Make the convolutions of a block, under the reference's names; the first reads ``wide`` channels."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    convs, channels = BLOCKS[number - 1]
    for index in range(1, convs + 1):
        pad = first_pad if index == 1 else 1
        layers[f"conv{number}_{index}"] = nn.Conv2d(wide, channels, 3, padding=pad * holes, dilation=holes)
        if norm:
            layers[f"norm{number}_{index}"] = nn.BatchNorm2d(channels)
        layers[f"relu{number}_{index}"] = nn.ReLU(inplace=True)
        wide = channels
    return layers


def initialise(trunk: nn.Module) -> None:
    """Draw the weights of convolutions (He et al. 2015); biases start at zero."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
