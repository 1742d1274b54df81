"""Caffemodel files: weights by layer name, in protobuf's binary form.

The schema is our own: the field numbers of the messages that carry weights. A blob's numbers are
declared as ``bytes``, which has the same wire form as the packed floats that they are, so that a
hundred million weights are one buffer and not a hundred million Python objects. Snapshots in HDF5 hold the
same blobs in another file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.data.hdf5 import read_whole
from fullyconv.files import BadFile, whole_file
from fullyconv.limits import LIMITS

MOST_BYTES = 2**31 - 1  # protobuf's own limit on a message
MOST_AXES = 32  # Caffe's own limit
PACKAGE = "fullyconv.caffe"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
RAW = {0: "<f8", 1: "<f4", 2: "<f2"}  # NVIDIA's numbers for types: double, float, half

_OPTIONAL, _REPEATED = 1, 3
_DOUBLE, _FLOAT, _INT64, _INT32, _STRING, _MESSAGE, _BYTES = 1, 2, 3, 5, 9, 11, 12

_VARINT, _SPAN = 0, 2  # wire types
_FIXED = {1: 8, 3: 0, 4: 0, 5: 4}  # other wire types and their lengths
_LAYER_TAGS = (2 << 3 | _SPAN, 100 << 3 | _SPAN)

# message -> (field, number, label, type, message type)
_Fields = tuple[tuple[str, int, int, int, str], ...]
_SCHEMA: dict[str, _Fields] = {
    "Shape": (("dim", 1, _REPEATED, _INT64, ""),),
    "Blob": (
        ("num", 1, _OPTIONAL, _INT32, ""),
        ("channels", 2, _OPTIONAL, _INT32, ""),
        ("height", 3, _OPTIONAL, _INT32, ""),
        ("width", 4, _OPTIONAL, _INT32, ""),
        ("data", 5, _REPEATED, _BYTES, ""),
        ("shape", 7, _OPTIONAL, _MESSAGE, "Shape"),
        ("double_data", 8, _REPEATED, _BYTES, ""),
        # NVIDIA's Caffe writes all numbers as bytes of a type, of ``RAW``.
        ("raw_data_type", 10, _OPTIONAL, _INT32, ""),
        ("raw_data", 12, _OPTIONAL, _BYTES, ""),
    ),
    # The same blob where the numbers were written one by one.
    "Unpacked": (("data", 5, _REPEATED, _FLOAT, ""), ("double_data", 8, _REPEATED, _DOUBLE, "")),
    "Layer": (
        ("name", 1, _OPTIONAL, _STRING, ""),
        ("type", 2, _OPTIONAL, _STRING, ""),
        ("blobs", 7, _REPEATED, _MESSAGE, "Blob"),
    ),
    "OldLayer": (
        ("layer", 1, _OPTIONAL, _MESSAGE, "OldestLayer"),
        ("name", 4, _OPTIONAL, _STRING, ""),
        ("blobs", 6, _REPEATED, _MESSAGE, "Blob"),
    ),
    "OldestLayer": (("name", 1, _OPTIONAL, _STRING, ""), ("blobs", 50, _REPEATED, _MESSAGE, "Blob")),
    "SolverState": (
        ("iter", 1, _OPTIONAL, _INT32, ""),
        ("learned_net", 2, _OPTIONAL, _STRING, ""),
        ("history", 3, _REPEATED, _MESSAGE, "Blob"),
        ("current_step", 4, _OPTIONAL, _INT32, ""),
    ),
    "Net": (
        ("name", 1, _OPTIONAL, _STRING, ""),
        ("layers", 2, _REPEATED, _MESSAGE, "OldLayer"),
        ("layer", 100, _REPEATED, _MESSAGE, "Layer"),
    ),
}


@cache
def _messages() -> dict[str, Any]:
    """Make the message classes; raises ``ImportError`` naming the extra where protobuf is missing."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as missing:
        raise ImportError("caffemodel files need protobuf: pip install 'fullyconv[caffe]'") from missing
    file = descriptor_pb2.FileDescriptorProto(name="fullyconv/caffe.proto", package=PACKAGE, syntax="proto2")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for own, number, label, kind, target in fields:
            entry = message.field.add(name=own, number=number, label=label, type=kind)
            if target:
                entry.type_name = f".{PACKAGE}.{target}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _SCHEMA}


