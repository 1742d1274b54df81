"""Predicting on a cluster: what is listed, what is noted, and that nothing is lost or done twice when a worker dies."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image as Pictures

import fullyconv
from fullyconv.files import BadFile
from fullyconv.predict.finding import find_images
from fullyconv.predict.ray import AT_ONCE, Choices, RayJob
from fullyconv.predict.remote import Manifest, list_images

ray = pytest.importorskip("ray", reason="Ray is an extra")


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Pictures.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = fullyconv.build("fcn8s-resnet18", 5)
    for parameter in network.parameters():
        if not parameter.detach().any():  # heads of zeros would label all pixels alike
            torch.nn.init.normal_(parameter)
    return Path(fullyconv.save(network, tmp_path_factory.mktemp("model") / "model"))


def test_files_folders_globs_and_tables_are_listed_once_and_named_apart(tmp_path: Path) -> None:
    first = picture(tmp_path / "in" / "a.png", 0)
    second = picture(tmp_path / "in" / "deep" / "b.jpg", 1)
    picture(tmp_path / "out" / "old.png", 2)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "list.csv").write_text(f"image,other\n{first},1\n{tmp_path / 'missing.png'},2\n")
    found = list_images([str(tmp_path), str(tmp_path / "in" / "*.png")], str(tmp_path / "out"))
    assert [(image.url, image.target) for image in found] == [
        (str(first), "in/a"),
        (str(second), "in/deep/b"),
    ]
    assert all(image.mark for image in found)
    listed = list_images([str(tmp_path / "list.csv")], str(tmp_path / "out"))
    assert [image.target for image in listed] == ["a", "missing"]
    with pytest.raises(BadFile, match="has no column 'url', but image, other"):
        list_images([str(tmp_path / "list.csv")], "out", column="url")
    with pytest.raises(BadFile, match="its file system cannot be used"):
        list_images(["nowhere://bucket/a.png"], "out")


def test_a_bucket_is_listed_and_noted_as_a_folder_is() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/photos/a.png", b"1")
    memory.pipe_file("/bucket/photos/b/a.png", b"22")
    found = list_images(["memory://bucket/photos"], "memory://bucket/out")
    assert [(image.url, image.target) for image in found] == [
        ("memory:///bucket/photos/a.png", "a"),
        ("memory:///bucket/photos/b/a.png", "b/a"),
    ]
    assert found[0].mark != found[1].mark
    manifest = Manifest("memory://bucket/out")
    manifest.add([{"image": "a", "target": "a"}])
    memory.pipe_file("/bucket/out/manifest/9.jsonl", b'{"image": "b", "target": "b"}\n{"image": "c", "targ')
    assert [line["image"] for line in Manifest("memory://bucket/out").lines()] == ["a", "b"]


def test_what_is_done_is_skipped_and_what_is_not_ours_is_left_alone(model: Path, tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png", ord(name))
    out = str(tmp_path / "out")
    images = list_images([str(tmp_path / "in")], out)
    job = RayJob(model, images, out, Choices())
    line = {"image": images[0].url, "target": "a", "mark": images[0].mark, "problem": None, "model": job._key}
    changed = line | {"image": images[1].url, "target": "b", "mark": "another size"}
    Manifest(out).add([line, changed])
    picture(tmp_path / "out" / "a.png", 0)
    assert [image.target for image in RayJob(model, images, out, Choices()).left] == ["b", "c"]
    assert [image.target for image in RayJob(model, images, out, Choices(probabilities=True)).left] == ["a", "b", "c"]
    picture(tmp_path / "out" / "c.png", 0)
    with pytest.raises(BadFile, match=r"c\.png: is there, and the manifest does not say"):
        RayJob(model, images, out, Choices())
    job = RayJob(model, images, out, Choices(overwrite=True))
    assert len(job.left) == 2
    picture(tmp_path / "out" / "b.png", 0)
    job._outcome(changed)
    listed = [json.loads(line) for line in (tmp_path / "out" / ".fullyconv.jsonl").read_text().splitlines()]
    assert [(each["file"], each["by"], each["of"]) for each in listed] == [("b.png", "predict", images[1].url)]
    assert [task.image.name for task in find_images([tmp_path / "out"])] == ["a.png", "c.png"]


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_when_a_worker_is_killed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    for index in range(1000):
        picture(tmp_path / "in" / f"{index:04d}.png", index)
    bad = {f"{index:04d}" for index in (0, 333, 500, 777, 999)}
    for name in bad:
        (tmp_path / "in" / f"{name}.png").write_bytes(b"no picture")
    out = str(tmp_path / "out")
    images = list_images([str(tmp_path / "in")], out)
    # A busy machine must not pass for a dead one.
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config={"health_check_failure_threshold": 999}
    )
    try:
        killed, outcomes = None, []
        for outcome in RayJob(model, images, out, Choices(workers=2)).outcomes():
            outcomes.append(outcome)
            if killed is None and len(outcomes) > 200:
                lines = [line for line in Manifest(out).lines() if "by" in line]
                if lines:
                    killed = lines[-1]["by"]
                    os.kill(int(killed.split()[1]), signal.SIGKILL)
        again = RayJob(model, images, out, Choices(workers=2))
        assert {image.target for image in again.left} == bad
        assert [outcome.problem is not None for outcome in again.outcomes()] == [True] * 5
    finally:
        ray.shutdown()
    assert killed is not None
    assert Counter(str(outcome.task.target) for outcome in outcomes) == Counter(image.target for image in images)
    assert {str(outcome.task.target) for outcome in outcomes if outcome.problem is not None} == bad
    lines = [line for line in Manifest(out).lines() if "by" in line]
    assert len(lines) == 1005
    assert len({line["by"] for line in lines}) >= 4  # two, one in the place of the killed, those of the second run
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    assert find_images([tmp_path / "in" / "0001.png"])  # but of the output folder nothing: all in it are predictions
    with pytest.raises(BadFile, match="but what fullyconv wrote"):
        find_images([tmp_path / "out"])
    masks = sorted(path.stem for path in (tmp_path / "out").glob("*.png"))
    assert masks == sorted(image.target for image in images if image.target not in bad)
    alone = fullyconv.load(model, engine="pytorch")
    for name in masks[:: 1000 // AT_ONCE]:
        expected = alone.predict(tmp_path / "in" / f"{name}.png").labels
        assert np.array_equal(np.asarray(Pictures.open(tmp_path / "out" / f"{name}.png")), expected)
