"""MATLAB files: every class of array, storage and version gives SciPy's and h5py's numbers, or a sentence."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import read_contents
from fullyconv.limits import LIMITS

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "bool")
RNG = np.random.default_rng(0)
CUBE = RNG.integers(1, 5000, (5, 7, 3)).astype(np.uint16)
MAP = RNG.integers(0, 4, (5, 7)).astype(np.uint8)
NAMES = ("road", "tree", "roof")


def save(path: Path, **named: Any) -> Path:
    scipy.io.savemat(path, named)
    return path


def save_v73(path: Path, **named: np.ndarray | None) -> Path:
    """Write as MATLAB does: axes reversed, an empty array as its size."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in named.items():
            if value is None:
                stored = file.create_dataset(name, data=np.array([0, 0], np.uint64))
                stored.attrs["MATLAB_empty"] = np.uint8(1)
                stored.attrs["MATLAB_class"] = np.bytes_("double")
            else:
                file.create_dataset(name, data=value.T).attrs["MATLAB_class"] = np.bytes_(value.dtype.name)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def same(path: Path, cube: np.ndarray = CUBE, labels: np.ndarray = MAP) -> None:
    scene = SceneFiles(path).open()
    np.testing.assert_array_equal(scene.cube, cube)
    np.testing.assert_array_equal(scene.labels, labels.astype(int) - 1)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(TYPES), shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), packed=st.booleans(),
    order=st.sampled_from("CF"), name=st.sampled_from(["a", "abcd", "abcde", "a_rather_long_name_of_an_array"]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_numbers_are_those_of_scipy(
    kind: str, shape: list[int], packed: bool, order: Any, name: str, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, 8), np.uint8)
    values = bits.view(np.float64 if kind == "bool" else kind)[..., 0] if kind != "bool" else bits[..., 0] > 99
    path = tmp_path_factory.getbasetemp() / "x.mat"
    scipy.io.savemat(path, {name: values.copy(order=order), "other": CUBE}, do_compression=packed)
    expected = scipy.io.loadmat(path)[name]
    found = {array.name: array for array in read_contents(path).arrays}
    if values.size > 1:
        assert found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name].read(), expected)
    np.testing.assert_array_equal(found["other"].read(), CUBE)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 8), st.integers(2, 8)), share=st.floats(0, 1), packed=st.booleans(),
    kind=st.sampled_from(["float64", "bool"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_sparse_matrices_have_their_zeros(
    shape: tuple[int, int], share: float, packed: bool, kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random(shape) < share, rng.integers(1, 9, shape), 0).astype(kind)
    path = tmp_path_factory.getbasetemp() / "x.mat"
    scipy.io.savemat(path, {"gt": scipy.sparse.csc_matrix(dense)}, do_compression=packed)
    (found,) = read_contents(path).arrays
    np.testing.assert_array_equal(found.read(), dense)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["f8", "f4", "i4", "i2", "u2", "u1"]), shape=st.tuples(st.integers(1, 8), st.integers(2, 8)),
    seed=st.integers(0, 99), others=st.booleans(),
)  # fmt: skip
def test_files_of_version_4_are_read(
    kind: str, shape: tuple[int, int], seed: int, others: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(kind)
    path = tmp_path_factory.getbasetemp() / "x4.mat"
    more = {"text": "some words", "complex": values + 1j, "sparse": scipy.sparse.csc_matrix(values.astype(float))}
    scipy.io.savemat(path, {**(more if others else {}), "gt": values}, format="4")
    contents = read_contents(path)
    (found,) = contents.arrays
    np.testing.assert_array_equal(found.read(), scipy.io.loadmat(path)["gt"])
    assert len(contents.others) == (3 if others else 0)


def test_a_damaged_file_of_version_4_does_not_run_for_ever(tmp_path: Path) -> None:
    for header in ([0, 4, 5, 0, -60], [0, -3, 5, 0, 2], [70, 4, 5, 0, 2], [0, 40, 50, 0, 2], [0, 4]):
        (tmp_path / "x.mat").write_bytes(np.array(header, "<i4").tobytes() + b"a\0" + bytes(80))
        with pytest.raises(BadFile, match=r"unreadable|0 arrays"):
            SceneFiles(tmp_path / "x.mat").open()


@pytest.mark.parametrize(
    "labels",
    [MAP, scipy.sparse.csc_matrix(MAP.astype(float)), MAP[..., None], MAP.astype(float), {"inside": MAP},
     {"deep": {"inside": MAP}}],
)  # fmt: skip
def test_labels_are_found_in_every_form(labels: Any, tmp_path: Path) -> None:
    same(save(tmp_path / "x.mat", img=CUBE, gt=labels))


def test_labels_and_cubes_are_found_in_cells(tmp_path: Path) -> None:
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = CUBE, MAP
    same(save(tmp_path / "x.mat", data=cell))
    scene = SceneFiles(tmp_path / "x.mat", cube_key="data.1", label_key="data.2").open()
    np.testing.assert_array_equal(scene.cube, CUBE)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"img": CUBE, "gt": MAP.T}, r"gt \(7 x 5\) fits the scene of 5 x 7 only transposed"),
        ({"img": CUBE, "gt": MAP.reshape(1, -1)}, r"gt \(1 x 35\) holds the labels .* 5 x 7 pixels in a row.*reshape"),
        ({"img": CUBE, "gt": MAP.reshape(-1, 1)}, r"gt \(35 x 1\) holds the labels"),
        ({"img": CUBE.transpose(2, 0, 1), "gt": MAP}, r"its axis 1 is the bands.*\[2 3 1\]"),
        ({"img": CUBE.transpose(0, 2, 1), "gt": MAP}, r"its axis 2 is the bands: save it as 5 x 7 x 3.*\[1 3 2\]"),
        ({"img": CUBE.transpose(2, 0, 1), "wavelengths": [450.0, 550, 650]}, "by 3 wavelengths, its axis 1"),
        ({"img": CUBE.astype(complex), "gt": MAP}, r"0 arrays of H x W x bands: gt \(5 x 7\), img \(complex numbers\)"),
        ({"img": np.array([{"a": CUBE}, {"a": CUBE}]), "gt": MAP}, "2 arrays of H x W x bands: img"),
        ({"img": CUBE, "wavelengths": [450.0, -1, 650]}, "a wavelength of -1"),
        ({"img": np.zeros((0, 5, 3)), "gt": MAP}, "0 arrays"),
    ],
)  # fmt: skip
def test_what_lies_differently_is_said(named: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=message):
        SceneFiles(save(tmp_path / "x.mat", **named)).open()


