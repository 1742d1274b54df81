"""Maps that meet: on one grid, at every size that is allowed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fullyconv.trace import outputs


class DownAndUp(nn.Module):
    """A map joined with one that went two strides coarser and came back, cut to fit."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 2, 1))
        self.up = nn.ConvTranspose2d(1, 1, 4, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.up(self.down(image))


def test_what_comes_back_from_a_coarser_map_needs_multiples_of_its_stride() -> None:
    network = DownAndUp()
    assert outputs(network).multiples == (4, 4)
    assert network(torch.zeros(1, 1, 8, 12)).shape == (1, 1, 8, 12)
    with pytest.raises(RuntimeError, match="size of tensor"):
        network(torch.zeros(1, 1, 10, 12))
