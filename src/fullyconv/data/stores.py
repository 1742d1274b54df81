"""Pictures in Zarr stores (formats 2 and 3) on disk: one array, or one of several sizes as OME-NGFF lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fullyconv.data.nothing import hollow
from fullyconv.data.raster import COLOURS, Kind, Raster, Refused, check_level
from fullyconv.files import STORE_MARKS, BadFile, parse_json
from fullyconv.limits import LIMITS, Limits

if TYPE_CHECKING:
    import zarr

OLDEST_AXES = ("t", "c", "z", "y", "x")  # of OME-NGFF before 0.3
NAMES = {"lat": "y", "latitude": "y", "row": "y", "lon": "x", "longitude": "x", "column": "x", "col": "x",
         "channel": "c", "band": "c", "bands": "c", "rgb": "c", "s": "c", "sample": "c"}  # fmt: skip
FEW = (1, 2, 3, 4)  # channels that an axis without a name can hold, beside height and width
CODECS = {
    "blosc", "zstd", "zlib", "gzip", "bz2", "lz4", "lzma", "shuffle", "delta", "fixedscaleoffset", "bitround",
    "packbits", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose", "sharding_indexed", "quantize",
    "astype",
}  # fmt: skip
"""What may unpack numbers. Not ``pickle``, which runs what a file says, nor what cannot be bounded (``unpacking``)."""
EXTRA = "pip install 'fullyconv[zarr]'"
ANEW = "save it anew as one array of height x width x channels"


@dataclass(frozen=True)
class Stored:
    """A picture in a store.

    Attributes:
        array: Its numbers.
        axes: What its axes are: ``y``, ``x``, ``c`` (channels), others are of length 1.
        sizes: Height and width of each level.
    """

    array: zarr.Array[Any]
    axes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.array.shape[self.axes.index("y")], self.array.shape[self.axes.index("x")]

    @property
    def channels(self) -> int:
        """How many numbers each pixel has."""
        return self.array.shape[self.axes.index("c")] if "c" in self.axes else 1

    @property
    def nothing(self) -> float | None:
        """The number of pixels that hold nothing, as xarray writes it."""
        number = self.array.attrs.asdict().get("_FillValue")
        return number if isinstance(number, int | float) and not isinstance(number, bool) else None

    @property
    def holes(self) -> bool:
        """Whether there may be pixels that hold nothing."""
        return self.nothing is not None or self.array.dtype.kind == "f"

    @property
    def high(self) -> int:
        """Rows of a row of chunks, which are unpacked together."""
        high: int = (self.array.shards or self.array.chunks)[self.axes.index("y")]
        return min(high, self.size[0])

    def read(self, first: int, last: int) -> Raster:
        """Read rows.

        Args:
            first: The first of them.
            last: The one after the last.
        """
        chosen = tuple(
            slice(first, last) if axis == "y" else slice(None) if axis in ("x", "c") else 0 for axis in self.axes
        )
        values = np.asarray(self.array[chosen])
        left = [axis for axis in self.axes if axis in ("y", "x", "c")]
        values = values.transpose([left.index(axis) for axis in "yxc" if axis in left])
        values = values if values.ndim == 3 else values[..., None]
        return _raster(values.astype(values.dtype.newbyteorder("="), copy=False), self.nothing)


def _raster(values: np.ndarray, nothing: float | None) -> Raster:
    """Say what numbers stand for by how many each pixel has: grey, colours, colours and alpha, else bands."""
    bits = 1 if values.dtype == np.bool_ else 8 * values.dtype.itemsize
    values, missing = hollow(values.view(np.uint8) if bits == 1 else values, nothing)
    kinds: dict[int, Kind] = {1: "grey", 3: "rgb", 4: "rgb"}
    kind = kinds.get(values.shape[2], "bands")
    if values.shape[2] != COLOURS + 1:
        return Raster(np.ascontiguousarray(values), kind, bits, missing=missing)
    alpha = np.ascontiguousarray(values[..., COLOURS:])
    full = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    clear = bool((alpha != full).any())
    colours = np.ascontiguousarray(values[..., :COLOURS])
    return Raster(colours, kind, bits, transparent=clear, alpha=alpha, missing=missing)


def read_store(path: Path, limits: Limits = LIMITS, level: int = 0) -> Raster:
    """Read the picture of a store; see ``open_store``."""
    with said(path):
        found = open_store(path, level, limits.pixels)
        return found.read(0, found.size[0])


def open_store(path: Path, level: int = 0, pixels: int | None = None) -> Stored:
    """Open the picture of a store without reading it.

    The axes are those that it names (OME-NGFF, Zarr's dimension names, xarray's); without names they are height and
    width, and channels behind or before them, which are at most four. Where both ends are so short, that of three or
    four is the channels if the other is of one or two: 1 x 1 x 3 is a pixel in colour.

    Args:
        path: The folder of an array, of an OME-NGFF picture, or of a group with a single one of these.
        level: Which size of the picture, 0 the full one.
        pixels: The most that it may have.

    Raises:
        BadFile: For what holds no single picture, or one that cannot be read.
    """
    with said(path):
        node = _open(path)
        array, axes, sizes = _chosen(node, level)
        found = Stored(array, _named(axes, array.shape), sizes)
        _check(found, LIMITS.pixels if pixels is None else pixels)
        return found


@contextmanager
def said(path: Path) -> Iterator[None]:
    """Say what is wrong with a store, whatever its readers raise."""
    try:
        yield
    except (BadFile, MemoryError):
        raise
    except Refused as error:
        raise BadFile(path, error.what, error.fix) from None
    except ModuleNotFoundError as error:
        if error.name != "zarr":
            raise
        raise BadFile(path, "a Zarr store, for which the package zarr is missing", EXTRA) from None
    except Exception as error:  # zarr and its codecs raise many kinds for broken stores
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadFile(path, f"an unreadable Zarr store ({what})", "copy it again, or leave it out") from None


Node = Any  # zarr.Array or zarr.Group


def _open(path: Path) -> Node:
    import zarr

    for mark in STORE_MARKS:
        file = path / mark
        if file.is_file():
            if file.stat().st_size > LIMITS.text_bytes:
                raise Refused(f"{mark} of {file.stat().st_size} bytes", LIMITS.remedy("text_bytes"))
            parse_json(file.read_bytes())  # what is nested too deeply is said here
    return zarr.open(store=_bounded(path), mode="r", use_consolidated=False)


def _bounded(path: Path) -> Any:
    """Open the files of a store, none of which may be larger than what a chunk holds unpacked: ``most``, once known.

    Else a file of a few megabytes could unpack to gigabytes before anybody counts.
    """
    from zarr.storage import LocalStore

    class Bounded(LocalStore):
        most = LIMITS.text_bytes

        async def get(self, key: str, *rest: Any, **named: Any) -> Any:
            return self._within(key, await super().get(key, *rest, **named))

        def get_sync(self, key: str, *rest: Any, **named: Any) -> Any:
            return self._within(key, super().get_sync(key, *rest, **named))

        def _within(self, key: str, found: Any) -> Any:
            if found is not None and len(found) > self.most:
                raise ValueError(f"{key} has {len(found)} bytes, and what it stands for at most {self.most}")
            return found

    return Bounded(path, read_only=True)


def _chosen(node: Node, level: int) -> tuple[Any, Sequence[Any] | None, tuple[tuple[int, int], ...]]:
    """Return the array of a level, the names of its axes, and the sizes of all levels."""
    import zarr

    if isinstance(node, zarr.Array):
        axes = _axes_of(node)
        own = _size(axes, node)
        check_level(level, [own])
        return node, axes, (own,)
    listed = _multiscales(node)
    if listed is None:
        return _chosen(_only(node), level)
    try:
        paths = [str(entry["path"]) for entry in listed["datasets"]]
    except (KeyError, TypeError):
        raise Refused("multiscales without paths of datasets", "save it anew by OME-NGFF") from None
    arrays = [node[name] for name in paths]
    if not arrays or not all(isinstance(each, zarr.Array) for each in arrays):
        raise Refused("multiscales without arrays", "save it anew by OME-NGFF")
    axes = [each["name"] if isinstance(each, Mapping) else str(each) for each in listed.get("axes", OLDEST_AXES)]
    sizes = tuple(_size(axes, each) for each in arrays)
    check_level(level, sizes)
    return arrays[level], axes, sizes


def _multiscales(node: Node) -> Mapping[str, Any] | None:
    """Return what an OME-NGFF picture says of its sizes; ``None`` for other groups."""
    attributes = node.attrs.asdict()
    ome = attributes.get("ome")
    listed = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    if listed is None:
        return None
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], Mapping):
        raise Refused("multiscales that list nothing", "save it anew by OME-NGFF")
    return listed[0]


def _only(group: Node) -> Node:
    """Return the one picture of a group; raises ``Refused`` where there are none or several."""
    import zarr

    found = {
        name: member
        for name, member in group.members()
        if (member.ndim >= 2 if isinstance(member, zarr.Array) else _multiscales(member) is not None)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = sorted(found)
        raise Refused(f"{len(names)} pictures in it", f"name one: {group.store.root.name}/{names[0]}, …/{names[1]}")
    groups = [name for name, member in group.members() if isinstance(member, zarr.Group)]
    raise Refused("no picture in it", f"name a group below it: …/{sorted(groups)[0]}" if groups else ANEW)


def _axes_of(array: Node) -> Sequence[Any] | None:
    """Return the names that an array gives its axes, if it does."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    return names if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None


