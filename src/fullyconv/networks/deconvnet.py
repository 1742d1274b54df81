"""DeconvNet on any trunk of max pools: unpooling and deconvolution in turn (Noh et al. 2015, section 3)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from fullyconv.geometry import axis_map
from fullyconv.networks.trunks.vgg import initialise
from fullyconv.networks.unpooling import Convolved, Pooled, Unpool
from fullyconv.surgery.trunk import Trunk


class DeconvNet(Trunk):
    """The deconvolution network of a trunk: N x K x H x W in, one map of the pixels' own stride out.

    The layers behind the last pool (VGG's fc6 and fc7) are undone by one deconvolution of the window they read; then,
    coarse to fine, each pool by the places of its maxima and the convolutions before it by deconvolutions with their
    windows, in reverse order. All are normalised and rectified.

    At 224 x 224 the published network gives fc7 a single position; this one, as an FCN, one for every window of the
    padded map, so that images of any size come out whole.

    Args:
        trunk: Gives feature maps fine to coarse; its pools are max pools of windows without overlap (VGG).

    Raises:
        ValueError: Naming what else makes a map smaller.

    >>> import torch
    >>> from fullyconv.networks.fcn import FCN
    >>> from fullyconv.networks.trunks.vgg import VGG16
    >>> trunk = VGG16(image_pad=1, hidden=False)
    >>> network = FCN(DeconvNet(trunk), classes=3, skips=0, cover=True, border="replicate")
    >>> network(torch.zeros(1, 3, 33, 47)).shape
    torch.Size([1, 3, 33, 47])
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = Pooled(trunk)
        self.in_channels, self.example = self.trunk.in_channels, self.trunk.example
        *groups, behind = self.trunk.between
        self.opening = _joined(behind) if behind else nn.Sequential()
        self.unpools = nn.ModuleList(Unpool(window) for window in self.trunk.pools[::-1])
        self.mirrors = nn.ModuleList(_deconvolutions(group, keep=group is groups[0]) for group in groups[::-1])
        self.channels = (groups[0][0].outputs,)
        initialise(self.mirrors)
        initialise(self.opening)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the last map of the deconvolution network."""
        found, *places = self.trunk(image)
        found = self.opening(found)
        for unpool, mirror, place in zip(self.unpools, self.mirrors, places[::-1], strict=True):
            found = mirror(unpool(found, place))
        return (found,)


def _joined(group: tuple[Convolved, ...]) -> nn.Sequential:
    """Undo convolutions by one deconvolution of the window that they read together."""
    windows = [axis_map([each.frame.along(axis) for each in group]) for axis in (0, 1)]
    kernel = int(windows[0].field), int(windows[1].field)
    # The middle of the window lies (kernel - 1) / 2 - padding units behind the unit.
    rows, columns = (int((window.field - 1) / 2 - window.shift) for window in windows)
    return nn.Sequential(_layers(1, group[-1].outputs, group[0].inputs, kernel, (rows, columns)))


def _deconvolutions(group: tuple[Convolved, ...], *, keep: bool) -> nn.Sequential:
    """Undo the convolutions before a pool; ``keep`` does not go back to the channels of the first one's input."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, each in reversed(list(enumerate(group, start=1))):
        narrow = each.outputs if keep and index == 1 else each.inputs
        layers |= _layers(index, each.outputs, narrow, each.frame.kernel, each.frame.before)
    return nn.Sequential(layers)


def _layers(
    index: int, wide: int, narrow: int, kernel: tuple[int, int], padding: tuple[int, int]
) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        {
            f"deconv{index}": nn.ConvTranspose2d(wide, narrow, kernel, padding=padding),
            f"norm{index}": nn.BatchNorm2d(narrow),
            f"relu{index}": nn.ReLU(inplace=True),
        }
    )
