from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.augment import (
    Augmentation,
    augment,
    cut_start,
    degrade,
    jitter,
    sample_rng,
    turn,
    turned_size,
    zoom_crop,
)
from fullyconv.types import VOID, Sample

FILL = (11, 22, 33)


def coded(height: int, width: int) -> Sample:
    """A sample whose labels can be read off its pixels."""
    labels = np.add.outer(np.arange(height) // 4, np.arange(width) // 4).astype(np.int16) % 7
    return Sample(np.repeat((labels * 30).astype(np.uint8)[..., None], 3, axis=2), labels)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 3), st.integers(0, 1000))
def test_views_have_the_crop_size_and_void_exactly_outside_the_image(h: int, w: int, factor: float, seed: int) -> None:
    sample = Sample(np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.int16))
    place = np.random.default_rng(seed).random(2)
    view = zoom_crop(sample, factor=factor, crop=(16, 24), place=place, fill=FILL)
    assert view.image.shape == (16, 24, 3)
    assert ((view.labels == VOID) == (view.image == FILL).all(2)).all()
    covered = min(16, max(1, round(h * factor))) * min(24, max(1, round(w * factor)))
    assert int((view.labels != VOID).sum()) == covered


def test_pixels_and_labels_stay_together_when_only_cut_and_mirrored() -> None:
    sample = coded(40, 60)
    for index in range(20):
        rng = sample_rng(seed=1, epoch=0, index=index)
        view = augment(sample, Augmentation(crop=(24, 24)), fill=FILL, rng=rng)
        inside = view.labels != VOID
        np.testing.assert_array_equal(view.image[..., 0][inside], view.labels[inside] * 30)


@given(st.integers(20, 120), st.floats(0.3, 3), st.floats(0, 1), st.integers(8, 60))
def test_a_zoom_is_the_warp_that_keeps_the_corners(length: int, factor: float, place: float, crop: int) -> None:
    """Labels and pixels that say where they are: pixel i of n covers the part i/n .. (i + 1)/n of the picture."""
    steps = np.arange(length)
    ramp = np.broadcast_to(2 * steps, (3, length)).astype(np.uint8)
    for turned in (False, True):
        image = np.repeat((ramp.T if turned else ramp)[..., None], 3, axis=2)
        labels = np.broadcast_to(steps, (3, length)).astype(np.int16)
        sample = Sample(image, labels.T if turned else labels)
        size, where = ((crop, 3), np.array([place, 0.5])) if turned else ((3, crop), np.array([0.5, place]))
        view = zoom_crop(sample, factor=factor, crop=size, place=where, fill=FILL)
        seen, pixels = (view.labels.T, view.image[:, :, 0].T) if turned else (view.labels, view.image[:, :, 0])
        line = np.flatnonzero((seen != VOID).any(1))[0]
        scaled = max(1, round(length * factor))
        start = round(place * (scaled - crop))
        for column, label in enumerate(seen[line]):
            unit = column + start
            assert (label == VOID) == (not 0 <= unit < scaled)
            if label == VOID:
                continue
            centre = Fraction(2 * unit + 1, 2 * scaled) * length  # of the pixel, on the picture's axis
            assert label in (floor(centre), floor(centre) - (centre.denominator == 1))  # the pixel it lies in
            support = max(1, length / scaled) + 1
            if support < centre < length - support and factor > 1 / 2:
                assert abs(pixels[line, column] - 2 * (float(centre) - 0.5)) <= 1.5


def test_scale_and_crop_are_drawn_over_their_whole_range() -> None:
    sample = coded(64, 64)
    sizes = []
    for index in range(200):
        rng = sample_rng(seed=0, epoch=0, index=index)
        view = augment(sample, Augmentation(scale=(0.5, 2.0), flip=False), fill=FILL, rng=rng)
        assert view.labels.shape[0] == view.labels.shape[1]
        sizes.append(view.labels.shape[0])
    assert min(sizes) < 36
    assert max(sizes) > 116
    assert np.median(sizes) == pytest.approx(64, rel=0.15)  # as often below 1 as above: a logarithmic axis


