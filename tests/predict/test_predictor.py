"""Pictures in whatever form they come, their labels out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv import ClassSet, Predictor, Preprocess, Segmenter, build, save
from fullyconv.crf import CRFParameters
from fullyconv.files import BadFile
from fullyconv.machine import arithmetic
from fullyconv.predict.refine import CRFSegmenter

RNG = np.random.default_rng(0)
CLASSES = ClassSet(("a", "b", "c"))
PREPROCESS = Preprocess(mean=(90, 100, 110), std=(40, 50, 60), order="BGR")


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", 3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    return Segmenter(network, classes=CLASSES, preprocess=PREPROCESS, device="cpu", engine="pytorch")


@pytest.fixture(scope="module")
def predictor(model: Segmenter) -> Predictor:
    return Predictor(model)


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [RNG.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def test_every_form_of_pictures_gets_the_segmenters_labels(
    model: Segmenter, predictor: Predictor, tmp_path: Path
) -> None:
    batch = np.stack(pictures((20, 30), (20, 30), (20, 30)))
    expected = np.stack([model.predict(each).labels for each in batch])
    Image.fromarray(batch[0]).save(tmp_path / "x.png")
    for one in (batch[0], torch.from_numpy(batch[0]), tmp_path / "x.png", Image.fromarray(batch[0])):
        labels = predictor(one)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected[0])
    for many in (batch, torch.from_numpy(batch), list(batch), tuple(map(torch.from_numpy, batch))):
        np.testing.assert_array_equal(np.stack(list(predictor(many))), expected)
    grey = np.repeat(batch[0][..., :1], 3, axis=2)
    np.testing.assert_array_equal(predictor(grey[..., 0]), predictor(grey))


def test_pictures_of_many_sizes_keep_their_order(model: Segmenter, predictor: Predictor) -> None:
    mixed = pictures((20, 30), (1, 1), (9, 70), (9, 70), (20, 30))
    found = predictor(mixed)
    assert isinstance(found, list)
    for labels, picture in zip(found, mixed, strict=True):
        np.testing.assert_array_equal(labels, model.predict(picture).labels)
    assert predictor([]) == []


def test_large_batches_go_in_parts(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = np.stack(pictures(*[(20, 30)] * 5))
    expected = predictor(batch)
    monkeypatch.setattr("fullyconv.predict.arrays.WHOLE_PIXELS", 1300)
    np.testing.assert_array_equal(predictor(batch), expected)


def test_many_threads_get_the_same(predictor: Predictor) -> None:
    mixed = pictures((40, 50), (33, 31), (64, 20))
    expected = predictor(mixed)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: predictor(mixed), range(12)):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_folder_a_segmenter_and_a_network_give_the_same(model: Segmenter, tmp_path: Path) -> None:
    picture = pictures((33, 47))[0]
    save(model.network, tmp_path / "ours", classes=CLASSES, preprocess=PREPROCESS)
    expected = model.predict(picture).labels
    np.testing.assert_array_equal(Predictor(tmp_path / "ours", device="cpu", engine="pytorch")(picture), expected)
    plain = Segmenter(model.network, classes=CLASSES, preprocess=Preprocess(), device="cpu", engine="pytorch")
    found = Predictor(model.network, device="cpu", engine="pytorch")
    np.testing.assert_array_equal(found(picture), plain.predict(picture).labels)
    assert found.classes.names == ("class_0", "class_1", "class_2")


def test_changed_weights_are_seen() -> None:
    network = build("fcn32s-resnet18", 3)
    predictor, picture = Predictor(network, device="cpu", engine="pytorch"), pictures((20, 30))[0]
    for index in (2, 0, 1):
        with torch.no_grad():
            network.heads[0].bias.copy_(torch.eye(3)[index])
        assert (predictor(picture) == index).all()
    with torch.no_grad():
        network.heads[0].bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"not finite \(NaN or infinity\): its heads\.0\.bias"):
        predictor(picture)


def test_what_is_no_picture_is_refused(model: Segmenter, predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image\.transpose"):
        predictor(np.zeros((2, 3, 8, 9), np.uint8))
    with pytest.raises(ValueError, match=r"span=\(0, 1\)"):
        predictor(torch.zeros(8, 9, 3))
    with pytest.raises(ValueError, match="a batch holds images"):
        predictor(np.zeros((0, 8, 9, 3), np.uint8))
    with pytest.raises(BadFile, match="no such folder"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="does not label pixels"):
        Predictor(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="use its predict"):
        Predictor(CRFSegmenter(model, CRFParameters()))


def test_short_names_of_arithmetics_mean_the_long_ones(model: Segmenter) -> None:
    assert [arithmetic(name) for name in ("fp32", "bf16", "float32")] == ["float32", "bfloat16", "float32"]
    assert Predictor(model, precision="bf16").segmenter.precision == "bfloat16"
    with pytest.raises(ValueError, match="auto, float32, bfloat16, int8, not 'half'"):
        Predictor(model, precision="half")
