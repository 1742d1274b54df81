"""What ``auto`` chooses, by tables of data sets and machines; what is measured of data; what a run keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from fullyconv.data.fingerprint import Fingerprint, measure_thickness, take_fingerprint
from fullyconv.data.pairs import Pair
from fullyconv.recipes import RECIPES
from fullyconv.scores.bounds import count_bounds
from fullyconv.train.auto import GIVEN, MOST_UPDATES, Machine, choose
from fullyconv.train.configure import configure
from fullyconv.train.folder import CHOICES, RECIPE, open_run
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe, change, read_recipe
from fullyconv.types import ClassSet

LAPTOP = Machine("cpu", 2, 16 << 30, bf16=True)
GPU = Machine("cuda", 16, 80 << 30, bf16=True)


def lines(*, apart: int, width: int = 1) -> np.ndarray:
    return (np.arange(256) % apart < width).astype(np.int64)[None].repeat(256, 0)


STREETS = Fingerprint(
    367, 101 * 480 * 360, (360, 480), ("road", "tree", "pole"), (0.7, 0.29, 0.01), (100.0, 30.0, 2.7), 0.6,
    count_bounds(lines(apart=64, width=2), classes=3), grey=False, halves=0.8, layout=0.7,
)  # fmt: skip
VESSELS = replace(
    STREETS, pictures=20, held_out=8 * 999 * 960, size=(960, 999), names=("background", "vessel"),
    shares=(0.93, 0.07), thickness=(79.0, 5.8), variety=0.1, bounds=count_bounds(lines(apart=32, width=3), classes=2),
    halves=0.006, layout=0.5,
)  # fmt: skip
CELLS = replace(
    VESSELS, pictures=30, size=(512, 512), shares=(0.5, 0.5), grey=True,
    bounds=count_bounds(lines(apart=128, width=64), classes=2),
)  # fmt: skip


def chosen(
    data: Fingerprint, settings: Mapping[str, Any], machine: Machine = LAPTOP, *, pace: float = 1.5, start: str = ""
) -> dict[str, Any]:
    found = choose(data, machine, settings, lambda name: pace, start=start)
    assert len({choice.key for choice in found}) == len(found)
    assert all(choice.reason and "\n" not in choice.reason for choice in found)
    made = {choice.key: choice.value for choice in found}
    assert change(RECIPES["auto"], {**settings, **made}, source="auto").epochs == made["epochs"]  # a recipe takes all
    return made


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (STREETS, {"upside_down": False, "rotation": 0.0, "balance": 0.5, "flip": True}),
        (VESSELS, {"upside_down": True, "rotation": 180.0, "loss": "cross-entropy+dice", "scale": (0.9, 1.11)}),
        (CELLS, {"network": "fpn8s-resnet18", "loss": "cross-entropy", "balance": 0.0}),
        (replace(CELLS, sided="heart"), {"flip": False, "upside_down": False}),
    ],
)
def test_choices_follow_the_data(data: Fingerprint, expected: dict[str, Any]) -> None:
    made = chosen(data, {"minutes": 10})
    assert {key: made[key] for key in expected} == expected


def test_thin_classes_get_a_fine_stride_and_what_is_given_a_trunk_of_its_weights() -> None:
    assert chosen(STREETS, {"minutes": 10})["network"] in ("fpn2s-resnet18", "fpn4s-resnet18")
    lite = chosen(STREETS, {"minutes": 10, "start_from": "x.safetensors"}, start="lite0")
    assert (lite["network"], lite["trunk_rate"]) == ("fpn4s-lite0", 0.5)
    assert lite["average"] > 0.9
    assert chosen(STREETS, {"start_from": "m"}, start="fcn16s-vgg16")["network"] == "fcn16s-vgg16"
    timm = chosen(STREETS, {"trunk": "timm:resnet18", "pretrained": True}, start="timm:resnet18")
    assert timm["network"] == "fpn4s"
    hurried = chosen(STREETS, {"minutes": 1}, pace=5.0)
    assert hurried["network"] == "fpn8s-resnet18"


@given(
    minutes=st.floats(0.5, 600),
    pace=st.floats(0.002, 30),
    pictures=st.integers(1, 100_000),
    side=st.integers(8, 5000),
    machine=st.sampled_from((LAPTOP, GPU, Machine("cpu", 1, 1 << 29, bf16=False))),
)
@example(minutes=1.0, pace=0.002, pictures=1, side=8, machine=LAPTOP)  # more repeats than a recipe takes
def test_the_schedule_fills_the_minutes_whatever_the_set(
    minutes: float, pace: float, pictures: int, side: int, machine: Machine
) -> None:
    data = replace(VESSELS, pictures=pictures, size=(side, side))
    made = chosen(data, {"minutes": minutes}, machine, pace=pace)
    height, width = made["crop"]
    together = made["batch"] * made["accumulate"]
    per_epoch = max(1, made["repeat"] * pictures // together)
    pixels = made["epochs"] * per_epoch * together * height * width / 1e6
    budget = 0.92 * 60 * minutes / pace
    assert pixels > budget  # the clock ends the run, not the epochs
    assert made["repeat"] * pictures < 2 * pictures + 1.1 * budget / (height * width / 1e6) / 12 + together
    assert made["batch"] * height * width * 2500 <= machine.memory / 2 or made["batch"] == 1
    assert made["accumulate"] * made["batch"] >= 4
    assert max(height, width) <= min(512, max(32, side))
    assert made["upside_down"]
    assert made["rotation"] == (180 if (height**2 + width**2) ** 0.5 <= 0.75 * side else 0)


def test_what_is_given_is_kept_and_the_rest_goes_by_it() -> None:
    settings = {"epochs": 3, "network": "fcn32s-resnet18", "crop": (64, 64), "batch": 2, "loss": "cross-entropy"}
    found = choose(VESSELS, LAPTOP, settings, lambda name: pytest.fail("nothing to measure"))
    made = {choice.key: choice for choice in found}
    assert {key: made[key].value for key in settings} == settings
    assert all(made[key].reason == GIVEN for key in settings)
    assert (made["minutes"].value, made["repeat"].value) == (None, 1)
    whole = chosen(VESSELS, {"crop": None, "minutes": 5})
    assert (whole["batch"], whole["accumulate"]) == (1, 1)
    endless = chosen(CELLS, {"minutes": None})
    assert endless["repeat"] * endless["epochs"] * 30 // endless["batch"] >= MOST_UPDATES


def test_thickness_is_that_of_strips_and_half_of_discs() -> None:
    for width in (2, 5, 12):
        strip = np.zeros((200, 200), np.int64)
        strip[:, 50 : 50 + width] = 1
        assert measure_thickness(strip, classes=2)[1] == pytest.approx(width * 4 / np.pi, rel=0.01)
    rows, columns = np.indices((200, 200)) - 100
    disc = (rows**2 + columns**2 < 60**2).astype(np.int64)
    assert measure_thickness(disc, classes=3)[1] == pytest.approx(60, rel=0.05)
    assert np.isnan(measure_thickness(disc, classes=3)[2])
    assert measure_thickness(np.zeros((20, 20), np.int64), classes=1)[0] == np.inf


def written(folder: Path, images: list[np.ndarray], masks: list[np.ndarray]) -> list[Pair]:
    pairs = []
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        pair = Pair(folder / f"{index}.png", folder / f"{index}_mask.png")
        Image.fromarray(image).save(pair.image)
        Image.fromarray(mask).save(pair.mask)
        pairs.append(pair)
    return pairs


@pytest.mark.parametrize("turned", [False, True])
def test_pictures_with_a_sky_have_an_up_and_those_turned_at_random_have_none(tmp_path: Path, turned: bool) -> None:
    rng = np.random.default_rng(0)
    images, masks = [], []
    for index in range(12):
        mask = np.zeros((60, 80), np.uint8)
        mask[30 + int(rng.integers(-6, 7)) :] = 1
        mask[:, :9] = 2
        mask = mask[::-1] if turned and index % 2 else mask
        image = (200 - 90 * mask + rng.integers(0, 50, mask.shape)).astype(np.uint8)
        images.append(np.repeat(image[..., None], 3, 2))
        masks.append(mask)
    pairs, classes = written(tmp_path, images, masks), ClassSet(("sky", "ground", "wall"))
    found = take_fingerprint(pairs, 0, classes, shares=(0.4, 0.5, 0.1), sizes=[(60, 80)] * 12)
    assert found.upright is not turned
    assert found.sided == "wall"
    assert found.grey
    assert found.thickness[2] == pytest.approx(2 * 9 * 4 / np.pi, rel=0.1)  # one of its two sides is the picture's edge
    assert not np.isnan(found.thickness).any()


def test_a_class_that_is_never_there_and_a_single_picture_are_no_obstacle(tmp_path: Path) -> None:
    image, mask = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)
    found = take_fingerprint(
        written(tmp_path, [image], [mask]), 0, ClassSet(("a", "b")), shares=(1.0, 0.0), sizes=[(40, 40)]
    )
    assert (found.variety, found.sided) == (0.0, None)
    assert str(found.thickness) == str((float("inf"), nan))
    chosen(found, {"minutes": 1})


def test_a_run_writes_down_its_choices_and_keeps_them_when_resumed(shapes: Path, tmp_path: Path) -> None:
    recipe = change(RECIPES["auto"], {"epochs": 2, "network": "fcn32s-resnet18", "crop": [64, 64]}, source="test")
    prepared = prepare(recipe, shapes)
    with open_run(tmp_path / "run", resume=False) as folder:
        made, choices = configure(recipe, prepared, folder)
        assert not made.auto
        assert (made.epochs, made.network, made.crop, made.batch) == (2, "fcn32s-resnet18", (64, 64), 32)
        assert [entry["key"] for entry in json.loads((folder.path / CHOICES).read_text())] == [c.key for c in choices]
        folder.begin(made, {})
        assert read_recipe(folder.path / RECIPE, {"default": RECIPES["auto"]}) == made
        folder.resume = True
        again, none = configure(change(recipe, {"epochs": 5}, source="test"), prepared, folder)
        assert (again, none) == (made.model_copy(update={"epochs": 5}), [])
    assert configure(Recipe(), prepared, folder) == (Recipe(), [])