@pytest.mark.parametrize(
    "names",
    [np.array(NAMES, object), np.array(NAMES, object)[:, None], "\n".join(NAMES), np.array(["road", "tree", "roof"]),
     np.array(["Wälder", "Flüsse", "Äcker"], object)],
)  # fmt: skip
def test_class_names_are_read_from_texts_and_cells(names: Any, tmp_path: Path) -> None:
    found = SceneFiles(save(tmp_path / "x.mat", img=CUBE, gt=MAP, class_names=names)).open().classes
    assert found is not None
    expected = names.split("\n") if isinstance(names, str) else np.ravel(names).tolist()
    assert list(found.names) == expected


def test_empty_arrays_say_nothing(tmp_path: Path) -> None:
    same(save(tmp_path / "x.mat", img=CUBE, gt=MAP, wavelengths=np.zeros((0, 0)), bad_bands=np.zeros((1, 0))))
    same(save_v73(tmp_path / "y.mat", img=CUBE, gt=MAP, wavelengths=None, empty=None))


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(TYPES[:-1]), compression=st.sampled_from([None, "gzip"]), seed=st.integers(0, 99))
def test_version_7_3_has_the_same_numbers(
    kind: str, compression: str | None, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cube = np.random.default_rng(seed).integers(0, 100, (4, 5, 3)).astype(kind)
    path = tmp_path_factory.getbasetemp() / "x73.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("cube", data=cube.T, compression=compression)
    found = SceneFiles(path).read().cube
    np.testing.assert_array_equal(found, cube)
    assert isinstance(found, np.memmap) == (compression is None)


def test_structs_cells_and_sparse_matrices_of_version_7_3(tmp_path: Path) -> None:
    path = save_v73(tmp_path / "x.mat")
    sparse = scipy.sparse.csc_matrix(MAP)
    with h5py.File(path, "r+") as file:
        struct = file.create_group("scene")
        struct.create_dataset("img", data=CUBE.T)
        group = file.create_group("gt")
        group.attrs["MATLAB_sparse"] = np.uint64(MAP.shape[0])
        for key, values in (("data", sparse.data), ("ir", sparse.indices), ("jc", sparse.indptr)):
            group.create_dataset(key, data=values)
        texts = []
        for number, name in enumerate(NAMES):
            text = file.create_dataset(f"#refs#/{number}", data=np.array([[ord(letter)] for letter in name], np.uint16))
            text.attrs["MATLAB_class"] = np.bytes_("char")
            texts.append(text.ref)
        file.create_dataset("class_names", data=np.array([texts], object), dtype=h5py.ref_dtype)
    same(path)
    classes = SceneFiles(path).open().classes
    assert classes is not None
    assert classes.names == NAMES


def test_other_files_are_not_read_through_version_7_3(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(60)))
    with h5py.File(tmp_path / "victim.mat", "w") as file:
        file["cube"] = CUBE.T
    path = save_v73(tmp_path / "x.mat", gt=MAP)
    with h5py.File(path, "r+") as file:
        file.create_dataset("outside", (3, 4, 5), "u1", external=[(str(tmp_path / "secret"), 0, 60)])
        layout = h5py.VirtualLayout(CUBE.T.shape, "u2")
        layout[:] = h5py.VirtualSource(str(tmp_path / "victim.mat"), "cube", CUBE.T.shape)
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink(str(tmp_path / "victim.mat"), "cube")
    with pytest.raises(BadFile, match=r"0 arrays.*linked .a link., outside .kept in another file., virtual .kept in"):
        SceneFiles(path).open()
    for key in ("outside", "virtual", "linked"):
        with pytest.raises(BadFile, match=f"no array '{key}'"):
            SceneFiles(path, cube_key=key).open()


