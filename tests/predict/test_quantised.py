"""8-bit arithmetic: what NNCF found is kept as numbers, fits only its own weights, and is refused where damaged."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fullyconv import Predictor, build, load, save
from fullyconv.files import BadFile
from fullyconv.machine import frozen
from fullyconv.predict.engines import PyTorchEngine
from fullyconv.predict.trusted import store_changes, trusted_precision
from fullyconv.types import Preprocess

if find_spec("openvino") is None:  # imported directly it would report its use over the network
    pytest.skip("the extra openvino is not installed", allow_module_level=True)
from fullyconv.predict.openvino_engine import OpenVINOEngine
from fullyconv.predict.openvino_graph import make_graph
from fullyconv.predict.quantised import INT8, find_quantisation, quantised_graph, store_quantisation

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 64, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build("fcn1s-spectral2", 3, channels=3).eval()
    for head in network.heads:
        nn.init.normal_(head.weight, std=0.2)  # type: ignore[arg-type]
    folder = save(network, tmp_path_factory.mktemp("int8") / "model")
    images = list(np.random.default_rng(1).integers(0, 256, (4, 48, 64, 3), np.uint8))
    store_quantisation(folder, find_quantisation(frozen(network), Preprocess(), images))
    return folder


def test_scores_are_near_and_come_from_eight_bits(calibrated: Path) -> None:
    network = frozen(load(calibrated, device="cpu").network)
    engine = OpenVINOEngine(network, Preprocess(), "int8", folder=calibrated)
    operations = engine._free.compiled.get_runtime_model().get_ordered_ops()
    convolutions = [op.get_rt_info() for op in operations if op.get_rt_info()["layerType"].astype(str) == "Convolution"]
    assert any(info["runtimePrecision"].astype(str) in ("i8", "u8") for info in convolutions)
    for found, wanted in zip(
        engine.score_maps(PIXELS), PyTorchEngine(network, Preprocess()).score_maps(PIXELS), strict=True
    ):
        assert float((found - wanted).abs().mean()) < 0.05 * float(wanted.abs().max())
    assert Predictor(calibrated, "int8", device="cpu")(PIXELS).shape == (1, 64, 80)


def test_weights_are_whole_numbers_times_a_scale(calibrated: Path) -> None:
    network = frozen(load(calibrated, device="cpu").network)
    graph = make_graph(network, Preprocess())
    plain = {op.get_friendly_name(): op.input_value(1).get_node().data.copy() for op in _convolutions(graph)}
    graph = quantised_graph(calibrated, network, graph)
    quantised = [op for op in _convolutions(graph) if op.input_value(1).get_node().get_type_name() == "Multiply"]
    assert quantised
    for op in quantised:
        whole, scale = (each.get_node() for each in op.input_value(1).get_node().input_values())
        numbers = whole.input_value(0).get_node().data
        assert numbers.dtype == np.int8
        error = np.abs(numbers * scale.data - plain[op.get_friendly_name()])
        assert (error <= 0.501 * scale.data).all()


def _convolutions(graph: Any) -> list[Any]:
    return [op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution"]


def _copy(folder: Path, place: Path) -> Path:
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def test_other_weights_are_refused(calibrated: Path, tmp_path: Path) -> None:
    folder = _copy(calibrated, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("weight"))
    save_file(tensors | {name: tensors[name] + 0.01}, folder / "model.safetensors")
    with pytest.raises(BadFile, match="was made for other weights"):
        Predictor(folder, "int8", device="cpu")


def test_no_file_says_which_command_makes_it(tmp_path: Path) -> None:
    folder = save(build("fcn1s-spectral2", 2, channels=3), tmp_path / "model")
    with pytest.raises(BadFile, match="run fullyconv quantize MODEL DATA"):
        load(folder, device="cpu", precision="int8").prepared()
    with pytest.raises(ValueError, match="needs a model's folder"):
        Predictor(build("fcn1s-spectral2", 2, channels=3), "int8", device="cpu")


def test_further_heads_compute_as_usual_where_the_first_does_in_eight_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("fpn8s-resnet18", 3, tasks={"geometry": 2}).eval()
    folder = save(network, tmp_path / "model")
    images = list(np.random.default_rng(1).integers(0, 256, (2, 48, 64, 3), np.uint8))
    task = load(folder, device="cpu").network
    store_quantisation(folder, find_quantisation(frozen(task), Preprocess(), images))
    segmenter = load(folder, device="cpu", precision="int8")
    plain = load(folder, device="cpu").heads["geometry"].predict(images[0])
    assert segmenter.predict(images[0]).labels.shape == (48, 64)
    found = segmenter.heads["geometry"].predict(images[0])
    assert (found.labels == plain.labels).mean() > 0.99


def test_damaged_files_are_refused_in_a_sentence(calibrated: Path, tmp_path: Path) -> None:
    folder = _copy(calibrated, tmp_path / "model")
    whole, tensors = (folder / INT8).read_bytes(), load_file(calibrated / INT8)  # mapped: not the file to be cut
    (folder / INT8).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadFile, match="not readable as safetensors"):
        Predictor(folder, "int8", device="cpu")
    quantiser = next(name for name in tensors if name.startswith("quantiser") and name.count(".") == 1)
    for changed in (
        {quantiser: tensors[quantiser] + 100_000},
        {quantiser: -tensors[quantiser] - 1},
        {quantiser: tensors[quantiser][:2]},
        {quantiser: tensors[quantiser].flip(0)},
        {f"{quantiser}.low": torch.tensor(float("nan"))},
        {f"{quantiser}.high": torch.zeros(7, 9)},
        {f"{quantiser}.high": torch.zeros(1, dtype=torch.int64)},
        {"graph": tensors["graph"][:3]},
        {"bias.999": torch.tensor([0, 0])},
    ):
        save_file(tensors | changed, folder / INT8)
        with pytest.raises(BadFile, match="quantise it again") as refused:
            Predictor(folder, "int8", device="cpu")
        assert "\n" not in str(refused.value)


def test_auto_is_what_a_kept_measurement_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.predict.trusted.fast_bf16", lambda device: True)
    cpu = torch.device("cpu")
    folder = save(build("fcn1s-spectral2", 2, channels=3), tmp_path / "model")
    network = load(folder, device="cpu").network
    assert trusted_precision(folder, network, cpu) == "float32"
    store_changes(folder, network, {"bfloat16": 0.0011})
    assert trusted_precision(folder, network, cpu) == "float32"
    store_changes(folder, network, {"bfloat16": 0.0009})
    assert trusted_precision(folder, network, cpu) == "bfloat16"
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert trusted_precision(folder, network, cpu) == "float32"
