"""Max-unpooling: what a network with it sees, sides it needs, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.geometry import seen, size
from fullyconv.trace import NotFollowed, outputs


class Twice(nn.Module):
    """Two pools undone one after the other, as people write it."""

    def __init__(self, first: nn.Conv2d, *, by_layer: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = first, nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, ceil_mode=True, return_indices=True), nn.MaxUnpool2d(2)
        self.by_layer = by_layer

    def forward(self, image: Tensor) -> Tensor:
        one = self.first(image)
        found, places = self.pool(one)
        two = self.second(found)
        if self.by_layer:
            deep, deepest = self.pool(two)
            found = self.third(self.unpool(deep, deepest, output_size=two.shape))
            return self.unpool(found, places, output_size=one.shape)
        deep, deepest = functional.max_pool2d(two, 2, return_indices=True)
        found = self.third(functional.max_unpool2d(deep, deepest, 2))
        return functional.max_unpool2d(found, places, 2, 2, 0)


@pytest.mark.parametrize("by_layer", [True, False])
@pytest.mark.parametrize(("kernel", "pad"), [(3, 1), (5, 0)])
def test_what_it_sees_holds_for_every_pixel(kernel: int, pad: int, by_layer: bool) -> None:
    torch.manual_seed(0)
    network = Twice(nn.Conv2d(3, 4, kernel, padding=pad), by_layer=by_layer).double()
    traced = outputs(network)
    assert traced.multiples == (4, 4)
    path = traced.along(0)[0]
    image = torch.randn(1, 3, 40, 12).double()
    before = network(image)
    assert before.shape[2] == size(path, 40)
    touched = torch.zeros(40, before.shape[2], dtype=torch.bool)
    for row in range(40):
        other = image.clone()
        other[:, :, row] = torch.randn(1, 3, 12).double()
        touched[row] = (network(other) - before).abs().sum((0, 1, 3)) > 0
    for unit in range(before.shape[2]):
        first, last = seen(path, unit, unit)
        rows = touched[:, unit].nonzero().flatten()
        assert not len(rows) or (first <= int(rows.min()) and int(rows.max()) <= last)
    widest = max(int(rows.sum()) for rows in touched.T)
    assert widest > 8  # or nothing was tested


class Once(nn.Module):
    def __init__(self, undo: Callable[[Tensor, Tensor], Tensor], *, kernel: int = 2, stride: int = 2) -> None:
        super().__init__()
        self.undo, self.pool = undo, nn.MaxPool2d(kernel, stride, return_indices=True)
        self.first = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.undo(*self.pool(self.first(image)))


REFUSED = {
    "other windows": (Once(lambda x, places: functional.max_unpool2d(x, places, 2, 3)), "pool of other windows"),
    "overlap": (Once(lambda x, places: functional.max_unpool2d(x, places, 3, 2), kernel=3), "windows that overlap"),
    "no places": (Once(lambda x, places: functional.max_unpool2d(x, x.long(), 2)), "not those of a max pool's maxima"),
    "numbers": (Once(lambda x, places: x + places), "computes with the places of maxima"),
    "moved": (Once(lambda x, places: functional.max_unpool2d(x, places + 1, 2)), "computes with the places of maxima"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_window_is_refused_by_name(case: str) -> None:
    network, words = REFUSED[case]
    with pytest.raises(NotFollowed, match=words):
        outputs(network)


def test_windows_that_leave_a_rest_are_refused() -> None:
    """After an unpadded convolution of two taps an even picture has an odd map, whose last row no window takes."""
    network = Twice(nn.Conv2d(3, 4, 2), by_layer=True)
    with pytest.raises(NotFollowed, match="do not fill the map"):
        outputs(network)
