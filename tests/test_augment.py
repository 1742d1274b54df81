from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.augment import Augmentation, augment, cut_start, jitter, sample_rng, zoom_crop
from fullyconv.types import VOID, Sample

FILL = (11, 22, 33)


def coded(height: int, width: int) -> Sample:
    """A sample whose labels can be read off its pixels."""
    labels = np.add.outer(np.arange(height) // 4, np.arange(width) // 4).astype(np.int16) % 7
    return Sample(np.repeat((labels * 30).astype(np.uint8)[..., None], 3, axis=2), labels)


@given(st.integers(5, 40), st.integers(5, 40), st.floats(0.3, 3), st.integers(0, 1000))
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
