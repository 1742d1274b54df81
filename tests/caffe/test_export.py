"""Networks out to Caffe's files and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fullyconv import Segmenter, build, save
from fullyconv.caffe import Net, export, import_model, load
from fullyconv.caffe.convert import PLAIN, recognise
from fullyconv.caffe.export import network_layers
from fullyconv.caffe.text import Written, to_text
from fullyconv.caffe.wire import read_weights, write_weights
from fullyconv.checkpoint import load_network
from fullyconv.cli import app
from fullyconv.files import BadFile
from fullyconv.networks import BORDERS, CLASSIFIERS, generic_names, network_names
from fullyconv.networks.reference import REFERENCES, RELEASED
from fullyconv.types import Preprocess

# Fact sheet, section 1.5: weights that learn, and dense weights of the fixed upsampling (and of the scales).
LEARNED_AND_FIXED = {
    "voc-fcn32s": (134_346_581, 1_806_336),
    "voc-fcn16s": (134_357_354, 458_640),
    "voc-fcn8s": (134_362_751, 127_008),
    "voc-fcn8s-atonce": (134_362_751, 127_008 + 768),
    "voc-fcn-alexnet": (56_954_261, 1_750_329),
    "pascalcontext-fcn32s": (134_506_364, 14_745_600),
    "pascalcontext-fcn16s": (134_537_144, 3_744_000),
    "pascalcontext-fcn8s": (134_552_564, 1_036_800),
    "siftflow-fcn32s": (134_408_036, 4_497_408),
    "siftflow-fcn16s": (134_426_504, 1_141_920),
    "siftflow-fcn8s": (134_435_756, 316_224),
    "nyud-fcn32s-color": (134_424_424, 6_553_600),
    "nyud-fcn32s-color-d": (134_425_000, 6_553_600),
    "nyud-fcn32s-hha": (134_424_424, 6_553_600),
    "nyud-fcn32s-color-hha": (268_848_848, 6_553_600),
}
# The paper's own forms, and those on trunks and of decoders that came after it.
CLASSIC = [name for name in [*REFERENCES, *generic_names(), *CLASSIFIERS] if name.partition("-")[2] not in BORDERS]
LATER = [name for name in network_names() if name not in CLASSIC]
LIGHT = ["fcn4s-lenet", "lenet", "voc-fcn-googlenet"]


def described(name: str, folder: Path) -> Path:
    """Write a network's description, without weights."""
    with torch.device("meta"):
        layers = network_layers(build(name))
    path = folder / "deploy.prototxt"
    path.write_text(to_text(name, layers))
    return path


