"""NumPy's files: any order and layout that holds numbers, and nothing that could run code."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles

CUBE = np.arange(24).reshape(2, 3, 4)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]),
    byte_order=st.sampled_from("<>"), order=st.sampled_from("CF"), packed=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_numbers_are_those_that_were_saved(
    kind: str, byte_order: str, order: Any, packed: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = np.random.default_rng(seed).integers(0, 99, (3, 4, 2)).astype(kind)
    stored = values.astype(np.dtype(kind).newbyteorder(byte_order), order=order)
    folder = tmp_path_factory.getbasetemp()
    np.save(folder / "x.npy", stored)
    (np.savez_compressed if packed else np.savez)(folder / "x.npz", a=stored)
    for name in ("x.npy", "x.npz"):
        found = SceneFiles(folder / name).read().cube
        np.testing.assert_array_equal(found, values)
    assert isinstance(SceneFiles(folder / "x.npy").read().cube, np.memmap)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (CUBE.astype(complex), "complex numbers"),
        (np.zeros((2, 3, 4), [("a", "f4"), ("b", "u1")]), "records of several fields"),
        (np.full((2, 3, 4), "text"), "<U4"),
        (np.zeros((2, 3, 4), "M8[s]"), "datetime64"),
    ],
)
def test_what_is_no_number_is_said(value: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", value)
    np.savez(tmp_path / "x.npz", cube=value)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(BadFile, match=message):
            SceneFiles(tmp_path / name).open()


def test_objects_are_refused_without_being_made(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    value = np.empty((1, 1, 1), object)
    value[0, 0, 0] = Trap(trace)
    np.save(tmp_path / "x.npy", value)
    np.savez(tmp_path / "x.npz", cube=value, class_names=value)
    (tmp_path / "z.npy").write_bytes(b"\x80\x04" + b"cposix\nsystem\n(S'true'\ntR.")
    for name in ("x.npy", "x.npz", "z.npy"):
        with pytest.raises(BadFile, match=r"Python objects|unreadable"):
            SceneFiles(tmp_path / name).open()
    assert not trace.exists()


def test_an_archive_of_other_members_is_read_or_refused(tmp_path: Path) -> None:
    def archive(**members: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
            for name, content in members.items():
                file.writestr(name.replace("_npy", ".npy"), content)
        return tmp_path / "x.npz"

    buffer = io.BytesIO()
    np.save(buffer, CUBE)
    for members in ({"readme": b"hello"}, {"cube_npy": b""}, {"cube_npy": buffer.getvalue()[:90]}, {}):
        with pytest.raises(BadFile, match=r"unreadable|0 arrays"):
            SceneFiles(archive(**members)).open()
    np.testing.assert_array_equal(SceneFiles(archive(cube_npy=buffer.getvalue())).open().cube, CUBE)


def test_a_small_file_of_a_huge_array_is_refused_from_its_header(tmp_path: Path) -> None:
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (20000, 20000, 100)}\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("cube.npy", head + bytes(100))
    with pytest.raises(BadFile, match=r"cube takes 305175 MiB of memory.*FULLYCONV_MAX_ARRAY_BYTES"):
        SceneFiles(tmp_path / "x.npz").open()
    (tmp_path / "x.npy").write_bytes(head + bytes(100))
    with pytest.raises(BadFile, match="unreadable"):
        SceneFiles(tmp_path / "x.npy").open()


def test_labels_in_one_dimension_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", cube=CUBE, gt=np.ones(6, int), threshold=np.float64(3))
    with pytest.raises(BadFile, match=r"gt \(6\) holds the labels of the scene's 2 x 3 pixels in a row"):
        SceneFiles(tmp_path / "x.npz").open()
