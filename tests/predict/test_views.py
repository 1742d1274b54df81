"""Test-time augmentation: the mean over views, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from fullyconv.crf import CRFParameters
from fullyconv.networks import build
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.predict.uncertainty import Doubter
from fullyconv.predict.views import Views, ViewsSegmenter
from fullyconv.types import ClassSet, Preprocess


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", 3)
    for head in network.heads:
        torch.nn.init.normal_(head.weight)  # type: ignore[arg-type]
    return Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), device="cpu")


@settings(max_examples=12)
@given(
    st.integers(3, 50),
    st.integers(3, 50),
    st.booleans(),
    st.lists(st.sampled_from([0.5, 0.8, 1, 1.5]), min_size=1, max_size=3),
)
def test_probabilities_are_the_mean_over_the_views(
    model: Segmenter, height: int, width: int, flip: bool, scales: list[float]
) -> None:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    total = torch.zeros(3, height, width)
    for scale in scales:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        for mirrored in (False, True)[: 1 + flip]:
            view = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else view
            found = model.scores(np.asarray(view)).softmax(0)
            found = functional.interpolate(found[None], size=(height, width), mode="bilinear")[0]
            total += found.flip(2) if mirrored else found
    expected = total / (len(scales) * (1 + flip))
    augmented = ViewsSegmenter(model, Views(flip, tuple(scales)))
    prediction = augmented.predict(pixels, probabilities=True)
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-3)  # type: ignore[arg-type]
    top = expected.topk(2, 0).values
    sure = (top[0] - top[1] > 1e-4).numpy()
    assert (prediction.labels == expected.argmax(0).numpy())[sure].all()
    np.testing.assert_array_equal(augmented.labels(pixels[None])[0], prediction.labels)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_views_of_more_channels_are_those_of_each_channel(kind: str) -> None:
    torch.manual_seed(1)
    network = build("fcn1s-spectral2", 3, channels=5)
    torch.nn.init.normal_(network.heads[0].weight)  # type: ignore[arg-type]
    preprocess = Preprocess((120.0,) * 5, (60.0,) * 5)
    model = Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=preprocess, device="cpu")
    pixels = (np.random.default_rng(0).random((22, 31, 5)) * 255).astype(kind)
    total = torch.zeros(3, 22, 31)
    for size in ((22, 31), (11, 16)):
        planes = [Image.fromarray(pixels[..., c]).resize(size[::-1], Image.Resampling.BILINEAR) for c in range(5)]
        view = np.stack([np.asarray(plane) for plane in planes], 2)
        for mirrored in (False, True):
            found = model.scores(np.ascontiguousarray(view[:, ::-1]) if mirrored else view).softmax(0)
            found = functional.interpolate(found[None], size=(22, 31), mode="bilinear")[0]
            total += found.flip(2) if mirrored else found
    prediction = ViewsSegmenter(model, Views(True, (1.0, 0.5))).predict(pixels, probabilities=True)
    np.testing.assert_allclose(prediction.probabilities, total / 4, atol=1e-3)  # type: ignore[arg-type]
    assert Doubter(model).predict(pixels).uncertainty is not None


def test_one_plain_view_changes_nothing(model: Segmenter) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    plain, viewed = model.predict(pixels), ViewsSegmenter(model, Views()).predict(pixels)
    assert (plain.labels == viewed.labels).mean() > 0.999


def test_a_mirrored_picture_gets_mirrored_labels(model: Segmenter) -> None:
    augmented = ViewsSegmenter(model, Views(flip=True))
    pixels = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    there = augmented.log_probabilities(pixels)
    back = augmented.log_probabilities(np.ascontiguousarray(pixels[:, ::-1]))
    np.testing.assert_allclose(there, back[..., ::-1], atol=1e-4)


def test_a_crf_starts_from_the_views(model: Segmenter) -> None:
    augmented = ViewsSegmenter(model, Views(flip=True))
    pixels = np.random.default_rng(2).integers(0, 256, (24, 24, 3), np.uint8)
    energies = CRFSegmenter(augmented, CRFParameters(iterations=1)).energies(pixels)
    np.testing.assert_array_equal(energies, -augmented.log_probabilities(pixels))


@pytest.mark.parametrize("words", ["", "mirror", "0.5,1", "scales=", "scales=0", "flip,scales=1,x", "scales=1e9"])
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"flip,scales=0\.75|from 1/16 to 16"):
        Views.read(words)


def test_views_that_memory_cannot_hold_are_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Segmenter(build("fcn8s-resnet18", 2), classes=ClassSet(("a", "b")), preprocess=Preprocess())
    monkeypatch.setattr("fullyconv.predict.views.free_memory", lambda: 1 << 20)
    pixels = np.zeros((100, 200, 3), np.uint8)
    with pytest.raises(ValueError, match=r"16 times 200 x 100 pixels take 0\.1 GiB for 2 classes, and 0\.0 are free"):
        ViewsSegmenter(model, Views(scales=(1, 16))).predict(pixels)
    assert ViewsSegmenter(model, Views(scales=(0.5, 1))).predict(pixels).labels.shape == (100, 200)
