from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fullyconv.data.classes import guess_classes, read_classes, write_classes
from fullyconv.data.masks import RawMask
from fullyconv.files import BadFile
from fullyconv.types import ClassSet, palette_colour


@pytest.mark.parametrize(
    "classes",
    [
        ClassSet(("a", "b")),
        ClassSet(("a", "b"), values=(3, 7), ignore_index=11, colours=((1, 2, 3), (4, 5, 6))),
        ClassSet(("a",), colours=((1, 2, 3),), colour_masks=True, ignore_colours=((0, 0, 0),)),
    ],
)
def test_classes_survive_the_file(tmp_path: Path, classes: ClassSet) -> None:
    write_classes(classes, tmp_path / "classes.yaml")
    assert read_classes(tmp_path / "classes.yaml") == classes


def test_short_forms_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [road, {name: car, colour: [1, 2, 3]}]")
    assert read_classes(path) == ClassSet(("road", "car"), colours=(palette_colour(0), (1, 2, 3)))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("classes: [a]\nignored: 3", "ignored"),
        ("classes: [{name: a, colour: [1, 2, 300]}]", "colour"),
        ("classes: [a, a]", "share a name"),
        ("classes: [a, {name: b, value: 255}]", "differ from each other and from ignore"),
        ("classes: [", "not usable"),
        ("masks: colours\nclasses: [a]", "masks"),
        ("classes: []", "1 to 32767 classes"),
        ("masks: index", "no 'classes' in it"),
        ("names: [a]", "unknown key 'names': here it is called 'classes'"),
        ("classes: [{name: a, color: [1, 2, 3]}]", "unknown key 'classes.0.color': here it is called 'colour'"),
        ("classes: [{name: a, value: 70000}]", "classes.0.value: .*, not '70000'"),
        ("classes: [{name: a, value: -5}]", "classes.0.value: .*, not '-5'"),
        ("classes: [a]\nignore: 70000", "ignore.0: .*, not '70000'"),
        ("classes: [a]\nignore: []", "ignore: "),
        ("classes: [a, b]\nignore: [255, 1]", "1 stands twice"),
        ("classes: [a]\nclasses: [b]", "line 2: 'classes' is said twice"),
        ("classes: [{name: '', value: 1}]", "name"),
        ("classes: [[a]]", "classes.0"),
        ("classes: " + "[" * 1000, "100 brackets in brackets"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(BadFile, match=what) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["no", "Yes", "1", "1e3", "010", "2020-01-01", "null", "~x", "a[/b]", "12:30", "straße"]
)
def test_names_are_what_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "classes.yaml"
    for text in (f"classes: ['other', '{name}']", f"classes: [other, {{name: '{name}'}}]"):
        path.write_text(text)
        assert read_classes(path).names == ("other", name)
    if not set(name) & set("[]:~"):
        path.write_text(f"classes: [other, {name}]")
        assert read_classes(path).names == ("other", name)
    write_classes(ClassSet((name,)), path)
    assert read_classes(path).names == (name,)


def test_several_values_may_be_ignored(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("ignore: [0, 3]\nclasses: [{name: road, value: 7}, {name: sky, value: 23, colour: null}]\n")
    classes = read_classes(path)
    assert classes.ignored == (0, 3)
    write_classes(classes, path)
    assert read_classes(path) == classes


def test_a_byte_order_mark_is_passed_over_and_latin_1_named(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_bytes(b"\xef\xbb\xbfclasses: [a]\r\n")
    assert read_classes(path).names == ("a",)
    path.write_bytes("classes: [straße]".encode("latin-1"))
    with pytest.raises(BadFile, match="not UTF-8 text: save it as UTF-8"):
        read_classes(path)


@pytest.mark.parametrize("value", [70_000, -5, 2**31 - 1])
def test_values_that_no_mask_file_holds_are_refused(value: int) -> None:
    """They would be written modulo 2 ** 16 or 2 ** 8."""
    with pytest.raises(ValueError, match=f"not {value}"):
        ClassSet(("a",), values=(value,))
    with pytest.raises(ValueError, match=f"not {value}"):
        ClassSet(("a",), ignore_index=value)


def raw(values: object, palette: np.ndarray | None = None) -> RawMask:
    return RawMask(np.array(values), palette)


def test_indices_are_inferred_up_to_the_largest_without_255() -> None:
    classes = guess_classes([raw([[0, 2]]), raw([[255, 4]])])
    assert len(classes) == 5
    assert classes.ignore_index == 255


def test_palette_colours_are_kept() -> None:
    palette = np.arange(30, dtype=np.uint8).reshape(10, 3)
    assert guess_classes([raw([[0, 1]], palette)]).colours == ((0, 1, 2), (3, 4, 5))


def test_masks_of_0_and_255_are_an_object_on_a_background() -> None:
    classes = guess_classes([raw([[0, 255]])])
    assert (classes.values, classes.ignore_index) == ((0, 255), 254)


def test_colours_become_classes() -> None:
    classes = guess_classes([raw([[[255, 0, 0], [0, 0, 1]]])])
    assert classes.colour_masks
    assert classes.colours == ((0, 0, 1), (255, 0, 0))


def test_16_bit_masks_ignore_65535() -> None:
    classes = guess_classes([raw([[0, 300, 65535]])])
    assert (classes.values, classes.ignore_index) == ((0, 300), 65535)


def test_masks_with_numbers_that_no_file_can_name_teach_nothing() -> None:
    classes = guess_classes([raw([[0, 1]]), raw([[-254, 2]]), raw([[2**31 - 1]])])
    assert classes.names == ("class_0", "class_1")
    with pytest.raises(ValueError, match="the masks hold 2 numbers up to 60000"):
        guess_classes([raw([[0, 60_000]])])


def test_photographs_are_no_masks() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    with pytest.raises(ValueError, match="more than 256 colours"):
        guess_classes([RawMask(noise)])
    with pytest.raises(ValueError, match="no label at all"):
        guess_classes([raw([[255]])])


@pytest.mark.parametrize(
    ("numbers", "values", "ignored"),
    [
        ((0, 127, 255), (0, 127, 255), 254),  # evenly spread to white: a class each
        ((0, 85, 170, 255), (0, 85, 170, 255), 254),
        ((0, 100, 200), (0, 100, 200), 255),
        ((0, 40, 90, 255), (0, 40, 90), 255),  # not evenly: 255 is what it is everywhere else, not scored
        ((0, 1, 15, 255), tuple(range(16)), 255),  # some of VOC's
    ],
)
def test_few_numbers_far_apart_are_the_classes(numbers: tuple[int, ...], values: tuple[int, ...], ignored: int) -> None:
    classes = guess_classes([RawMask(np.array([numbers[:2]])), RawMask(np.array([numbers]))])
    assert (classes.values, classes.ignore_index) == (values, ignored)
    assert classes.names[-1] == f"class_{values[-1]}"


def test_palettes_that_number_one_colour_differently_are_refused() -> None:
    palette = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    first = RawMask(np.array([[0, 1, 2]]), palette)
    with pytest.raises(ValueError, match="palettes disagree, the colour #0000ff is 2 in one and 1 in another"):
        guess_classes([first, RawMask(np.array([[0, 1]]), palette[[0, 2, 1]])])
    assert len(guess_classes([first, RawMask(np.array([[0, 1]]), palette)])) == 3
    black = np.zeros((3, 3), np.uint8)  # a palette of one colour says nothing
    assert len(guess_classes([RawMask(np.array([[0, 1, 2]]), black), RawMask(np.array([[0, 2]]), black)])) == 3
