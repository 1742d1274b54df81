from __future__ import annotations

import numpy as np

from fullyconv.draw import UNSCORED, colourise, errors, legend, overlay, palette_image
from fullyconv.types import ClassSet, palette_colour

CLASSES = ClassSet(("sky", "road", "car"), colours=((1, 2, 3), (4, 5, 6), (7, 8, 9)), values=(5, 0, 9))


def test_voc_palette() -> None:
    assert [palette_colour(i) for i in (0, 1, 2, 20)] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 64, 128)]


def test_colours_and_void() -> None:
    painted = colourise(np.array([[0, 2], [-1, 9]]), CLASSES)
    assert painted.tolist() == [[[1, 2, 3], [7, 8, 9]], [list(UNSCORED), list(UNSCORED)]]


def test_palette_pictures_hold_mask_values_and_show_class_colours() -> None:
    picture = palette_image(np.array([[0, 1, 2]], np.uint8), CLASSES)
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == [[5, 0, 9]]
    assert np.asarray(picture.convert("RGB")).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]


def test_many_classes_give_16_bit_pictures() -> None:
    classes = ClassSet(tuple(map(str, range(300))), ignore_index=65535)
    assert np.asarray(palette_image(np.array([[299]], np.uint16), classes)).tolist() == [[299]]


def test_overlay_blends_half_and_half() -> None:
    image = np.full((1, 1, 3), 101, np.uint8)
    assert overlay(image, np.array([[1]]), CLASSES).tolist() == [[[52, 53, 54]]]


def test_errors_mark_wrong_right_and_void() -> None:
    painted = errors(np.array([[0, 1, -1]]), np.array([[0, 0, 0]]))
    assert len({tuple(pixel) for pixel in painted[0].tolist()}) == 3


def test_a_legend_shows_every_colour() -> None:
    shown = {tuple(pixel) for pixel in legend(CLASSES, width=300).reshape(-1, 3).tolist()}
    assert set(CLASSES.colours) <= shown
