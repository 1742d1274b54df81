"""OpenVINO's engine: PyTorch's scores at every size, from many threads, in bounded memory, or a refusal by name."""

import dataclasses
import resource
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullyconv import ClassSet, Preprocess, Segmenter, build
from fullyconv.machine import Arithmetic, frozen
from fullyconv.networks.fcn import FCN
from fullyconv.predict.engines import Choice, PyTorchEngine, make_engine
from fullyconv.surgery.trunk import Trunk
from fullyconv.upsample import bilinear_taps

if find_spec("openvino") is None:  # imported directly it would report its use over the network
    pytest.skip("the extra openvino is not installed", allow_module_level=True)
from fullyconv.predict import openvino_engine
from fullyconv.predict.openvino_engine import FIXED, REPEATED, Growing, OpenVINOEngine, Refused, prepared_or
from fullyconv.predict.openvino_graph import interpolate, make_graph
from fullyconv.predict.rounding import round_to_sums

CPU = torch.device("cpu")
SMALL = ("fcn4s-lenet", "fcn4s-spectral4", "fcn8s-spectral8", "fcn2s-spectral2")


def _network(name: str, **choices: object) -> FCN:
    torch.manual_seed(0)
    network = build(name, 4, **choices)  # type: ignore[call-overload]
    for heads in network.score_layers.values():
        for head in heads:
            nn.init.normal_(head.weight, std=0.1)
    return frozen(network)


def _preprocess(network: FCN) -> Preprocess | None:
    channels = network.in_channels
    if channels < 3:
        return None
    return Preprocess(
        (100.0, 110.0, 120.0, *(128.0,) * (channels - 3)), (50.0, 55.0, 60.0, *(64.0,) * (channels - 3)), "BGR"
    )


@cache
def _engines(name: str) -> tuple[OpenVINOEngine, PyTorchEngine]:
    network = _network(name)
    preprocess = _preprocess(network)
    return OpenVINOEngine(network, preprocess), PyTorchEngine(network, preprocess)


def _pixels(engine: OpenVINOEngine, number: int, size: tuple[int, int]) -> np.ndarray:
    shape = (number, *size, engine.network.in_channels)
    pixels = np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 256, shape, np.uint8)
    return pixels if engine.network.in_channels == 3 else pixels.astype(np.float32) / 100


def _assert_equal(engine: OpenVINOEngine, pixels: np.ndarray, other: PyTorchEngine) -> None:
    for found, wanted in zip(engine.score_maps(pixels), other.score_maps(pixels), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()) + 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SMALL), st.integers(1, 3), st.integers(0, 90), st.integers(0, 130))
def test_equals_pytorch_at_every_size(name: str, number: int, more_rows: int, more_columns: int) -> None:
    engine, other = _engines(name)
    least = engine.network.smallest_input
    _assert_equal(engine, _pixels(engine, number, (least[0] + more_rows, least[1] + more_columns)), other)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (16, 17), (47, 31), (64, 64), (61, 121)])
def test_equals_pytorch_with_a_residual_trunk(size: tuple[int, int]) -> None:
    engine, other = _engines("fcn8s-resnet18")
    _assert_equal(engine, _pixels(engine, 2, size), other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fcn8s-vgg16",
        "fcn8s-vgg16-same",
        "fcn32s-googlenet",
        "fcn32s-caffenet",
        "nyud-fcn16s-color-hha",
        "siftflow-fcn8s",
    ],
)
def test_equals_pytorch_with_the_papers_networks(name: str) -> None:
    engine, other = _engines(name)
    least = engine.network.smallest_input
    for size in (least, (33, 50), (101, 67), (160, 131)):
        _assert_equal(engine, _pixels(engine, 1, size), other)
    _engines.cache_clear()