def nested(depth: int) -> bytes:
    """A cell in a cell in a cell …, as an array's contents."""

    def element(kind: int, content: bytes) -> bytes:
        return np.array([kind, len(content)], "<u4").tobytes() + content + bytes(-len(content) % 8)

    header = element(6, np.array([1, 0], "<u4").tobytes()) + element(5, np.array([1, 1], "<i4").tobytes())
    content = header + element(1, b"")
    for _ in range(depth):
        content = header + element(1, b"") + element(14, content)
    named = header + element(1, b"labels") + element(14, content)
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + element(14, named)


def test_a_file_that_ends_scipys_process_is_refused_by_our_reader(tmp_path: Path) -> None:
    path = tmp_path / "deep.mat"
    path.write_bytes(nested(3_000))
    assert b"labels" in path.read_bytes()
    with pytest.raises(BadFile, match=r"0 arrays of H x W x bands: .*structs or cells in one another"):
        SceneFiles(path).open()
    path.write_bytes(path.read_bytes() + (save(tmp_path / "x.mat", cube=CUBE)).read_bytes()[128:])
    assert SceneFiles(path).open().labels is None


def claim(path: Path, shape: tuple[int, ...], payload: bytes) -> Path:
    """Write a compressed array that claims a shape and holds zeros."""
    save(path, cube=np.zeros((2, 2, 2)))
    raw = path.read_bytes()
    content = bytearray(raw[128 + 8 :])
    dimensions = np.array(shape, "<i4").tobytes()
    content[24:36] = dimensions
    at = content.index(np.array([9, 64], "<u4").tobytes())
    content[at + 4 : at + 8] = np.array([len(payload)], "<u4").tobytes()
    body = bytes(content[: at + 8]) + payload
    packed = zlib.compress(np.array([14, len(body)], "<u4").tobytes() + body)
    path.write_bytes(raw[:128] + np.array([15, len(packed)], "<u4").tobytes() + packed)
    return path


