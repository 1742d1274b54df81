from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fullyconv import build
from fullyconv.augment import Augmentation
from fullyconv.files import BadFile
from fullyconv.train.recipe import Recipe
from fullyconv.train.smallest import check_room, check_views, minimal, smallest_view

SIZES = {Path("a.png"): (40, 60), Path("b.png"): (400, 300)}


def trains(network: nn.Module, size: tuple[int, int], batch: int) -> bool:
    """Ask PyTorch itself."""
    try:
        network.train()(torch.zeros(batch, 3, *size))
    except ValueError as error:
        assert "more than 1" in str(error)  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize("name", ["fcn8s-resnet18", "fcn32s-resnet18"])
@pytest.mark.parametrize("crop", [(16, 16), (32, 32), (33, 32), (32, 64), (64, 64)])
@pytest.mark.parametrize("batch", [1, 2])
def test_what_pytorch_would_refuse_is_refused_before(name: str, crop: tuple[int, int], batch: int) -> None:
    network = build(name, 3)
    expected = trains(network, crop, batch)
    assert expected == (batch > 1 or max(crop) > 32)
    if expected:
        check_views(network, SIZES, Augmentation(crop=crop), batch)
    else:
        with pytest.raises(ValueError, match=r"crop=.*one value per channel: set a larger crop, or batch=2"):
            check_views(network, SIZES, Augmentation(crop=crop), batch)
    assert network.training


def test_the_smallest_whole_image_is_named_with_its_size() -> None:
    network = build("fcn8s-resnet18", 3)
    with pytest.raises(BadFile, match=r"a.png: views of 20 x 30 pixels .* leave trunk.* one value per channel"):
        check_views(network, SIZES, Augmentation(scale=(0.5, 2.0)), 1)
    check_views(network, SIZES, Augmentation(scale=(0.9, 2.0)), 1)


def test_normalisation_of_each_view_by_itself_needs_two_values_whatever_the_batch() -> None:
    network = nn.Sequential(nn.AvgPool2d(8), nn.InstanceNorm2d(3), nn.Conv2d(3, 2, 1))
    for crop, batch in (((8, 8), 1), ((8, 8), 4), ((16, 8), 1)):
        fits = trains(network, crop, batch)
        assert fits == (crop != (8, 8))
        if fits:
            check_views(network, SIZES, Augmentation(crop=crop), batch)
        else:
            with pytest.raises(ValueError, match="leave 1 one value per channel"):
                check_views(network, SIZES, Augmentation(crop=crop), batch)


def test_networks_without_normalisation_take_any_view() -> None:
    check_views(nn.Sequential(nn.Conv2d(3, 2, 1)), SIZES, Augmentation(crop=(1, 1)), 1)


SIDES = st.integers(1, 6)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1))
def test_minimal_sizes_are_those_below_which_there_is_none(sizes: list[tuple[int, int]]) -> None:
    def below(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one != other and one[0] <= other[0] and one[1] <= other[1]

    assert set(minimal(sizes)) == {size for size in sizes if not any(below(other, size) for other in sizes)}


@pytest.mark.parametrize(
    ("options", "view"),
    [
        (Augmentation(shift=8), (33, 53)),
        (Augmentation(shift=1), (40, 60)),
        (Augmentation(crop=(4, 9), shift=8), (1, 2)),
        (Augmentation(crop=(9, 4), shift=8), (2, 1)),
        (Augmentation(scale=(0.01, 1.0)), (1, 1)),
        (Augmentation(scale=(0.5, 1.0), shift=4), (17, 27)),
    ],
)
def test_the_smallest_view_is_zoomed_then_cut(options: Augmentation, view: tuple[int, int]) -> None:
    assert smallest_view((40, 60), options) == view


def test_two_views_are_two_values_to_what_normalises_batches() -> None:
    calls: list[int] = []
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    pooled.register_forward_hook(lambda *_: calls.append(1))
    options = Augmentation(crop=(16, 16))
    check_views(pooled, SIZES, options, 2)
    assert calls == []  # nothing has to be tried
    check_views(nn.Sequential(nn.InstanceNorm2d(3), *pooled), SIZES, options, 2)
    with pytest.raises(ValueError, match="leave 1 one value per channel"):
        check_views(pooled, SIZES, options, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"accumulate": 10**9},
            r"accumulate=1000000000, crop=.*, batch=8: .* of an update take .*: set accumulate to at",
        ),
        ({"sampling": 1e-9}, r"accumulate=1, sampling=1e-09, .*: set sampling nearer to 1"),
        ({"repeat": 10**9}, "repeat=1000000000: epochs have at most 10000000 views: set at most 5000000"),
        ({"cache_gib": 1e9}, r"cache_gib=1e\+09: this machine has \d+ GiB"),
        ({"shift": 321}, "shift=321: leaves nothing of views that are 320 pixels wide or high"),
        ({"blur": 400, "crop": None, "scale": (1, 1)}, "blur=400: leaves nothing of views that are 300 pixels"),
    ],
)
def test_numbers_that_this_machine_or_a_view_cannot_take_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_room(Recipe(**settings), SIZES.values())  # type: ignore[arg-type]


def test_the_most_batches_of_an_update_are_what_is_said() -> None:
    with pytest.raises(ValueError, match=r"set accumulate to at most \d+") as refused:
        check_room(Recipe(accumulate=10**9), SIZES.values())
    most = int(str(refused.value).split()[-1])
    check_room(Recipe(accumulate=most), SIZES.values())
    with pytest.raises(ValueError, match="accumulate"):
        check_room(Recipe(accumulate=most + 2), SIZES.values())