def wake(net: nn.Module) -> nn.Module:
    """Give score heads, which start at zero, random weights."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    return net.eval()


def picture(name: str) -> torch.Tensor:
    return torch.randn(1, 1 if name.split("-")[-1] == "lenet" else 3, 61, 43)


def test_all_fifteen_are_expected() -> None:
    assert tuple(LEARNED_AND_FIXED) == RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_descriptions_of_the_release_load_with_its_parameters_crops_and_sizes(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net = load(described(name, tmp_path))
    counts = [0, 0]
    for value in net.parameters():
        counts[not value.requires_grad] += value.numel()
    assert tuple(counts) == LEARNED_AND_FIXED[name]
    channels = {"color": 3, "depth": 1, "hha": 3, "data": 3}
    assert {blob: shape[1] for blob, shape in net.inputs.items()} == {
        blob: channels[blob] for blob in REFERENCES[name].streams or ("data",)
    }
    scores = net({blob: torch.zeros(1, shape[1], 97, 131, device="meta") for blob, shape in net.inputs.items()})
    classes = REFERENCES[name].classes
    expected = {"score_sem": 33, "score_geo": 3} if REFERENCES[name].tasks else {"score": classes}
    assert {key: tuple(value.shape) for key, value in scores.items()} == {
        key: (1, count, 97, 131) for key, count in expected.items()
    }
    assert recognise(net, "net", None)[0].architecture.name == name


@pytest.mark.parametrize("name", [
    *(name for name in CLASSIC if name not in RELEASED), "unet-original", "segnet-basic", "fpn8s-resnet18",
    *(pytest.param(name, marks=pytest.mark.slow) for name in LATER),
])  # fmt: skip
def test_every_exported_description_is_recognised(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net = load(described(name, tmp_path))
    network, _ = recognise(net, "net", None)
    assert network.architecture.name == name
    if name not in REFERENCES and name not in CLASSIFIERS:  # what unnamed files are compared with
        assert bool(PLAIN.match(name)) != any(layer.kind == "BatchNorm" for layer in net.described)


def test_a_stage_of_a_file_is_imported(tmp_path: Path) -> None:
    prototxt, weights = export(build("lenet"), tmp_path)
    staged = prototxt.read_text().replace('type: "Convolution"', 'type: "Convolution" include { stage: "deploy" }')
    prototxt.write_text(staged)
    assert import_model(prototxt, weights, stage="deploy").architecture.name == "lenet"
    command = ["caffe", "import", str(prototxt), str(weights), "--out", str(tmp_path / "m")]
    assert CliRunner().invoke(app, [*command, "--stage", "deploy"]).exit_code == 0
    with pytest.raises(BadFile, match="stage 'deploy'"):
        import_model(prototxt, weights)


def test_a_description_without_a_name_is_the_first_network_that_fits(tmp_path: Path) -> None:
    path = described("nyud-fcn32s-hha", tmp_path)
    path.write_text(path.read_text().replace('name: "nyud-fcn32s-hha"', "", 1))
    with torch.device("meta"):
        net = load(path)
    assert recognise(net, "net", None)[0].architecture.name == "nyud-fcn32s-color"
    assert recognise(net, "net", "nyud-fcn32s-hha")[0].architecture.name == "nyud-fcn32s-hha"
    with pytest.raises(BadFile, match=r"nearest is voc-fcn16s, but score_pool4 is absent"):
        recognise(net, "net", "voc-fcn16s")


CONNECTED = ("fc6", "fc7", "fc8", "ip1", "ip2", "loss3/classifier")


def connected(name: str, folder: Path) -> Path:
    """Describe a classifier as the model zoo does: with InnerProduct layers, GoogLeNet's average before them."""
    with torch.device("meta"):
        *layers, score, _ = network_layers(build(name))
    if name == "googlenet":
        average = {"pool": "AVE", "kernel_size": 7, "stride": 1}
        layers.append(Written("pool5/7x7_s1", "Pooling", score.bottoms, "pool5/7x7_s1", average))
        score = replace(score, bottoms=("pool5/7x7_s1",))
    layers = [
        replace(layer, kind="InnerProduct", fields={"num_output": layer.fields["num_output"]})
        if layer.name in CONNECTED
        else layer
        for layer in [*layers, score]
    ]
    path = folder / "deploy.prototxt"
    path.write_text(to_text("zoo", [*layers, Written("prob", "Softmax", (score.top,), "prob")]))
    return path


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_of_the_model_zoo_are_recognised(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net = load(connected(name, tmp_path))
    assert net.inputs["data"][2] == CLASSIFIERS[name].side
    assert net({"data": torch.zeros(2, *net.inputs["data"][1:], device="meta")})["prob"].shape == (
        2,
        CLASSIFIERS[name].classes,
    )
    assert recognise(net, "net", None)[0].architecture.name == name


@pytest.mark.parametrize("name", ["lenet", "googlenet"])
def test_a_classifier_of_the_model_zoo_keeps_its_scores(name: str, tmp_path: Path) -> None:
    _, weights = export(wake(build(name)), tmp_path)
    flat = {
        layer: ("", [blob.reshape(len(blob), -1) if layer in CONNECTED and blob.ndim > 1 else blob for blob in blobs])
        for layer, blobs in read_weights(weights).items()
    }
    write_weights(weights, "zoo", flat)
    path = connected(name, tmp_path)
    net, model = load(path, weights), import_model(path, weights)
    image = torch.randn(2, *net.inputs["data"][1:])
    with torch.inference_mode():
        torch.testing.assert_close(net({"data": image})["prob"], model(image).softmax(1), rtol=1e-3, atol=1e-5)
    if name == "googlenet":  # its average says no size of its map
        return
    # A file that trains says no size of its pictures; the weights tell.
    data = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "lmdb" } }'
    head, _, layers = path.read_text().partition("layer {")
    path.write_text(head + data + layers[layers.index("layer {") :])
    assert same(import_model(path, weights), model)


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )


@pytest.mark.parametrize("name", LIGHT)
def test_networks_come_back_bit_for_bit_and_caffe_computes_the_same(name: str, tmp_path: Path) -> None:
    net, image = wake(build(name)), picture(name)
    files = export(net, tmp_path)
    again = import_model(*files)
    assert same(net, again)
    with torch.inference_mode():
        scores = net(image)
        assert torch.equal(again(image), scores)
        caffe = load(*files)({"data": image})["score"].reshape(scores.shape)
    assert (caffe - scores).abs().max() <= 1e-5 * scores.abs().max()


def test_a_file_may_not_state_a_function_to_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "surprise.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    net = build("fcn4s-lenet", 4)
    prototxt, weights = export(net, tmp_path)
    prototxt.write_text(prototxt.read_text().replace('"fcn4s-lenet"', '"unet-surprise:build"'))
    assert same(net, import_model(prototxt, weights))


def test_learned_upsampling_comes_back_as_learned(tmp_path: Path) -> None:
    net, image = wake(build("fcn4s-lenet", 4, upsampling="learned")), picture("lenet")
    with torch.no_grad():
        net.upsamplers[0].weight.add_(torch.rand(4, 1, 8, 8))
    files = export(net, tmp_path)
    again = import_model(*files)
    assert again.architecture.upsampling == "learned"
    assert same(net, again)
    assert again.upsamplers[0].weight.requires_grad
    torch.testing.assert_close(load(*files)({"data": image})["score"], net(image), rtol=1e-4, atol=1e-5)


