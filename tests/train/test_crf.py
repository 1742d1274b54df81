"""A CRF that is trained with its network: learned, saved, loaded, applied by whatever predicts; or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import miniatures
from fullyconv import Predictor, build, load, save
from fullyconv.caffe import export as caffe_export
from fullyconv.checkpoint import load_network, store_crf
from fullyconv.cli import app
from fullyconv.crf import CRFParameters, unary_from_scores
from fullyconv.data.folder import open_folder
from fullyconv.evaluation import evaluate
from fullyconv.networks.crf import CRFLayer, WithCRF
from fullyconv.networks.fcn import FCN
from fullyconv.predict.finding import find_images
from fullyconv.predict.folder import predict_files
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.recipes import RECIPES
from fullyconv.scores.calibration import temper
from fullyconv.train.assemble import _check_trainable, _form
from fullyconv.train.optim import make_optimizer
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe, change
from fullyconv.train.start import start_crf, take_weights
from fullyconv.train.team import ALONE
from fullyconv.types import ClassSet, Preprocess
from runs import newest, train

TINY = {"network": "fcn8s-resnet18", "crop": [48, 48], "epochs": 1, "batch": 2, "precision": "fp32", "device": "cpu",
        "learning_rate": 1e-2, "crf": True}  # fmt: skip
STANDS_ON = CRFParameters(2, 1.0, 2.0, 4.0, 9.0, 15.0)


def learned(classes: int = 3) -> FCN:
    """A network with a CRF whose weights and penalties are none that a Potts model has."""
    torch.manual_seed(2)
    network = build("fcn8s-resnet18", classes).eval()
    torch.nn.init.normal_(network.heads[0].weight)
    network.crf = CRFLayer(classes, STANDS_ON)
    with torch.no_grad():
        network.crf.weights += torch.rand(2, classes)
        network.crf.compatibility += 0.5 * torch.randn(classes, classes)
    return network


def picture(height: int = 30, width: int = 41) -> np.ndarray:
    return np.random.default_rng(1).integers(60, 200, (height, width, 3), np.uint8)


def test_what_is_predicted_is_what_the_layer_learned_through(tmp_path: Path) -> None:
    network = learned()
    for order in ("RGB", "BGR"):
        preprocess = Preprocess((100, 110, 120), (50, 60, 70), order)  # type: ignore[arg-type]
        pixels = picture()
        image = torch.from_numpy(preprocess(pixels))[None]
        form = _form(network, recipe=change(Recipe(), TINY, source=""), preprocess=preprocess, team=ALONE).eval()
        with torch.inference_mode():
            trained = form(image).softmax(1)[0].numpy()
            assert isinstance(form, WithCRF)
            assert torch.equal(form.network(image), network(image))
        save(network, tmp_path, preprocess=preprocess)
        found = load(tmp_path, device="cpu").predict(pixels, probabilities=True)
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities.astype(np.float32), trained, atol=2e-3)
        assert (found.labels == trained.argmax(0)).mean() > 0.99
    by_hand = network.crf.dense(pixels)  # type: ignore[union-attr]
    unary = unary_from_scores(network(image)[0].detach().numpy())
    np.testing.assert_allclose(by_hand.marginals(unary, iterations=2), trained, atol=1e-4)


def test_a_run_trains_it_and_its_folder_has_it(shapes: Path, tmp_path: Path) -> None:
    train(change(Recipe(), TINY, source="test"), shapes, tmp_path / "run")
    network, config = load_network(tmp_path / "run" / "model")
    assert network.crf is not None
    assert config.crf == CRFParameters(iterations=5)
    fresh = CRFLayer(network.classes)
    assert not torch.equal(network.crf.weights, fresh.weights)
    assert not torch.equal(network.crf.compatibility, fresh.compatibility)
    model = load(tmp_path / "run", device="cpu")
    assert isinstance(model, CRFSegmenter)
    pairs = open_folder(shapes).splits["val"]
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluate(model, pairs).scores.mean_iu == pytest.approx(line["mean_iu"], abs=1e-9)
    # The next run goes on from it; one without a CRF leaves it behind.
    recipe = Recipe(network="fcn8s-resnet18", start_from=str(tmp_path / "run" / "model"))
    other, plain = learned(network.classes), build("fcn8s-resnet18", network.classes)
    for started in (other, plain):
        found = take_weights(started, recipe)
        assert found is not None
        assert ("crf.weights" in found[0].moved) == (started is other)
        assert ("crf.weights" in found[0].left) == (started is plain)
    assert torch.equal(other.crf.weights, network.crf.weights)  # type: ignore[union-attr]
    assert load_network(newest(tmp_path / "run"))[0].crf is not None


def test_it_stands_on_what_was_tuned(shapes: Path, tmp_path: Path) -> None:
    tuned = CRFParameters(10, 1.5, 4.0, 2.5, 60.0, 9.0, keep_diagonal=False, exact_smoothness=True)
    classes = prepare(Recipe(), shapes).report.classes
    save(build("fcn8s-resnet18", len(classes)), tmp_path / "tuned", classes=classes)
    store_crf(tmp_path / "tuned", tuned)
    found = start_crf(Recipe(crf=True, start_from=str(tmp_path / "tuned")))
    assert found == CRFParameters(5, 1.5, 4.0, 2.5, 60.0, 9.0)
    weights = CRFLayer(3, found).weights
    assert torch.equal(weights, torch.tensor([[1.5], [2.5]]).expand_as(weights))


def test_all_ways_to_predict_apply_it_and_the_rest_say_that_they_cannot(tmp_path: Path) -> None:
    network = learned()
    save(network, tmp_path / "model")
    model, pixels = load(tmp_path / "model", device="cpu"), picture()
    wanted = model.predict(pixels).labels
    before = Segmenter(network, classes=model.classes, preprocess=model.preprocess, device="cpu").predict(pixels).labels
    assert (wanted != before).any()
    np.testing.assert_array_equal(model.labels(pixels[None])[0], wanted)
    for refused in (lambda: Predictor(tmp_path / "model"), lambda: Predictor(network)):
        with pytest.raises(ValueError, match="use its predict"):
            refused()
    for write in (lambda: model.export(tmp_path / "out"), lambda: caffe_export(network, tmp_path / "caffe")):
        with pytest.raises(ValueError, match=r"trained with a CRF.*set network\.crf = None"):
            write()
    said = CliRunner().invoke(app, ["crf", "tune", str(tmp_path / "model"), str(tmp_path)])
    assert "which predict and evaluate always apply" in str(said.exception)


@pytest.mark.slow
def test_another_process_applies_it_and_bands_of_a_large_picture_are_refused(tmp_path: Path) -> None:
    save(learned(), tmp_path / "model")
    model, pixels = load(tmp_path / "model", device="cpu"), picture(48, 64)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code = (
        "import sys, fullyconv; print(*fullyconv.load(sys.argv[1], device='cpu').predict(sys.argv[2]).labels.ravel())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "a.png")]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    np.testing.assert_array_equal(np.array(found.split(), int), model.predict(pixels).labels.ravel())
    model.picture_memory = 1
    (outcome,) = predict_files(model, find_images([tmp_path / "a.png"]), tmp_path / "out")
    assert "64 x 48 pixels are labelled in bands" in str(outcome.problem)
    assert "the CRF trained with it sees whole pictures: cut this one" in str(outcome.problem)


def test_frames_of_films_are_labelled_with_it(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="films need PyAV (extra video)")
    from fullyconv.predict.video import paint_film

    with av.open(str(tmp_path / "a.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        film.mux(stream.encode(av.VideoFrame.from_ndarray(picture(48, 64), format="rgb24")))
        film.mux(stream.encode(None))
    network = learned()
    network.crf = CRFLayer(3, CRFParameters(5, 20.0, 3.0, 20.0, 40.0, 60.0))  # of few labels many are left
    plain = Segmenter(network, classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), device="cpu")
    apart = []
    for model, name in ((CRFSegmenter(plain), "crf.mp4"), (plain, "plain.mp4")):
        assert paint_film(model, tmp_path / "a.mp4", tmp_path / name) == 1
        with av.open(str(tmp_path / "a.mp4")) as given, av.open(str(tmp_path / name)) as painted:
            seen, shown = (next(file.decode(video=0)).to_ndarray(format="rgb24") for file in (given, painted))
        expected = np.asarray(CRFSegmenter(plain).predict(seen).overlay()).astype(int)
        apart.append(np.abs(shown.astype(int) - expected).mean())
    assert apart[0] < apart[1] - 1  # the codec's loss alone; other labels are further away


def test_commands_apply_it_with_views_too(shapes: Path, tmp_path: Path) -> None:
    classes = prepare(Recipe(), shapes).report.classes
    save(learned(len(classes)), tmp_path / "model", classes=classes)
    scored = tmp_path / "scores.json"
    command = ["evaluate", str(tmp_path / "model"), str(shapes), "--json", str(scored)]
    assert CliRunner().invoke(app, command).exit_code == 0
    pairs = open_folder(shapes).splits["val"]
    model = load(tmp_path / "model", device="cpu")
    assert json.loads(scored.read_text())["mean_iu"] == pytest.approx(evaluate(model, pairs).scores.mean_iu)
    assert CliRunner().invoke(app, [*command, "--crf", "--tta=flip", "--overwrite"]).exit_code == 0
    both = json.loads(scored.read_text())
    assert both["crf"]["iterations"] == 2
    assert both["before"] != both["after"]
    assert CliRunner().invoke(app, [*command, "--fit-temperature", "--overwrite"]).exit_code == 0
    fitted, sample = load(tmp_path / "model", device="cpu"), model.sample(pairs[0]).image
    assert fitted.temperature == json.loads(scored.read_text())["confidence"]["temperature"] != 1
    found = fitted.predict(sample, probabilities=True).probabilities
    wanted = temper(model.log_probabilities(sample), fitted.temperature)  # of what the CRF says, not the network alone
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_its_weights_do_not_decay() -> None:
    network = learned()
    own = {id(parameter) for parameter in network.crf.parameters()}  # type: ignore[union-attr]
    for descent in (Recipe(weight_decay=0.5), Recipe(weight_decay=0.5, optimizer="caffe-sgd")):
        groups = make_optimizer(network, descent).param_groups
        theirs = [g for g in groups if own & {id(parameter) for parameter in g["params"]}]
        assert theirs
        assert all(g["weight_decay"] * g.get("decay_multiplier", 1.0) == 0 for g in theirs)


def test_data_that_it_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    recipe = change(RECIPES["nyud-fcn32s-color-d"], {"crf": True}, source="test")
    prepared = prepare(recipe, miniatures.nyud(tmp_path))
    with pytest.raises(ValueError, match=r"crf=true is for networks of one task on colour pictures, not for .* 4 chan"):
        _check_trainable(build("fcn32s-resnet18", 40, channels=4), recipe, prepared)


def test_a_folder_whose_crf_is_of_other_classes_is_refused(tmp_path: Path) -> None:
    network = learned()
    network.crf = CRFLayer(2, STANDS_ON)
    save(network, tmp_path, classes=ClassSet(("a", "b", "c")))
    with pytest.raises(ValueError, match="does not hold"):
        load_network(tmp_path)
