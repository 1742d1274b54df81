from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv.geometry import AxisMap
from fullyconv.networks import build
from fullyconv.predict.heatmap import HeatMap, classifier_heat_map, model_heat_map
from fullyconv.predict.image import Segmenter
from fullyconv.surgery.convolutionize import convolutionize
from fullyconv.types import ClassSet, Levels, Preprocess

PLAIN = Preprocess((0.0,) * 3, (255.0,) * 3)


def brightness(*, pooled: bool) -> nn.Module:
    """Two classes, dark and bright; one window of 8 x 8 pixels, or the mean over units of 8 x 8."""
    conv = nn.Conv2d(3, 2, 8, 4)
    nn.init.constant_(conv.weight[0], -0.1)
    nn.init.constant_(conv.weight[1], 0.1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    score = nn.Linear(2, 2, bias=False)
    nn.init.eye_(score.weight)
    pooling = [nn.AdaptiveAvgPool2d(1)] if pooled else []
    return nn.Sequential(conv, *pooling, nn.Flatten(), score)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("spot", [(12, 20), (4, 32), (24, 4)])
def test_a_spot_is_brightest_where_it_is(*, pooled: bool, spot: tuple[int, int]) -> None:
    with torch.no_grad():
        dense = convolutionize(brightness(pooled=pooled), (3, 16, 16) if pooled else (3, 8, 8))
    image = np.zeros((37, 45, 3), np.uint8)
    image[spot[0] : spot[0] + 8, spot[1] : spot[1] + 8] = 255
    found = classifier_heat_map(dense, image, PLAIN)
    heat = found.of(1)
    assert heat.shape == (37, 45)
    rows, columns = (heat >= heat.max() - 1e-9).nonzero()
    # The eight pixels from 12 on have their centre at 15.5, between two pixels.
    assert abs(rows.mean() - (spot[0] + 3.5)) <= 0.5
    assert abs(columns.mean() - (spot[1] + 3.5)) <= 0.5
    assert found.strongest(1)[0][0] == 1


def test_scores_average_to_the_classifiers() -> None:
    network = brightness(pooled=True)
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    found = classifier_heat_map(convolutionize(network, (3, 16, 16)), image, PLAIN, scores=True)
    expected = network(torch.from_numpy(PLAIN(image))[None])[0]
    torch.testing.assert_close(found.values.mean((1, 2)), expected)


def test_a_picture_smaller_than_the_window_is_looked_at_in_its_middle() -> None:
    dense = convolutionize(brightness(pooled=False), (3, 8, 8))
    found = classifier_heat_map(dense, np.zeros((4, 6, 3), np.uint8), PLAIN)
    assert (found.rows.shift, found.columns.shift) == (1.5, 2.5)
    assert found.of(0).shape == (4, 6)


def test_a_model_gives_its_probabilities_at_every_pixel() -> None:
    segmenter = Segmenter(
        build("fcn8s-resnet18", classes=3), classes=ClassSet(("a", "b", "c")), preprocess=Preprocess()
    )
    found = model_heat_map(segmenter, np.zeros((20, 30, 3), np.uint8))
    np.testing.assert_allclose(found.of(2), 1 / 3, atol=1e-3)


def test_a_models_picture_is_read_by_its_range_of_numbers(tmp_path: Path) -> None:
    levels = Levels(((100, 300),))
    segmenter = Segmenter(
        build("fcn8s-resnet18", classes=3), classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(levels=levels)
    )
    numbers = np.random.default_rng(0).integers(0, 400, (20, 30), np.uint16)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    assert np.array_equal(
        model_heat_map(segmenter, tmp_path / "a.png").image[..., 0], levels(numbers[..., None])[..., 0]
    )


def test_the_picture_has_its_bar_below_it() -> None:
    image = np.full((50, 60, 3), 200, np.uint8)
    found = HeatMap(image, torch.rand(1, 50, 60), AxisMap(), AxisMap(), "score")
    picture = found.picture(0, "thing")
    assert picture.height > 50
    assert picture.width >= 60


def test_grey_classifiers_are_refused() -> None:
    with pytest.raises(ValueError, match="takes pictures of 1 channels"):
        classifier_heat_map(convolutionize(build("lenet"), (1, 28, 28)), np.zeros((30, 30, 3), np.uint8), PLAIN)
