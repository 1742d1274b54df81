"""A compact residual trunk of ResNet-18's shape (He et al. 2016), for small machines."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fullyconv.surgery.trunk import Trunk


def _conv(wide: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(wide, channels, kernel, stride, padding=kernel // 2, bias=False)


class Residual(nn.Module):
    """Two 3 x 3 convolutions added to their input, N x C x h x w (or to its 1 x 1 projection)."""

    def __init__(self, wide: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(wide, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = _conv(channels, channels, 3), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or wide != channels:
            self.shortcut = nn.Sequential(_conv(wide, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Add what the two convolutions find."""
        found = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(features)))))
        return cast("Tensor", self.relu(found + self.shortcut(features)))


class ResNet18(Trunk):
    """Eight residual blocks, 11.2 million parameters, no fully connected layer.

    Takes N x 3 x H x W, gives the last maps at strides 2, 4, 8, 16 and 32 (64, 64, 128, 256, 512 channels).
    """

    channels = (64, 64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stage1 = nn.Sequential(Residual(64, 64, 1), Residual(64, 64, 1))
        self.stage2 = nn.Sequential(Residual(64, 128, 2), Residual(128, 128, 1))
        self.stage3 = nn.Sequential(Residual(128, 256, 2), Residual(256, 256, 1))
        self.stage4 = nn.Sequential(Residual(256, 512, 2), Residual(512, 512, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Residual):
                # Each block starts as its shortcut; deep trunks train faster from there (Goyal et al. 2017).
                nn.init.zeros_(module.norm2.weight)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at strides 2, 4, 8, 16 and 32."""
        stride2 = self.stem(image)
        stride4 = self.stage1(self.pool(stride2))
        stride8 = self.stage2(stride4)
        stride16 = self.stage3(stride8)
        return stride2, stride4, stride8, stride16, self.stage4(stride16)
