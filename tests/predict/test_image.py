from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv import ClassSet, Preprocess, Segmenter, build, from_classifier, load, save
from fullyconv.files import BadFile
from fullyconv.networks.reference import REFERENCES, preprocess_of
from fullyconv.predict import image as module
from fullyconv.predict.image import as_pixels

RNG = np.random.default_rng(0)


def segmenter(name: str = "fcn8s-resnet18") -> Segmenter:
    torch.manual_seed(0)
    network = build(name, 3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    for norm in network.modules():  # leave no block at its shortcut
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.0)
    return Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess())


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return segmenter()


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 31), (97, 131)])
def test_predictions_have_the_images_size(model: Segmenter, size: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    prediction = model.predict(pixels, probabilities=True)
    assert prediction.labels.shape == size
    assert prediction.labels.dtype == np.uint8
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (3, *size)
    assert prediction.probabilities.dtype == np.float16
    np.testing.assert_allclose(prediction.probabilities.astype(float).sum(0), 1, atol=3e-3)
    np.testing.assert_array_equal(prediction.probabilities.argmax(0)[0, 0], prediction.labels[0, 0])
    assert prediction.overlay().size == size[::-1]
    assert model.predict(pixels).probabilities is None


def test_path_picture_and_array_agree(model: Segmenter, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = model.predict(pixels).labels
    for form in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels)):
        np.testing.assert_array_equal(model.predict(form).labels, expected)


def test_grey_and_alpha_are_understood() -> None:
    grey = RNG.integers(0, 256, (5, 6)).astype(np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(as_pixels(grey), expected)
    np.testing.assert_array_equal(as_pixels(grey[..., None]), expected)
    np.testing.assert_array_equal(as_pixels(np.dstack([expected, grey])), expected)
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        as_pixels(np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        as_pixels(np.zeros((4, 4, 3)))
    with pytest.raises(BadFile, match="no such file"):
        as_pixels("nowhere.png")


@pytest.mark.parametrize(
    ("name", "size", "core"),
    [
        ("fcn8s-resnet18", (660, 40), 64),
        ("fcn32s-resnet18", (30, 641), 64),
        pytest.param("fcn8s-vgg16", (650, 20), 128, marks=pytest.mark.slow),
    ],
)
def test_tiled_equals_whole(name: str, size: tuple[int, int], core: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = segmenter(name)
    model.network.double()
    monkeypatch.setattr(Preprocess, "__call__", lambda _, image: in_float64(image))
    pixels = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    whole = model.scores(pixels)
    monkeypatch.setattr(module, "WHOLE_PIXELS", 1)
    monkeypatch.setattr(module, "TILE_CORE", core)
    tiled = torch.full_like(whole, torch.nan)
    for rows, columns, scores in model._tiles(pixels):
        tiled[:, rows, columns] = scores
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


def in_float64(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((image / 128 - 1).transpose(2, 0, 1))


def test_prediction_leaves_the_training_mode_as_it_was(model: Segmenter) -> None:
    model.network.train()
    model.predict(np.zeros((8, 8, 3), np.uint8))
    assert model.network.training
    assert all(module.training for module in model.network.modules())
    model.network.eval()


def test_preprocessing_orders_and_scales() -> None:
    pixels = np.array([[[10, 20, 30]]], np.uint8)
    assert Preprocess((1, 2, 3), (1, 2, 3), "RGB")(pixels).ravel().tolist() == pytest.approx([9, 9, 9])
    assert Preprocess((3, 2, 1), (1, 1, 1), "BGR")(pixels).ravel().tolist() == pytest.approx([27, 18, 9])
    assert Preprocess((3, 2, 1), (1, 1, 1), "BGR").fill == (1, 2, 3)


@pytest.mark.parametrize("name", ["nyud-fcn32s-color-d", "nyud-fcn32s-color-hha"])
def test_networks_that_see_more_than_colour_take_arrays_of_their_channels(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.HIDDEN", 16)
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.VGG16.channels", (256, 512, 16))
    network = build(name)
    for parameter in network.heads.parameters():
        nn.init.normal_(parameter)
    save(network, tmp_path, preprocess=preprocess_of(name))
    model = load(tmp_path)
    channels = network.in_channels
    image = RNG.uniform(0, 255, (20, 30, channels)).astype(np.float32)
    prediction = model.predict(image)
    assert prediction.labels.shape == (20, 30)
    assert prediction.overlay().size == (30, 20)
    planes = np.concatenate([image[..., 2::-1], image[..., 3:]], axis=2) - np.array(REFERENCES[name].mean, np.float32)
    with torch.inference_mode():
        scores = network.eval()(torch.from_numpy(planes.transpose(2, 0, 1).copy())[None])
    np.testing.assert_array_equal(prediction.labels, scores[0].argmax(0).numpy())
    with pytest.raises(ValueError, match=f"H x W x {channels} array"):
        model.predict(image[..., :3])
    image[0, 0, -1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        model.predict(image)


def test_tiles_of_a_network_that_sees_everything_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    network = from_classifier("timm:mobilenetv3_small_050", 3, 32)
    segmenter = Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess())
    segmenter.predict(np.zeros((40, 50, 3), np.uint8))
    monkeypatch.setattr("fullyconv.predict.image.WHOLE_PIXELS", 1)
    with pytest.warns(UserWarning, match=r"se: sees the whole picture at every position \(\d+ such operations\)"):
        segmenter.predict(np.zeros((40, 50, 3), np.uint8))
