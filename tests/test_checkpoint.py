from __future__ import annotations

import errno
import json
import os
import pickle
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import SafetensorError

from fullyconv import ClassSet, Preprocess, build, load, save
from fullyconv.checkpoint import Config, load_network
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.tensors import expand, read_tensors, read_weights, shrink, write_tensors
from fullyconv.types import SpectralPreprocess

CLASSES = ClassSet(("ground", "tree"), colours=((1, 2, 3), (4, 5, 6)), values=(3, 9), ignore_index=0)
PREPROCESS = Preprocess(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), order="BGR")


@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
def test_a_model_reads_back_bit_for_bit(tmp_path: Path, upsampling: str) -> None:
    network = build("fcn16s-resnet18", 2, upsampling=upsampling).eval()
    for head in network.heads:
        torch.nn.init.normal_(head.weight)
    save(network, tmp_path / "model", classes=CLASSES, preprocess=PREPROCESS, notes={"score": 0.5})
    again, config = load_network(tmp_path / "model")
    assert (config.classes, config.preprocess, config.notes) == (CLASSES, PREPROCESS, {"score": 0.5})
    image = torch.randn(1, 3, 40, 50)
    with torch.inference_mode():
        assert torch.equal(again(image), network(image))
    files = sorted((tmp_path / "model").iterdir())
    assert [path.name for path in files] == ["config.json", "model.safetensors"]
    assert files[0].stat().st_mode == files[1].stat().st_mode


def test_compact_models_are_a_quarter_of_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", 2).eval()
    save(network, tmp_path / "full")
    save(network, tmp_path / "compact", compact=True)
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("full", "compact")]
    assert sizes[1] < 0.26 * sizes[0]
    small, _ = load_network(tmp_path / "compact")
    for (name, weight), (_, rounded) in zip(network.named_parameters(), small.named_parameters(), strict=True):
        step = weight.abs().max() / 127
        assert (weight - rounded).abs().max() <= 0.51 * step, name


def test_classes_and_normalisation_have_defaults(tmp_path: Path) -> None:
    save(build("fcn32s-resnet18", 3), tmp_path)
    assert load(tmp_path).classes.names == ("class_0", "class_1", "class_2")


def test_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores 3 classes, 2 are named"):
        save(build("fcn32s-resnet18", 3), tmp_path, classes=CLASSES)


def test_networks_not_built_by_name_cannot_be_saved(tmp_path: Path) -> None:
    network = build("fcn32s-resnet18", 3)
    del network.architecture
    with pytest.raises(ValueError, match=r"how this FCN was built is not known"):
        save(network, tmp_path)


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_in_the_place_of_weights_is_refused(tmp_path: Path) -> None:
    save(build("fcn32s-resnet18", 2), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(BadFile, match="not readable as safetensors"):
        load(tmp_path)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is not a model"):
        load(tmp_path)
    save(build("fcn32s-resnet18", 2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def rewrite(**changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))

    rewrite(architecture={"name": "fcn16s-resnet18", "classes": 2})
    with pytest.raises(BadFile, match="does not hold a fcn16s-resnet18"):
        load(tmp_path)
    rewrite(format=2)
    with pytest.raises(BadFile, match="format 2"):
        load(tmp_path)
    rewrite(surprise=1)
    with pytest.raises(BadFile, match="surprise"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadFile, match=r"config\.json"):
        load(tmp_path)
    rewrite()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadFile, match="not readable"):
        load(tmp_path)


@pytest.mark.parametrize("components", [(), ((0.1, -1 / 3),)])
def test_spectral_normalisation_comes_back_exactly(components: tuple[tuple[float, ...], ...]) -> None:
    fitted = SpectralPreprocess(4, (1, 3), (0.1, 1 / 3), (2 / 3, 7.0), components)
    network = build("fcn32s-resnet18", 2)
    config = Config(architecture=network.architecture, classes=ClassSet(("a", "b")), preprocess=fitted)
    assert Config.model_validate_json(json.dumps(config.model_dump())).preprocess == fitted
    usual = config.model_copy(update={"preprocess": Preprocess()})
    assert Config.model_validate_json(json.dumps(usual.model_dump())).preprocess == Preprocess()
    damaged = config.model_dump() | {"preprocess": {**asdict(fitted), "bands": (1, 4)}}
    with pytest.raises(ValidationError, match="bands 1 to 4 of a scene of 4"):
        Config.model_validate_json(json.dumps(damaged))


names = st.lists(
    st.lists(st.sampled_from(["a", "scale", "weight", "b0"]), min_size=1, max_size=3).map(".".join),
    unique=True,
    max_size=6,
)


@given(names, st.integers(0, 3))
def test_8_bits_keep_every_tensor_by_its_name_whatever_it_is_called(found: list[str], ndim: int) -> None:
    # A module's tensors: none is called like a module that holds others.
    kept = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    tensors = {name: torch.randn([3] * ndim) for name in kept} | {"index": torch.arange(9).reshape(3, 3) * 1000}
    again = expand(shrink(tensors))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=float(tensor.abs().max()) / 254 + 1e-6)
        assert again[name].dtype == tensor.dtype
    assert torch.equal(again["index"], tensors["index"])


