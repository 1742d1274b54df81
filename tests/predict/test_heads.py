"""Several heads of one network look at a picture once, and find what each finds by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullyconv
from fullyconv.data.pairs import OtherMask, Pair
from fullyconv.evaluation import evaluate, evaluate_heads
from fullyconv.networks import build
from fullyconv.networks.fcn import FCN
from fullyconv.outputs import Outputs
from fullyconv.predict.finding import find_images
from fullyconv.predict.folder import predict_files
from fullyconv.predict.image import Segmenter
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.predict.views import Views, ViewsSegmenter
from fullyconv.types import ClassSet, Preprocess

CLASSES = {"": ClassSet(("a", "b", "c", "d")), "geometry": ClassSet(("up", "flat", "steep")), "shade": ClassSet("xy")}
TASKS = {"geometry": 3, "shade": 2}


def network_of(name: str = "fcn8s-resnet18") -> FCN:
    torch.manual_seed(3)
    network = build(name, 4, tasks=TASKS).eval()
    for bank in network.score_layers.values():
        for layer in bank:
            nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
    return network


def segmenter(network: FCN, classes: ClassSet, **choices: Any) -> Segmenter:
    return Segmenter(network, classes=classes, preprocess=Preprocess(), device="cpu", **choices)


def model_of(network: FCN, **choices: Any) -> Segmenter:
    model = segmenter(network, CLASSES[""], **choices)
    model.name_heads({name: CLASSES[name] for name in TASKS})
    return model


def apart(network: FCN, **choices: Any) -> dict[str, Segmenter]:
    """Make a model of one head of each head, with a trunk of its own."""
    found = {}
    for place, (name, classes) in enumerate(CLASSES.items()):
        own = build(network.architecture.name, len(classes)).eval()  # type: ignore[union-attr]
        given = network.state_dict()
        layers = [list(network.score_layers)[place], list(network.ladders)[place]]
        for kind, bank in zip(("heads", "upsamplers"), layers, strict=True):
            given |= {
                f"{kind}{key.removeprefix(bank)}": value for key, value in given.items() if key.startswith(f"{bank}.")
            }
        own.load_state_dict({key: given[key] for key in own.state_dict()})
        found[name] = segmenter(own, classes, **choices)
    return found


def picture(height: int = 45, width: int = 70, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("name", "precision"), [
    ("fcn8s-resnet18", "float32"), pytest.param("fpn8s-resnet18", "bfloat16", marks=pytest.mark.slow),
    *(pytest.param(each, "float32", marks=pytest.mark.slow) for each in ("fpn4s-lite0", "unet-lite0", "segnet-basic")),
])  # fmt: skip
def test_heads_find_together_what_each_finds_with_a_trunk_of_its_own(name: str, precision: str) -> None:
    network, pixels = network_of(name), picture()
    model = model_of(network, engine="pytorch", precision=precision)
    found, labelled = model.predict_heads(pixels, probabilities=True), model.predict_heads(pixels)
    for head, alone in apart(network, engine="pytorch", precision=precision).items():
        wanted = alone.predict(pixels, probabilities=True)
        np.testing.assert_array_equal(found[head].labels, wanted.labels)
        np.testing.assert_array_equal(found[head].probabilities, wanted.probabilities)
        np.testing.assert_array_equal(labelled[head].labels, alone.predict(pixels).labels)
        own = model.heads[head] if head else model
        np.testing.assert_array_equal(own.predict(pixels, probabilities=True).probabilities, wanted.probabilities)
        np.testing.assert_array_equal(own.labels(pixels[None])[0], labelled[head].labels)


@pytest.mark.parametrize("tiles", [False, True], ids=["bands", "tiles"])
def test_so_in_parts(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.predict.arrays.WHOLE_PIXELS", 1000)
    network, pixels = network_of(), picture(300, 280)
    model, parts = model_of(network, engine="pytorch"), 0
    alone = {"shade": apart(network, engine="pytorch")["shade"]}
    for each in (model, *alone.values()):
        each.memory = each.prepared().per_pixel * 64 * 64
        if tiles:
            monkeypatch.setattr(each.prepared().engine, "bands", lambda: None)
    asked = model.prepared().engine if tiles else model.prepared().bands
    compute: Callable[..., Any] = getattr(asked, "score_maps" if tiles else "maps")

    def counted(*given: Any) -> Any:
        nonlocal parts
        parts += 1
        return compute(*given)

    monkeypatch.setattr(asked, "score_maps" if tiles else "maps", counted)
    found = model.predict_heads(pixels, probabilities=True)
    together = parts
    model.predict(pixels)
    assert parts == 2 * together  # as many parts as one head takes
    assert together > 1
    for head, each in alone.items():
        wanted = each.predict(pixels, probabilities=True)
        np.testing.assert_array_equal(found[head].labels, wanted.labels)
        np.testing.assert_array_equal(found[head].probabilities, wanted.probabilities)


def counting(network: FCN) -> list[int]:
    """Count how often the trunk is run, by the pictures of each time."""
    runs: list[int] = []
    network.trunk.register_forward_hook(lambda _, given, __: runs.append(len(given[0])))
    return runs


def test_the_trunk_runs_once_a_picture(tmp_path: Path) -> None:
    network = network_of()
    runs, model = counting(network), model_of(network, engine="pytorch")
    model.prepared()
    runs.clear()
    model.predict_heads(picture(), probabilities=True)
    assert runs == [1]
    for index in range(3):
        Image.fromarray(picture(seed=index)).save(tmp_path / f"{index}.png")
        for head, classes in CLASSES.items():
            mask = picture(seed=9 + index)[..., 0] % len(classes)
            Image.fromarray(mask).save(tmp_path / f"{index}{head}_mask.png")
    runs.clear()
    tasks = find_images([tmp_path / f"{index}.png" for index in range(3)])
    outcomes = list(predict_files({"": model, **model.heads}, tasks, tmp_path / "out"))
    assert [outcome.problem for outcome in outcomes] == [None] * 3
    assert runs == [1] * 3
    pairs = [
        Pair(tmp_path / f"{index}.png", tmp_path / f"{index}_mask.png",
             further=tuple(OtherMask(head, tmp_path / f"{index}{head}_mask.png") for head in TASKS))
        for index in range(3)
    ]  # fmt: skip
    runs.clear()
    found = evaluate_heads([model, *model.heads.values()], [pairs] * 3)
    assert runs == [1] * 3
    for each, (head, alone) in zip(found, apart(network, engine="pytorch").items(), strict=True):
        alone.head = head
        wanted = evaluate(alone, pairs)
        assert each.document() == wanted.document()
        for pair in pairs:
            with Image.open(tmp_path / "out" / head / f"{pair.image.stem}.png") as mask:
                np.testing.assert_array_equal(np.asarray(mask), alone.predict(pair.image).labels)


def test_what_looks_in_another_way_looks_head_by_head() -> None:
    network, pixels = network_of("fcn32s-resnet18"), picture(20, 30)
    model, alone = model_of(network), apart(network)
    for around in (CRFSegmenter, lambda each: ViewsSegmenter(each, Views(flip=True))):
        for head, each in {"": model, **model.heads}.items():
            found, wanted = (around(own).predict(pixels, probabilities=True) for own in (each, alone[head]))
            np.testing.assert_array_equal(found.labels, wanted.labels)
            np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-3)


def test_heads_follow_what_changes_in_the_network() -> None:
    network, pixels = network_of("fcn32s-resnet18"), picture(20, 30)
    model = model_of(network)
    before = {head: each.probabilities for head, each in model.predict_heads(pixels, probabilities=True).items()}
    with torch.no_grad():
        network.get_parameter("shade_heads.0.bias")[0] += 1
    after = {head: each.probabilities for head, each in model.predict_heads(pixels, probabilities=True).items()}
    assert [head for head in CLASSES if not np.array_equal(before[head], after[head])] == ["shade"]
    np.testing.assert_array_equal(
        model.heads["shade"].predict(pixels, probabilities=True).probabilities, after["shade"]
    )


def test_large_pictures_are_labelled_by_all_heads_at_once_and_go_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullyconv.predict.large.NOTE_ROWS", 64)
    monkeypatch.setattr("fullyconv.predict.arrays.WHOLE_PIXELS", 1000)
    network = network_of()
    Image.fromarray(picture(500, 90)).save(tmp_path / "x.tif")
    model, alone = model_of(network, engine="pytorch"), apart(network, engine="pytorch")
    del alone["geometry"]
    tasks = find_images([tmp_path / "x.tif"])
    for each in (model, *alone.values()):
        each.picture_memory, each.memory = 1000, each.prepared().per_pixel * 90 * 64
    for head, each in alone.items():
        assert [one.problem for one in predict_files(each, tasks, tmp_path / "apart" / head, probabilities=True)] == [
            None
        ]
    note, notes = Outputs.note, 0

    def dying(self: Outputs, *given: Any, **facts: Any) -> None:
        nonlocal notes
        notes += self.folder.name == "shade"
        note(self, *given, **facts)
        if notes == 2:  # the other heads have come further
            raise KeyboardInterrupt

    monkeypatch.setattr(Outputs, "note", dying)
    models = {"": model, **model.heads}
    with pytest.raises(KeyboardInterrupt):
        list(predict_files(models, tasks, tmp_path / "out", probabilities=True))
    first, last = (Outputs(tmp_path / "out" / head).noted(".x.labels.part")["rows"] for head in ("", "shade"))
    assert 0 < last < first
    monkeypatch.setattr(Outputs, "note", note)
    (outcome,) = predict_files(models, tasks, tmp_path / "out", probabilities=True)
    assert outcome.problem is None
    for head in alone:
        for name in ("x.png", "x.npy", "x_overlay.jpg"):
            assert (tmp_path / "out" / head / name).read_bytes() == (tmp_path / "apart" / head / name).read_bytes()
    assert not list((tmp_path / "out").rglob("*.part"))


def test_an_output_of_a_further_head_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    model = model_of(network_of("fcn32s-resnet18"))
    Image.fromarray(picture()).save(tmp_path / "x.png")
    (tmp_path / "out/shade").mkdir(parents=True)
    (tmp_path / "out/shade/x.png").write_text("mine")
    with pytest.raises(fullyconv.files.BadFile, match=r"shade/x.png: was not written by fullyconv"):
        list(predict_files({"": model, **model.heads}, find_images([tmp_path / "x.png"]), tmp_path / "out"))
    assert not (tmp_path / "out/x.png").exists()


@pytest.mark.slow
def test_one_engine_serves_all_heads_in_openvino() -> None:
    pytest.importorskip("openvino")
    network, pixels = network_of("fcn32s-resnet18"), picture()
    model = model_of(network, engine="openvino")
    found = model.predict_heads(pixels, probabilities=True)
    assert model.heads["shade"].prepared().engine is model.prepared().engine
    for head, each in apart(network, engine="openvino").items():
        own = (model.heads[head] if head else model).predict(pixels, probabilities=True)
        np.testing.assert_array_equal(found[head].probabilities, own.probabilities)
        wanted = each.predict(pixels, probabilities=True).probabilities
        np.testing.assert_allclose(found[head].probabilities, wanted, atol=1e-3)
