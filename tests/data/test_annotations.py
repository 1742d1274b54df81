"""Annotations of other tools: each is drawn as its tool means it, or refused in one sentence."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fullyconv.annotations.convert import Options, Refused, convert
from fullyconv.annotations.runs import brush_pixels, column_runs, packed_counts, row_runs
from fullyconv.annotations.shapes import Outline, Together
from fullyconv.cli import app
from fullyconv.data.classes import read_classes
from fullyconv.data.folder import open_folder
from fullyconv.files import BadFile
from fullyconv.outputs import MANIFEST

SIZE = (20, 30)  # height, width
SQUARE = [(4.0, 3.0), (12.0, 3.0), (12.0, 9.0), (4.0, 9.0)]
HOLE = [(6.0, 5.0), (10.0, 5.0), (10.0, 7.0), (6.0, 7.0)]
COVERED = np.zeros(SIZE, np.uint8)
COVERED[3:9, 4:12] = 1


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def masks(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(folder).as_posix(): np.asarray(Image.open(path))
        for path in sorted(folder.rglob("masks/*.png"))
    }


def coco(*annotations: Any, name: str = "a.jpg", categories: tuple[str, ...] = ("cell", "debris")) -> dict[str, Any]:
    listed = [{"id": number, "name": each} for number, each in enumerate(categories, start=1)]
    drawn = [{"id": number, "image_id": 7} | dict(each) for number, each in enumerate(annotations)]
    images = [{"id": 7, "file_name": name, "height": SIZE[0], "width": SIZE[1]}]
    return {"images": images, "annotations": drawn, "categories": listed}


def flat(points: list[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


points = st.tuples(st.integers(-40, 160), st.integers(-40, 120)).map(lambda p: (p[0] / 4, p[1] / 4))


@given(st.lists(st.lists(points, min_size=3, max_size=7), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_pixels_of_an_outline_are_those_whose_centres_lie_inside(rings: list[list[tuple[float, float]]]) -> None:
    expected, ties = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    edges = [(a, b) for ring in rings for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    for row in range(SIZE[0]):
        y = Fraction(2 * row + 1, 2)
        crossed = [
            Fraction(ax) + (y - Fraction(ay)) * (Fraction(bx) - Fraction(ax)) / (Fraction(by) - Fraction(ay))
            for (ax, ay), (bx, by) in edges
            if (ay <= y) != (by <= y)
        ]
        for column in range(SIZE[1]):
            x = Fraction(2 * column + 1, 2)
            expected[row, column] = sum(each < x for each in crossed) % 2
            ties[row, column] = x in crossed  # on a border both answers are right
    patch = Outline([np.array(ring) for ring in rings]).patch(SIZE)
    found = np.zeros(SIZE, bool)
    if patch is not None:
        height, width = patch.inside.shape
        found[patch.top : patch.top + height, patch.left : patch.left + width] = patch.inside
    if expected[~ties].any():
        assert np.array_equal(found[~ties], expected[~ties])
    elif patch is not None:
        assert found.any()  # what is drawn is never lost


def test_tiny_outlines_are_kept_and_holes_left_out() -> None:
    tiny = Outline([np.array([(5.6, 5.6), (5.8, 5.6), (5.7, 5.9)])]).patch(SIZE)
    assert tiny is not None
    assert (tiny.top, tiny.left, tiny.inside.tolist()) == (5, 5, [[True]])
    holed = Outline([np.array(SQUARE), np.array(HOLE)]).patch(SIZE)
    assert holed is not None
    assert holed.inside.sum() == 8 * 6 - 4 * 2
    both = Together([Outline([np.array(SQUARE)]), Outline([np.array(HOLE)])]).patch(SIZE)
    assert both is not None
    assert both.inside.all()
    assert Outline([np.array(SQUARE) + 100]).patch(SIZE) is None
    for wrong in ([(0, 0)], [(0, 0), (1, np.nan), (2, 2)], [(0, 0), (1e300, 1), (2, 2)]):
        with pytest.raises(ValueError, match="outline"):
            Outline([np.array(wrong, float)])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_runs_are_those_of_pycocotools(data: st.DataObject) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    pixels = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    pixels = pixels.reshape(height, width)
    packed = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    counts = packed_counts(packed["counts"].decode())
    assert np.array_equal(column_runs(counts, height, width), pixels)
    assert np.array_equal(row_runs(counts, width, height), pixels.T)
    plain = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    assert plain["counts"] == packed["counts"]


@pytest.mark.parametrize("counts", [[5], [1, 2], [-1, 7], [], [2**62, 2**62]])
def test_runs_that_do_not_fill_the_picture_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="runs of"):
        column_runs(counts, 2, 3)


@pytest.mark.parametrize("text", ["P", "o" * 50, "é", "a b", "~~"])
def test_packed_runs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run"):
        column_runs(packed_counts(text), 2, 3)


def pack_brush(values: np.ndarray) -> list[int]:
    """Encode bytes as Label Studio's rle-pack does: runs of one value, or of several as they are."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at + 1
        while end < len(values) and end - at < 60_000 and values[end] == values[at]:
            end += 1
        if end - at == 1 and at + 2 < len(values):
            end = at + 2
            bits += f"000{end - at - 1:03b}" + "".join(f"{value:08b}" for value in values[at:end])
        else:
            bits += f"111{end - at - 1:016b}{values[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12))
