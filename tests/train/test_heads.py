"""Several masks per picture, declared in ``classes.yaml``: one head each, trained, scored, written, resumed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import fullyconv
from fullyconv import ClassSet, build, load
from fullyconv.cli import app
from fullyconv.data.check import check_folder
from fullyconv.data.classes import read_classes, stated_heads
from fullyconv.data.dataset import read_every, read_sample
from fullyconv.data.folder import open_folder
from fullyconv.evaluation import evaluate
from fullyconv.files import BadFile
from fullyconv.networks.fcn import FCN, continue_from
from fullyconv.networks.heads import ManyHeads, with_tasks
from fullyconv.tensors import read_tensors
from fullyconv.train.assemble import assemble
from fullyconv.train.pictures import PixelLoss
from fullyconv.train.prepare import BadData, prepare
from fullyconv.train.recipe import Recipe
from fullyconv.train.run import Run
from fullyconv.train.tasks import FusedTasks, SummedLoss
from fullyconv.types import TAKEN_NAMES, VOID

CLASSES = """\
classes: [ground, box]
heads:
  geometry:
    ignore: 9
    classes:
      - {name: up, value: 0}
      - {name: flat, value: 4, colour: [9, 200, 9]}
      - {name: steep, value: 7}
  shade: {suffix: _shade, classes: [dark, light]}
