from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullyconv.data.folder import open_folder
from fullyconv.data.groups import EACH, group_names, guess_groups, regroup
from fullyconv.data.pairs import Folder, Pair
from fullyconv.files import BadFile


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


@pytest.mark.parametrize(
    ("form", "whole"),
    [
        ("scene{s}_{r}_{c}", "scene{s}"),
        ("{s}_{r}_{c}", "{s}"),
        ("DJI_000{s}-{y}-{x}", "DJI_000{s}"),
        ("site{s}.r{r}.c{c}", "site{s}"),
        ("slide{s}_x{x}_y{y}", "slide{s}"),
        ("slide{s}_y{y}x{x}", "slide{s}"),
        ("tumor_00{s}_row_{r}_col_{c}", "tumor_00{s}"),
        ("P000{s}_{x}_{x2}_{y}_{y2}", "P000{s}"),  # iSAID
        ("2_1{s}_{x}_{y}_{x2}_{y2}", "2_1{s}"),  # Potsdam, cut by mmsegmentation
        ("2_1{s}_{r}_{c}", "2_1{s}"),
        ("area{s}_{x}_{y}_512_512", "area{s}"),
        ("TCGA-18-559{s}-01Z-00-DX1_{x}_{y}", "TCGA-18-559{s}-01Z-00-DX1"),
        ("case {s} [d=1,x={x},y={y},w=512,h=512]", "case {s}"),  # QuPath
        ("ortho{s}_{r}_{c}_RGB", "ortho{s}"),
        ("survey_2021_0{s}_patch{r}{c}", "survey_2021_0{s}"),
    ],
)
@pytest.mark.parametrize("kept", [1, 3])
def test_tiles_belong_to_what_they_were_cut_from(form: str, whole: str, kept: int) -> None:
    tiles = [(s, r, c) for s in range(3, 6) for r in range(4) for c in range(5)]
    if kept > 1 and "{r}" in form and "{c}" in form:
        tiles = [tile for place, tile in enumerate(tiles) if place % kept]  # a third held nothing
    named = [
        {"s": s, "r": r, "c": c, "x": 512 * c, "y": 512 * r, "x2": 512 * c + 512, "y2": 512 * r + 512}
        for s, r, c in tiles
    ]
    assert guess_groups([form.format(**each) for each in named]) == [whole.format(**each) for each in named]


def test_tiles_of_one_scene_are_no_groups() -> None:
    assert guess_groups([f"ortho_{row}_{column}" for row in range(4) for column in range(5)]) is None


@pytest.mark.parametrize(
    ("form", "group"),
    [
        ("aachen{s}_{n:06}_000019_leftImg8bit", "aachen{s}"),  # Cityscapes
        ("patient00{s}_frame{n:02}", "patient00{s}"),
        ("video0{s}_{n:05}", "video0{s}"),
        ("M-33-2{s}-D-c-4-2_{n}", "M-33-2{s}-D-c-4"),  # LandCover.ai
        ("cam{s} 2021-05-{n:02}", "cam{s}"),
        ("fox1{s}_{n}", "fox1{s}"),
    ],
)
def test_frames_and_pieces_belong_to_their_film(form: str, group: str) -> None:
    names = [(s, n) for s in range(3) for n in range(10, 18)]
    found = guess_groups([form.format(s=s, n=n) for s, n in names])
    assert found is not None
    assert [each.startswith(group.format(s=s)) for each, (s, n) in zip(found, names, strict=True)] == [True] * len(
        names
    )
    assert len(set(found)) == 3


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
    assert drives == [pair.name.partition("_")[0] for split in splits.values() for pair in split]
    assert len(set(drives)) == 3


def folder_of(tmp_path: Path, sizes: dict[str, int]) -> Folder:
    found = Folder(tmp_path)
    every = [Pair(Path(f"{name}_{index}.png"), Path("m.png")) for name, size in sizes.items() for index in range(size)]
    found.splits = {"train": every[::2], "val": every[1::2], "test": pairs("z_1.png")}
    return found


@given(sizes=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5), min_size=3), folds=st.integers(2, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_group_is_on_both_sides_and_folds_hold_out_each_picture_once(
    tmp_path: Path, sizes: dict[str, int], folds: int
) -> None:
    held: list[str] = []
    for fold in [None, *((part, folds) for part in range(1, folds + 1))]:
        found = folder_of(tmp_path, sizes)
        regroup(found, "^.", fold=fold)
        sides = [{pair.name[0] for pair in found.splits[split]} for split in ("train", "val")]
        assert all(sides)
        assert not sides[0] & sides[1]
        assert sum(len(found.splits[split]) for split in ("train", "val")) == sum(sizes.values())
        assert [pair.name for pair in found.splits["test"]] == ["z_1"]
        if fold is not None:
            held += [pair.name for pair in found.splits["val"]]
    assert len(held) == len(set(held)) == sum(sizes.values())


def test_one_group_can_be_held_out_by_its_name(tmp_path: Path) -> None:
    found = folder_of(tmp_path, {"a": 3, "b": 3, "c": 4})
    regroup(found, None, hold_out="b")
    assert {pair.name[0] for pair in found.splits["val"]} == {"b"}
    assert found.note == "3 pictures of 1 of 3 groups (b) held out, 7 left to train on"
    with pytest.raises(BadFile, match=r"no group 'x'.*choose one of a, b, c"):
        regroup(found, "^.", hold_out="x")
    with pytest.raises(BadFile, match="1 group of pictures"):
        regroup(found, "(?=.)")
    with pytest.raises(BadFile, match="suggest no groups"):
        regroup(folder_of(tmp_path, {"a": 9}), None)


def test_more_parts_than_there_are_name_what_to_ask_for(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"6 pictures .*, and 50 are needed: ask for at most 6 parts$"):
        regroup(folder_of(tmp_path, {"a": 3, "b": 3}), EACH, fold=(1, 50))
    with pytest.raises(
        BadFile, match=r"2 groups of pictures \(a, b\), and 3 are needed: ask for at most 2 parts, or name"
    ):
        regroup(folder_of(tmp_path, {"a": 3, "b": 3}), "^.", fold=(1, 3))
