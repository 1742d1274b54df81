from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw

from fullyconv.data.images import read_raster
from fullyconv.data.place import Place, read_place, write_class_tiff
from fullyconv.predict.beside import area_rows
from fullyconv.regions import Polygon, simplify, trace
from fullyconv.regions.documents import Coco, geojson, labelme, one_ring, ring_area, run_lengths, yolo
from fullyconv.types import ClassSet

CLASSES = ClassSet(("road", "sky", "wood"))
MAPS = arrays.arrays(np.int16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 2))


def covered(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels' middles lie inside a ring, by matplotlib."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middles = np.stack([columns.ravel(), rows.ravel()], 1) + 0.5
    inside: np.ndarray = Outline(np.concatenate([ring, ring[:1]])).contains_points(middles).reshape(shape)
    return inside


def filled(polygon: Polygon, shape: tuple[int, int]) -> np.ndarray:
    outer, *holes = (covered(ring, shape) for ring in polygon.rings)
    for hole in holes:
        outer = outer & ~hole
    return outer


@settings(deadline=None)
@given(MAPS)
def test_polygons_cover_every_labelled_pixel_once_and_are_what_other_tools_see(labels: np.ndarray) -> None:
    from scipy import ndimage

    polygons = trace(labels)
    painted = np.full(labels.shape, -1)
    for polygon in polygons:
        mask = filled(polygon, labels.shape)
        assert (painted[mask] == -1).all()
        painted[mask] = polygon.label
        assert mask.sum() == polygon.pixels == ring_area(polygon.rings[0]) + sum(map(ring_area, polygon.rings[1:]))
    assert np.array_equal(painted, labels)
    assert len(polygons) == sum(ndimage.label(labels == label)[1] for label in range(3))
    for polygon in polygons:  # only corners are listed
        for ring in polygon.rings:
            step = np.diff(ring, axis=0, append=ring[:1])
            assert ((step != 0).sum(1) == 1).all()
            assert ((step[:, 0] != 0) != (np.roll(step, 1, 0)[:, 0] != 0)).all()


@settings(deadline=None)
@given(MAPS)
def test_formats_hold_the_same_pixels(labels: np.ndarray) -> None:
    for polygon in trace(labels):
        mask = filled(polygon, labels.shape)
        # A ring that walks its cuts twice covers the same by the even-odd rule and by the nonzero rule.
        assert np.array_equal(crossings(one_ring(polygon), labels.shape) % 2 == 1, mask)
        runs = run_lengths(polygon, labels.shape)
        flat = np.repeat(np.arange(len(runs["counts"])) % 2, runs["counts"])
        assert np.array_equal(flat.reshape(labels.shape[::-1]).T == 1, mask)
    document = json.loads(json.dumps(geojson(trace(labels), CLASSES)))
    for feature in document["features"]:
        outer, *holes = (np.array(ring) for ring in feature["geometry"]["coordinates"])
        assert all((ring[0] == ring[-1]).all() for ring in (outer, *holes))
        assert ring_area(outer[:-1]) > 0  # counterclockwise where y grows upwards
        assert all(ring_area(hole[:-1]) < 0 for hole in holes)


def crossings(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often a ray from each pixel's middle to the left crosses a ring's vertical edges."""
    count = np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        if x0 == x1:
            count[min(y0, y1) : max(y0, y1), x0:] += 1
    return count


def test_coco_reads_back_by_its_own_tool() -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (6, 7)), np.ones((5, 4), int))
    coco = Coco(CLASSES)
    coco.add("a.png", labels.shape, trace(labels))
    painted = np.full(labels.shape, -1)
    for each in coco.document()["annotations"]:
        encoded = mask_tools.frPyObjects(each["segmentation"], *labels.shape)
        encoded = mask_tools.merge(encoded) if isinstance(encoded, list) else encoded
        mask = mask_tools.decode(encoded).astype(bool)
        assert mask.sum() == each["area"]
        painted[mask] = each["category_id"] - 1
    assert np.array_equal(painted, labels)


def test_yolo_and_labelme_painted_in_order_give_the_labels_back() -> None:
    # Drawn three times as large, so that what Pillow adds along outlines stays off the middles of pixels.
    labels = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 2, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, -1]])
    height, width = labels.shape
    scale = 9
    rings = [
        (int(line.split()[0]), np.array(line.split()[1:], float).reshape(-1, 2) * [width, height])
        for line in yolo(trace(labels), labels.shape).splitlines()
    ]
    shapes = labelme(trace(labels), CLASSES, labels.shape, "../a.jpg")["shapes"]
    for found in (rings, [(CLASSES.names.index(each["label"]), np.array(each["points"])) for each in shapes]):
        picture = Image.new("I", (width * scale, height * scale), -1)
        for label, ring in found:
            ImageDraw.Draw(picture).polygon([tuple(point) for point in (ring * scale).tolist()], fill=label)
        assert np.array_equal(np.asarray(picture)[scale // 2 :: scale, scale // 2 :: scale], labels)


@settings(deadline=None, max_examples=40)
@given(arrays.arrays(np.int16, (12, 12), elements=st.integers(0, 1)), st.floats(0.1, 3))
def test_simpler_outlines_stay_near(labels: np.ndarray, tolerance: float) -> None:
    for polygon in trace(labels):
        simpler = simplify(polygon, tolerance)
        assert simpler.pixels == polygon.pixels
        assert len(simpler.rings[0]) >= 3
        if len(simpler.rings[0]) == len(polygon.rings[0]):
            continue
        after = np.roll(simpler.rings[0], -1, 0)
        for corner in polygon.rings[0]:
            apart = min(distance(corner, *edge) for edge in zip(simpler.rings[0], after, strict=True))
            assert apart <= tolerance + 1e-9


def distance(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = end - start
    share = np.clip(((point - start) @ along) / max(along @ along, 1e-12), 0, 1)
    return float(np.hypot(*(point - start - share * along)))


def test_void_and_small_regions_are_left_out() -> None:
    assert trace(np.full((2, 2), -1)) == []
    assert trace(np.zeros((0, 3), int)) == []
    assert [each.label for each in trace(np.array([[0, 0, 1]]), least=2)] == [0]
    with pytest.raises(ValueError, match="H x W integers"):
        trace(np.zeros((2, 2)))


def geotiff(
    path: Path, values: np.ndarray, *, epsg: int = 32633, scale: float = 10.0, no_data: str | None = None
) -> None:
    rasterio = pytest.importorskip("rasterio")
    bands = 1 if values.ndim == 2 else values.shape[2]
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=bands, dtype=values.dtype,
        crs=f"EPSG:{epsg}", transform=rasterio.Affine(scale, 0, 500, 0, -scale, 900 if epsg != 4326 else 50),
        nodata=no_data,
    ) as file:  # fmt: skip
        file.write(np.atleast_3d(values).transpose(2, 0, 1))


@pytest.mark.parametrize(("epsg", "scale"), [(32633, 10.0), (4326, 0.5)])
def test_a_map_lies_where_its_picture_does(tmp_path: Path, epsg: int, scale: float) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.arange(60, dtype=np.uint8).reshape(4, 5, 3) + 1
    values[0, 0] = 7
    geotiff(tmp_path / "in.tif", values, epsg=epsg, scale=scale, no_data=7)
    place = read_place(tmp_path / "in.tif")
    assert place is not None
    empty = read_raster(tmp_path / "in.tif").missing
    assert empty is not None
    assert empty.sum() == 1
    write_class_tiff(tmp_path / "out.tif", np.array([[0, 1, 2, 255, 0]] * 4, np.uint8), CLASSES, place)
    with rasterio.open(tmp_path / "in.tif") as given, rasterio.open(tmp_path / "out.tif") as made:
        assert (made.crs, made.transform, made.nodata) == (given.crs, given.transform, 255)
        assert made.colormap(1)[1][:3] == CLASSES.colours[1]
        assert np.array_equal(made.read(1)[0], [0, 1, 2, 255, 0])
        assert place.at(np.array([[2, 3]])).tolist() == [list(given.transform * (2, 3))]
        assert place.crs == str(given.crs)


def test_what_lies_nowhere_has_no_place(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((3, 3), np.uint8))
    (tmp_path / "broken.tif").write_bytes(b"II*\0junk")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    assert [read_place(tmp_path / name) for name in ("plain.tif", "broken.tif", "a.png", "no.tif")] == [None] * 4


@settings(deadline=None)
@given(MAPS)
def test_areas_of_regions_sum_to_their_classes(labels: np.ndarray) -> None:
    place = Place((0.5, 0, 10, 0, -0.5, 60), 4326, degrees=True)
    rows = list(area_rows("a", trace(labels), labels, CLASSES, place))
    each_row = place.row_areas(len(labels))
    for label, name in enumerate(CLASSES.names):
        own = [row for row in rows if row["class"] == name]
        wanted = float(((labels == label).sum(1) * each_row).sum())
        assert sum(row["area"] for row in own if row["region"] == 0) == pytest.approx(wanted)
        assert sum(row["area"] for row in own if row["region"]) == pytest.approx(wanted)
        assert sum(row["pixels"] for row in own if row["region"]) == (labels == label).sum()


def test_the_ellipsoid_has_its_area() -> None:
    whole = Place((360.0, 0, -180, 0, -1.0, 90), degrees=True).row_areas(180).sum()
    assert whole == pytest.approx(510_065_621.7e6, rel=1e-7)
