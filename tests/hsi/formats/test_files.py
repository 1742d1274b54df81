"""Every format in, one form out."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.formats.envi import write_envi
from fullyconv.hsi.formats.matlab import write_matlab_v73
from fullyconv.hsi.labels import class_set, labels_from_abundances
from fullyconv.hsi.scene import Georeference, Scene
from fullyconv.types import VOID

SUFFIXES = (".mat", ".npz", ".hdr", ".tif", ".npy")
UTM = rasterio.crs.CRS.from_epsg(32632).to_wkt()


def scene(seed: int = 0, *, size: tuple[int, int] = (6, 5), bands: int = 4, kind: str = "uint16") -> Scene:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 3, size).astype(np.int16)
    labels.flat[:3] = 0, 1, 2
    return Scene(
        rng.integers(0, 200, (*size, bands)).astype(kind),
        labels,
        class_set(3, ("water", "tree", "soil")),
        wavelengths=tuple(400.5 + 50 * band for band in range(bands)),
        bad_bands=(1,),
        georeference=Georeference(UTM, (30.0, 0.0, 500_000.0, 0.0, -30.0, 4_600_000.0)),
        name="scene",
    )


def same(found: Scene, given: Scene) -> None:
    np.testing.assert_array_equal(found.cube, given.cube)
    np.testing.assert_array_equal(found.labels, given.labels)  # type: ignore[arg-type]
    assert found.labels is not None
    assert found.labels.dtype == np.int16


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "float32", "float64"])
def test_a_scene_comes_back_from_every_format(suffix: str, kind: str, tmp_path: Path) -> None:
    given_scene = scene(kind=kind)
    labels = save_scene(given_scene, tmp_path / f"scene{suffix}")
    found = SceneFiles(tmp_path / f"scene{suffix}", labels).open()
    same(found, given_scene)
    assert found.name == "scene"
    if suffix != ".npy":
        assert found.wavelengths == given_scene.wavelengths
        assert found.bad_bands == (1,)
        assert found.classes == given_scene.classes
        assert found.georeference is not None
        assert rasterio.crs.CRS.from_wkt(found.georeference.crs) == rasterio.crs.CRS.from_wkt(UTM)
        assert found.georeference.transform == given_scene.georeference.transform  # type: ignore[union-attr]
    if suffix not in (".mat", ".npz"):
        assert isinstance(found.cube, np.memmap)
    assert not list(tmp_path.glob(".*.new"))


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(3, 9)), bands=st.integers(1, 6), seed=st.integers(0, 99),
    suffix=st.sampled_from(SUFFIXES),
)  # fmt: skip
def test_scenes_of_any_size_come_back(
    size: tuple[int, int], bands: int, seed: int, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(np.prod(size)).reshape(size).clip(0, 2)[::-1].astype(np.int16) - 1  # -1, 0, 1, 1, …
    given_scene = Scene(rng.normal(size=(*size, bands)).astype(np.float32), labels, class_set(2))
    path = tmp_path_factory.mktemp("any") / f"s{suffix}"
    found = save_scene(given_scene, path)
    same(SceneFiles(path, found).open(), given_scene)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_every_interleave_of_envi_is_read(interleave: str, tmp_path: Path) -> None:
    write_envi(tmp_path / "x.hdr", scene(), interleave=interleave)  # type: ignore[arg-type]
    found = SceneFiles(tmp_path / "x.hdr").open()
    np.testing.assert_array_equal(found.cube, scene().cube)
    assert isinstance(found.cube, np.memmap)
    np.testing.assert_array_equal(SceneFiles(tmp_path / "x.img").open().cube, scene().cube)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"interleave": "pixel"}, {"compress": "deflate"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}],
)
def test_every_layout_of_geotiff_is_read(options: dict[str, object], tmp_path: Path) -> None:
    cube = scene(size=(40, 30)).cube
    size = {"height": 40, "width": 30, "count": 4, "dtype": "uint16"}
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", **size, **options) as file:
        file.write(cube.transpose(2, 0, 1))
    found = SceneFiles(tmp_path / "x.tif").open().cube
    np.testing.assert_array_equal(found, cube)
    assert isinstance(found, np.memmap) == (options.keys() <= {"interleave"})


def test_matlab_7_3_has_its_axes_reversed(tmp_path: Path) -> None:
    given_scene = scene()
    assert given_scene.classes is not None
    numbers = (given_scene.labels + 1).astype(np.uint8)  # type: ignore[operator]
    write_matlab_v73(tmp_path / "x.mat", {"cube": given_scene.cube, "labels": numbers}, given_scene)
    with h5py.File(tmp_path / "x.mat") as file:
        assert file["cube"].shape == given_scene.cube.shape[::-1]
    found = SceneFiles(tmp_path / "x.mat").open()
    same(found, given_scene)
    assert found.classes == given_scene.classes
    assert found.wavelengths == given_scene.wavelengths
    assert isinstance(found.cube, np.memmap)
    with h5py.File(tmp_path / "packed.mat", "w") as file:
        file.create_dataset("cube", data=given_scene.cube.T, compression="gzip")
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "x")
    np.testing.assert_array_equal(SceneFiles(tmp_path / "packed.mat").open().cube, given_scene.cube)


def test_envi_units_become_nanometres(tmp_path: Path) -> None:
    write_envi(tmp_path / "x.hdr", scene())
    header = (tmp_path / "x.hdr").read_text()
    header = header.replace("Nanometers", "Micrometers").replace("400.5, 450.5, 500.5, 550.5", "0.4, 0.5, 0.6, 0.7")
    (tmp_path / "x.hdr").write_text(header)
    assert SceneFiles(tmp_path / "x.hdr").open().wavelengths == (400, 500, 600, 700)


def test_label_maps_may_be_pictures(tmp_path: Path) -> None:
    given_scene = scene()
    save_scene(replace(given_scene, labels=None, classes=None), tmp_path / "x.npy")
    Image.fromarray((given_scene.labels + 1).astype(np.uint8)).save(tmp_path / "l.png")  # type: ignore[operator]
    same(SceneFiles(tmp_path / "x.npy", tmp_path / "l.png").open(), given_scene)
    labels, classes = SceneFiles(tmp_path / "l.png").open_labels()
    np.testing.assert_array_equal(labels, given_scene.labels)  # type: ignore[arg-type]
    assert classes.names == ("class_1", "class_2", "class_3")
    assert classes.values == (1, 2, 3)
    assert classes.ignore_index == 0


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 4)), elements=st.floats(0, 1)))
def test_abundances_label_pure_pixels_alone(abundances: np.ndarray) -> None:
    labels = labels_from_abundances(abundances, 0.8)
    largest = abundances.max(axis=2)
    np.testing.assert_array_equal(labels == VOID, largest < 0.8)
    chosen = np.take_along_axis(abundances, np.maximum(labels, 0)[..., None].astype(int), 2)[..., 0]
    np.testing.assert_array_equal(chosen[labels != VOID], largest[labels != VOID])


def test_samson_and_jasper_open(hyperspectral: Path) -> None:
    samson = SceneFiles(hyperspectral / "Samson.mat").open()
    assert samson.cube.shape == (95, 95, 156)
    assert samson.classes is not None
    assert len(samson.classes) == 3
    assert samson.labels is not None
    assert np.count_nonzero(samson.labels >= 0) == 5570
    spectra = samson.cube / np.linalg.norm(samson.cube, axis=2, keepdims=True)
    # In the right pixel order spectra of one class agree; in the wrong one they differ 8 times as much.
    assert max(spectra[samson.labels == index].std(axis=0).mean() for index in range(3)) < 0.006
    jasper = SceneFiles(hyperspectral / "jasperRidge2_R198.mat").open()
    assert (jasper.cube.shape, jasper.labels) == ((100, 100, 198), None)
    strict = SceneFiles(hyperspectral / "Samson.mat", threshold=1.0).open()
    assert strict.labels is not None
    assert np.count_nonzero(strict.labels >= 0) < 5570


@pytest.mark.parametrize(
    ("name", "size", "classes", "labelled"),
    [("Indian_pines_gt", (145, 145), 16, 10_249), ("PaviaU_gt", (610, 340), 9, 42_776),
     ("Salinas_gt", (512, 217), 16, 54_129)],
)  # fmt: skip
def test_the_standard_label_maps_open(
    name: str, size: tuple[int, int], classes: int, labelled: int, hyperspectral: Path
) -> None:
    labels, names = SceneFiles(hyperspectral / f"{name}.mat").open_labels()
    assert (labels.shape, len(names), np.count_nonzero(labels >= 0)) == (size, classes, labelled)


def write_mat(path: Path, **named: np.ndarray) -> Path:
    scipy.io.savemat(path, named)
    return path


CUBE, MAP = np.ones((4, 5, 3)), np.ones((4, 5), np.uint8)
INFINITE = CUBE.copy()
INFINITE[1, 2, 1] = np.inf


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ({"a": CUBE, "b": CUBE}, {}, r"2 arrays of H x W x bands: a \(4 x 5 x 3\), b \(4 x 5 x 3\): name the cube"),
        ({"a": CUBE, "m": MAP, "n": MAP}, {}, r"several label maps: m \(4 x 5\), n \(4 x 5\): name one"),
        ({"a": MAP}, {}, "0 arrays of H x W x bands"),
        ({"a": CUBE}, {"cube_key": "b"}, "no array 'b': choose one of a"),
        ({"a": CUBE, "m": MAP[1:]}, {"label_key": "m"}, r"shape mismatch: the labels m \(3 x 5\) do not"),
        ({"a": CUBE, "m": 0 * MAP}, {}, "no labelled pixel"),
        ({"a": CUBE, "m": 2 * MAP}, {}, r"class 1 \('class_1'\) without pixels"),
        ({"a": CUBE, "m": 0.5 * MAP}, {}, "no whole numbers"),
        ({"a": CUBE, "m": -1.0 * MAP}, {}, "labels from -1 to -1"),
        ({"a": INFINITE}, {}, r"infinity in band 1 \(counted from 0\)"),
        ({"a": CUBE, "m": MAP}, {}, "a single class: every label is 1.*--set zero=class"),
        ({"a": CUBE, "wavelengths": np.arange(400, 1100, 100.0)}, {}, "wrong band count: 3 bands, but 7 wavelengths"),
        ({"a": CUBE, "bad_bands": np.array([3])}, {}, r"bad bands \[3\] of 3 bands"),
    ],
)  # fmt: skip
def test_errors_name_file_value_and_fix(
    named: dict[str, np.ndarray], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = write_mat(tmp_path / "x.mat", **named)
    with pytest.raises(BadFile, match=message) as caught:
        SceneFiles(path, **options).open()  # type: ignore[arg-type]
    assert str(path) in str(caught.value)


def test_infinity_in_bands_that_are_marked_bad_is_no_problem(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "x.mat", a=INFINITE, bad_bands=np.array([1]))
    assert SceneFiles(path).open().bad_bands == (1,)


def test_a_second_cube_is_no_label_map(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "x.mat", a=CUBE, b=2 * CUBE)
    assert SceneFiles(path, cube_key="a").open().labels is None
    with pytest.raises(BadFile, match="neither a label map nor abundances"):
        SceneFiles(path, cube_key="a", label_key="b").open()


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    cube, labels = write_mat(tmp_path / "x.mat", a=CUBE), write_mat(tmp_path / "l.mat", m=MAP[1:])
    with pytest.raises(BadFile, match=r"the cube is 4 x 5, the file has m \(3 x 5\)"):
        SceneFiles(cube, labels).open()


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".img", ".jpg", ".xyz"])
def test_files_that_cannot_be_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    with pytest.raises(BadFile, match=r"no such file|not a scene's file|no ENVI header"):
        SceneFiles(path).open()
    path.write_bytes(b"nothing of the kind" * 50)
    with pytest.raises(BadFile, match=r"unreadable|not a scene's file|no ENVI header"):
        SceneFiles(path).open()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_scene(scene(size=(30, 20)), path)
    data = path.with_suffix(".img") if suffix == ".hdr" else path
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(BadFile):
        SceneFiles(path).open()


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    np.savez(tmp_path / "x.npz", allow_pickle=True, cube=np.array([[[object()]]]))
    with pytest.raises(BadFile):
        SceneFiles(tmp_path / "x.npy").open()
    with pytest.raises(BadFile, match="0 arrays"):
        SceneFiles(tmp_path / "x.npz").open()


def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.mat", "w") as file:
        file.create_dataset("cube", (1000, 10_000, 10_000), "f8", compression="gzip", chunks=(1, 1000, 1000))
    with pytest.raises(BadFile, match="MiB of memory"):
        SceneFiles(tmp_path / "x.mat").open()


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tif"
    path.touch()
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"pip install 'fullyconv\[hsi\]'"):
        SceneFiles(path).open()


@settings(max_examples=40)
@given(
    suffix=st.sampled_from(SUFFIXES),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_files_open_or_are_refused(
    suffix: str, damage: list[tuple[float, int]], kept: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    save_scene(scene(), path)
    content = bytearray(path.read_bytes())
    for place, value in damage:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(kept * len(content))])
    with contextlib.suppress(BadFile):
        SceneFiles(path).open()


def test_nested_cells_in_a_matlab_file_are_not_followed(tmp_path: Path) -> None:
    cell = np.empty((1, 1), object)
    cell[0, 0] = "x"
    for _ in range(50):
        outer = np.empty((1, 1), object)
        outer[0, 0] = cell
        cell = outer
    scipy.io.savemat(tmp_path / "x.mat", {"labels": cell, "class_names": cell, "cube": CUBE})
    assert SceneFiles(tmp_path / "x.mat").open().labels is None
