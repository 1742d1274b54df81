from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from fullyconv.data.mat import read_mat
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

VALUES = np.random.default_rng(0).integers(0, 100, (7, 11))


def save(path: Path, contents: dict, **options: object) -> Path:
    scipy.io.savemat(path, contents, **options)
    return path


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("packed", [True, False])
def test_it_reads_what_scipy_reads(tmp_path: Path, kind: str, packed: bool) -> None:
    path = save(tmp_path / "m.mat", {"other": "text", "S": VALUES.astype(kind)}, do_compression=packed)
    got = read_mat(path, "S")
    np.testing.assert_array_equal(got, scipy.io.loadmat(path)["S"])
    assert got.dtype == np.int32


def test_negative_labels_and_single_pixels(tmp_path: Path) -> None:
    assert read_mat(save(tmp_path / "m.mat", {"S": np.array([[-1]], np.int16)}), "S").tolist() == [[-1]]


def test_it_walks_into_structs_past_other_fields(tmp_path: Path) -> None:
    cells = np.empty((3, 1), object)
    for index in range(3):
        cells[index, 0] = scipy.sparse.csc_matrix(np.eye(4))
    inner = {"Boundaries": cells, "text": "abc", "Segmentation": VALUES.astype(np.uint8), "after": 1.0}
    path = save(tmp_path / "m.mat", {"GTcls": {"first": {"deep": 1}, "seg": inner}})
    np.testing.assert_array_equal(read_mat(path, "GTcls.seg.Segmentation"), VALUES)


def test_it_walks_into_cells_counted_from_1(tmp_path: Path) -> None:
    cells = np.empty((1, 3), object)
    for index in range(3):
        cells[0, index] = {"Labels": VALUES + index}
    path = save(tmp_path / "m.mat", {"groundTruth": cells})
    for number in (1, 2, 3):
        np.testing.assert_array_equal(read_mat(path, f"groundTruth.{number}.Labels"), VALUES + number - 1)
    for number in (0, 4, 10**9):
        with pytest.raises(BadFile, match=f"no cell {number}"):
            read_mat(path, f"groundTruth.{number}.Labels")


def test_big_endian_files(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    pixels = np.array([[1, 2, 3], [4, 5, 6]], ">u2")
    array = element(6, struct.pack(">II", 11, 0)) + element(5, struct.pack(">ii", 2, 3))
    array += element(1, b"S") + element(4, pixels.T.tobytes())
    path = tmp_path / "m.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + struct.pack(">H", 0x0100) + b"MI" + element(14, array))
    assert read_mat(path, "S").tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("contents", "variable", "what"),
    [
        ({"T": VALUES}, "S", "no variable 'S' in it, only T"),
        ({"S": VALUES + 0.5}, "S", "not whole"),
        ({"S": VALUES * 1e9}, "S", "no labels"),
        ({"S": np.full((2, 2), np.nan)}, "S", "no labels"),
        ({"S": VALUES * 1j}, "S", "no matrix of real numbers"),
        ({"S": "text"}, "S", "no matrix of real numbers"),
        ({"S": np.zeros((2, 2, 2))}, "S", "no matrix of real numbers"),
        ({"S": np.zeros((0, 0))}, "S", "0 x 0"),
        ({"S": {"a": 1}}, "S.b", "no field 'b'"),
        ({"S": VALUES}, "S.a", "no single struct"),
    ],
)
def test_what_is_no_mask_is_said(tmp_path: Path, contents: dict, variable: str, what: str) -> None:
    path = save(tmp_path / "m.mat", contents)
    with pytest.raises(BadFile, match=what) as caught:
        read_mat(path, variable)
    assert str(path) in str(caught.value)
    assert "-v7" in caught.value.fix


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.mat"
    for content, what in (
        (b"", "no MATLAB file"),
        (b"\0" * 200, "no MATLAB file"),
        (b"x".ljust(124) + struct.pack("<H", 0x0200) + b"IM", "MATLAB 7.3"),
        (b"x".ljust(124) + struct.pack("<H", 0x0100) + b"IM", "only nothing"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadFile, match=what):
            read_mat(path, "S")
    with pytest.raises(BadFile, match="no such file"):
        read_mat(tmp_path / "none.mat", "S")


@pytest.mark.parametrize("packed", [True, False])
def test_every_truncation_and_every_flipped_byte_gives_an_answer_or_an_error(tmp_path: Path, packed: bool) -> None:
    whole = save(
        tmp_path / "m.mat",
        {"GTcls": {"a": 1.0, "Segmentation": VALUES[:3, :4].astype(np.uint8)}},
        do_compression=packed,
    ).read_bytes()
    path = tmp_path / "broken.mat"
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile):
            read_mat(path, "GTcls.Segmentation")
    for at in range(120, len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            with contextlib.suppress(BadFile):
                assert read_mat(path, "GTcls.Segmentation").ndim == 2


def test_claims_of_size_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"x".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    path = tmp_path / "m.mat"
    monkeypatch.setattr(LIMITS, "unpacked_bytes", 100_000)
    bomb = zlib.compress(struct.pack("<II", 14, 200_000) + b"\0" * 200_000)
    path.write_bytes(header + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(BadFile, match="unpacks to more"):
        read_mat(path, "S")
    path.write_bytes(b"\0" * 100_001)
    with pytest.raises(BadFile, match="more than 100000 bytes"):
        read_mat(path, "S")


def test_nested_cells_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    nested = b""
    for depth in range(3000):
        name = b"S" if depth == 2999 else b""
        nested = element(
            14, element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, name) + nested
        )
    path = tmp_path / "m.mat"
    path.write_bytes(b"x".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + nested)
    with pytest.raises(BadFile, match="no matrix"):
        read_mat(path, "S")
