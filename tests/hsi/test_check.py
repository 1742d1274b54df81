from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.synthetic import make_scene


def scene() -> Scene:
    made = make_scene(np.repeat([0, 1], 300).astype(np.int16).reshape(30, 20), class_set(2), bands=6)
    return replace(made, cube=made.cube.astype(np.float32))


def test_a_good_scene_has_no_problem(tmp_path: Path) -> None:
    given = scene()
    labels = save_scene(given, tmp_path / "x.hdr")
    report = SceneFiles(tmp_path / "x.hdr", labels).check()
    assert report.problems == []
    assert (report.low, report.high) == (given.cube.min(), given.cube.max())
    assert report.pixels.sum() == 600


def test_everything_wrong_is_listed_in_the_words_of_opening(tmp_path: Path) -> None:
    given = scene()
    given.cube[2, 3, 4] = np.inf
    given.cube[..., 1] = 7
    assert given.labels is not None
    labels = given.labels + 1
    broken = replace(given, labels=labels.astype(np.int16), classes=class_set(3), wavelengths=(450.0, 550.0))
    save_scene(broken, tmp_path / "x.npz")
    problems = [str(problem) for problem in SceneFiles(tmp_path / "x.npz").check().problems]
    for words in ("6 bands, but 2 wavelengths", "class 1 ('class_1') without pixels", "infinity in band 4",
                  "band 1 (counted from 0) is the same everywhere"):  # fmt: skip
        assert sum(words in problem for problem in problems) == 1
    with pytest.raises(BadFile) as caught:
        SceneFiles(tmp_path / "x.npz").open()
    assert str(caught.value) == problems[0]


def test_a_number_that_may_stand_for_nothing_is_said_once_it_is_declared_no_more(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).uniform(0, 1, (30, 40, 5)).astype(np.float32)
    labels = np.arange(1200).reshape(30, 40) % 3
    cube[:9] = -9999
    np.savez(tmp_path / "x.npz", cube=cube, labels=labels)
    files = SceneFiles(tmp_path / "x.npz")
    said = str(files.check().warnings[0])
    assert "x.npz: -9999 stands in 30.00% of its pixels, far from all others" in said
    assert "a variable no_data beside the cube" in said
    with pytest.warns(UserWarning, match="-9999 stands in 30"):
        files.open()
    np.savez(tmp_path / "x.npz", cube=cube, labels=labels, no_data=-9999)
    assert files.check().warnings == []
