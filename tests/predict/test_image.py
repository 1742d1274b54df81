from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv import ClassSet, Preprocess, Segmenter, build, from_classifier, load, save
from fullyconv.files import BadFile
from fullyconv.machine import evaluating
from fullyconv.networks.reference import REFERENCES, preprocess_of
from fullyconv.predict import arrays
from fullyconv.predict.inputs import pixels_of

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


@pytest.mark.parametrize(
    ("shape", "kind", "hints"),
    [
        ((3, 8, 9), "uint8", ["image.transpose(1, 2, 0)"]),
        ((8, 9, 3), "float32", ["span=(0, 1)"]),
        ((3, 8, 9), "float64", ["image.transpose(1, 2, 0)"]),
        ((8, 9, 5), "uint8", []),
        ((8, 9, 3), "int64", []),
        ((8, 9, 3), "complex64", []),
    ],
)
def test_arrays_of_another_layout_are_refused_with_the_way_out(
    model: Segmenter, shape: tuple[int, ...], kind: str, hints: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"an image array|of any range") as refused:
        model.predict(np.zeros(shape, kind))
    for hint in ("image.transpose(1, 2, 0)", "span=(0, 1)"):
        assert (hint in str(refused.value)) == (hint in hints)


def test_path_picture_and_array_agree(model: Segmenter, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = model.predict(pixels).labels
    for form in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels)):
        np.testing.assert_array_equal(model.predict(form).labels, expected)


def as_pixels(image: object) -> np.ndarray:
    return pixels_of(image, Preprocess(), 3)