def test_without_options_a_view_is_the_sample() -> None:
    sample = coded(9, 12)
    plain = Augmentation(flip=False)
    view = augment(sample, plain, fill=FILL, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(view.image, sample.image)
    np.testing.assert_array_equal(view.labels, sample.labels)
    assert Augmentation() == Augmentation(crop=None, scale=(1.0, 1.0), flip=True, colour=0.0, shift=0)


def test_a_mirrored_view_shows_up() -> None:
    sample = coded(8, 12)
    views = [augment(sample, Augmentation(), fill=FILL, rng=sample_rng(seed=0, epoch=0, index=i)) for i in range(20)]
    mirrored = [np.array_equal(view.labels, sample.labels[:, ::-1]) for view in views]
    assert 0 < sum(mirrored) < 20


def test_zoom_without_crop_scales_the_whole_image() -> None:
    view = augment(coded(20, 30), Augmentation(scale=(2, 2), flip=False), fill=FILL, rng=np.random.default_rng(0))
    assert view.labels.shape == (40, 60)
    np.testing.assert_array_equal(view.labels[::2, ::2], coded(20, 30).labels)


def test_jitter_of_ones_changes_nothing_and_brightness_multiplies() -> None:
    image = np.random.default_rng(0).integers(0, 120, (9, 9, 3)).astype(np.uint8)
    assert np.abs(jitter(image, amounts=np.ones(3)).astype(int) - image).max() <= 1
    doubled = jitter(image, amounts=np.array([2.0, 1, 1]))
    assert np.abs(doubled.astype(int) - 2 * image.astype(int)).max() <= 1


@given(st.tuples(*[st.floats(0.5, 1.5)] * 3), st.integers(0, 1000))
def test_jitter_is_brightness_then_contrast_then_saturation(amounts: tuple[float, ...], seed: int) -> None:
    """Torchvision's definitions, one after the other, in float64 and without cutting off in between."""
    image = np.random.default_rng(seed).integers(90, 160, (5, 6, 3)).astype(np.uint8)
    brightness, contrast, saturation = amounts
    weights = np.array([0.299, 0.587, 0.114])
    pixels = image * brightness
    pixels = contrast * pixels + (1 - contrast) * (pixels @ weights).mean()
    pixels = saturation * pixels + (1 - saturation) * (pixels @ weights)[..., None]
    found = jitter(image, amounts=np.array(amounts))
    assert found.dtype == np.uint8
    assert np.abs(found - np.clip(pixels, 0, 255)).max() <= 1.01


def test_jitter_keeps_to_the_range_of_pixels() -> None:
    image = np.array([[[0, 0, 0], [250, 250, 250], [250, 0, 0]]], np.uint8)
    strong = jitter(image, amounts=np.array([2.0, 3.0, 2.0]))
    assert strong.tolist() == [[[0, 0, 0], [255, 255, 255], [255, 0, 0]]]


def test_jitter_reaches_as_far_as_asked_to_both_sides() -> None:
    sample = Sample(np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), np.int16))
    options = Augmentation(flip=False, colour=0.5)
    means = [
        augment(sample, options, fill=FILL, rng=sample_rng(seed=0, epoch=0, index=index)).image.mean()
        for index in range(200)
    ]
    assert 50 <= min(means) < 55
    assert 145 < max(means) <= 150


def test_grey_saturation_removes_colour() -> None:
    image = np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    grey = jitter(image, amounts=np.array([1.0, 1, 0]))
    assert int(np.ptp(grey.astype(int), axis=2).max()) <= 1


def test_views_follow_from_their_position_alone() -> None:
    options = Augmentation(crop=(16, 16), scale=(0.5, 2), colour=0.3)
    first = augment(coded(30, 30), options, fill=FILL, rng=sample_rng(seed=3, epoch=2, index=1))
    again = augment(coded(30, 30), options, fill=FILL, rng=sample_rng(seed=3, epoch=2, index=1))
    other = augment(coded(30, 30), options, fill=FILL, rng=sample_rng(seed=3, epoch=3, index=1))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [(1, 1), (3, 500)])
def test_tiny_images_give_full_views(size: tuple[int, int]) -> None:
    sample = Sample(np.zeros((*size, 3), np.uint8), np.zeros(size, np.int16))
    options = Augmentation(crop=(32, 32), scale=(0.1, 0.2))
    assert augment(sample, options, fill=FILL, rng=np.random.default_rng(0)).labels.shape == (32, 32)
    whole = augment(sample, Augmentation(scale=(0.1, 0.1)), fill=FILL, rng=np.random.default_rng(0))
    assert whole.labels.shape == (max(1, round(0.1 * size[0])), max(1, round(0.1 * size[1])))


