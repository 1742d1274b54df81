"""MATLAB files of any version, and how they are written (SciPy, h5py)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from fullyconv.hsi.formats.contents import Contents, Stored, check_bytes, needs
from fullyconv.hsi.formats.hdf5 import read_v73
from fullyconv.hsi.formats.matlab5 import read_v5
from fullyconv.hsi.formats.notes import contents_of, write_notes
from fullyconv.hsi.scene import Scene

V4_BYTES = {"double": 8, "single": 4, "int32": 4, "int16": 2, "uint16": 2, "uint8": 1}  # SciPy's names of types
CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}
USERBLOCK = 512  # bytes of text before the HDF5 part
HDF5 = b"\x89HDF\r\n\x1a\n"


def read_matlab(path: Path) -> Contents:
    """List the arrays of a MATLAB file of any version."""
    with path.open("rb") as file:
        head = file.read(USERBLOCK + len(HDF5))
    if HDF5 in (head[: len(HDF5)], head[USERBLOCK:]):
        return read_v73(path)
    # Format 5 begins with text; format 4 with a number below 5000, of which a byte is 0.
    return _read_v4(path) if 0 in head[:4] else read_v5(path)


def _read_v4(path: Path) -> Contents:
    """List the matrices of a file of format 4, which has no structs or cells to get lost in."""
    scipy_io = needs("scipy.io", to="read MATLAB files of version 4")

    def read(name: str, shape: tuple[int, ...], size: int) -> np.ndarray:
        check_bytes(path, name, shape, size)
        return np.asarray(scipy_io.loadmat(path, appendmat=False, variable_names=[name])[name])

    listed = [(name, shape, V4_BYTES.get(kind)) for name, shape, kind in scipy_io.whosmat(path, appendmat=False)]
    arrays = [Stored(name, shape, partial(read, name, shape, size)) for name, shape, size in listed if size]
    return contents_of(path, arrays, {})


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
