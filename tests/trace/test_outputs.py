from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fullyconv.geometry import axis_map, size
from fullyconv.trace import outputs, record, walk


class Forked(nn.Module):
    """Two branches of different reach on one grid, joined by concatenation; rectangular kernels."""

    def __init__(self, *, stride: int = 2) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 2, (5, 3), (2, 1), (2, 1))
        self.narrow = nn.Conv2d(3, 2, 1, (stride, 1))
        self.up = nn.ConvTranspose2d(4, 4, (4, 1), (2, 1), (1, 0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([self.wide(x), self.narrow(x)], 1)
        return joined, self.up(torch.relu(joined))


@pytest.mark.parametrize("axis", [0, 1])
def test_sizes_along_every_path_equal_the_networks(axis: int) -> None:
    net = Forked()
    for height, width in ((16, 9), (31, 40)):
        maps = net(torch.zeros(1, 3, height, width))
        for path, output in zip(outputs(net).along(axis), maps, strict=True):
            assert size(path, (height, width)[axis]) == output.shape[2 + axis]


def test_the_branch_that_sees_most_stands_for_the_join() -> None:
    rows, columns = outputs(Forked()).along(0), outputs(Forked()).along(1)
    assert axis_map(rows[0]).field == 5
    assert axis_map(columns[0]).field == 3
    assert axis_map(rows[1]).scale == 1


class Misjoined(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., ::2, :], x[..., : x.shape[-2] // 2, :]], 1)


def test_branches_that_are_not_aligned_are_named() -> None:
    with pytest.raises(ValueError, match=r"cat.* joins maps that are not aligned: their strides are 2, 1 px"):
        outputs(Misjoined())


def test_a_network_that_cannot_run_is_named() -> None:
    with pytest.raises(ValueError, match=r"does not go through the network: Sizes of tensors must match"):
        outputs(Forked(stride=1))


class Flattening(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(5)), r"1 \(AdaptiveAvgPool2d\): pools 222 x 222 units"),
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1)), "no map with rows and columns"),
        (Flattening(), "flatten: the network's output is no map"),
    ],
)
def test_what_cannot_be_followed_is_named(net: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        outputs(net).along(0)


def test_a_single_unit_may_be_flattened_like_any_map() -> None:
    recorded = record(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten(), nn.Linear(5, 2)), (3, 8, 8))
    flattened = list(walk(recorded).positions.values())[-2].flattened
    assert flattened == (("C", 5), ("H", 1), ("W", 1))
