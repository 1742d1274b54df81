"""What ``fullyconv predict`` says of many pictures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from fullyconv import build, save
from fullyconv.cli import app
from fullyconv.cli.progress import AT_ONCE, follow
from fullyconv.files import BadFile
from fullyconv.predict.work import Outcome, Task


def bad(index: int) -> Outcome:
    image = Path(f"in/{index}.jpg")
    kinds = ("truncated (after {} bytes)", "unreadable ('{}')")
    return Outcome(
        Task(image, Path(str(index))), problem=BadFile(image, kinds[index % 2].format(index), "leave it out")
    )


@pytest.mark.parametrize(("count", "most"), [(AT_ONCE, AT_ONCE), (20_000, AT_ONCE + 2 * 4)])
def test_many_bad_pictures_are_told_in_few_lines(count: int, most: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow("predicting", map(bad, range(count)), count) == count
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == most
    assert lines[0] == "skipped: in/0.jpg: truncated (after 0 bytes): leave it out"
    if count > AT_ONCE:
        assert f"({(count - AT_ONCE) // 2} like this)" in lines[AT_ONCE]


def test_the_seconds_of_computing_and_waiting_are_printed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        Image.fromarray(np.full((9, 12, 3), index * 40, np.uint8)).save(tmp_path / f"in/{index}.png")
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    result = CliRunner().invoke(app, ["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert re.search(r"3 images in \d+\.\d s: \d+\.\d computing, \d+\.\d waiting", result.output)


def test_what_maps_and_annotation_tools_need_is_written_beside(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "in").mkdir()
    dice = np.random.default_rng(0)
    pixels = dice.integers(1, 256, (20, 30, 3), np.uint8)
    pixels[:3, :4] = 0
    Image.fromarray(pixels).save(tmp_path / "in" / "a b.png")
    place = rasterio.Affine(2, 0, 100, 0, -2, 300)
    with rasterio.open(
        tmp_path / "in" / "geo.tif", "w", driver="GTiff", height=20, width=30, count=3, dtype="uint8", crs="EPSG:32633",
        transform=place, nodata=0,
    ) as file:  # fmt: skip
        file.write(pixels.transpose(2, 0, 1))
    network = build("fcn32s-resnet18", 2)
    network.heads[0].bias.data[1] = 1.0
    model = save(network, tmp_path / "model")
    command = [
        "predict",
        str(model),
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--areas",
        "--sheet",
        "--legend",
    ]
    tools = [word for tool in ("coco", "yolo", "labelme") for word in ("--polygons-to", tool)]
    result = CliRunner().invoke(app, [*command, *tools])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    each = {
        f"{stem}{suffix}" for stem in ("a b", "geo") for suffix in (".png", "_overlay.jpg", ".geojson", ".txt", ".json")
    }
    assert names == each | {"geo_classes.tif", "coco.json", "data.yaml", "labels.txt", "areas.csv", "index.html"}
    with rasterio.open(tmp_path / "out" / "geo_classes.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32633, place, 255)
        values = file.read(1)
    assert (values[:3, :4] == 255).all()
    assert (values == 1).sum() == 20 * 30 - 12
    polygon = json.loads((tmp_path / "out" / "geo.geojson").read_text())
    assert polygon["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert sorted(map(tuple, polygon["features"][0]["geometry"]["coordinates"][0]))[:2] == [(100, 260), (100, 260)]
    rows = list(csv.DictReader((tmp_path / "out" / "areas.csv").open()))
    whole = {row["picture"]: (row["pixels"], row["area"], row["unit"]) for row in rows if row["region"] == "0"}
    assert whole == {"a b": ("600", "600", "px"), "geo": ("588", "2352", "m2")}
    labelme = json.loads((tmp_path / "out" / "a b.json").read_text())
    assert (tmp_path / "out" / labelme["imagePath"]).resolve() == tmp_path / "in" / "a b.png"
    assert Image.open(tmp_path / "out" / "a b_overlay.jpg").size[1] > 20
    assert "a%20b_overlay.jpg" in (tmp_path / "out" / "index.html").read_text()
    again = CliRunner().invoke(app, [*command, *tools])  # what is ours may be written again
    assert again.exit_code == 0, again.output
    wrong = CliRunner().invoke(app, [*command, "--polygons-to", "svg"])
    assert "polygons are written for coco, yolo, labelme, gpkg, not for 'svg'" in str(wrong.exception)


def test_a_level_that_no_picture_has_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(pixels, photometric="rgb", tile=(16, 16))
        file.write(pixels[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
    command = ["predict", str(model), str(tmp_path / "a.png"), str(tmp_path / "b.tif"), "--areas", "--sheet"]
    command += ["--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, [*command, "--level", "2"])
    assert "a.png: no level 2 in it: leave it out, for 0 (64 x 64) is the only" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    assert CliRunner().invoke(app, [*command, "--level", "1"]).exit_code == 1
    assert (tmp_path / "out/b.png").is_file()
    assert [row["picture"] for row in csv.DictReader((tmp_path / "out/areas.csv").open()) if row["region"] == "0"] == [
        "b"
    ]


def test_of_bad_pictures_alone_no_table_is_written(tmp_path: Path) -> None:
    model = save(build("fcn32s-resnet18", 2), tmp_path / "model")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ["predict", str(model), str(tmp_path / "a.png"), "--areas", "--sheet", "--polygons-to", "coco"]
    assert CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")]).exit_code == 1
    assert list((tmp_path / "out").iterdir()) == []