@settings(max_examples=30, deadline=None)
def test_brush_strokes_of_label_studio(alpha: list[int]) -> None:
    values = np.zeros((3, 4, 4), np.uint8)
    values[..., 3] = np.array(alpha).reshape(3, 4) * 80
    packed = pack_brush(values.ravel())
    assert np.array_equal(brush_pixels(packed, 3, 4), values[..., 3] > 0)
    for broken in (packed[:-4], [1, 2, 3], [300]):
        with pytest.raises(ValueError, match=r"brush|bytes"):
            brush_pixels(broken, 3, 4)


def as_coco(root: Path) -> None:
    write(root / "annotations.json", coco({"category_id": 1, "segmentation": [flat(SQUARE)]}))


def as_coco_runs(root: Path) -> None:
    counts = np.diff(np.flatnonzero(np.diff(COVERED.T.ravel(), prepend=2, append=2))).tolist()
    runs = {"size": list(SIZE), "counts": counts}
    write(root / "x.json", coco({"category_id": 1, "segmentation": runs, "iscrowd": 1}))


def as_coco_packed(root: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    runs = mask.encode(np.asfortranarray(COVERED))
    document = {"size": list(SIZE), "counts": runs["counts"].decode()}
    write(root / "x.json", coco({"category_id": 1, "segmentation": document}))


def as_labelme(root: Path) -> None:
    shapes = [{"label": "cell", "points": SQUARE, "shape_type": "polygon"}]
    document = {"shapes": shapes, "imagePath": "..\\jpg\\a.jpg", "imageData": None, "imageHeight": 20, "imageWidth": 30}
    write(root / "a.json", document)


def as_labelme_rectangle(root: Path) -> None:
    shapes = [
        {"label": "cell", "points": [SQUARE[2], SQUARE[0]], "shape_type": "rectangle"},
        {"label": "tip", "points": [SQUARE[0]], "shape_type": "point"},
    ]
    write(root / "a.json", {"shapes": shapes, "imagePath": "a.jpg"})


def as_labelme_mask(root: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.ones((6, 8), bool)).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    shapes = [{"label": "cell", "points": [[4.0, 3.0], [11.0, 8.0]], "shape_type": "mask", "mask": mask}]
    write(root / "a.json", {"shapes": shapes, "imagePath": "a.jpg"})


def as_yolo_of_labelstudio(root: Path) -> None:
    as_yolo(root)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_bytes(b"cell\r\ndebris\r\n")


def as_labelstudio_min(root: Path) -> None:
    shape = {"points": [(x / 0.3, y / 0.2) for x, y in SQUARE], "polygonlabels": ["cell"]}
    shape |= {"original_width": 30, "original_height": 20}
    write(root / "min.json", [{"image": "/data/upload/3/0a1b2c3d-a.jpg", "id": 1, "annotation_id": 2, "tag": [shape]}])


def as_yolo(root: Path) -> None:
    write(root / "data.yaml", "names: [cell, debris]\n")
    corners = " ".join(f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in SQUARE)
    write(root / "a.txt", f"0 {corners}\n\n")


def as_cvat(root: Path) -> None:
    corners = ";".join(f"{x:.2f},{y:.2f}" for x, y in SQUARE)
    labels = "<label><name>cell</name><color>#0000ff</color></label>"
    image = f'<image id="0" name="sub/a.jpg" width="30" height="20"><polygon label="cell" points="{corners}"/></image>'
    write(root / "annotations.xml", f"<annotations><meta>{labels}</meta>{image}</annotations>")


def as_cvat_mask(root: Path) -> None:
    mask = '<mask label="cell" rle="0, 48" left="4" top="3" width="8" height="6"/>'
    write(root / "x.xml", f'<annotations><image name="a.jpg" width="30" height="20">{mask}</image></annotations>')


def labelstudio(kind: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    result = {"type": kind, "value": value, "original_width": 30, "original_height": 20}
    data = {"image": "/data/upload/3/0a1b2c3d-a.jpg"}
    return [{"data": data, "annotations": [{"result": [result, {"type": "choices", "value": {"choices": ["x"]}}]}]}]


def as_labelstudio(root: Path) -> None:
    points = [(x / 0.3, y / 0.2) for x, y in SQUARE]
    write(root / "project.json", labelstudio("polygonlabels", {"points": points, "polygonlabels": ["cell"]}))


def as_labelstudio_box(root: Path) -> None:
    value = {"x": 4 / 0.3, "y": 15, "width": 8 / 0.3, "height": 30, "rotation": 0, "rectanglelabels": ["cell"]}
    write(root / "project.json", labelstudio("rectanglelabels", value))


def as_labelstudio_brush(root: Path) -> None:
    packed = pack_brush(np.repeat(COVERED.ravel() * 255, 4))
    write(root / "project.json", labelstudio("brushlabels", {"format": "rle", "rle": packed, "brushlabels": ["cell"]}))


def as_supervisely(root: Path) -> None:
    write(root / "meta.json", {"classes": [{"title": "cell", "color": "#0000FF"}]})
    objects = [{"classTitle": "cell", "geometryType": "polygon", "points": {"exterior": SQUARE, "interior": []}}]
    write(root / "ann" / "a.jpg.json", {"size": {"height": 20, "width": 30}, "objects": objects})


def as_supervisely_bitmap(root: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.ones((6, 8), bool)).save(stream, "PNG")
    data = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    objects = [{"classTitle": "cell", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [4, 3]}}]
    write(root / "ann" / "a.jpg.json", {"size": {"height": 20, "width": 30}, "objects": objects})


UNNAMED = {"geometry": {"type": "Polygon", "coordinates": [SQUARE]}, "properties": {"area": 3}}


def features(*geometries: Any, **more: Any) -> dict[str, Any]:
    drawn = [
        {"type": "Feature", "properties": {"classification": {"name": "cell", "color": [1, 2, 3]}}, "geometry": each}
        for each in geometries
    ]
    return {"type": "FeatureCollection", "features": drawn} | more


def as_geojson(root: Path) -> None:
    halves = [
        [[(x, y, 0.0) for x, y in ring]] for ring in ((*SQUARE[:2], (12, 5), (4, 5)), ((4, 5), (12, 5), *SQUARE[2:]))
    ]
    point = {"type": "Point", "coordinates": [1, 2]}
    write(root / "a.geojson", features({"type": "MultiPolygon", "coordinates": halves}, point, None))


FORMS = [
    as_coco, as_coco_runs, as_coco_packed, as_labelme, as_labelme_rectangle, as_yolo, as_cvat, as_cvat_mask,
    as_labelme_mask, as_labelstudio_min, as_yolo_of_labelstudio,
    as_labelstudio, as_labelstudio_box, as_labelstudio_brush, as_supervisely, as_supervisely_bitmap,
    as_geojson,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_tool_draws_the_same_square(tmp_path: Path, form: Callable[[Path], None]) -> None:
    source, out = tmp_path / "set", tmp_path / "plain"
    picture(source / "a.jpg")
    form(source)
    with pytest.raises(BadFile, match=r"no image with a mask|masks"):
        open_folder(source)
    done = convert(source, out)
    assert done.splits == {"all": 1}
    assert done.classes.names[:2] == ("background", "cell")
    (mask,) = masks(out).values()
    assert np.array_equal(mask, COVERED)
    assert (out / "images" / "a.jpg").read_bytes() == (source / "a.jpg").read_bytes()
    assert read_classes(out / "classes.yaml").names == done.classes.names
    assert [pair.name for pair in open_folder(out).splits["all"]] == ["a"]


def test_what_is_drawn_later_lies_on_top_and_void_is_not_scored(tmp_path: Path) -> None:
    source = tmp_path / "set"
    picture(source / "a.jpg")
    drawn = [
        {"category_id": 1, "segmentation": [flat(SQUARE)]},
        {"category_id": 2, "segmentation": [flat(HOLE)]},
        {"category_id": 3, "segmentation": [[20, 10, 25, 10, 25, 15, 20, 15]]},
    ]
    write(source / "a.json", coco(*drawn, categories=("cell", "debris", "void")))
    assert convert(source, tmp_path / "plain").classes.names == ("background", "cell", "debris")
    (mask,) = masks(tmp_path / "plain").values()
    assert (mask[5:7, 6:10] == 2).all()
    assert np.bincount(mask.ravel(), minlength=256)[[1, 2, 255]].tolist() == [40, 8, 25]
    classes = convert(source, tmp_path / "scored", Options(rest="ignore")).classes
    assert classes.names == ("cell", "debris")
    (mask,) = masks(tmp_path / "scored").values()
    assert np.bincount(mask.ravel(), minlength=256)[[0, 1, 255]].tolist() == [40, 8, 552]


def test_splits_of_folders_and_of_documents(tmp_path: Path) -> None:
    roboflow, official = tmp_path / "roboflow", tmp_path / "coco"
    for split in ("train", "valid"):
        picture(roboflow / split / "a.jpg")
        write(roboflow / split / "_annotations.coco.json", coco({"category_id": 1, "segmentation": [flat(SQUARE)]}))
        picture(official / f"{split}2017" / f"{split}.jpg")
        document = coco({"category_id": 1, "segmentation": [flat(SQUARE)]}, name=f"{split}.jpg")
        write(official / "annotations" / f"instances_{split}2017.json", document)
        write(official / "annotations" / f"person_keypoints_{split}2017.json", document)
    for source in (roboflow, official):
        assert convert(source, source.with_suffix(".out")).splits == {"train": 1, "val": 1}
    assert list(masks(tmp_path / "roboflow.out")) == ["train/masks/a.png", "val/masks/a.png"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (coco({"category_id": 9, "segmentation": [flat(SQUARE)]}), "does not list"),
        (coco({"category_id": 1, "segmentation": [[1, 2, 3]]}), "3 numbers"),
        (coco({"category_id": 1, "segmentation": [[1, 2, float("nan"), 4, 5, 6]]}), "finite"),
        (coco({"category_id": 1, "segmentation": [[1, 2, 1e308, 4, 5, 6]]}), "through"),
        (coco({"category_id": 1, "segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}), "another size"),
        (coco({"category_id": 1, "segmentation": {"size": list(SIZE), "counts": "Z"}}), "runs"),
        (coco({"category_id": 1, "segmentation": [flat([(90.0, 90.0), (95.0, 90.0), (92.0, 95.0)])]}), "outside"),
        (coco(name="../../../../etc/passwd"), "not there"),
        (coco(name="b.jpg") | {"images": [{"id": 7, "file_name": "a.jpg", "height": 5, "width": 5}]}, "drawn on 5 x 5"),
        ('{"images": [], "annotations": 3, "categories": []}', "valid array"),
        (features({"type": "Polygon", "coordinates": [[1, 2]]}, picture="a.jpg"), "valid array"),
        (features({"type": "Polygon", "coordinates": [[[1], [2], [3]]]}, picture="a.jpg"), "fewer than two numbers"),
        (features({"type": "Polygon", "coordinates": []}, picture="a.jpg"), "without rings"),
        (features({"type": "Surface"}, picture="a.jpg"), "Surface|expected tags"),
        (features(picture="a.jpg", crs={"properties": {"name": "EPSG:32633"}}), "its picture lies nowhere"),
        (features(picture="b.jpg"), "not there"),
        ({"type": "FeatureCollection", "picture": "a", "features": [UNNAMED]}, "no class among its properties"),
    ],
)
def test_wrong_documents_are_refused_in_one_sentence(tmp_path: Path, document: Any, said: str) -> None:
    source, out = tmp_path / "set", tmp_path / "plain"
    picture(source / "a.jpg")
    write(source / "x.json", document)
    with pytest.raises((BadFile, Refused), match=said) as caught:
        convert(source, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no draft is left


def test_hostile_nesting_ends_in_a_sentence(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "x.json", '{"images": ' + "[" * 100_000)
    write(tmp_path / "set" / "y.xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotations><image name="&a;"/></annotations>')
    with pytest.raises(BadFile, match=r"x\.json.*brackets in brackets"):
        convert(tmp_path / "set", tmp_path / "plain")
    (tmp_path / "set" / "x.json").unlink()
    with pytest.raises(BadFile, match="definitions of its own"):
        convert(tmp_path / "set", tmp_path / "plain")


def test_the_command_writes_only_where_nothing_is(tmp_path: Path) -> None:
    source, taken = tmp_path / "set", tmp_path / "taken"
    picture(source / "a.jpg")
    picture(source / "b.jpg")
    shapes = [{"label": "cell", "points": SQUARE}, {"label": "cell", "points": [(0, 0), (99, 99)]}]
    write(source / "a.json", {"shapes": shapes[:1], "imagePath": "a.jpg"})
    write(source / "b.json", {"shapes": shapes, "imagePath": "b.jpg", "imageHeight": 7, "imageWidth": 7})
    write(taken / "mine.txt", "mine")
    run = CliRunner().invoke
    for out in (taken, source / "plain"):
        assert "choose" in str(run(app, ["data", "convert", str(source), "--out", str(out)]).exception)
    refused = run(app, ["data", "convert", str(source), "--out", str(tmp_path / "plain")])
    assert refused.exit_code == 1
    assert "drawn on 7 x 7" in refused.output.replace("\n", " ")
    assert not (tmp_path / "plain").exists()
    done = run(app, ["data", "convert", str(source), "--out", str(tmp_path / "plain"), "--skip-problems"])
    assert done.exit_code == 0, done.output
    assert list(masks(tmp_path / "plain")) == ["masks/a.png"]
    assert run(app, ["data", "check", str(tmp_path / "plain")]).exit_code == 0


def test_boxes_are_drawn_on_request_alone(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "x.json", coco({"category_id": 1, "bbox": [4, 3, 8, 6]}))
    with pytest.raises(BadFile, match="nothing is drawn: 1 boxes"):  # the mask would say: nothing there
        convert(tmp_path / "set", tmp_path / "plain", Options(skip_problems=True))
    convert(tmp_path / "set", tmp_path / "boxes", Options(boxes=True))
    assert np.array_equal(masks(tmp_path / "boxes")["masks/a.png"], COVERED)


def test_a_picture_on_its_side_is_written_upright_with_its_mask(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(source / "a.jpg", exif=exif)
    as_coco(source)  # which says 30 x 20: as it is stored
    convert(source, tmp_path / "plain")
    (mask,) = masks(tmp_path / "plain").values()
    assert np.array_equal(mask, np.rot90(COVERED, -1))
    assert Image.open(tmp_path / "plain" / "images" / "a.png").size == (20, 30)


def test_masks_of_any_form_become_plain_ones(tmp_path: Path) -> None:
    source = tmp_path / "set"
    picture(source / "images" / "a.jpg")
    (source / "masks").mkdir()
    colours = np.array([(0, 0, 0), (9, 9, 9), (1, 2, 3)], np.uint8)[COVERED]
    Image.fromarray(colours).save(source / "masks" / "a.png")
    write(source / "class_dict.csv", "name, r, g, b\nground,0,0,0\nvoid,1,2,3\ncell,9,9,9\n")
    assert convert(source, tmp_path / "plain").classes.names == ("ground", "cell")
    assert np.array_equal(masks(tmp_path / "plain")["masks/a.png"], COVERED)


@pytest.mark.parametrize(
    "spoil", [lambda text: "", lambda text: text[:-20], lambda text: text + "}", lambda text: "[" * 9999]
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_broken_document_is_named_and_never_passed_over(
    tmp_path: Path, spoil: Callable[[str], str], alone: bool
) -> None:
    picture(tmp_path / "valid/a.jpg")
    for split in ("valid",) if alone else ("train", "valid"):
        as_coco(tmp_path / split)
    path = next((tmp_path / "valid").rglob("*.json"))
    path.write_text(spoil(path.read_text()))
    with pytest.raises(BadFile, match=path.name):
        convert(tmp_path, tmp_path.with_name("out"))


def test_broken_documents_beside_masks_are_not_for_drawing(tmp_path: Path) -> None:
    picture(tmp_path / "data/images/a.png")
    (tmp_path / "data/masks").mkdir()
    Image.fromarray(COVERED).save(tmp_path / "data/masks/a.png")
    (tmp_path / "data/notes.json").write_text("{")
    assert convert(tmp_path / "data", tmp_path / "out").kind == "masks"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes among files")
def test_pipes_among_documents_are_not_waited_for(tmp_path: Path) -> None:
    as_coco(tmp_path / "in")
    os.mkfifo(tmp_path / "in/more.json")
    with pytest.raises(BadFile, match="no regular file"):
        convert(tmp_path / "in", tmp_path / "out")


def test_a_task_that_was_skipped_says_nothing_of_its_picture(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / "set" / f"{name}.jpg")
    as_labelstudio(tmp_path / "set")
    (done,) = json.loads((tmp_path / "set" / "project.json").read_text())
    skipped = {"data": {"image": "b.jpg"}, "annotations": [{"result": [], "was_cancelled": True}]}
    write(tmp_path / "set" / "project.json", [done, skipped])
    notes = convert(tmp_path / "set", tmp_path / "plain").notes
    assert any(note.startswith("left out: 1 task skipped") for note in notes)
    assert list(masks(tmp_path / "plain")) == ["masks/a.png"]


def test_pictures_of_one_name_belong_to_the_document_of_their_split(tmp_path: Path) -> None:
    box = {"category_id": 1, "segmentation": [flat(SQUARE)]}
    for split, drawn in (("train", [box]), ("val", [])):
        picture(tmp_path / "set" / f"{split}2017" / "a.jpg")
        write(tmp_path / "set" / "annotations" / f"instances_{split}2017.json", coco(*drawn))
    convert(tmp_path / "set", tmp_path / "plain")
    found = masks(tmp_path / "plain")
    assert np.array_equal(found["train/masks/a.png"], COVERED)
    assert not found["val/masks/a.png"].any()


def test_names_of_roboflows_masks(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.jpg")
        Image.fromarray(COVERED).save(tmp_path / split / "a_mask.png")
        write(tmp_path / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, crack\n")
    convert(tmp_path, tmp_path.parent / "plain")
    assert read_classes(tmp_path.parent / "plain" / "classes.yaml").names == ("background", "crack")


def test_a_category_of_two_names_is_refused(tmp_path: Path) -> None:
    as_coco(tmp_path / "in")
    path = tmp_path / "in/annotations.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 1, "name": "another"})
    path.write_text(json.dumps(document))
    with pytest.raises(BadFile, match="category 1 has two names"):
        convert(tmp_path / "in", tmp_path / "out")


def test_pictures_in_labelmes_documents_need_no_files(tmp_path: Path) -> None:
    for place, kind in (("train/a", "JPEG"), ("val/a", "PNG"), ("val/b", "PNG")):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(len(place)).integers(0, 256, (20, 30, 3), np.uint8)).save(stream, kind)
        shapes = [{"label": "cell", "points": SQUARE, "shape_type": "polygon"}]
        document = {
            "shapes": shapes,
            "imagePath": "..\\x y.jpg",
            "imageData": base64.b64encode(stream.getvalue()).decode(),
        }
        write(tmp_path / "in" / f"{place}.json", document)
        if place == "val/b":
            (tmp_path / "stored").write_bytes(stream.getvalue())
    with pytest.raises(BadFile, match="outlines of LabelMe, which are not masks: draw masks with"):
        open_folder(tmp_path / "in")
    with pytest.raises(Refused) as refused:  # two of val are called alike
        convert(tmp_path / "in", tmp_path / "out")
    assert "another picture is called x y" in str(refused.value.problems[0])
    text = (tmp_path / "in/val/b.json").read_text()
    (tmp_path / "in/val/b.json").write_text(text.replace("x y.jpg", "z.jpg"))
    done = convert(tmp_path / "in", tmp_path / "out")
    assert done.splits == {"train": 1, "val": 2}
    assert (tmp_path / "out/val/images/z.png").read_bytes() == (tmp_path / "stored").read_bytes()
    assert np.array_equal(masks(tmp_path / "out")["train/masks/x y.png"], COVERED)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "val", "classes.yaml", MANIFEST}
    for data, said in (("AAAA", "imageData is no picture"), ("?", "imageData: ")):
        write(tmp_path / "in/val/b.json", json.loads(text) | {"imageData": data})
        with pytest.raises(Refused) as refused:
            convert(tmp_path / "in", tmp_path / "again")
        assert said in str(refused.value.problems[0])


def test_a_name_too_long_names_its_document(tmp_path: Path) -> None:
    picture(tmp_path / "in/jpg/a.jpg")
    as_labelme(tmp_path / "in")
    path = tmp_path / "in/a.json"
    path.write_text(path.read_text().replace('"cell"', f'"{"n" * 300}"'))
    with pytest.raises(BadFile, match=r"a\.json: a class name of 300 characters, nnn"):
        convert(tmp_path / "in", tmp_path / "out")
