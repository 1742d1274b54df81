from __future__ import annotations

from pathlib import Path

import pytest

from fullyconv.data.folder import open_folder
from fullyconv.data.groups import group_names, guess_groups
from fullyconv.data.pairs import Pair


def pairs(*images: str) -> list[Pair]:
    return [Pair(Path(image), Path("mask.png")) for image in images]


@pytest.mark.parametrize(
    ("stems", "groups"),
    [
        (["0016E5_07959", "0016E5_07961", "0006R0_f02040", "0006R0_f02070"], ["0016E5"] * 2 + ["0006R0"] * 2),
        (["Image_01L", "Image_01R", "Image_02L", "Image_02R"], ["Image_01"] * 2 + ["Image_02"] * 2),
        (["s1_x0_y0", "s1_x512_y0", "s2_x0_y0", "s2_x0_y512"], ["s1"] * 2 + ["s2"] * 2),
        (["a-tile-3", "a-tile-4", "b-tile-3", "b-tile-9"], ["a"] * 2 + ["b"] * 2),
        (["patient12_slice003", "patient12_slice004", "patient7_slice1", "patient7_slice2"],
         ["patient12"] * 2 + ["patient7"] * 2),
        (["walk1", "walk2", "run1", "run2"], ["walk"] * 2 + ["run"] * 2),
    ],
)  # fmt: skip
def test_names_suggest_groups(stems: list[str], groups: list[str]) -> None:
    assert guess_groups(stems) == groups


@pytest.mark.parametrize("stems", [[], ["a"], ["1", "2", "3"], ["img_1", "img_2", "img_3"], ["ant", "bee", "cat"]])
def test_names_that_say_nothing_suggest_none(stems: list[str]) -> None:
    assert guess_groups(stems) is None


def test_a_rule_is_a_regular_expression_or_a_folder() -> None:
    found = pairs("p1/day2/a_x.png", "p2/day2/b_y.png")
    assert group_names(found, r"^(\w)_") == ["a", "b"]
    assert group_names(found, r"_.") == ["_x", "_y"]
    assert group_names(found, 1) == group_names(found, "1") == ["day2", "day2"]
    assert group_names(found, 2) == ["p1", "p2"]


@pytest.mark.parametrize(
    ("rule", "message"), [("(", "not a regular expression"), ("zz", "a.png does not match"), (9, "no folder 9 levels")]
)
def test_a_rule_that_does_not_fit_names_the_picture(rule: str | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_names(pairs("x/a.png"), rule)


def test_camvid_names_tell_its_drives(camvid: Path) -> None:
    splits = open_folder(camvid).splits
    drives = guess_groups([pair.name for split in splits.values() for pair in split])
    assert drives is not None
    assert len(set(drives)) == 3
