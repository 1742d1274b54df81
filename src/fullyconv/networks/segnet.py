"""SegNet on any trunk of max pools: units go back to where the maxima were (Badrinarayanan et al. 2015, section 3)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from fullyconv.geometry import Window
from fullyconv.networks.trunks.vgg import initialise
from fullyconv.networks.unpooling import Convolved, Pooled, Unpool
from fullyconv.surgery.trunk import Trunk


class SegNet(Trunk):
    """The mirror of a trunk: N x K x H x W in, one map of the pixels' own stride out.

    Coarse to fine, each pool is undone by the places of its maxima, and the convolutions before it are mirrored: in
    reverse order, with their inputs and outputs exchanged, each normalised. The first convolution's mirror is left to
    the scores (``score_window``, which an ``FCN`` reads): SegNet's classes are scored by 3 x 3 convolutions.

    Args:
        trunk: Gives feature maps fine to coarse; its pools are max pools of windows without overlap (VGG).
        basic: As SegNet-basic: every convolution is mirrored, none followed by a ReLU, and 1 x 1 convolutions score.

    Raises:
        ValueError: Naming what else makes a map smaller.

    >>> import torch
    >>> from fullyconv.networks.fcn import FCN
    >>> from fullyconv.networks.trunks.classic import SegNetBasic
    >>> network = FCN(SegNet(SegNetBasic(), basic=True), classes=3, skips=0, cover=True, border="replicate")
    >>> network(torch.zeros(1, 3, 33, 47)).shape
    torch.Size([1, 3, 33, 47])
    """

    def __init__(self, trunk: Trunk, *, basic: bool = False) -> None:
        super().__init__()
        self.trunk = Pooled(trunk)
        self.in_channels, self.example = self.trunk.in_channels, self.trunk.example
        self.unpools = nn.ModuleList(Unpool(window) for window in self.trunk.pools[::-1])
        first, *rest = self.trunk.between[0]
        groups = [*self.trunk.between[-2:0:-1], (first, *rest) if basic else tuple(rest)]
        self.mirrors = nn.ModuleList(
            _mirror(group, relu=not basic, keep=basic and group is groups[-1]) for group in groups
        )
        self.channels = (first.outputs,)
        initialise(self.mirrors)
        if not basic:
            pads = first.mirrored_pad
            rows, columns = (Window(first.frame.kernel[axis], pad=pads[axis]) for axis in (0, 1))
            self.score_window = rows, columns

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the mirror's last map."""
        found, *places = self.trunk(image)
        for unpool, mirror, place in zip(self.unpools, self.mirrors, places[::-1], strict=True):
            found = mirror(unpool(found, place))
        return (found,)


def _mirror(group: tuple[Convolved, ...], *, relu: bool, keep: bool) -> nn.Sequential:
    """Mirror the convolutions before a pool; ``keep`` does not go back to the channels of the first one's input."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, each in reversed(list(enumerate(group, start=1))):
        narrow = each.outputs if keep and index == 1 else each.inputs
        layers[f"conv{index}"] = nn.Conv2d(
            each.outputs, narrow, each.frame.kernel, padding=each.mirrored_pad, dilation=each.frame.dilation
        )
        layers[f"norm{index}"] = nn.BatchNorm2d(narrow)
        if relu:
            layers[f"relu{index}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)
