"""Labels of pictures as Zarr arrays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fullyconv.data.place import TILE, mask_values
from fullyconv.files import whole_folder
from fullyconv.types import ClassSet


def write_store(
    path: Path, bands: Iterable[np.ndarray], size: tuple[int, int], classes: ClassSet, *, like: Path
) -> None:
    """Write the mask values of a picture's classes as a Zarr array of its height and width; it appears whole.

    Args:
        path: The folder.
        bands: The labels, ``TILE`` rows at a time.
        size: Height and width.
        classes: What they mean: their names, values and colours are the array's attributes.
        like: The picture's store, whose format the new one has.
    """
    import zarr
    from zarr.storage import LocalStore

    table, axes = mask_values(classes), ["y", "x"]
    version: Literal[2, 3] = 3 if (like / "zarr.json").is_file() else 2
    names: dict[str, Any] = {"dimension_names": axes} if version == 3 else {}
    about: dict[str, Any] = {
        "classes": list(classes.names),
        "values": list(classes.values),
        "ignore": classes.ignore_index,
    }
    about["colours"] = [list(colour) for colour in classes.colours]
    with whole_folder(path, keep=False) as draft:
        array = zarr.create_array(
            store=LocalStore(draft),
            shape=size,
            chunks=(min(TILE, size[0]), min(TILE, size[1])),
            dtype=table.dtype,
            zarr_format=version,
            attributes=about if version == 3 else about | {"_ARRAY_DIMENSIONS": axes},
            **names,
        )
        top = 0
        for labels in bands:
            array[top : top + len(labels)] = table[labels]
            top += len(labels)