def test_shifted_views_lose_less_than_the_stride_at_the_top_and_the_left() -> None:
    sample = coded(40, 60)
    options = Augmentation(flip=False, shift=8)
    seen = set()
    for index in range(60):
        view = augment(sample, options, fill=FILL, rng=sample_rng(seed=1, epoch=0, index=index))
        cut = 40 - view.labels.shape[0], 60 - view.labels.shape[1]
        np.testing.assert_array_equal(view.labels, sample.labels[cut[0] :, cut[1] :])
        np.testing.assert_array_equal(view.image, sample.image[cut[0] :, cut[1] :])
        seen.add(cut)
    assert {row for row, _ in seen} == {column for _, column in seen} == set(range(8))
    assert cut_start(coded(1, 3), by=np.array([5, 5])).labels.shape == (1, 1)


@given(st.integers(2, 30), st.integers(2, 30), st.floats(-180, 180), st.integers(1, 20), st.integers(1, 20))
def test_a_turn_is_the_rotation_about_the_centre(h: int, w: int, angle: float, high: int, wide: int) -> None:
    """Labels and pixels that say where they are, against the warp written out pixel by pixel in complex numbers."""
    rows, columns = np.mgrid[:h, :w]
    image = np.stack([5 * rows, 5 * columns, np.full((h, w), 200)], axis=2).astype(np.uint8)
    sample = Sample(image, (rows * w + columns).astype(np.int16))
    view = turn(sample, angle=angle, size=(high, wide), fill=FILL)
    step = np.exp(1j * np.radians(angle))
    for row in range(high):
        for column in range(wide):
            place = complex(column + 0.5 - wide / 2, row + 0.5 - high / 2) * step + complex(w / 2, h / 2)
            if min(abs(place.real - round(place.real)), abs(place.imag - round(place.imag))) < 1e-6:
                continue  # on the edge between two pixels
            inside = 0 <= place.real < w and 0 <= place.imag < h
            label = floor(place.imag) * w + floor(place.real) if inside else VOID
            assert view.labels[row, column] == label
            if 0.5 <= place.real <= w - 0.5 and 0.5 <= place.imag <= h - 0.5:  # labels lie on their pixels, closely
                found = view.image[row, column, :2] / 5 + 0.5
                assert np.abs(found - (place.imag, place.real)).max() < 0.5


@given(st.integers(1, 40), st.integers(1, 40), st.floats(-180, 180))
def test_a_turned_view_has_no_void_where_the_picture_is_as_large_as_it_covers(h: int, w: int, angle: float) -> None:
    covered = turned_size((h, w), angle)
    sample = Sample(np.zeros((*covered, 3), np.uint8), np.zeros(covered, np.int16))
    assert (turn(sample, angle=angle, size=(h, w), fill=FILL).labels == 0).all()


@pytest.mark.parametrize("crop", [(20, 28), None])
def test_rotated_views_keep_their_size_and_turn_both_ways(crop: tuple[int, int] | None) -> None:
    sample = coded(40, 60)
    options = Augmentation(crop=crop, rotation=25, flip=False)
    views = [augment(sample, options, fill=FILL, rng=sample_rng(seed=0, epoch=0, index=i)) for i in range(12)]
    assert {view.labels.shape for view in views} == {crop or (40, 60)}
    assert not np.array_equal(views[0].labels, views[1].labels)
    for view in views:
        inside = view.labels != VOID
        off = np.abs(view.image[..., 0][inside].astype(int) - view.labels[inside] * 30)
        assert np.median(off) == 0  # pixels keep their labels, but on the edges between two


def test_half_the_views_are_upside_down_where_asked_for() -> None:
    sample = coded(8, 12)
    options = Augmentation(flip=False, upside_down=True)
    views = [augment(sample, options, fill=FILL, rng=sample_rng(seed=0, epoch=0, index=i)) for i in range(20)]
    turned = [np.array_equal(view.image, sample.image[::-1]) for view in views]
    assert 0 < sum(turned) < 20
    for view, down in zip(views, turned, strict=True):
        np.testing.assert_array_equal(view.labels, sample.labels[:: -1 if down else 1])


def test_blur_and_noise_have_the_deviation_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((200, 200, 3), 128, np.uint8)
    assert degrade(flat, blur=0, noise=6, rng=rng).std() == pytest.approx(6, rel=0.02)
    dot = np.zeros((61, 61, 3), np.uint8)
    dot[30, 30] = 255
    spread = degrade(dot, blur=2.0, noise=0, rng=rng)[..., 0].astype(float)
    offsets = np.arange(61) - 30
    assert np.sqrt((spread.sum(0) * offsets**2).sum() / spread.sum()) == pytest.approx(2.0, rel=0.15)
    view = augment(Sample(flat, np.zeros((200, 200), np.int16)), Augmentation(noise=9, blur=1), fill=FILL, rng=rng)
    assert 0 < view.image.std() < 9
