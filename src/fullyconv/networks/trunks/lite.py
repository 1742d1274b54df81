"""EfficientNet-Lite0 (Tan and Le 2019; Google's lite variants of 2020: ReLU6, no squeeze-and-excitation)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from fullyconv.surgery.trunk import Trunk
from fullyconv.types import Preprocess

# Of each stage: blocks, kernel, stride, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
STEM, HEAD = 32, 1280


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: with a stride of 2 one row and column more behind than before.

    N x C x h x w in, N x C' x ceil(h / stride) x ceil(w / stride) out, of even sizes.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        even = stride == 1
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if even else 0, groups=groups, bias=False)
        self.ends = None if even else ((kernel - stride) // 2, (kernel - stride + 1) // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve a padded map."""
        return super().forward(features if self.ends is None else functional.pad(features, 2 * self.ends))


class Separable(nn.Module):
    """The first block: channels by themselves, then a projection. Names are timm's, so its weights fit."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = SameConv2d(inputs, inputs, kernel, 1, inputs), _norm(inputs)
        self.conv_pw, self.bn2 = nn.Conv2d(inputs, outputs, 1, bias=False), _norm(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return N x C' x h x w."""
        return _norm_of(self.bn2, self.conv_pw(functional.relu6(self.bn1(self.conv_dw(features)))))


class Inverted(nn.Module):
    """An inverted residual: expansion, channels by themselves, projection, added to the input where sizes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.conv_pw, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), _norm(wide)
        self.conv_dw, self.bn2 = SameConv2d(wide, wide, kernel, stride, wide), _norm(wide)
        self.conv_pwl, self.bn3 = nn.Conv2d(wide, outputs, 1, bias=False), _norm(outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expanded map, and N x C' x h' x w'."""
        wide = functional.relu6(self.bn1(self.conv_pw(features)))
        found = _norm_of(self.bn3, self.conv_pwl(functional.relu6(self.bn2(self.conv_dw(wide)))))
        return wide, found + features if self.adds else found


def _norm_of(norm: nn.BatchNorm2d, features: Tensor) -> Tensor:
    normalised: Tensor = norm(features)
    return normalised


class EfficientNetLite0(Trunk):
    """Sixteen blocks of separable convolutions, 3.4 million parameters; tensors have timm's names.

    Takes N x 3 x H x W, gives maps at strides 4, 8, 16 and 32 (144, 240, 672 and 1280 channels): the last of each
    stride before the next, expanded (as ``from_classifier`` taps timm's ``tf_efficientnet_lite0``). Its weights of
    ImageNet were trained on pixels normalised by ``preprocess``.
    """

    channels = (144, 240, 672, HEAD)
    in_channels = 3
    preprocess = Preprocess(mean=(127.5,) * 3, std=(127.5,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = SameConv2d(3, STEM, 3, 2), _norm(STEM)
        self.blocks = nn.ModuleList(nn.ModuleList(stage) for stage in _stages())
        self.conv_head, self.bn2 = nn.Conv2d(STAGES[-1][-1], HEAD, 1, bias=False), _norm(HEAD)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at strides 4, 8, 16 and 32."""
        features: Tensor = functional.relu6(self.bn1(self.conv_stem(image)))
        maps = []
        for stage, (_, _, stride, expansion, _) in zip(self.blocks, STAGES, strict=True):
            blocks = cast("nn.ModuleList", stage)
            for index, block in enumerate(blocks):
                wide, features = block(features) if expansion > 1 else (features, block(features))
                if stride == 2 and index == 0:
                    maps.append(wide)
        return *maps[1:], functional.relu6(self.bn2(self.conv_head(features)))


def _stages() -> Iterator[list[nn.Module]]:
    inputs = STEM
    for blocks, kernel, stride, expansion, outputs in STAGES:
        stage: list[nn.Module] = []
        for index in range(blocks):
            step = stride if index == 0 else 1
            plain = expansion == 1
            stage.append(
                Separable(inputs, outputs, kernel) if plain else Inverted(inputs, outputs, kernel, step, expansion)
            )
            inputs = outputs
        yield stage