def test_a_small_file_of_a_huge_array_is_refused_from_its_header(tmp_path: Path) -> None:
    path = claim(tmp_path / "x.mat", (1000, 1000, 1000), bytes(64))
    assert path.stat().st_size < 1400
    with pytest.raises(BadFile, match="cube has 8 numbers, not 1000000000"):
        SceneFiles(path).open()
    path = claim(tmp_path / "y.mat", (20_000, 20_000, 100), bytes(64))
    with pytest.raises(BadFile, match=r"cube takes 38146 MiB of memory.*FULLYCONV_MAX_ARRAY_BYTES"):
        SceneFiles(path).open()


def test_what_unpacks_to_more_than_its_header_claims_is_not_unpacked(tmp_path: Path) -> None:
    path = claim(tmp_path / "x.mat", (2, 2, 2), bytes(200 << 20))
    assert path.stat().st_size < 1 << 20
    program = f"""
import resource
from fullyconv.hsi.files import SceneFiles
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    SceneFiles({str(path)!r}).open()
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    message, taken = done.stdout.splitlines()
    assert "unpacks to more than" in message
    assert int(taken) < 50


def test_a_chunk_larger_than_its_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.mat", "w") as file:
        file.create_dataset("cube", (2, 2, 2), "f8", maxshape=(None,) * 3, chunks=(64, 64, 64), compression="gzip")
        file["cube"][:] = 1
    monkeypatch.setattr(LIMITS, "array_bytes", 1 << 20)
    with pytest.raises(BadFile, match="a chunk of cube takes 2 MiB"):
        SceneFiles(tmp_path / "x.mat").open()


def test_chunks_of_version_7_3_unpack_to_no_more_than_their_numbers(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(100 << 20), 9)
    for name in ("cube", "class_names"):
        path = save_v73(tmp_path / f"{name}.mat", gt=MAP)
        with h5py.File(path, "r+") as file:
            kind, packing = ("u2", {}) if name == "class_names" else ("f8", {"shuffle": True})
            stored = file.create_dataset(name, (4, 4, 4), kind, chunks=(4, 4, 4), compression="gzip", **packing)
            stored.id.write_direct_chunk((0, 0, 0), bomb)
            if name == "class_names":
                stored.attrs["MATLAB_class"] = np.bytes_("char")
        with pytest.raises(BadFile, match=f"a chunk of {name} unpacks to more than"):
            SceneFiles(path, label_key="gt").read() if name == "cube" else SceneFiles(path).open_labels()


def test_values_of_any_length_are_listed_not_read(tmp_path: Path) -> None:
    path = save_v73(tmp_path / "x.mat", img=CUBE, gt=MAP)
    with h5py.File(path, "r+") as file:
        file.create_dataset("notes", data=["a" * 1000] * 9, dtype=h5py.string_dtype())
    same(path)
    with pytest.raises(BadFile, match=r"no array 'notes'.*notes .values of any length"):
        SceneFiles(path, cube_key="notes").open()


@pytest.mark.parametrize(
    ("rows", "starts", "values"),
    [([0, 9], [0, 1, 2], [1, 1]), ([0, -1], [0, 1, 2], [1, 1]), ([0], [0, 1, 2], [1, 1]), ([0, 1], [0, 2, 1], [1, 1]),
     ([0, 1], [1, 1, 2], [1, 1])],
)  # fmt: skip
def test_sparse_matrices_that_do_not_fit_are_refused(
    rows: list[int], starts: list[int], values: list[int], tmp_path: Path
) -> None:
    path = save_v73(tmp_path / "x.mat")
    with h5py.File(path, "r+") as file:
        group = file.create_group("gt")
        group.attrs["MATLAB_sparse"] = np.uint64(3)
        for key, given_values in (("data", values), ("ir", rows), ("jc", starts)):
            group.create_dataset(key, data=given_values)
    with pytest.raises(BadFile, match="gt is a sparse matrix"):
        SceneFiles(path).open_labels()