def rewritten(folder: Path, change: str, kernels: np.ndarray) -> Path:
    """Replace a layer's weights in an exported caffemodel."""
    weights = read_weights(folder / "weights.caffemodel")
    weights[change] = [kernels]
    write_weights(folder / "changed", "n", {name: ("", blobs) for name, blobs in weights.items()})
    return folder / "changed"


def test_dense_upsampling_is_kept_where_a_network_can_hold_it(tmp_path: Path) -> None:
    net = wake(build("fcn4s-lenet", 3))
    prototxt, caffemodel = export(net, tmp_path)
    bank = read_weights(caffemodel)["upscore"][0]
    assert bank.shape == (3, 3, 8, 8)
    other = bank.copy()
    other[1, 1] += 0.5
    changed = rewritten(tmp_path, "upscore", other)
    learned, image = import_model(prototxt, changed), picture("lenet")
    assert learned.architecture.upsampling == "learned"
    torch.testing.assert_close(load(prototxt, changed)({"data": image})["score"], learned(image), rtol=1e-4, atol=1e-4)
    other[0, 1] = 0.1
    with pytest.raises(BadFile, match=r"'upscore' \(Deconvolution\) mixes classes.*fullyconv.caffe.load"):
        import_model(prototxt, rewritten(tmp_path, "upscore", other))


def test_nets_that_are_no_network_of_the_papers_say_how_near_they_are(tmp_path: Path) -> None:
    net = wake(build("fcn4s-lenet", 3))
    prototxt, caffemodel = export(net, tmp_path)
    text = prototxt.read_text()
    prototxt.write_text(text.replace("offset: 4", "offset: 3"))
    with pytest.raises(BadFile, match="nearest is fcn4s-lenet, but it joins the same layers in another way"):
        import_model(prototxt, caffemodel)
    prototxt.write_text(text.replace('name: "ip1"', 'name: "fc"').replace('"score_fr"', '"scores"'))
    weights = read_weights(caffemodel)
    renamed = {{"ip1": "fc", "score_fr": "scores"}.get(name, name): ("", blobs) for name, blobs in weights.items()}
    write_weights(caffemodel, "n", renamed)
    with pytest.raises(BadFile, match="has no layer with weights called score_fr"):
        import_model(prototxt, caffemodel)


def test_the_training_listing_of_fcn_alexnet_is_that_network() -> None:
    listing = Path(__file__).resolve().parents[3] / "shared" / "reference" / "voc-fcn-alexnet.train.prototxt"
    if not listing.is_file():
        pytest.skip("the listing is not beside the repository (../shared/reference)")
    with torch.device("meta"):
        net = load(listing)
        assert isinstance(net, Net)
        assert net({"data": torch.zeros(1, 3, 61, 43)})["score"].shape == (1, 21, 61, 43)
    assert recognise(net, str(listing), None)[0].architecture.name == "voc-fcn-alexnet"


def test_the_commands_make_a_model_of_files_and_files_of_a_model(tmp_path: Path) -> None:
    net, own = wake(build("voc-fcn-googlenet", 4)), Preprocess((90, 100, 110), (50, 60, 70.5), "BGR")
    save(net, tmp_path / "model", preprocess=own)
    run = CliRunner()
    done = run.invoke(app, ["caffe", "export", str(tmp_path / "model"), "--out", str(tmp_path / "caffe")])
    assert done.exit_code == 0, done.output
    files = [str(tmp_path / "caffe" / name) for name in ("deploy.prototxt", "weights.caffemodel")]
    done = run.invoke(app, ["caffe", "import", *files, "--out", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    again, config = load_network(tmp_path / "again")
    assert same(net, again)
    assert config.preprocess == own
    said, rest = Path(files[0]).read_text().split("\n", 1)
    Path(files[0]).write_text(rest)  # as Caffe's own files are
    done = run.invoke(app, ["caffe", "import", *files, "--out", str(tmp_path / "papers")])
    assert "the papers'; if the net's are others, correct them in config.json" in " ".join(done.output.split())
    papers = load_network(tmp_path / "papers")[1].preprocess
    assert papers == Preprocess(REFERENCES["voc-fcn-googlenet"].mean, (1, 1, 1), "BGR")
    Path(files[0]).write_text(said.replace("90.0", '"x"').replace("90,", '"x",') + "\n" + rest)
    failed = run.invoke(app, ["caffe", "import", *files, "--out", str(tmp_path / "no")])
    assert "says no order, mean and std of pixels" in str(failed.exception)
    segmenter = Segmenter(again, classes=config.classes, preprocess=config.preprocess, device="cpu")
    assert segmenter.predict(np.zeros((40, 50, 3), np.uint8)).labels.shape == (40, 50)
