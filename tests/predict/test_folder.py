from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv import ClassSet, Preprocess, Segmenter, build
from fullyconv.files import BadFile
from fullyconv.predict.finding import find_images
from fullyconv.predict.folder import predict_files


def picture(path: Path, size: tuple[int, int] = (12, 17)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    return path


def test_files_folders_and_globs_are_found(tmp_path: Path) -> None:
    for name in ("a.png", "in/b.jpg", "in/deep/c.bmp", "more/d1.png", "more/d2.png", "more/e.png"):
        picture(tmp_path / name)
    (tmp_path / "in/readme.txt").write_text("no picture")
    tasks = find_images([tmp_path / "a.png", tmp_path / "in", str(tmp_path / "more/d*.png")])
    assert [str(task.target) for task in tasks] == ["a", "b", "deep/c", "d1", "d2"]
    with pytest.raises(BadFile, match="no image there"):
        find_images([tmp_path / "nothing*.png"])


def test_inputs_that_would_share_a_name_keep_their_suffix(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "a.jpg")
    assert sorted(str(task.target) for task in find_images([tmp_path])) == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (["m/a.jpg", "t/a.jpg"], ["m_a", "t_a"]),
        (["m/a.jpg", "t/a.jpg", "t/b.jpg"], ["m_a", "t_a", "b"]),
        (["x/m/a.jpg", "y/m/a.jpg"], ["x_m_a", "y_m_a"]),
        (["m/a.jpg", "m/a.png", "t/a.png"], ["a.jpg", "a.png", "a"]),
        (["m/a.jpg", "m/a.png", "t/a.jpg", "t/a.png"], ["m_a.jpg", "m_a.png", "t_a.jpg", "t_a.png"]),
        (["m/A.jpg", "m/a.png"], ["A.jpg", "a.png"]),
        (["m/A.jpg", "m/a.jpg"], ["A.jpg", "a.jpg-2"]),
        (["m/caf\u00e9.jpg", "m/cafe\u0301.jpg"], ["caf\u00e9.jpg", "cafe\u0301.jpg-2"]),
        (["m/a.jpg", "m/a.png", "m/a.jpg.png"], ["a.jpg", "a.png", "a.jpg-2"]),
        (["m_a.jpg", "m/a.jpg", "t/a.jpg"], ["m_a", "m_a-2", "t_a"]),
    ],
)
def test_no_two_inputs_share_a_name(tmp_path: Path, names: list[str], targets: list[str]) -> None:
    for name in names:
        picture(tmp_path / name)
    tasks = find_images([tmp_path / name for name in names])
    assert [str(task.image.relative_to(tmp_path)) for task in tasks] == names
    assert [str(task.target) for task in tasks] == targets


def test_folders_of_one_structure_keep_it(tmp_path: Path) -> None:
    for name in ("m/cam/0.jpg", "t/cam/0.jpg", "t/other/1.jpg"):
        picture(tmp_path / name)
    tasks = find_images([tmp_path / "m", tmp_path / "t"])
    assert [str(task.target) for task in tasks] == ["m_cam/0", "t_cam/0", "other/1"]


def test_links_are_followed_once_and_what_is_no_picture_is_one_bad_file(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    picture(tmp_path / "in/own/b.jpg")
    picture(tmp_path / "far/c.jpg")
    picture(tmp_path / "in/called.zarr/d.png")
    for link, target in {"loop": ".", "up": "..", "twin": "own", "far": "../far", "again": "../far"}.items():
        (tmp_path / "in" / link).symlink_to(target, target_is_directory=True)
    (tmp_path / "far" / "back").symlink_to("../in", target_is_directory=True)
    (tmp_path / "in/gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "in/pipe.png")
    (tmp_path / "in/empty.zarr").mkdir()
    (tmp_path / "in/half.zarr/c/0").mkdir(parents=True)
    tasks = find_images([tmp_path / "in", tmp_path / "in/empty.zarr"])
    found = {task.target.as_posix(): task for task in tasks}
    assert set(found) == {"a", "again/c", "called.zarr/d", "empty", "gone", "half", "own/b", "pipe"}
    torch.manual_seed(0)
    model = Segmenter(build("fcn1s-spectral2", 2, channels=3), classes=ClassSet(("a", "b")), preprocess=Preprocess())
    outcomes = [*predict_files(model, tasks, tmp_path / "out")]
    said = {each.task.target.as_posix(): each.problem.what for each in outcomes if each.problem is not None}
    store = "no Zarr store: neither zarr.json nor .zarray or .zgroup is in it"
    assert said == {"gone": "no such file", "pipe": "is no regular file", "empty": store, "half": store}


def test_an_input_named_twice_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(find_images(["in", "./in/a.jpg", tmp_path / "in", "in/*.jpg", "in/../in"])) == 1


@pytest.mark.parametrize("folders", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_hundred_thousand_files_are_found_in_seconds(tmp_path: Path, folders: int) -> None:
    for folder in range(folders):
        (tmp_path / str(folder)).mkdir()
        for index in range(1000):
            (tmp_path / str(folder) / f"{index}.png").touch()
    started = time.process_time()
    tasks = find_images([tmp_path])
    assert time.process_time() - started < 5
    assert len({task.target for task in tasks}) == 1000 * folders


def test_a_picture_that_memory_does_not_suffice_for_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, height in (("a", 12), ("b", 500), ("c", 12)):
        picture(tmp_path / "in" / f"{name}.png", (height, 17))
    model = Segmenter(build("fcn32s-resnet18", 2), classes=ClassSet(("x", "y")), preprocess=Preprocess())
    engine = model.prepared().engine
    score_maps = engine.score_maps

    def little(pixels: np.ndarray) -> list[torch.Tensor]:
        if pixels.shape[1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return score_maps(pixels)

    monkeypatch.setattr(engine, "score_maps", little)
    monkeypatch.setattr(engine, "bands", lambda: None)
    outcomes = list(predict_files(model, find_images([tmp_path / "in"]), tmp_path / "out"))
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    assert "b.png: not enough memory for 500 x 17 pixels" in str(outcomes[1].problem)


def test_outputs_and_a_bad_file_among_good_ones(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", (12, 17))
    (tmp_path / "in/b.png").write_text("no picture")
    picture(tmp_path / "in/c.jpg", (30, 9))
    classes = ClassSet(("x", "y"), values=(4, 7))
    model = Segmenter(build("fcn32s-resnet18", 2), classes=classes, preprocess=Preprocess())
    out = tmp_path / "out"
    outcomes = list(predict_files(model, find_images([tmp_path / "in"]), out, probabilities=True))
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    assert "b.png: unreadable" in str(outcomes[1].problem)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "a.npz", "a.png", "a_overlay.jpg", "c.npz", "c.png", "c_overlay.jpg",
    ]  # fmt: skip
    mask = Image.open(out / "c.png")
    assert (mask.mode, mask.size) == ("P", (9, 30))
    assert set(np.unique(np.asarray(mask)).tolist()) <= {4, 7}
    with np.load(out / "a.npz", allow_pickle=False) as file:
        assert file["probabilities"].shape == (2, 12, 17)
        assert file["probabilities"].dtype == np.float16