def read_weights(path: Path | str) -> dict[str, list[np.ndarray]]:
    """Read a caffemodel: the blobs of every layer that has any, float32, shaped as the file says.

    New layer forms and old ones (V1, V0), legacy four-number shapes, packed and unpacked numbers, NVIDIA's raw ones,
    and snapshots in HDF5 (``.caffemodel.h5``). Raises ``BadFile`` for a file that is damaged, too large, or whose
    shapes do not match its numbers, and ``ImportError`` if protobuf (or h5py) is not installed.
    """
    path = Path(path)
    if _is_hdf5(path):
        return _read_hdf5(path)
    net = _parse("Net", path)
    layers = [*(entry.layer if entry.HasField("layer") else entry for entry in net.layers), *net.layer]
    if not layers:
        raise BadFile(path, "holds no layer", "give the .caffemodel here, the .prototxt first")
    weights: dict[str, list[np.ndarray]] = {}
    for layer in layers:
        if layer.blobs:
            weights[layer.name] = [_array(blob, layer.name, path) for blob in layer.blobs]
    return weights


def _parse(message: str, path: Path) -> Any:
    """Read a file as a protobuf message; raises ``BadFile``."""
    found = _messages()[message]()
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadFile(path, f"larger than {MOST_BYTES} bytes", "no protobuf message can be")
        content = path.read_bytes()
        _check_entries(content, path)
        found.ParseFromString(content)
    except OSError as error:
        raise BadFile(path, f"not readable ({error.strerror})", "check the path") from None
    except DecodeError:
        raise BadFile(path, "truncated, or not a caffemodel", "restore it from its source") from None
    return found


def read_blob(path: Path | str) -> np.ndarray:
    """Read one blob (``.binaryproto``: a mean image, a matrix), float32 and as it is shaped; raises ``BadFile``."""
    return _array(_parse("Blob", Path(path)), "blob", Path(path))


@dataclass(frozen=True)
class SolverState:
    """A training on its way: its iteration, the file of its weights, and what the solver remembers."""

    iteration: int
    learned_net: str
    history: Sequence[np.ndarray] = field(repr=False)
    current_step: int = 0


def read_solverstate(path: Path | str) -> SolverState:
    """Read a solver's snapshot, ``.solverstate``; raises ``BadFile``."""
    path = Path(path)
    if _is_hdf5(path):
        raise BadFile(path, "a solver's state in HDF5", "write snapshots with snapshot_format: BINARYPROTO")
    found = _parse("SolverState", path)
    if not found.HasField("iter") or found.iter < 0 or found.current_step < 0:
        raise BadFile(path, "no state of a solver", "give the .solverstate of a snapshot")
    history = [_array(blob, "history", path) for blob in found.history]
    return SolverState(found.iter, found.learned_net, history, found.current_step)


def write_solverstate(path: Path, state: SolverState) -> None:
    """Write a solver's snapshot, under a temporary name first."""
    message = _messages()["SolverState"](
        iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step
    )
    if sum(blob.nbytes for blob in state.history) > MOST_BYTES - (1 << 20):
        raise ValueError(f"{path}: a solver's state holds less than 2 GiB")
    for blob in state.history:
        _add_blob(message.history, blob)
    with whole_file(path) as draft:
        draft.write_bytes(message.SerializeToString())


def _add_blob(blobs: Any, values: np.ndarray) -> None:
    message = blobs.add()
    message.shape.dim.extend(values.shape)
    message.data.append(np.ascontiguousarray(values, "<f4").tobytes())


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False


def _read_hdf5(path: Path) -> dict[str, list[np.ndarray]]:
    """Read a snapshot in HDF5: ``data/LAYER/0``, ``1``, …; a layer's name may have slashes."""
    try:
        import h5py
    except ImportError as missing:
        raise ImportError("snapshots in HDF5 need h5py: pip install 'fullyconv[caffe]'") from missing
    weights: dict[str, dict[int, np.ndarray]] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, values in _hdf5_values(file, path):
                layer, _, number = name.rpartition("/")
                weights.setdefault(layer, {})[int(number)] = values
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(path, f"a damaged HDF5 file ({error})", "restore it from its source") from None
    if not weights:
        raise BadFile(path, "holds no group 'data' with layers", "give a snapshot that Caffe wrote, .caffemodel.h5")
    return {layer: [blobs[number] for number in sorted(blobs)] for layer, blobs in weights.items()}


