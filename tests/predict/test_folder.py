from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv import ClassSet, Preprocess, Segmenter, build
from fullyconv.files import BadFile
from fullyconv.predict.folder import find_images, predict_files


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
    assert sorted(path.name for path in out.iterdir()) == [
        "a.npz", "a.png", "a_overlay.jpg", "c.npz", "c.png", "c_overlay.jpg",
    ]  # fmt: skip
    mask = Image.open(out / "c.png")
    assert (mask.mode, mask.size) == ("P", (9, 30))
    assert set(np.unique(np.asarray(mask)).tolist()) <= {4, 7}
    with np.load(out / "a.npz", allow_pickle=False) as file:
        assert file["probabilities"].shape == (2, 12, 17)
        assert file["probabilities"].dtype == np.float16
