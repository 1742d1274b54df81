from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fullyconv.geometry import axis_map, size
from fullyconv.trace import output_paths


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
        outputs = net(torch.zeros(1, 3, height, width))
        for path, output in zip(output_paths(net, axis), outputs, strict=True):
            assert size(path, (height, width)[axis]) == output.shape[2 + axis]


def test_the_branch_that_sees_most_stands_for_the_join() -> None:
    rows, columns = output_paths(Forked(), 0), output_paths(Forked(), 1)
    assert axis_map(rows[0]).field == 5
    assert axis_map(columns[0]).field == 3
    assert axis_map(rows[1]).scale == 1


def test_branches_that_are_not_aligned_are_named() -> None:
    with pytest.raises(ValueError, match="cat joins maps that are not aligned"):
        output_paths(Forked(stride=1), 0)


class Flattening(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1)), r"1 \(AdaptiveAvgPool2d\)"),
        (Flattening(), "flatten"),
        (nn.Sequential(nn.Conv2d(3, 2, 3, padding="same")), "padding='same'"),
    ],
)
def test_what_cannot_be_followed_is_named(net: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        output_paths(net, 0)
