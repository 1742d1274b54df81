"""MATLAB files: format 5 to 7.2 (SciPy), and 7.3, which is HDF5 (h5py)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.formats.contents import Contents, Stored, check_bytes, needs, unreadable
from fullyconv.hsi.formats.notes import LONGEST, TEXTS, contents_of, write_notes
from fullyconv.hsi.scene import Scene

BYTES = {"double": 8, "single": 4, "logical": 1} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}
USERBLOCK = 512  # bytes of text before the HDF5 part
HDF5 = b"\x89HDF\r\n\x1a\n"


def read_matlab(path: Path) -> Contents:
    """List the arrays of a MATLAB file of any version; raises ``BadFile``."""
    with path.open("rb") as file:
        head = file.read(USERBLOCK + len(HDF5))
    try:
        return _read_v73(path) if HDF5 in (head[: len(HDF5)], head[USERBLOCK:]) else _read_v5(path)
    except (BadFile, ImportError):
        raise
    except Exception as error:  # SciPy and h5py raise many kinds
        raise unreadable(path, error) from None


def write_matlab(path: Path, arrays: dict[str, np.ndarray], scene: Scene) -> None:
    """Write a file of format 5, or of 7.3 where an array takes 2 GiB or more, which format 5 cannot hold."""
    if any(array.nbytes >= 1 << 31 for array in arrays.values()):
        write_matlab_v73(path, arrays, scene)
        return
    # A path's suffix would be changed, so a file is given; without its own padding SciPy misreads odd lengths.
    with path.open("wb") as file:
        needs("scipy.io", to="write MATLAB files").savemat(file, {**arrays, **write_notes(scene)}, do_compression=True)


def write_matlab_v73(path: Path, arrays: dict[str, np.ndarray], scene: Scene) -> None:
    """Write a file of format 7.3: HDF5 with reversed axes behind MATLAB's header."""
    h5py = needs("h5py", to="write MATLAB files of version 7.3")
    with h5py.File(path, "w", userblock_size=USERBLOCK) as file:
        for name, value in {**arrays, **write_notes(scene)}.items():
            kind = "char" if isinstance(value, str) else CLASSES.get(value.dtype.name, value.dtype.name)
            stored = np.array([[ord(letter)] for letter in value], np.uint16) if isinstance(value, str) else value.T
            file.create_dataset(name, data=stored).attrs["MATLAB_class"] = np.bytes_(kind)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, written by fullyconv".ljust(124) + b"\x00\x02IM")


def _read_v5(path: Path) -> Contents:
    scipy_io = needs("scipy.io", to="read MATLAB files")
    listed = scipy_io.whosmat(path, appendmat=False)

    def load(name: str) -> Any:  # one variable at a time: nested cells could exhaust the stack
        return scipy_io.loadmat(path, appendmat=False, variable_names=[name])[name]

    def numbers(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        check_bytes(path, name, shape, BYTES[kind])
        return np.asarray(load(name))

    arrays = [Stored(name, shape, partial(numbers, name, shape, kind)) for name, shape, kind in listed if kind in BYTES]
    texts = {
        name: "\n".join(map(str, load(name)))
        for name, shape, kind in listed
        if kind == "char" and name in TEXTS and np.prod(shape) <= LONGEST
    }
    return contents_of(path, arrays, texts)


def _read_v73(path: Path) -> Contents:
    h5py = needs("h5py", to="read MATLAB files of version 7.3")
    arrays, texts = [], {}
    with h5py.File(path) as file:
        for name in file:
            # Links out of the file are not followed.
            stored = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
            if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "buif":
                continue
            if stored.attrs.get("MATLAB_class") == b"char":
                if name in TEXTS and stored.size <= LONGEST:
                    texts[name] = "".join(map(chr, np.ravel(stored[()])))
            else:
                arrays.append(Stored(name, stored.shape[::-1], partial(_read_dataset, path, name)))
    return contents_of(path, arrays, texts)


def _read_dataset(path: Path, name: str) -> np.ndarray:
    """Read an HDF5 dataset, mapped where it lies in one piece; MATLAB's axes are the reverse of h5py's."""
    with needs("h5py", to="read MATLAB files of version 7.3").File(path) as file:
        stored = file[name]
        start, shape, kind = stored.id.get_offset(), stored.shape, stored.dtype
        if start is None or stored.external:
            check_bytes(path, name, shape, kind.itemsize)
            return np.asarray(stored[()]).T
    return np.memmap(path, kind, "r", start, shape).T
