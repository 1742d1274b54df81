"""The budget: how much a file may ask for before it is refused, in one place.

Every reader checks what a header claims against these numbers before it allocates anything. They are
generous for honest files and small enough that a hostile one harms nobody. To raise one, set the
environment variable of its name, ``FULLYCONV_MAX_PIXELS=1000000000 fullyconv predict …``, or assign it
in Python, ``fullyconv.limits.LIMITS.pixels = 1_000_000_000``. ``docs/limits.md`` lists them.

What a format or an algorithm itself cannot exceed (a protobuf message's 2 GiB, the 32,767 classes of
int16 labels) is no budget and stands where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

PREFIX = "FULLYCONV_MAX_"


@dataclass
class Limits:
    """The most that a file may ask for; all are whole numbers of at least 1."""

    pixels: int = 400_000_000  # of a picture, a mask or a scene's plane: 20,000 x 20,000
    streamed_pixels: int = 100_000_000_000  # of a picture that is read by rows and never held
    bands: int = 10_000  # of a scene
    array_bytes: int = 1 << 30  # of one array that has to be read whole
    unpacked_bytes: int = 512 << 20  # of a compressed MATLAB file of labels
    text_bytes: int = 16 << 20  # of a file of text: JSON, YAML, prototxt, lists
    annotation_bytes: int = 1 << 30  # of a document of outlines (COCO's largest: 450 MB)
    nodes: int = 1_000_000  # of a YAML or JSON document, its aliases counted as often as used; fields of a prototxt
    depth: int = 100  # of brackets in brackets in such a document
    layers: int = 10_000  # of a prototxt
    weights: int = 280_000_000  # of a network, or as many as its file of weights holds (NYUDv2's: 275 million)
    tensors: int = 20_000  # in a file of weights; the deepest networks have some thousands
    values: int = 1 << 31  # of one blob between a prototxt's layers
    entries: int = 200_000  # fields of a caffemodel and its layers; GoogLeNet has some thousands
    chunks: int = 1000  # pieces that the numbers of a caffemodel's blob are written in; usually one
    archive_bytes: int = 128 << 30  # that a tar or zip may unpack to
    archive_files: int = 2_000_000  # in a tar or zip
    header_bytes: int = 16 << 20  # that a header of a tar or of a safetensors file may ask for at once
    download_bytes: int = 128 << 30  # of one downloaded file
    download_seconds: int = 30  # without a byte from a server

    def __setattr__(self, name: str, value: int) -> None:
        if name not in self.__dataclass_fields__:
            raise AttributeError(f"no limit is called {name!r}: there are {', '.join(self.__dataclass_fields__)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"the limit {name} is a whole number of at least 1, not {value!r}")
        super().__setattr__(name, value)

    def remedy(self, name: str) -> str:
        """Say how to raise a limit, for the end of an error message.

        >>> Limits().remedy("pixels")
        'raise FULLYCONV_MAX_PIXELS (now 400000000) if the file is to be trusted'
        """
        return f"raise {PREFIX}{name.upper()} (now {getattr(self, name)}) if the file is to be trusted"


def read_limits(environment: Mapping[str, str]) -> Limits:
    """Return the usual limits, changed as an environment says.

    Args:
        environment: Variables; those called ``FULLYCONV_MAX_`` and a limit's name in capitals count.

    Raises:
        ValueError: For a value that is no whole number of at least 1, or a limit that does not exist.

    >>> read_limits({"FULLYCONV_MAX_PIXELS": "1_000_000"}).pixels
    1000000

    """
    limits = Limits()
    known = {f"{PREFIX}{field.name.upper()}": field.name for field in fields(limits)}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in known:
            raise ValueError(f"{variable}: no limit has this name: there are {', '.join(known)}")
        try:
            setattr(limits, known[variable], int(text))
        except ValueError:
            raise ValueError(f"{variable}={text!r}: a limit is a whole number of at least 1") from None
    return limits


LIMITS = read_limits(os.environ)
