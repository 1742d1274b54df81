from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fullyconv.export import Inside, Source, export
from fullyconv.export.graph import Graph, record
from fullyconv.networks import build, from_classifier
from fullyconv.networks.fcn import FCN
from fullyconv.predict.image import Segmenter
from fullyconv.types import ClassSet, Preprocess

PREPROCESS = Preprocess(mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0), order="BGR")
NEW_SIZES = ((1, 2, 1), (1, 5, 9), (3, 18, 41))  # not among those that are checked when a file is written
DENSE = "fcn1s-spectral2"  # a small network of ours with a skip


def network(name: str = DENSE, classes: int = 3, channels: int | None = 3) -> FCN:
    torch.manual_seed(0)
    made = build(name, classes, channels=channels)
    for heads in made.score_layers.values():
        for head in heads:
            nn.init.normal_(head.weight)
    return made.eval()


def segmenter(made: FCN) -> Segmenter:
    classes = ClassSet(("road", "sky", "<b>&"), colours=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    return Segmenter(made, classes=classes, preprocess=PREPROCESS, device="cpu", engine="pytorch")


def images(made: FCN, sizes: tuple[tuple[int, int, int], ...] = NEW_SIZES) -> list[Tensor]:
    least = made.smallest_input
    return [torch.randn(n, made.in_channels, max(h, least[0]), max(w, least[1])) for n, h, w in sizes]


@pytest.mark.slow
def test_a_torch_file_computes_the_network(tmp_path: Path) -> None:
    model = segmenter(network())
    made = model.export(tmp_path, to="torch")
    assert made.path == tmp_path / "model.pt2"
    assert [each.apart for each in made.agreements] == [0.0] * 10
    files = {"metadata.json": ""}
    loaded = torch.export.load(made.path, extra_files=files).module()
    for image in images(model.network):
        with torch.no_grad():
            torch.testing.assert_close(loaded(image), model.network(image), rtol=1e-4, atol=1e-4)
    metadata = json.loads(files["metadata.json"])
    assert metadata["classes"] == ["road", "sky", "<b>&"]
    assert (metadata["mean"], metadata["std"], metadata["order"]) == ([100, 110, 120], [50, 60, 70], "BGR")


def test_an_onnx_file_is_one_file_that_takes_pixels_and_returns_labels(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = segmenter(network())
    made = model.export(tmp_path, with_preprocessing=True, labels=True)
    assert [path.name for path in sorted(tmp_path.iterdir()) if not path.name.startswith(".")] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(made.path))
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("image", ["N", 3, "H", "W"], "tensor(uint8)")
    assert (taken.name, taken.shape, taken.type) == ("labels", ["N", "H", "W"], "tensor(uint8)")
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["colours"]) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    for _, height, width in NEW_SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        (labels,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})
        assert np.array_equal(labels[0], model.predict(pixels).labels)


def test_what_does_not_compute_the_same_is_not_left(tmp_path: Path) -> None:
    class Other(FCN):
        def upsampled(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
            return super().upsampled(fused, size) * (2 if torch.compiler.is_exporting() else 1)

    made = network()
    made.__class__ = Other
    with pytest.raises(
        ValueError, match=r"does not say what the model says: of 1 x 1 x 1 pixels .* nothing was written"
    ):
        segmenter(made).export(tmp_path, to="torch")
    assert not [path for path in tmp_path.iterdir() if path.name != ".fullyconv.lock"]


def test_what_depends_on_numbers_cannot_be_recorded(tmp_path: Path) -> None:
    class Picky(FCN):
        def padded(self, image: Tensor) -> Tensor:
            return image if image.sum() > 0 else -image

    made = network()
    made.__class__ = Picky
    with pytest.raises(ValueError, match="cannot be recorded for every size"):
        segmenter(made).export(tmp_path, to="torch")


class Turning(nn.Module):
    """Normalises maps turned over, channels last, as ConvNeXt does."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.fc = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        found = self.mix(self.norm(self.down(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        scores: Tensor = self.fc(found.mean((2, 3)))
        return scores


def test_maps_that_are_turned_over_do_not_bind_the_size() -> None:
    """The recorder compares their sizes with 1: it once bound images to at least 33 pixels."""
    torch.manual_seed(0)
    made = from_classifier(Turning(), 3, stride=4, example=(3, 32, 32)).eval()
    recorded = record(Graph(made, Preprocess(), Inside(), 1.0)).module()
    for image in images(made, ((1, 1, 1), (2, 3, 40))):
        with torch.no_grad():
            torch.testing.assert_close(recorded(image), made(image))


def test_a_file_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_text("notes")
    with pytest.raises(ValueError, match="was not written by fullyconv"):
        segmenter(network()).export(tmp_path, to="torch")
    assert (tmp_path / "model.pt2").read_text() == "notes"


def test_labels_and_probabilities_are_two_files() -> None:
    with pytest.raises(ValueError, match="one output"):
        Inside(labels=True, probabilities=True)


def test_spectra_are_normalised_outside(tmp_path: Path) -> None:
    from fullyconv.types import SpectralPreprocess

    source = Source(network(), ClassSet(("a", "b", "c")), SpectralPreprocess(3, (0, 1, 2), (0, 0, 0), (1, 1, 1)))
    with pytest.raises(ValueError, match="normalises spectra"):
        export(source, tmp_path, to="torch", inside=Inside(preprocessing=True))


def test_a_trace_at_one_size_computes_others() -> None:
    made = network()
    with torch.no_grad():
        traced = torch.jit.trace(made, torch.randn(1, 3, 20, 23), check_trace=False)
        for image in images(made, ((1, 20, 23), (2, 31, 8))):
            torch.testing.assert_close(traced(image), made(image))


FAMILIES = (
    "fcn8s-resnet18",
    "fcn4s-lite0",
    "fpn8s-resnet18",
    "fcn32s-googlenet",
    "fcn32s-caffenet",
    "nyud-fcn32s-color-d",
)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_exact_at_every_size(name: str, to: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = network(name, 3, None)
    classes = ClassSet(("a", "b", "c"))
    channels = made.in_channels
    preprocess = Preprocess((1.0,) * max(3, channels), (2.0,) * max(3, channels))
    found = export(Source(made, classes, preprocess), tmp_path, to=to)
    assert max(each.apart for each in found.agreements) <= (0 if to == "torch" else 1e-5)


@pytest.mark.parametrize("name", ["fcn8s-vgg16-same", pytest.param("fcn32s-vgg16", marks=pytest.mark.slow)])
def test_vgg_as_openvinos_users_convert_it_is_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once went on for ever, which shows as a test that does not end."""
    ov = pytest.importorskip("openvino")
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.HIDDEN", 16)
    made, image = network(name, 3, None), torch.randn(1, 3, 96, 96)
    graph = ov.convert_model(made, example_input=image, input=[[1, 3, 96, 96]])
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = made(image).numpy()
    np.testing.assert_allclose(compiled(image.numpy())[0], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", [DENSE, "fcn8s-resnet18", "fcn4s-lite0"])
def test_openvino_too(name: str, tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    made = network(name, 3, 3 if name == DENSE else None)
    found = segmenter(made).export(tmp_path, to="openvino", labels=True)
    model = ov.Core().read_model(found.path)
    assert json.loads(model.get_rt_info(["fullyconv", "classes"]).astype(str)) == ["road", "sky", "<b>&"]
