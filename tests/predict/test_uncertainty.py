"""How certain a model is: dropout that stays on, views that disagree, a temperature that leaves labels alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fullyconv import ClassSet, Segmenter, build, load, save
from fullyconv.checkpoint import store_temperature
from fullyconv.cli import app
from fullyconv.networks.fcn import FCN
from fullyconv.predict.uncertainty import SAMPLES, Doubter, entropy
from fullyconv.predict.views import Views, ViewsSegmenter
from fullyconv.scores.calibration import temper
from fullyconv.types import Preprocess

CLASSES = ClassSet(("a", "b", "c"))


def model(*, dropout: bool = False) -> Segmenter:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", 3)
    for head in network.heads:
        nn.init.normal_(head.weight, std=0.3)
    if dropout:
        network.trunk.pool = nn.Sequential(network.trunk.pool, nn.Dropout2d(0.5))
    return Segmenter(network, classes=CLASSES, preprocess=Preprocess(), device="cpu")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


def test_dropout_samples_are_those_of_the_network_in_training(pixels: np.ndarray) -> None:
    segmenter = model(dropout=True)
    doubter = Doubter(segmenter)
    found = doubter.doubt(pixels)
    looks = []
    network = segmenter.network.eval()
    dropout = network.trunk.pool[1].train()
    for sample in range(SAMPLES):
        torch.manual_seed(sample)
        with torch.no_grad():
            scores = network(torch.from_numpy(segmenter.preprocess(pixels))[None])[0]
        looks.append(scores.softmax(0).numpy())
    dropout.eval()
    assert doubter.how == "8 dropout samples"
    np.testing.assert_allclose(found.entropy, entropy(np.mean(looks, 0)), atol=2e-3)
    apart = entropy(np.mean(looks, 0)) - np.mean([entropy(look) for look in looks], 0)
    np.testing.assert_allclose(found.spread, apart, atol=2e-3)
    assert found.spread.max() > 0.01
    again = doubter.doubt(pixels)
    np.testing.assert_array_equal(again.spread, found.spread)
    assert isinstance(segmenter.network, FCN)
    assert isinstance(segmenter.network.trunk.pool[1], nn.Dropout2d)  # the model itself is as it was


def test_without_dropout_views_disagree(pixels: np.ndarray) -> None:
    segmenter = model()
    doubter = Doubter(segmenter)
    prediction = doubter.predict(pixels)
    assert doubter.how.startswith("6 views")
    np.testing.assert_array_equal(prediction.labels, segmenter.predict(pixels).labels)
    assert prediction.uncertainty is not None
    looks = list(ViewsSegmenter(segmenter, Views(flip=True, scales=(0.75, 1.0, 1.25))).each(pixels))
    np.testing.assert_allclose(prediction.uncertainty.entropy, entropy(np.mean(looks, 0)), atol=1e-5)
    assert prediction.uncertainty.spread.max() > 0


def test_a_stored_temperature_moves_probabilities_and_no_label(pixels: np.ndarray, tmp_path: Path) -> None:
    plain = model()
    save(plain.network, tmp_path / "model", classes=CLASSES, preprocess=plain.preprocess)
    before = load(tmp_path / "model", device="cpu").predict(pixels, probabilities=True)
    store_temperature(tmp_path / "model", 3.0)
    warm = load(tmp_path / "model", device="cpu")
    assert isinstance(warm, Segmenter)
    for segmenter in (warm, ViewsSegmenter(warm, Views(flip=True))):
        raw = segmenter.log_probabilities(pixels)
        found = segmenter.predict(pixels, probabilities=True)
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities, temper(raw, 3.0), atol=2e-3)
        np.testing.assert_array_equal(found.labels, raw.argmax(0))
    np.testing.assert_array_equal(warm.predict(pixels).labels, before.labels)


def test_predict_writes_both_maps_in_the_pictures_size(pixels: np.ndarray, tmp_path: Path) -> None:
    plain = model()
    save(plain.network, tmp_path / "model", classes=CLASSES, preprocess=plain.preprocess)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--uncertainty", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    expected = Doubter(load(tmp_path / "model", device="cpu")).doubt(pixels)  # type: ignore[arg-type]
    for name in ("entropy", "spread"):
        levels = np.asarray(Image.open(tmp_path / "out" / f"photo_{name}.png"))
        np.testing.assert_allclose(levels / 255, getattr(expected, name), atol=4e-3)