def test_grey_and_alpha_are_understood() -> None:
    grey = RNG.integers(0, 256, (5, 6)).astype(np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(as_pixels(grey).values, expected)
    np.testing.assert_array_equal(as_pixels(grey[..., None]).values, expected)
    np.testing.assert_array_equal(as_pixels(np.dstack([expected, grey])).values, expected)
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        as_pixels(np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="say which are black and white"):
        as_pixels(np.zeros((4, 4, 3)))
    with pytest.raises(BadFile, match="no such file"):
        as_pixels("nowhere.png")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fcn8s-resnet18", (660, 40)),
        ("fcn32s-resnet18", (30, 900)),
        pytest.param("fcn8s-vgg16", (650, 20), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("in_bands", [True, False])
def test_parts_give_what_one_pass_gives(
    name: str, size: tuple[int, int], in_bands: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmenter(name)
    model.network.double()
    seen: list[tuple[int, ...]] = []

    def in_float64(_: Preprocess, image: np.ndarray) -> np.ndarray:
        seen.append(image.shape[:2])
        return np.ascontiguousarray((image / 128 - 1).transpose(2, 0, 1))

    monkeypatch.setattr(Preprocess, "__call__", in_float64)
    pixels = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    whole = model.predict(pixels, probabilities=True)
    assert seen == [size]
    monkeypatch.setattr(arrays, "WHOLE_PIXELS", 1)
    monkeypatch.setattr("fullyconv.predict.prepared.WORKING_BYTES", 1)
    monkeypatch.setattr("fullyconv.predict.bands.HEIGHTS", (1,))
    if not in_bands:
        monkeypatch.setattr(model.prepared().engine, "bands", lambda: None)
    tiled = model.predict(pixels, probabilities=True)
    assert len(seen) > 2
    assert size not in seen[1:]
    assert whole.probabilities is not None
    assert tiled.probabilities is not None
    np.testing.assert_array_equal(tiled.labels, whole.labels)
    np.testing.assert_array_equal(tiled.probabilities, whole.probabilities)  # float16 of what agrees to 1e-12


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


def test_large_images_of_a_network_that_sees_everything_are_refused_or_approximated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = from_classifier("timm:mobilenetv3_small_050", 3, 32)
    segmenter = Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess())
    image = RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    whole = segmenter.predict(image).labels
    monkeypatch.setattr("fullyconv.predict.arrays.WHOLE_PIXELS", 1)
    np.testing.assert_array_equal(segmenter.predict(image).labels, whole)  # it fits into memory
    segmenter.memory = 1
    with pytest.raises(ValueError, match=r"se: sees the whole picture .* \(\d+ such operations\), so an image"):
        segmenter.predict(image)
    segmenter.approximate = True
    assert segmenter.predict(image).labels.shape == (40, 50)


def test_predictions_do_not_rest_on_a_mode_that_others_change(model: Segmenter) -> None:
    pixels = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    expected = model.predict(pixels, probabilities=True).probabilities
    stop = Event()

    def disturb() -> None:
        while not stop.is_set():
            model.network.train()
            model.network.eval()

    with ThreadPoolExecutor(9) as pool:
        other = pool.submit(disturb)
        results = list(pool.map(lambda _: model.predict(pixels, probabilities=True).probabilities, range(24)))
        stop.set()
        other.result()
    for result in results:
        np.testing.assert_array_equal(result, expected)
    model.network.train()
    np.testing.assert_array_equal(model.predict(pixels, probabilities=True).probabilities, expected)
    model.network.eval()


def test_predictions_follow_the_network_whatever_becomes_of_it() -> None:
    model = segmenter()
    pixels = RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8)

    def agree() -> None:
        with evaluating(model.network):
            expected = model.network(torch.from_numpy(model.preprocess(pixels))[None])[0]
        torch.testing.assert_close(model.scores(pixels), expected, rtol=0, atol=1e-4)

    before = model.scores(pixels)
    agree()
    with torch.no_grad():
        model.network.heads[0].weight.mul_(2)
    agree()
    assert not torch.equal(model.scores(pixels), before)
    model.network.load_state_dict({name: value.clone() for name, value in segmenter().network.state_dict().items()})
    agree()
    model.network.load_state_dict(build("fcn8s-resnet18", 3).state_dict(), assign=True)
    agree()
    model.network.trunk.stem[0] = nn.Conv2d(3, 64, 7, 2, padding=3)
    agree()
    model.network.heads[0].bias = nn.Parameter(torch.ones(3))
    agree()


def test_a_network_is_prepared_anew_only_when_it_has_changed(model: Segmenter) -> None:
    model.predict(np.zeros((8, 8, 3), np.uint8))
    prepared = model.prepared()
    model.network.train()
    model.predict(np.zeros((9, 70, 3), np.uint8))
    assert model.network.eval() is model.network
    assert model.prepared() is prepared
    with torch.no_grad():
        model.network.heads[0].weight.mul_(1)
    assert model.prepared() is not prepared
    prepared = model.prepared()
    model.network.heads[0].bias.data = model.network.heads[0].bias.data.clone()
    assert model.prepared() is not prepared


@pytest.mark.parametrize("name", ["timm:convnext_atto", "torchvision:mobilenet_v2"])
def test_networks_on_classifiers_from_elsewhere_are_frozen_too(name: str) -> None:
    torch.manual_seed(0)
    network = from_classifier(name, 2, 16)
    for head in network.heads:
        nn.init.normal_(head.weight)
    model = Segmenter(network.train(), classes=ClassSet(("a", "b")), preprocess=Preprocess())
    pixels = RNG.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    found = model.scores(pixels)
    with evaluating(network):
        expected = network(torch.from_numpy(model.preprocess(pixels))[None])[0]
    # Rounding of sums of a thousand products, whose size goes by the largest score.
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))
    assert network.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = segmenter()
    with torch.no_grad():
        model.network.heads[1].weight[0, 0, 0, 0] = value
    with pytest.raises(
        ValueError, match=r"scores are not finite \(NaN or infinity\): its heads\.1\.weight holds such numbers"
    ):
        model.predict(np.full((8, 8, 3), 99, np.uint8))
    with torch.no_grad():
        model.network.heads[1].weight.fill_(3e38)
    with pytest.raises(ValueError, match="its weights are finite, so its sums overflow"):
        model.predict(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_where_memory_runs_out_smaller_tiles_give_the_same(
    model: Segmenter, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pixels = RNG.integers(0, 256, (120, 700, 3)).astype(np.uint8)
    expected = model.predict(pixels, probabilities=True)
    engine, room = model.prepared().engine, 75_000

    def few(function: Callable[..., list[torch.Tensor]]) -> Callable[..., list[torch.Tensor]]:
        def compute(pixels: np.ndarray, *given: object) -> list[torch.Tensor]:
            if pixels.size > 3 * room:
                raise error
            return function(pixels, *given)

        return compute

    monkeypatch.setattr(engine, "score_maps", few(engine.score_maps))
    monkeypatch.setattr(engine.bands(), "maps", few(engine.bands().maps))
    found = model.predict(pixels, probabilities=True)
    np.testing.assert_array_equal(model.labels(np.stack([pixels, pixels]))[1], expected.labels)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-3)
    room = 0
    with pytest.raises(MemoryError, match="not enough memory for 120 x 700 pixels, even in parts"):
        model.predict(pixels)
    monkeypatch.setattr(engine, "score_maps", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        model.predict(pixels)