def _size(axes: Sequence[Any] | None, array: Node) -> tuple[int, int]:
    named = _named(axes, array.shape)
    return array.shape[named.index("y")], array.shape[named.index("x")]


def _named(axes: Sequence[Any] | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Find out which axes are height, width and channels.

    >>> _named(None, (90, 80, 3)), _named(["Band", "Y", "X"], (7, 90, 80)), _named(list("tczyx"), (1, 3, 1, 90, 80))
    (('y', 'x', 'c'), ('c', 'y', 'x'), ('t', 'c', 'z', 'y', 'x'))
    """
    if axes is None:
        return _guessed(shape)
    named = tuple(NAMES.get(str(each).lower(), str(each).lower()) for each in axes)
    if len(named) != len(shape) or len(set(named)) < len(named) or not {"y", "x"} <= set(named):
        raise Refused(f"axes {', '.join(map(str, axes))} of an array of {_words(shape)}", ANEW)
    for axis, length in zip(named, shape, strict=True):
        if axis not in ("y", "x", "c") and length != 1:
            raise Refused(
                f"a stack of {length} along {axis}", f"save the one to be labelled as an array without {axis}"
            )
    return named


def _guessed(shape: tuple[int, ...]) -> tuple[str, ...]:
    if len(shape) == 2:
        return "y", "x"
    last, first = (len(shape) == 3 and shape[place] in FEW for place in (2, 0))
    if last and first:  # a channel, or a picture so low or narrow: colours decide
        last, first = (shape[place] in (COLOURS, COLOURS + 1) for place in (2, 0))
    if last == first:
        what = f"an array of {_words(shape)} whose axes have no names"
        raise Refused(what, "name its dimensions y, x and c, or save it as height x width x channels")
    return ("y", "x", "c") if last else ("c", "y", "x")


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no axes"


def _check(found: Stored, pixels: int) -> None:
    """Refuse what is no picture, would not fit, or is packed by what we do not run; bound what chunks unpack to."""
    from fullyconv.data.unpacking import bound_chunks, most_bytes

    array, (height, width) = found.array, found.size
    kind = array.dtype
    if kind.kind not in "buif":
        raise Refused(f"numbers of type {kind}", "save it as whole numbers or floating point")
    if 0 in array.shape:
        raise Refused("no pixels in it", "save it anew")
    if height * width > pixels:
        raise Refused(f"{width} x {height} pixels", LIMITS.remedy("pixels"))
    if found.channels > LIMITS.bands:
        raise Refused(f"{found.channels} channels", LIMITS.remedy("bands"))
    together = found.high * prod(length for length, axis in zip(array.shape, found.axes, strict=True) if axis != "y")
    chunk = prod(array.shards or array.chunks)
    if max(chunk, together) * kind.itemsize > 4 * LIMITS.pixels:
        raise Refused(f"chunks of {_words(array.chunks)}", "save it in smaller chunks, for example 512 x 512")
    store: Any = array.store
    store.most = most_bytes(chunk, kind.itemsize)
    for name in _codecs(array.metadata.to_dict()):
        if name.lower().removeprefix("numcodecs.") not in CODECS:
            raise Refused(f"numbers packed by {name}", "save it anew with zstd, blosc or gzip")
    bound_chunks(array)


def _codecs(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Return the names of all codecs, those within shards too."""
    own = metadata.get("configuration", metadata)
    listed = [*(own.get("codecs") or ()), *(own.get("index_codecs") or ()), *(own.get("filters") or ())]
    for each in [*listed, *([own["compressor"]] if own.get("compressor") else [])]:
        entry = each if isinstance(each, Mapping) else each.get_config()
        yield str(entry.get("name", entry.get("id")))
        yield from _codecs(entry) if "configuration" in entry else ()
