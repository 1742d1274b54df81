"""Whatever stands for a picture gives the same labels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv import ClassSet, Predictor, Preprocess, Segmenter, build
from fullyconv.data.images import read_image
from fullyconv.files import BadFile
from fullyconv.types import Levels
from webserver import serving

PIXELS = np.random.default_rng(5).integers(0, 256, (21, 30, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(1)
    classes = ClassSet(("a", "b", "c"))
    return Segmenter(
        build("fcn8s-resnet18", 3), classes=classes, preprocess=Preprocess(), device="cpu", engine="pytorch"
    )


def png(pixels: np.ndarray = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_every_form_of_a_picture_gives_the_same_labels(model: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(png())
    channels_first = torch.from_numpy(PIXELS).permute(2, 0, 1)
    expected = model.predict(PIXELS).labels
    forms = [
        path, str(path), path.as_uri(), Image.fromarray(PIXELS), png(), bytearray(png()), io.BytesIO(png()),
        channels_first, torch.from_numpy(PIXELS), PIXELS.astype(np.uint16) * 257, np.dstack([PIXELS, PIXELS[..., :1]]),
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(model.predict(form).labels, expected)
    with path.open("rb") as file, serving(png()) as server:
        np.testing.assert_array_equal(model.predict(file).labels, expected)
        np.testing.assert_array_equal(model.predict(server.url).labels, expected)
    shares = PIXELS.astype(np.float32) / 255
    np.testing.assert_array_equal(model.predict(shares, span=(0, 1)).labels, expected)
    np.testing.assert_array_equal(model.predict(channels_first.float() - 100, span=(-100, 155)).labels, expected)
    np.testing.assert_array_equal(model.predict(PIXELS[..., ::-1], order="bgr").labels, expected)
    np.testing.assert_array_equal(model.predict(channels_first.flip(0), order="bgr").labels, expected)
    assert np.array_equal(model.predict(shares, span=(0, 1)).image, PIXELS)
    for form in (path, channels_first, png()):
        np.testing.assert_array_equal(Predictor(model, device="cpu")(form), expected)


def test_several_pictures_give_a_list(model: Segmenter) -> None:
    batch = np.stack([PIXELS, PIXELS[::-1]])
    expected = [model.predict(each).labels for each in batch]
    forms = (
        batch,
        torch.from_numpy(batch).permute(0, 3, 1, 2),
        list(batch),
        tuple(batch),
        iter(batch),
        (x for x in batch),
    )
    for form in forms:
        found = model.predict(form)
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.labels, other)
    assert model.predict([]) == []
    with pytest.raises(ValueError, match="the images of the batch one by one"):
        model.predict([batch])
    mixed = model.predict([PIXELS[:9], png()])
    assert [each.labels.shape for each in mixed] == [(9, 30), (21, 30)]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (PIXELS.astype(float), r"float64 numbers can be of any range: .* span=\(0, 1\)"),
        (torch.zeros(3, 5, 5), "float32 numbers can be of any range"),
        (b"no picture", "<10 bytes>: unreadable"),
        (io.StringIO("text"), "open as text"),
        (3, "not a int"),
        (None, "not a NoneType"),
        ("http://127.0.0.1:9/none.png", "none.png: cannot be fetched"),
        ("nosuch://bucket/none.png", "none.png: cannot be fetched|needs a package"),
        (np.zeros((0, 4, 3), np.uint8), "an image array"),
        (np.zeros((4, 4, 3), np.complex64), "an image array"),
        (np.full((4, 4, 3), np.nan), "of any range"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(model: Segmenter, form: object, said: str) -> None:
    with pytest.raises((ValueError, BadFile), match=said) as refused:
        model.predict(form)  # type: ignore[call-overload]
    assert "\n" not in str(refused.value)


def test_wrong_order_and_span_are_refused(model: Segmenter) -> None:
    with pytest.raises(ValueError, match="order is rgb or bgr"):
        model.predict(PIXELS, order="gbr")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="a range goes from"):
        model.predict(PIXELS, span=(1, 1))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((4, 4, 3), np.nan), span=(0, 1))


def test_deep_arrays_are_read_by_the_range_of_the_model(model: Segmenter, tmp_path: Path) -> None:
    deep = Segmenter(
        model.network, classes=model.classes, preprocess=Preprocess(levels=Levels(((100, 1100),))), device="cpu"
    )
    numbers = np.random.default_rng(0).integers(0, 1200, (12, 14)).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    wanted = np.clip((numbers.astype(float) - 100) * 0.255, 0, 255).round().astype(np.uint8)
    for form in (numbers, numbers.astype(np.float32), torch.from_numpy(numbers.astype(np.int32)), tmp_path / "a.png"):
        np.testing.assert_array_equal(deep.predict(form).image[..., 1], wanted)
    assert not np.array_equal(read_image(tmp_path / "a.png")[..., 0], wanted)  # by its own white