def test_8_bits_of_the_first_version_are_still_read() -> None:
    stored = {"conv.weight": torch.tensor([[100, -50]], dtype=torch.int8), "conv.weight.scale": torch.tensor([[0.01]]),
              "affine.scale": torch.tensor([3.0])}  # fmt: skip
    read = expand(stored)
    assert sorted(read) == ["affine.scale", "conv.weight"]
    torch.testing.assert_close(read["conv.weight"], torch.tensor([[1.0, -0.5]]))
    assert read["affine.scale"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("trunk", ["hgnetv2_b0", "poolformerv2_s12", "convformer_s18"])
def test_layers_with_a_parameter_called_scale_are_saved_and_loaded(tmp_path: Path, trunk: str, compact: bool) -> None:
    network = build(f"fcn32s-timm:{trunk}", 3).eval()
    assert any(name.endswith(".scale") for name in network.state_dict())
    save(network, tmp_path, compact=compact)
    again = load_network(tmp_path)[0].state_dict()
    for name, tensor in network.state_dict().items():
        atol = float(tensor.abs().max()) / 254 + 1e-6 if compact else 0
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=atol)


def test_the_delivered_model_loads() -> None:
    load(Path(__file__).resolve().parents[1] / "models" / "camvid-scratch")


def test_a_full_disk_is_the_systems_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("fullyconv.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left on device") as told:
        save(build("fcn32s-resnet18", 3), tmp_path)
    assert told.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_scales_of_another_shape_are_refused_before_they_are_spread(tmp_path: Path) -> None:
    wide = {"a.weight": torch.ones(1 << 16, 1, dtype=torch.int8), "a.weight..scale": torch.ones(1, 1 << 16)}
    write_tensors(tmp_path / "x.safetensors", wide)
    with pytest.raises(BadFile, match=r"a\.weight\.\.scale is \(1, 65536\)"):
        read_weights(tmp_path / "x.safetensors")


def test_a_file_of_more_tensors_than_any_network_has_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '"%06d":{"dtype":"F32","shape":[],"data_offsets":[0,0]}'
    header = ("{" + ",".join(entry % index for index in range(200_000)) + "}").encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    start = time.monotonic()
    with pytest.raises(BadFile, match="holds 200000 tensors: raise FULLYCONV_MAX_TENSORS"):
        read_tensors(file)
    assert time.monotonic() - start < 5
    monkeypatch.setattr(LIMITS, "header_bytes", 1000)
    with pytest.raises(BadFile, match=r"its header takes 1\d{7} bytes"):
        read_tensors(file)
    monkeypatch.setattr(LIMITS, "tensors", 2)
    write_tensors(file, {"a": torch.zeros(1), "b": torch.zeros(2)})
    assert read_tensors(file).keys() == {"a", "b"}
    write_tensors(file, {"a": torch.zeros(1), "b": torch.zeros(2), "c": torch.zeros(3)})
    with pytest.raises(BadFile, match="holds 3 tensors"):
        read_tensors(file)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    folder = save(build("fcn4s-lenet", 2), tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BadFile, match="model"):
        load(folder)


def test_a_config_may_not_keep_a_crf_busy_for_ever(tmp_path: Path) -> None:
    folder = save(build("fcn4s-lenet", 2), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"crf": {"iterations": 10**9}}))
    with pytest.raises(BadFile, match="iterations"):
        load(folder)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([1e30, 0, 0], [1, 1, 1], "a mean is a finite number"),
        ([0, 0, 0], [1e-30, 1, 1], "a standard deviation is a finite number above 0"),
        ([0, 0, 0, 0], [1, 1, 1, 1], "normalises 4 channels, and its network reads 3"),
    ],
)
def test_a_normalisation_that_no_network_can_see_is_refused(
    tmp_path: Path, mean: list[float], std: list[float], said: str
) -> None:
    folder = save(build("fcn32s-resnet18", 2), tmp_path)
    document = json.loads((folder / "config.json").read_text())
    document["preprocess"] |= {"mean": mean, "std": std}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(BadFile, match=said):
        load_network(folder)
