"""No command writes over an input, or over a file that it did not write itself."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fullyconv import build, save
from fullyconv.cli import app
from fullyconv.files import BadFile, draft_file, whole_file
from fullyconv.outputs import MANIFEST, Outputs
from fullyconv.predict.finding import find_images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(build("fcn32s-resnet18", 6), tmp_path_factory.mktemp("model") / "model")


def picture(path: Path, *, height: int = 12, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, 17, 3)).astype(np.uint8)).save(path)
    return path


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def command(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_photos_are_not_replaced_by_their_masks(model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "holiday.png")
    before = sums(tmp_path)
    result = command("predict", model, tmp_path / "photos", "--out", tmp_path / "photos")
    assert isinstance(result.exception, BadFile)
    assert "holiday.png: is one of the inputs" in str(result.exception)
    assert sums(tmp_path) == before


@pytest.mark.parametrize("how", ["hard link", "symbolic link", "folder link", "other spelling"])
def test_no_way_round_leads_to_an_input(model: Path, tmp_path: Path, how: str) -> None:
    photo = picture(tmp_path / "photos" / "a.png")
    out = tmp_path / "out"
    if how == "folder link":
        out.symlink_to(tmp_path / "photos")
    elif how == "other spelling":
        out = tmp_path / "photos" / ".." / "photos"
    else:
        out.mkdir()
        (os.link if how == "hard link" else os.symlink)(photo, out / "a.png")
    before = photo.read_bytes()
    result = command("predict", model, tmp_path / "photos", "--out", out, "--overwrite")
    assert isinstance(result.exception, BadFile)
    assert photo.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "photos").iterdir() if path.name != MANIFEST) == ["a.png"]


def test_files_of_others_stay_and_ours_are_replaced(model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg")
    out = tmp_path / "out"
    assert command("predict", model, tmp_path / "in", "--out", out).exit_code == 0
    first = sums(out)
    assert sorted(first) == ["a.png", "a_overlay.jpg"]
    assert command("predict", model, tmp_path / "in", "--out", out).exit_code == 0
    assert sums(out) == first
    (out / "a.npz").write_text("notes of mine")
    result = command("predict", model, tmp_path / "in", "--out", out, "--probabilities", "--overwrite")
    assert "a.npz: was not written by fullyconv" in str(result.exception)
    assert (out / "a.npz").read_text() == "notes of mine"


def test_a_mask_that_was_corrected_by_hand_is_kept(model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg")
    out = tmp_path / "out"
    command("predict", model, tmp_path / "in", "--out", out)
    mask = out / "a.png"
    ours = mask.read_bytes()
    corrected = ours[:-1] + bytes([ours[-1] ^ 1])  # of the same length, in the same second
    mask.write_bytes(corrected)
    result = command("predict", model, tmp_path / "in", "--out", out)
    assert "a.png: has been changed since fullyconv wrote it" in str(result.exception)
    assert "--overwrite" in str(result.exception)
    assert mask.read_bytes() == corrected
    assert command("predict", model, tmp_path / "in", "--out", out, "--overwrite").exit_code == 0
    assert mask.read_bytes() == ours


def test_copied_outputs_are_still_ours(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    with outputs.writing("a.txt"):
        (tmp_path / "a.txt").write_text("one")
    os.utime(tmp_path / "a.txt", ns=(1, 1))  # as a copy without times has others
    Outputs(tmp_path).check(["a.txt"])


def test_results_below_the_inputs_are_no_inputs_of_the_next_run(model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    picture(photos / "a.jpg")
    for _ in range(2):
        result = command("predict", model, photos, "--out", photos / "labelled")
        assert (result.exit_code, result.stdout.split()[:3]) == (0, ["1", "of", "1"])
    for _ in range(2):
        assert command("predict", model, photos / "a.jpg", "--out", photos).exit_code == 0


def test_labels_of_another_picture_are_not_replaced(model: Path, tmp_path: Path) -> None:
    first, other = (picture(tmp_path / day / "p1.png", seed=seed) for seed, day in enumerate(("photos", "other")))
    out = tmp_path / "out"
    for _ in range(2):
        assert command("predict", model, first, "--out", out).exit_code == 0
    before = sums(out)
    result = command("predict", model, other, "--out", out)
    for part in ("p1.png: was made of", str(first), str(other), "--out", "--overwrite"):
        assert part in str(result.exception)
    assert sums(out) == before
    assert command("predict", model, other, "--out", out, "--overwrite").exit_code == 0
    assert sums(out) != before
    assert "was made of" in str(command("predict", model, first, "--out", out).exception)


def test_predictions_are_inputs_only_when_they_are_named(model: Path, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.jpg")
    assert command("predict", model, photo, "--out", tmp_path / "labelled").exit_code == 0
    overlay = tmp_path / "labelled" / "a_overlay.jpg"
    assert [task.image for task in find_images([tmp_path])] == [photo]
    assert [task.image for task in find_images([f"{tmp_path}/**/*.jpg"])] == [photo]
    assert [task.image for task in find_images([overlay])] == [overlay]
    with pytest.raises(BadFile, match="no image there but what fullyconv wrote"):
        find_images([tmp_path / "labelled"])


def test_generated_pictures_are_inputs(tmp_path: Path) -> None:
    command("data", "demo", tmp_path, "--train", 1, "--val", 1)
    assert len(find_images([tmp_path / "val" / "images"])) == 1


def test_a_file_as_output_folder_is_named(model: Path, tmp_path: Path) -> None:
    photos = [picture(tmp_path / f"{name}.png") for name in "ab"]
    result = command("predict", model, photos[1], "--out", photos[0])
    assert "a.png: is a file" in str(result.exception)
    assert "name a folder as --out" in str(result.exception)


@pytest.mark.parametrize("kind", ["folders", "files", "glob"])
def test_two_inputs_of_one_name_give_two_results(model: Path, tmp_path: Path, kind: str) -> None:
    for day, height in (("monday", 40), ("tuesday", 30)):
        picture(tmp_path / day / "cam1.png", height=height)
    given = {
        "folders": [tmp_path / "monday", tmp_path / "tuesday"],
        "files": [tmp_path / "monday/cam1.png", tmp_path / "tuesday/cam1.png"],
        "glob": [f"{tmp_path}/*/cam1.png"],
    }[kind]
    result = command("predict", model, *given, "--out", tmp_path / "out")
    assert result.exit_code == 0
    heights = {path.name: Image.open(path).height for path in (tmp_path / "out").rglob("*.png")}
    assert heights == {"monday_cam1.png": 40, "tuesday_cam1.png": 30}


def test_an_interrupted_run_leaves_whole_files_and_can_be_run_again(model: Path, tmp_path: Path) -> None:
    for index in range(40):
        picture(tmp_path / "in" / f"{index:02d}.jpg", height=60, seed=index)
    out = tmp_path / "out"
    words = [sys.executable, "-m", "fullyconv", "predict", str(model), str(tmp_path / "in"), "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("*.png")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 0 < len(done) < 80
    for path in done:
        Image.open(path).load()
    assert command("predict", model, tmp_path / "in", "--out", out).exit_code == 0
    assert len(sums(out)) == 80


@pytest.mark.parametrize("text", ["", "{", "[]\n\x00\xff\n", '{"file": 5}\n{"file": "a.png"', "null\n"])
def test_a_damaged_list_protects_the_files(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(BadFile, match="was not written by fullyconv"):
        Outputs(tmp_path).check(["a.png"])


def test_a_death_between_writing_and_noting_leaves_the_file_ours(tmp_path: Path) -> None:
    with Outputs(tmp_path).writing("a.png"):
        (tmp_path / "a.png").write_text("whole")
    lines = (tmp_path / MANIFEST).read_text().splitlines()
    (tmp_path / MANIFEST).write_text(lines[0] + "\n" + lines[1][:20])
    Outputs(tmp_path).check(["a.png"])


@pytest.mark.parametrize("names", [["a.png", "A.png"], ["caf\u00e9.png", "cafe\u0301.png"], ["a.png", "a.png"]])
def test_names_that_are_one_elsewhere_are_refused_before_the_work(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BadFile, match=r"is needed twice|file systems that ignore case"):
        Outputs(tmp_path).check(names)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(BadFile, match=r"a\.png: is a folder"):
        Outputs(tmp_path).check(["a.png"])


def test_an_empty_file_holds_nothing_to_lose(tmp_path: Path) -> None:
    (tmp_path / "scores.json").touch()
    Outputs(tmp_path).check(["scores.json"])


def test_a_folder_that_takes_nothing_is_named_before_the_work(model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg")
    (tmp_path / "file").write_text("no folder")
    result = command("predict", model, tmp_path / "in", "--out", tmp_path / "file" / "out")
    assert "cannot be written to" in str(result.exception)


def test_a_full_disk_is_named_before_the_work_and_during_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.jpg")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr(Path, "write_bytes", refuse)
    result = command("predict", model, tmp_path / "in", "--out", tmp_path / "out")
    assert "out: cannot be written to (No space left on device): make room" in str(result.exception)
    monkeypatch.undo()
    save_picture = Image.Image.save
    saved = []

    def save_two(image: Image.Image, *words: Any, **options: Any) -> None:
        saved.append(words)
        if len(saved) > 3:
            raise full
        save_picture(image, *words, **options)

    monkeypatch.setattr(Image.Image, "save", save_two)
    result = command("predict", model, tmp_path / "in", "--out", tmp_path / "out")
    assert "out: no more room after 1 of 3" in str(result.exception)
    monkeypatch.undo()
    assert command("predict", model, tmp_path / "in", "--out", tmp_path / "out").exit_code == 0


def test_drafts_take_no_names_of_others(tmp_path: Path) -> None:
    for name in ("a.png", "a.png.tmp", "x" * 255):
        (tmp_path / name).write_text("mine")
    with whole_file(tmp_path / "b.png") as draft:
        draft.write_text("b")
    with whole_file(tmp_path / "a.png") as draft:
        assert draft == draft_file(tmp_path / "a.png")
        draft.write_text("new")
    with whole_file(tmp_path / ("x" * 255)) as draft:
        draft.write_text("long")
    assert (tmp_path / "a.png.tmp").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


class Everything:
    """One call of each command that writes, with the files it writes."""

    def __init__(self, model: Path, shapes: Path, place: Path) -> None:
        image = str(picture(place / "x.png", height=40))
        depth = place / "depth"
        depth.mkdir()
        ramp = 1000 + np.add.outer(np.arange(425), np.arange(560)) * 2
        Image.fromarray(ramp.astype(np.uint16)).save(depth / "d.png")
        labels = np.repeat(np.repeat([[1, 2], [2, 1]], 12, 0), 12, 1)
        np.save(place / "map.npy", labels.astype(np.uint8))
        self.out = place / "out"
        out, data = str(self.out), str(shapes)
        vgg = str(place / "lenet")
        torch.manual_seed(0)
        save(build("fcn4s-lenet", 2), vgg)
        self.calls = {
            "evaluate": (["evaluate", model, data, "--json", f"{out}/s.json"], ["s.json", "s.png"]),
            "report": (["evaluate", model, data, "--report", out], ["report.html"]),
            "inspect": (["inspect", model, "--json", f"{out}/i.json"], ["i.json"]),
            "heat map": (["inspect", model, "--heatmap", image, "--out", f"{out}/h.png"], ["h.png"]),
            "compress": (
                ["compress", model, "--layer", "trunk.stage4.1.conv2", "--rank", 4, "--image", image, "--out", out],
                ["config.json", "model.safetensors"],
            ),
            "export": (["caffe", "export", vgg, "--out", out], ["deploy.prototxt", "weights.caffemodel"]),
            "hha": (["data", "hha", depth, "--out", out], ["d.png"]),
            "demo": (["data", "demo", out, "--train", 1, "--val", 1], ["classes.yaml", "train/images/0000.png"]),
            "scene": (["data", "scene", "random", "--out", f"{out}/s.hdr", "--bands", 3], ["s.hdr", "s.img"]),
            "split": (
                ["hsi", "split", place / "map.npy", "--split", "random", "--out", out],
                ["split.npz", "split.png"],
            ),
        }


@pytest.mark.parametrize(
    "name",
    ["evaluate", "report", "inspect", "heat map", "compress", "export", "hha", "demo", "scene", "split"],
)
def test_every_command_keeps_what_is_not_its_own(model: Path, shapes: Path, tmp_path: Path, name: str) -> None:
    every = Everything(model, shapes, tmp_path)
    words, files = every.calls[name]
    first = command(*words)
    assert first.exit_code == 0, first.output + repr(first.exception)
    assert command(*words).exit_code == 0  # its own files, once more
    listed = {json.loads(line)["file"] for line in (every.out / MANIFEST).read_text().splitlines()}
    assert set(files) <= listed
    assert set(sums(every.out)) <= listed
    for file in files:
        for other in [*sums(every.out), MANIFEST]:
            (every.out / other).unlink()
        (every.out / file).write_text("mine")
        result = command(*words, "--overwrite")
        assert isinstance(result.exception, BadFile), file
        assert f"{file}: was not written by fullyconv" in str(result.exception)
        assert (every.out / file).read_text() == "mine"
        (every.out / MANIFEST).touch()


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["inspect", "MODEL", "--heatmap", "x.png", "--out", "x.png"], ["x.png"]),
        (["inspect", "MODEL", "--heatmap", "x.png", "--out", "h.png", "--json", "x.png"], ["x.png"]),
        (["data", "hha", "depth", "--out", "depth"], ["depth/d.png"]),
        (["data", "scene", "map.npy", "--out", "map.npy"], ["map.npy"]),
        (["hsi", "split", "split.npz", "--split", "random", "--out", "."], ["split.npz"]),
        (["compress", "lenet", "--rank", "4", "--image", "x.png", "--out", "lenet"], ["lenet/config.json"]),
    ],
)
def test_what_is_read_is_never_written_over(
    model: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], files: list[str]
) -> None:
    Everything(model, shapes, tmp_path)
    np.savez(tmp_path / "split.npz", labels=np.ones((8, 8), np.uint8))
    monkeypatch.chdir(tmp_path)
    before = sums(tmp_path)
    result = command(*(str(model) if word == "MODEL" else word for word in words), "--overwrite")
    assert isinstance(result.exception, BadFile), result.output
    assert "is one of the inputs" in str(result.exception)
    assert sums(tmp_path) == before
    assert set(files) <= set(before)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_list_that_is_no_file_of_its_own_is_left_alone(tmp_path: Path, kind: str) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    precious.write_text("of someone else")
    {
        "link": lambda path: path.symlink_to(precious),
        "pipe": os.mkfifo,
        "folder": lambda path: path.mkdir(),
    }[kind](out / MANIFEST)
    with pytest.raises(BadFile, match="where the list"):
        Outputs(out).check(["a.png"])
    assert precious.read_text() == "of someone else"


def test_what_would_be_a_file_and_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"a\.png: would have to be a folder, too"):
        Outputs(tmp_path / "out").check(["a.png", "a.png/in.png"])


def test_scores_replace_nothing_that_the_scoring_reads(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "shapes"
    assert command("data", "demo", data, "--train", 1, "--val", 1).exit_code == 0
    before = sums(data)
    with pytest.raises(BadFile, match="is one of the inputs"):
        app(
            ["evaluate", str(model), str(data / "val"), "--overwrite", "--json", str(data / "classes.yaml")],
            standalone_mode=False,
        )
    assert sums(data) == before


def test_what_another_command_made_is_replaced_on_demand_alone(tmp_path: Path) -> None:
    with Outputs(tmp_path, by="data demo").writing("a.json"):
        (tmp_path / "a.json").write_text("1")
    for other in (Outputs(tmp_path), Outputs(tmp_path, by="evaluate")):
        with pytest.raises(BadFile, match=r"another command's \(data demo\)"):
            other.check(["a.json"])
    Outputs(tmp_path, by="evaluate", overwrite=True).check(["a.json"])
    Outputs(tmp_path, by="data demo").check(["a.json"])