def _hdf5_values(file: Any, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the numbered sets of numbers below ``data``; links and numbers kept in other files are not followed."""
    import h5py

    open_groups, count, numbers = [("", file["data"])] if "data" in file else [], 0, 0
    while open_groups:
        prefix, group = open_groups.pop()
        for name in group:
            count += 1
            if count > LIMITS.entries:
                raise BadFile(path, f"holds over {LIMITS.entries} entries", "this is no caffemodel")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BadFile(path, f"{prefix}{name} is a link", "restore it from its source")
            entry = group[name]
            if isinstance(entry, h5py.Group):
                open_groups.append((f"{prefix}{name}/", entry))
            elif name.isdecimal() and prefix:
                numbers += entry.size
                yield f"{prefix}{name}", _hdf5_blob(entry, f"{prefix}{name}", path, numbers)


def _hdf5_blob(entry: Any, name: str, path: Path, numbers: int) -> np.ndarray:
    """Read one set of numbers, with which the file claims so many in all."""
    if entry.external or entry.is_virtual or entry.dtype.kind != "f":
        raise BadFile(path, f"{name} is no array of weights", "restore it from its source")
    if numbers > max(LIMITS.weights, path.stat().st_size // 4):  # a few bytes may claim any number of zeros
        raise BadFile(path, f"claims {numbers} numbers", LIMITS.remedy("weights"))
    return read_whole(path, name, entry).astype(np.float32, copy=False)


def _check_entries(content: bytes, path: Path) -> None:
    """Refuse a file of very many tiny entries before each of them becomes an object of protobuf's.

    Counts the fields of the net and of its layers; what is damaged is left to protobuf to refuse.
    """
    spans, count = [(0, len(content), True)], 0
    while spans:
        at, stop, is_net = spans.pop()
        while at < stop:
            count += 1
            if count > LIMITS.entries:
                raise BadFile(path, f"holds over {LIMITS.entries} entries", "this is no caffemodel")
            try:
                tag, at = _varint(content, at)
                length, start = _varint(content, at) if tag & 7 in (_VARINT, _SPAN) else (_FIXED[tag & 7], at)
            except (IndexError, KeyError):
                return
            at = start + (length if tag & 7 != _VARINT else 0)
            if is_net and tag in _LAYER_TAGS:
                spans.append((start, min(at, stop), False))


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a number and give where it ends; raises ``IndexError`` where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at + shift // 7]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + shift // 7 + 1
    raise IndexError


def _array(blob: Any, layer: str, path: Path) -> np.ndarray:
    if blob.HasField("raw_data") and blob.raw_data_type not in RAW:
        raise BadFile(path, f"layer {layer!r} has a blob of type {blob.raw_data_type}", "save it as float")
    if len(blob.shape.dim) > MOST_AXES or max(len(blob.data), len(blob.double_data)) > LIMITS.chunks:
        raise BadFile(path, f"layer {layer!r} has a blob of too many axes or pieces", "restore it from its source")
    shape = _shape(blob)
    if any(size < 0 for size in shape):
        raise BadFile(path, f"layer {layer!r} has a blob of shape {shape}", "restore it from its source")
    try:
        numbers = _numbers(blob)
    except ValueError:
        raise BadFile(path, f"layer {layer!r} has a blob cut within a number", "restore it from its source") from None
    if prod(shape) != numbers.size:
        raise BadFile(
            path,
            f"layer {layer!r} has a blob of shape {shape} with {numbers.size} numbers",
            "restore it from its source",
        )
    return numbers.reshape(shape)


def _shape(blob: Any) -> tuple[int, ...]:
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    legacy = ("num", "channels", "height", "width")
    # An unset legacy size counts as 0 in protobuf, as in Caffe.
    return tuple(getattr(blob, side) for side in legacy) if any(map(blob.HasField, legacy)) else ()


def _numbers(blob: Any) -> np.ndarray:
    """Return a blob's numbers, 1-D float32 and writable; doubles are rounded as Caffe does."""
    if blob.HasField("raw_data"):
        return np.frombuffer(bytearray(blob.raw_data), RAW[blob.raw_data_type]).astype(np.float32, copy=False)
    for chunks, kind in ((blob.double_data, "<f8"), (blob.data, "<f4")):
        if len(chunks):
            return np.frombuffer(bytearray().join(chunks), kind).astype(np.float32, copy=False)
    unpacked = _messages()["Unpacked"]()
    unpacked.ParseFromString(blob.SerializeToString())
    values = unpacked.double_data or unpacked.data
    return np.fromiter(values, np.float32, len(values))


def write_weights(path: Path, name: str, layers: Mapping[str, tuple[str, Sequence[np.ndarray]]]) -> None:
    """Write a caffemodel, under a temporary name first: layer name -> its type and its blobs.

    Raises ``ValueError`` for more than protobuf can hold, 2 GiB.
    """
    total = sum(blob.nbytes for _, blobs in layers.values() for blob in blobs)
    if total > MOST_BYTES - (1 << 20):
        raise ValueError(f"{total} bytes of weights: a caffemodel holds less than 2 GiB")
    net = _messages()["Net"](name=name)
    for layer, (kind, blobs) in layers.items():
        entry = net.layer.add(name=layer, type=kind)
        for blob in blobs:
            _add_blob(entry.blobs, blob)
    with whole_file(path) as draft:
        draft.write_bytes(net.SerializeToString())
