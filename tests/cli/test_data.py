from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import miniatures
from fullyconv.cli import app
from fullyconv.data import sources
from fullyconv.data.sources import Source
from webserver import serving


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("name", ["voc", "sbdd", "context", "siftflow", "nyud"])
def test_published_sets_check_clean_from_the_command_line(tmp_path: Path, name: str) -> None:
    result = run("data", "check", getattr(miniatures, name)(tmp_path))
    assert result.exit_code == 0, result.output
    assert "0 problems" in result.output


def test_check_prints_the_best_iu_at_each_stride_and_advises_one(tmp_path: Path) -> None:
    poles = np.where(np.arange(64) % 16 == 5, 1, 0).astype(np.uint8)[None].repeat(64, 0)
    for place, pixels in (("images", np.random.default_rng(0).integers(0, 255, (64, 64, 3))), ("masks", poles)):
        (tmp_path / place).mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / place / "a.png")
    (tmp_path / "classes.yaml").write_text("classes: [road, pole]\n")
    printed = run("data", "check", tmp_path).output
    assert (
        "advice: stride 2; at stride 4 'pole' reaches an IU of 0.00 at most, the mean 0.47 (1 mask looked at)"
        in printed
    )


def test_a_fetched_archive_is_a_data_set_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    packed = io.BytesIO()
    miniatures.voc(tmp_path / "origin", year=2012)
    with tarfile.open(fileobj=packed, mode="w") as pack:
        pack.add(tmp_path / "origin" / "VOCdevkit", "VOCdevkit")
    content = packed.getvalue()
    with serving(content) as server:
        server.breaks = [len(content) // 3]
        address = f"http://127.0.0.1:{server.port}/voc/archive.tar"
        known = Source(address, hashlib.sha256(content).hexdigest(), len(content))
        monkeypatch.setattr(sources, "SOURCES", {"voc2012": (known,)})
        result = run("data", "fetch", "voc2012", "--out", tmp_path / "here")
        assert result.exit_code == 0, result.output
        assert "as published" in result.output
        assert len(server.asked) == 2
        monkeypatch.setattr(sources, "SOURCES", {"voc2012": (Source(address),)})
        again = run("data", "fetch", "voc2012", "--out", tmp_path / "there", "--keep")
    assert "no published sum is known" in again.output
    assert [path.name for path in sorted((tmp_path / "here").iterdir())] == ["VOCdevkit"]
    assert [path.name for path in sorted((tmp_path / "there").iterdir())] == ["VOCdevkit", "archive.tar"]
    assert run("data", "check", tmp_path / "here").exit_code == 0


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    result = run("data", "fetch", "voc2013", "--out", tmp_path)
    assert "choose one of voc2007" in str(result.exception)


def test_seg11valid_is_written_and_another_count_is_a_problem(tmp_path: Path) -> None:
    voc, sbdd = miniatures.voc(tmp_path), miniatures.sbdd(tmp_path)
    result = run("data", "seg11valid", "--voc", voc, "--sbdd", sbdd)
    assert result.exit_code == 1
    assert "2 pictures in" in result.output
    assert (voc / "ImageSets" / "Segmentation" / "seg11valid.txt").is_file()
    assert run("data", "check", voc).exit_code == 0


def test_hha_pictures_make_a_stream(tmp_path: Path) -> None:
    root = miniatures.nyud(tmp_path)
    (root / "data" / "depth" / "bad.png").write_text("no picture")
    target = tmp_path / "out"
    result = run("data", "hha", root / "data" / "depth", "--out", target, "--camera", 30, 30, 20, 12)
    assert result.exit_code == 1
    assert "bad.png" in result.output
    assert "3 of 4 pictures" in result.output
    assert np.asarray(Image.open(target / "img_5001.png")).shape == (*miniatures.SIZE, 3)
