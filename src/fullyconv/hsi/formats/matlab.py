"""MATLAB files of any version, and how they are written (SciPy, h5py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fullyconv.hsi.formats.contents import Contents, needs
from fullyconv.hsi.formats.hdf5 import read_v73
from fullyconv.hsi.formats.matlab4 import read_v4
from fullyconv.hsi.formats.matlab5 import read_v5
from fullyconv.hsi.formats.notes import write_notes
from fullyconv.hsi.scene import Scene

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
    return read_v4(path) if 0 in head[:4] else read_v5(path)


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