@pytest.mark.slow
def test_labels_of_large_pictures_are_pytorchs() -> None:
    network = _network("fcn8s-resnet18")
    classes = ClassSet(("a", "b", "c", "d"))
    one, other = (
        Segmenter(network, classes=classes, preprocess=Preprocess(), device="cpu", engine=engine)
        for engine in ("openvino", "pytorch")
    )
    for size in ((700, 500), (499, 701), (333, 7)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        differ = one.predict(pixels).labels != other.predict(pixels).labels
        assert differ.mean() < 1e-4  # scores equal but for the last bits


def test_threads_get_their_own_maps() -> None:
    engine, other = _engines("fcn4s-lenet")
    given_ = [_pixels(engine, 1, (40 + index, 50)) for index in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(engine.score_maps, given_))
    for pixels, maps in zip(given_, found, strict=True):
        torch.testing.assert_close(maps, other.score_maps(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: memory cannot be read")
def test_sizes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "KEPT", 60)  # about three sizes of this network
    network = _network("fcn8s-spectral8")
    engine = OpenVINOEngine(network, _preprocess(network))

    def look(first: int) -> int:
        for side in range(50):
            engine.score_maps(_pixels(engine, 1, (40 + side, 40 + first + 2 * side)))
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = look(1)
    assert look(4) - before < 20 << 20  # of 50 new sizes, which would take 40 MB
    assert len(engine._free._idle) == 1


@pytest.mark.parametrize(
    ("name", "order", "precision"),
    [
        ("fcn4s-lenet", "RGB", "float32"),
        ("fcn8s-spectral8", "BGR", "float32"),
        ("fcn2s-spectral2", "RGB", "bfloat16"),
        ("fcn8s-resnet18", "BGR", "float32"),
        ("fcn8s-resnet18", "RGB", "bfloat16"),
    ],
)
def test_sizes_that_come_again_get_a_form_of_their_own_with_the_same_scores(
    name: str, order: str, precision: Arithmetic
) -> None:
    network = _network(name)
    normalised = _preprocess(network)
    preprocess = None if normalised is None else dataclasses.replace(normalised, order=order)
    engine, other = OpenVINOEngine(network, preprocess, precision), PyTorchEngine(network, preprocess)
    sizes = [(1, 70 + 3 * index, 81) for index in range(FIXED + 1)] + [(2, 70, 81)]
    for number, *size in sizes:
        pixels = _pixels(engine, number, (size[0], size[1]))
        wanted = other.score_maps(pixels)
        for time in range(REPEATED + 1):
            form = engine._form(pixels) if time == REPEATED else None
            for found, exact in zip(engine.score_maps(pixels), wanted, strict=True):
                most = float(exact.abs().max())
                assert float((found - exact).abs().max()) <= (1e-4 if precision == "float32" else 0.2) * most
        assert (form is not engine._free) == ((number, *size) in sizes[:FIXED])
    assert engine._graph is None
    assert len(engine._fixed) == FIXED


def test_networks_that_need_multiples_get_their_zeros_at_every_size() -> None:
    torch.manual_seed(0)
    network = build("fpn8s-resnet18", 4)
    nn.init.normal_(network.heads[0].weight, std=0.1)  # type: ignore[arg-type]
    network = frozen(network)
    engine, other = OpenVINOEngine(network, Preprocess(order="BGR")), PyTorchEngine(network, Preprocess(order="BGR"))
    for number, *size in ((1, 64, 96), (1, 65, 95), (2, 90, 64), (1, 127, 129)):
        for _ in range(REPEATED + 1 if number == 2 else 1):
            _assert_equal(engine, _pixels(engine, number, (size[0], size[1])), other)
    assert [form is not engine._free for form in engine._fixed.values()] == [True]


def test_sizes_that_do_not_come_again_and_heavy_networks_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OpenVINOEngine(_network("fcn4s-lenet"), None)
    for side in range(40, 52):
        engine.score_maps(_pixels(engine, 1, (side, 50)))
    assert not engine._fixed
    monkeypatch.setattr(openvino_engine, "LIGHT", 10)
    heavy = OpenVINOEngine(_network("fcn4s-lenet"), None)
    for _ in range(REPEATED + 1):
        heavy.score_maps(_pixels(heavy, 1, (40, 50)))
    assert not heavy._fixed


def test_a_form_that_computes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, other = _engines("fcn4s-lenet")
    engine = OpenVINOEngine(engine.network, engine.preprocess)
    right = openvino_engine.fixed_graph
    another = _network("fcn4s-lenet")
    with torch.no_grad():
        for head in another.heads:
            head.weight.neg_()  # type: ignore[operator]
    wrong = make_graph(another, engine.preprocess)
    monkeypatch.setattr(openvino_engine, "fixed_graph", lambda _, preprocess, shape: right(wrong, preprocess, shape))
    pixels = _pixels(engine, 1, (50, 61))
    for _ in range(REPEATED + 1):
        torch.testing.assert_close(engine.score_maps(pixels), other.score_maps(pixels), rtol=1e-4, atol=1e-5)
    assert list(engine._fixed.values()) == [engine._free]


def test_bfloat16_is_near() -> None:
    network = _network("fcn8s-resnet18")
    short, exact = OpenVINOEngine(network, Preprocess(), "bfloat16"), PyTorchEngine(network, Preprocess())
    pixels = _pixels(short, 1, (97, 131))
    for found, wanted in zip(short.score_maps(pixels), exact.score_maps(pixels), strict=True):
        assert float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


@pytest.mark.parametrize("cut", [(0, 0, 0, 0), (-1, -2, -1, -1)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 4), (5, 3), (8, 4), (7, 7)])
def test_bilinear_upsampling_becomes_interpolation(kernel: tuple[int, int], cut: tuple[int, ...]) -> None:
    class Wider(Trunk):
        channels = (4,)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            taps = torch.outer(*(bilinear_taps(size) for size in kernel)).float()
            self.register_buffer("taps", taps.repeat(4, 1, 1, 1))

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
            factors = [(size + 1) // 2 for size in kernel]
            wide = nn.functional.conv_transpose2d(self.conv(image), self.taps, stride=factors, groups=4)
            return (nn.functional.pad(wide, cut),)

    torch.manual_seed(0)
    wider = Wider().eval()
    image = torch.randn(1, 3, 9, 12)
    import openvino

    graph = openvino.convert_model(wider, example_input=image)
    graph.reshape([1, 3, -1, -1])
    interpolate(graph)
    assert not any("Backprop" in node.get_type_name() for node in graph.get_ordered_ops())
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(graph, "CPU", exact)
    for size in ((9, 12), (1, 1), (5, 30)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = wider(image)[0].numpy()
        np.testing.assert_allclose(compiled(image.numpy())[0], expected, atol=1e-5)


def test_other_transposed_convolutions_stay() -> None:
    import openvino

    for layer in (
        nn.ConvTranspose2d(4, 4, 4, 2, groups=4, bias=False),
        nn.ConvTranspose2d(4, 4, 4, 4, groups=4, bias=False),
        nn.ConvTranspose2d(4, 4, 6, 3, groups=4, bias=False),
        nn.ConvTranspose2d(4, 4, 4, 2, output_padding=1, groups=4, bias=False),
    ):
        nn.init.constant_(layer.weight, 0.25)
        if layer.output_padding != (0, 0) or layer.kernel_size == (6, 6):
            taps = bilinear_taps(layer.kernel_size[0]).float()
            layer.weight.data[:] = torch.outer(taps, taps)
        graph = openvino.convert_model(layer.eval(), example_input=torch.randn(1, 4, 5, 5))
        interpolate(graph)
        assert any("Backprop" in node.get_type_name() for node in graph.get_ordered_ops())


def test_rounded_filters_keep_their_sums() -> None:
    filters = np.random.default_rng(0).normal(size=(8, 3, 7, 7)).astype(np.float32)
    filters -= filters.mean((2, 3), keepdims=True)
    rounded = round_to_sums(filters)
    assert np.array_equal(torch.from_numpy(rounded).bfloat16().float().numpy(), rounded)
    assert np.abs(rounded - filters).max() < 0.02
    plain = torch.from_numpy(filters).bfloat16().float().numpy()
    assert np.abs(rounded.sum((2, 3))).max() < 0.05 * np.abs(plain.sum((2, 3))).max()


class _Rare(Trunk):
    """A trunk with an operation that OpenVINO has not, and PyTorch has."""

    channels = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.digamma(self.conv(image)),)


def test_what_cannot_be_converted_is_refused_by_name_and_computed_by_pytorch() -> None:
    network = frozen(FCN(_Rare(), classes=2, skips=0))
    with pytest.raises(Refused, match="OpenVINO cannot convert this network"):
        OpenVINOEngine(network, Preprocess())
    with pytest.warns(UserWarning, match="engine 'openvino' is not used, PyTorch computes instead"):
        engine = make_engine(network, Preprocess(), Choice(engine="openvino"))
    assert engine.name == "pytorch"


def test_what_computes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network("fcn4s-lenet")
    right = openvino_engine.make_graph

    def wrong(network: FCN, preprocess: Preprocess | None) -> object:
        with torch.no_grad():
            changed = frozen(build("fcn4s-lenet", 4))
            changed.load_state_dict(network.state_dict())
            changed.heads[0].bias += 1  # type: ignore[operator]
        return right(changed, preprocess)

    monkeypatch.setattr(openvino_engine, "make_graph", wrong)
    with pytest.raises(Refused, match="differ from PyTorch's by 1 of"):
        OpenVINOEngine(network, None)


def test_float64_is_refused() -> None:
    with pytest.raises(Refused, match="float32 weights, not torch"):
        OpenVINOEngine(_network("fcn4s-lenet").double(), None)


def test_auto_begins_with_pytorch_and_prepares_once_it_pays() -> None:
    engine, other = _engines("fcn4s-lenet")
    made = []

    def prepare() -> OpenVINOEngine:
        made.append(1)
        return engine

    pixels = _pixels(engine, 1, (50, 40))
    work = 50 * 40 * sum(each.numel() for each in engine.network.parameters())
    growing = Growing(engine.network, lambda: other, prepare, worth=2.5 * work)
    names = []
    for _ in range(5):
        growing.score_maps(pixels)
        names.append(growing.name)
    assert names == ["pytorch", "pytorch", "openvino", "openvino", "openvino"]
    assert len(made) == 1


def test_pytorch_is_not_prepared_where_openvino_computes() -> None:
    engine, _ = _engines("fcn4s-lenet")

    def other() -> PyTorchEngine:
        raise AssertionError("PyTorch was prepared in vain")

    pixels = _pixels(engine, 1, (50, 40))
    growing = Growing(engine.network, other, lambda: engine, worth=1)
    assert len(growing.score_maps(pixels)) == len(engine.network.plans[0].stages)
    assert growing.name == "openvino"
    assert prepared_or(other, lambda: engine) is engine


def test_a_segmenter_follows_its_weights() -> None:
    network = _network("fcn8s-resnet18")
    segmenter = Segmenter(
        network, classes=ClassSet(("a", "b", "c", "d")), preprocess=Preprocess(), device="cpu", engine="openvino"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)
    before = segmenter.predict(pixels).labels
    assert segmenter.prepared().engine.name == "openvino"
    with torch.no_grad():
        for head in network.heads:
            head.weight.neg_()  # type: ignore[operator]
    after = segmenter.predict(pixels).labels
    assert (before != after).mean() > 0.5