"""
GEOMETRY = ClassSet(("up", "flat", "steep"), ((0, 0, 0), (9, 200, 9), (0, 128, 0)), ignore_index=9, values=(0, 4, 7))
SIZE = (24, 30)


def pictures(root: Path, classes: str = CLASSES) -> Path:
    """Write pictures with three masks each: ``masks/``, ``geometry/`` and ``masks/*_shade``."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            boxes, lie = np.zeros(SIZE, np.uint8), rng.choice([0, 4, 7], SIZE).astype(np.uint8)
            boxes[8:16, 5 * number : 5 * number + 9] = 1
            lie[:2] = 9
            picture = rng.integers(0, 90, (*SIZE, 3), np.uint8) + (boxes * 120)[..., None]
            name = f"{split}{number}"
            for place, pixels in (
                (f"images/{name}", picture), (f"masks/{name}", boxes), (f"geometry/{name}", lie),
                (f"masks/{name}_shade", (picture[..., 0] > 60).astype(np.uint8)),
            ):  # fmt: skip
                file = root / split / f"{place}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    (root / "classes.yaml").write_text(classes)
    return root


def tiny(tasks: Mapping[str, int]) -> FCN:
    torch.manual_seed(0)
    network = build("fcn4s-lenet", 2, tasks=tasks)
    for bank in network.score_layers.values():
        for head in bank:
            nn.init.normal_(head.weight)  # type: ignore[arg-type]
    return network


def gradients(network: FCN) -> dict[str, torch.Tensor]:
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


def test_the_gradient_of_the_joint_loss_is_the_weighted_sum_of_each_heads_own() -> None:
    image, weights = torch.randn(2, 1, 33, 26), (1.0, 0.25, 3.0)
    labels = torch.stack([torch.randint(-1, classes, (2, 33, 26)) for classes in (2, 3, 4)], 1)
    network = tiny({"geometry": 3, "shade": 4})
    losses = tuple(PixelLoss(step=step) for step in network.steps)  # type: ignore[attr-defined]
    SummedLoss(losses, weights)(FusedTasks(network)(image), labels, torch.Generator()).backward()
    joint, summed = gradients(network), dict[str, torch.Tensor]()
    for task, (weight, name) in enumerate(zip(weights, ("", "geometry", "shade"), strict=True)):
        alone = tiny({"geometry": 3, "shade": 4})
        own = alone.task_network(name) if name else alone  # type: ignore[attr-defined]
        scores = own.upsampled(own.fused(own.score_maps(image)), (33, 26))
        (weight * nn.functional.cross_entropy(scores, labels[:, task], ignore_index=VOID)).backward()
        for key, slope in gradients(alone).items():
            summed[key] = summed.get(key, torch.zeros_like(slope)) + slope
    assert joint.keys() == summed.keys() == dict(network.named_parameters()).keys()
    for key, slope in joint.items():
        torch.testing.assert_close(slope, summed[key], rtol=1e-4, atol=1e-5)


SLOW = "segnet-basic", "deeplab-resnet18", "unet-resnet18", "fcn8s-lite0", "fpn8s-timm:resnet18"


@pytest.mark.parametrize(
    "name", ["fcn8s-resnet18", "fpn8s-resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_every_decoder_has_further_heads_on_its_own_maps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = build(name, 2)
    torch.manual_seed(1)
    network = build(name, 2, tasks={"geometry": 3}).eval()
    for key, tensor in first.state_dict().items():  # the first task's network is what it is without others
        assert torch.equal(network.state_dict()[key], tensor)
    for bank in network.score_layers.values():
        nn.init.normal_(bank[0].weight)  # type: ignore[arg-type]
    image = torch.randn(1, 3, 45, 71)
    with torch.inference_mode():
        scores, further = network(image), network.task_network("geometry")  # type: ignore[attr-defined]
        torch.testing.assert_close(further(image), scores.geometry, rtol=0, atol=0)
        single = network.upsampled(network.fused(network.score_maps(image)), (45, 71))
        torch.testing.assert_close(single, scores.semantic, rtol=0, atol=0)
    model = load(fullyconv.save(network, tmp_path / "model", heads={"geometry": GEOMETRY}), device="cpu")
    assert model.heads["geometry"].classes == GEOMETRY  # type: ignore[union-attr]
    for key, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], tensor)


def test_networks_of_two_trunks_and_odd_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.HIDDEN", 16)
    with pytest.raises(ValueError, match="a LateFusion has one head: choose another network"):
        build("nyud-fcn32s-color-hha", 40, tasks={"geometry": 3})
    for name in ("two words", "class", "1st", "mean_iu", "semantic"):
        with pytest.raises(ValueError, match="head"):
            build("fcn4s-lenet", 2, tasks={name: 3})
    with pytest.raises(ValueError, match="at least one class"):
        build("fcn4s-lenet", 2, tasks={"geometry": 0})


def test_heads_of_other_classes_stay_behind_when_a_network_starts_from_another() -> None:
    source, target = tiny({"geometry": 3, "shade": 4}), build("fcn4s-lenet", 2, tasks={"geometry": 3, "shade": 5})
    moved = continue_from(source, target)
    assert "geometry_heads.0.weight" in moved.moved
    assert "shade_heads.0.weight" in moved.missing


def test_masks_of_each_head_are_found_checked_and_read(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data")
    heads = stated_heads(root / "val")
    assert heads["geometry"].classes == GEOMETRY
    report = check_folder(open_folder(root))
    assert not report.problems
    assert {name: head.classes.names for name, head in report.heads.items()} == {
        "geometry": ("up", "flat", "steep"), "shade": ("dark", "light"),
    }  # fmt: skip
    assert report.heads["geometry"].splits["train"].void == 4 * 2 * SIZE[1]
    pair = report.folder.splits["val"][0]
    assert [mask.mask.relative_to(root).as_posix() for mask in pair.further] == [
        "val/geometry/val0.png", "val/masks/val0_shade.png",
    ]  # fmt: skip
    labels = read_every(pair, report.classes).labels
    for task, (own, classes) in enumerate(
        ((pair, report.classes), (pair.of("geometry"), GEOMETRY), (pair.of("shade"), ClassSet(("dark", "light"))))
    ):
        np.testing.assert_array_equal(labels[..., task], read_sample(own, classes).labels)
    inferred = pictures(tmp_path / "inferred", CLASSES.replace(", classes: [dark, light]", ""))
    with pytest.raises(ValueError, match="classes of head 'shade' are not known before check_folder"):
        read_every(open_folder(inferred).splits["val"][0], report.classes)
    assert check_folder(open_folder(inferred)).heads["shade"].classes.names == ("class_0", "class_1")


def test_a_mask_without_labels_teaches_the_other_heads(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(root / "train/geometry/train1.png")
    report = check_folder(open_folder(root))
    assert not report.problems
    assert any("all pixels are void" in str(warning) and "teaches the other heads" in str(warning)
               for warning in report.warnings)  # fmt: skip


def said(root: Path) -> str:
    """Return what is said of a data set that training refuses."""
    try:
        prepare(Recipe(), root)
    except (BadData, BadFile, ValueError) as error:
        return str(error)
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(("was", "now", "words"), [
    ("geometry:", "relief:", ("classes.yaml", "heads.relief: no folder relief/ has one", "take relief out of 'heads'")),
    ("_shade", "_light", ("classes.yaml", "heads.shade: no name ends with '_light'")),
    ("suffix: _shade", "folder: geometry", ("heads.shade: 'geometry' stands for heads.geometry already", "of its own")),
    ("heads:", "channels: [geometry]\nheads:", ("'geometry' stands under 'channels' already",)),
    ("  shade:", "  geometry: {}\n  shade:", ("line 9: 'geometry' is said twice",)),
    ("geometry:", "pixel_accuracy:", ("no head can be called 'pixel_accuracy'", "'folder: …'")),
    ("geometry:", "two words:", ("digits and _ and begins with a letter, not 'two words'",)),
    ("suffix: _shade", "folder: ../shade", ("heads.shade.folder: a name without / or ..", "not '../shade'")),
    ("[dark, light]", "[dark, dark]", ("heads.shade: two classes share a name: 'dark'",)),
    ("value: 7", "value: 4", ("heads.geometry: mask values must differ", "4 stands twice")),
    ("- {name: steep, value: 7}", "", ("train/geometry/train0.png", "7", "classes.yaml")),
    ("suffix: _shade", "suffix: _shade, folder: x", ("heads.shade: both a folder and a suffix", "by one of both")),
    ("suffix: _shade", "sufix: _shade", ("unknown key 'heads.shade.sufix'",)),
    ("suffix: _shade", "folder: masks", ("no image with a mask is left", "that no head names")),
])  # fmt: skip
def test_wrong_declarations_are_told_in_one_sentence(
    was: str, now: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    sentence = said(pictures(tmp_path, CLASSES.replace(was, now, 1)))
    for each in words:
        assert each in sentence


@pytest.mark.parametrize(("heads", "words"), [
    ("heads:", "heads: nothing is said of it (leave the key out where there is nothing to say)"),
    ("heads: 3", "begins with a letter, not '3': call it otherwise, and say its folder"),
    ("heads: [[geometry]]", "heads: write the names of folders, or a mapping of them to their classes, not"),
    ("heads: {geometry: 3}", "heads.geometry: write a mapping, {key: value}, not '3'"),
    ("heads: {geometry: []}", "heads.geometry: a class set holds 1 to 32767 classes, not 0"),
    ("heads: {geometry: {classes: }}", "heads.geometry.classes: nothing is said of it"),
    ("heads: {geometry: {classes: 3}}", "heads.geometry.classes: write a list, [one, two], not '3'"),
    ("heads: {geometry: {ignore: x}}", "heads.geometry.ignore.0: write a whole number, not 'x'"),
    ("heads: [höhe]", "is letters (a to z), digits and _ and begins with a letter, not 'höhe'"),
    ("heads: [a/b]", "and begins with a letter, not 'a/b'"),
    ("heads: [Geometry, geometry]", "heads: 'Geometry' and 'geometry' are one name on file systems that ignore case"),
])  # fmt: skip
def test_what_heads_cannot_be_is_told_by_file_value_and_fix(heads: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(f"classes: [a, b]\n{heads}\n", "utf-8")
    with pytest.raises(BadFile, match=re.escape(words)) as caught:
        stated_heads(tmp_path)
    assert Path(caught.value.path) == tmp_path / "classes.yaml"
    assert caught.value.fix


def test_heads_may_be_none_lists_of_classes_and_in_folders_of_any_name(tmp_path: Path) -> None:
    def stated(heads: str) -> dict[str, tuple[str, ClassSet | None]]:
        (tmp_path / "classes.yaml").write_text(f"classes: [a, b]\nheads: {heads}\n", "utf-8")
        return {name: (head.folder, head.classes) for name, head in stated_heads(tmp_path).items()}

    assert stated("[]") == stated("{}") == {}
    assert stated("geometry") == stated("{geometry: }") == {"geometry": ("geometry", None)}
    assert stated("{geometry: [up, down]}") == {"geometry": ("geometry", ClassSet(("up", "down")))}
    assert stated("{height: {folder: höhe}}") == {"height": ("höhe", None)}


def test_a_missing_mask_and_one_of_another_size_are_told_by_name(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    (root / "train/geometry/train1.png").unlink()
    Image.new("L", (5, 5)).save(root / "train/masks/train2_shade.png")
    sentence = said(root)
    assert "train1.png: has no mask of the head 'geometry': add geometry/train1.png, or leave" in sentence
    assert "train2_shade.png: size mismatch: the mask is 5 x 5, the image 30 x 24" in sentence
    assert len(prepare(Recipe(), root, skip_problems=True).train) == 2


def test_a_list_of_folders_declares_heads_whose_classes_are_inferred(tmp_path: Path) -> None:
    root = pictures(tmp_path, "classes: [ground, box]\nheads: [geometry]\n")
    for file in root.glob("*/masks/*_shade.png"):
        file.unlink()
    report = check_folder(open_folder(root))
    assert report.heads["geometry"].classes.names == tuple(f"class_{each}" for each in range(10))
    assert "'geometry' is said twice" in said(pictures(tmp_path, "classes: [a, b]\nheads: [geometry, geometry]\n"))


SETTINGS: dict[str, Any] = {
    "network": "fcn32s-resnet18", "batch": 2, "epochs": 2, "crop": (24, 24), "device": "cpu", "auto": False,
}  # fmt: skip


def trained(data: Path, out: Path, **more: Any) -> Path:
    fullyconv.train("default", data=data, out=out, **{**SETTINGS, **more})
    return out


def test_every_head_is_trained_and_validated(tmp_path: Path) -> None:
    recipe = Recipe(**{**SETTINGS, "epochs": 1, "head_weights": {"geometry": 2.0}})
    job = assemble(recipe, prepare(recipe, pictures(tmp_path)), None)
    before = {name: tensor.clone() for name, tensor in job.network.state_dict().items()}
    (line,) = Run(job).train().history
    assert {"mean_iu", "geometry_mean_iu", "shade_mean_iu"} <= line.keys()
    for name in ("heads.0.weight", "geometry_heads.0.weight", "shade_heads.0.weight"):
        assert not torch.equal(job.network.state_dict()[name], before[name])


def command(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return " ".join((result.output + str(result.exception or "")).split())


@pytest.mark.slow
def test_heads_are_trained_scored_written_and_resumed(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")

    def stop(figures: Mapping[str, Any]) -> None:
        if figures["epoch"] == 1:
            raise KeyboardInterrupt

    weights = {"geometry": 0.5}
    run = trained(data, tmp_path / "run", head_weights=weights)
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "stopped", head_weights=weights, callbacks=[stop])
    trained(data, tmp_path / "stopped", head_weights=weights, resume=True)
    one, other = (read_tensors(each / "last/2/model.safetensors") for each in (run, tmp_path / "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.startswith("shade_heads") for name in one)

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best, document = max(lines, key=lambda line: line["mean_iu"]), json.loads((run / "evaluation.json").read_text())
    for name in ("geometry", "shade"):
        assert document[name]["mean_iu"] == pytest.approx(best[f"{name}_mean_iu"], abs=1e-6)
        assert (run / "heads" / name / "confusion.png").is_file()
        page = (run / "heads" / name / "report.html").read_text()
        assert all(label in page for label in document[name]["classes"])
        assert f'href="heads/{name}/report.html"' in (run / "report.html").read_text()
    assert stated_heads(run)["geometry"].classes == GEOMETRY
    assert read_classes(run / "classes.yaml").names == ("ground", "box")

    model = load(run / "model", device="cpu")
    scores = tmp_path / "scores.json"
    told = command("evaluate", run / "model", data / "val", "--json", scores, "--report", tmp_path / "page",
                   "--fit-temperature", "--device", "cpu")  # fmt: skip
    assert "head shade:" in told
    found = json.loads(scores.read_text())
    pairs = open_folder(data).splits["val"]
    for name, head in {"": model, **model.heads}.items():  # type: ignore[union-attr]
        own = found[name] if name else found
        assert own["confusion"] == evaluate(head, pairs).counts.tolist()  # type: ignore[arg-type]
        assert own["confidence"]["temperature"] == load(run / "model").heads[name].temperature if name else True  # type: ignore[union-attr]
    assert (tmp_path / "scores_geometry.png").is_file()
    assert (tmp_path / "page/heads/shade/report.html").is_file()
    assert model.heads["shade"].evaluate(data / "val").counts.tolist() == found["shade"]["confusion"]  # type: ignore[union-attr]

    page = command("data", "check", data, "--report", tmp_path / "checked")
    assert "head shade" in page
    assert "Splits: head geometry" in (tmp_path / "checked/report.html").read_text()
    converted = command("data", "convert", data, "--out", tmp_path / "plain")
    assert "left out: the masks of the further heads geometry, shade" in converted

    command("predict", run / "model", data / "val/images", "--out", tmp_path / "out", "--probabilities", "--areas")
    pixels = np.asarray(Image.open(data / "val/images/val1.png"))
    for place, head in ((".", model), ("geometry", model.heads["geometry"]), ("shade", model.heads["shade"])):  # type: ignore[union-attr]
        with Image.open(tmp_path / "out" / place / "val1.png") as mask:
            wanted = np.array(head.classes.values)[head.predict(pixels).labels]
            np.testing.assert_array_equal(np.asarray(mask), wanted)
        assert (tmp_path / "out" / place / "areas.csv").is_file()
        assert np.load(tmp_path / "out" / place / "val1.npz")["probabilities"].shape == (len(head.classes), *SIZE)

    shutil.copytree(data / "val/images", tmp_path / "in/geometry")
    told = command("predict", run / "model", tmp_path / "in", "--out", tmp_path / "other", status=1)
    assert "the folder geometry/ among the inputs is called as a head of the model" in told
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(data / "val/geometry/val0.png")
    with pytest.raises(BadFile, match="masks of head geometry changed"):
        trained(data, run, resume=True, head_weights=weights)
    with pytest.raises(ValueError, match="head_weights names 'shapes', the heads are geometry, shade"):
        trained(data, tmp_path / "new", head_weights={"shapes": 2})


def test_a_model_is_scored_on_other_data_head_by_head(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    network = with_tasks(build("fcn32s-resnet18", 2), {"geometry": 3, "other": 2})
    model = fullyconv.save(
        network, tmp_path / "model", classes=ClassSet(("ground", "box")), heads={"geometry": GEOMETRY}
    )
    told = command("evaluate", model, data / "val", "--json", tmp_path / "a.json")
    assert "has no masks of the head 'other', which is not scored" in told
    assert json.loads((tmp_path / "a.json").read_text()).keys() >= {"geometry"}
    (data / "classes.yaml").write_text(CLASSES.replace("name: steep", "name: stair"))
    told = command("evaluate", model, data / "val", status=1)
    assert "its classes (stair, up, flat) are not the model's (steep, up, flat)" in told


@pytest.mark.slow
def test_each_head_is_scored_on_every_part_that_is_held_out(tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data"), tmp_path / "run"
    settings = {**SETTINGS, "epochs": 1, "auto": "false", "crop": "[24,24]"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    told = command("train", "default", "--data", data, "--out", run, "--folds", 2, *words)
    assert "head geometry: each part scored by the model that has not seen it" in told
    document = json.loads((run / "folds.json").read_text())
    assert document["heads"].keys() == {"geometry", "shade"}
    parts = [json.loads((run / f"fold-{part}/evaluation.json").read_text())["shade"] for part in (1, 2)]
    assert document["heads"]["shade"]["mean"]["mean_iu"] == pytest.approx(np.mean([each["mean_iu"] for each in parts]))
    summed = np.sum([each["confusion"] for each in parts], axis=0)
    assert document["heads"]["shade"]["together"]["confusion"] == summed.tolist()


@pytest.mark.slow
def test_one_mask_per_picture_leaves_no_trace_of_heads(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "classes: [ground, box]\n")
    shutil.rmtree(data / "train/geometry"), shutil.rmtree(data / "val/geometry")
    for file in data.glob("*/masks/*_shade.png"):
        file.unlink()
    run = trained(data, tmp_path / "run", epochs=1)
    config = json.loads((run / "model/config.json").read_text())
    assert "heads" not in config
    assert "tasks" not in config["architecture"]
    assert set(json.loads((run / "data.json").read_text())) == {"classes", "void", "training pairs", "validation pairs"}
    assert not (run / "heads").exists()
    assert not isinstance(load(run / "model").network, ManyHeads)
    with pytest.raises(ValueError, match="head_weights names 'geometry', the heads are no further ones"):
        trained(data, tmp_path / "new", head_weights={"geometry": 2})


def test_no_head_is_called_as_a_score_is() -> None:
    found = evaluate(fullyconv.Segmenter(build("fcn4s-lenet", 2), classes=ClassSet(("a", "b")),
                     preprocess=fullyconv.Preprocess(), device="cpu"), [])  # fmt: skip
    assert found.document().keys() <= TAKEN_NAMES
