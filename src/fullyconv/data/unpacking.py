"""Chunks of Zarr stores unpacked to no more bytes than their numbers take, whatever their files say.

A chunk of a few megabytes of zeros in zstd or gzip can unpack to gigabytes; zarr counts only when it has them.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import ShardingCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer

from fullyconv.data.raster import Refused

OVERHEAD = 1 << 12  # bytes by which numbers that cannot be packed may grow, with a quarter of theirs
LARGEST = 8  # bytes of a number, where filters may change its type
CLAIMS = {"blosc": "<4xi", "lz4": "<i"}  # where these say how much they unpack to, which their decoders allocate
LZMA_MEMORY = 80 << 20  # bytes that its dictionary may take: of its highest preset 65 MiB


def most_bytes(numbers: int, size: int) -> int:
    """Return how many bytes numbers may take, packed or not.

    >>> most_bytes(1000, 2)
    6596
    """
    return OVERHEAD + 5 * numbers * size // 4


def bound_chunks(array: Any) -> None:
    """Let an array that was opened, a ``zarr.Array``, unpack no chunk to more bytes than its numbers take."""
    opened = array.async_array
    codecs = [_bounded(codec, prod(array.chunks), array.dtype.itemsize) for codec in opened.codec_pipeline]
    pipeline = type(opened.codec_pipeline).from_codecs(codecs)
    object.__setattr__(opened, "codec_pipeline", pipeline)  # of a frozen dataclass


def _bounded(codec: Any, numbers: int, size: int) -> Any:
    """Return a codec that unpacks to a bounded number of bytes; one of format 2 is not told of which chunk."""
    if hasattr(codec, "compressor"):  # zarr's name for all codecs of format 2 together
        most = most_bytes(numbers, LARGEST if codec.filters else size)
        filters = None if codec.filters is None else tuple(_Numcodec(each, most) for each in codec.filters)
        return replace(codec, filters=filters, compressor=codec.compressor and _Numcodec(codec.compressor, most))
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(_bounded(each, numbers, size) for each in codec.codecs))
    return _Bounded(codec) if isinstance(codec, BytesBytesCodec) and _described(codec)["id"] in UNPACKERS else codec


def _described(codec: Codec) -> dict[str, Any]:
    """Return the name and the settings of a codec of format 3 as those of format 2 have them."""
    found = codec.to_dict()
    settings: Any = found.get("configuration") or {}
    return {**settings, "id": str(found["name"]).removeprefix("numcodecs.")}


@dataclass(frozen=True)
class _Numcodec:
    """A codec of format 2, or a filter, that unpacks to at most so many bytes."""

    codec: Any
    most: int

    def decode(self, data: Any) -> Any:
        settings = self.codec.get_config()
        if settings["id"] not in UNPACKERS:
            return self.codec.decode(data)
        return unpack(bytes(data), settings, self.most, self.codec.decode)


@dataclass(frozen=True)
class _Bounded(BytesBytesCodec):
    """A codec of format 3 that unpacks a chunk to at most what its numbers take."""

    codec: BytesBytesCodec

    is_fixed_size = False

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> _Bounded:
        return _Bounded(self.codec.evolve_from_array_spec(array_spec))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most = most_bytes(prod(chunk_spec.shape), chunk_spec.dtype.to_native_dtype().itemsize)
        settings = _described(self.codec)
        found = await asyncio.to_thread(unpack, chunk_data.to_bytes(), settings, most, _numcodec(settings["id"]))
        return chunk_spec.prototype.buffer.from_bytes(found)


def _numcodec(name: str) -> Any:
    """Return what unpacks all of a chunk's bytes, for the codecs that say beforehand to how many."""
    import numcodecs

    return numcodecs.get_codec({"id": name}).decode  # how they packed stands in the chunk


def unpack(data: bytes, settings: Mapping[str, Any], most: int, decode: Callable[[bytes], Any]) -> bytes:
    """Unpack bytes to at most so many.

    Args:
        data: What was packed.
        settings: The codec: its ``id``, one of ``UNPACKERS``, and what else it was set to.
        most: Bytes.
        decode: Unpacks without a bound; for codecs that say beforehand how much it will be.

    Raises:
        Refused: For more.
        Exception: Of any kind that decoders raise for what is broken.

    >>> unpack(zlib.compress(bytes(70)), {"id": "zlib"}, 70, zlib.decompress) == bytes(70)
    True
    >>> unpack(zlib.compress(bytes(71)), {"id": "zlib"}, 70, zlib.decompress)
    Traceback (most recent call last):
    fullyconv.data.raster.Refused: a chunk unpacks to more than the 70 bytes that its numbers take: leave it out
    """
    return UNPACKERS[settings["id"]](data, settings, most, decode)


def _too_large(most: int) -> Refused:
    return Refused(f"a chunk unpacks to more than the {most} bytes that its numbers take", "leave it out")


def _claimed(data: bytes, settings: Mapping[str, Any], most: int, decode: Callable[[bytes], Any]) -> bytes:
    (claimed,) = struct.unpack_from(CLAIMS[settings["id"]], data)
    if claimed > most:
        raise _too_large(most)
    return bytes(decode(data))


def _zstd(data: bytes, _: Mapping[str, Any], most: int, __: Callable[[bytes], Any]) -> bytes:
    import imagecodecs

    try:
        return bytes(imagecodecs.zstd_decode(data, out=most))
    except imagecodecs.ZstdError as error:
        raise _too_large(most) if "too small" in str(error) else error from None


def _streamed(data: bytes, settings: Mapping[str, Any], most: int, _: Callable[[bytes], Any]) -> bytes:
    """Unpack one stream behind the other until the bytes end, or there would be too many."""
    pieces, room = [], most
    while data:
        unpacker = _stream(settings)
        pieces.append(unpacker.decompress(data, room + 1))
        room -= len(pieces[-1])
        if room < 0:
            raise _too_large(most)
        if not unpacker.eof:
            raise ValueError("truncated")
        data = unpacker.unused_data if settings["id"] != "zlib" else b""
    return b"".join(pieces)


def _stream(settings: Mapping[str, Any]) -> Any:
    """Return what unpacks one stream."""
    if settings["id"] != "lzma":
        return bz2.BZ2Decompressor() if settings["id"] == "bz2" else zlib.decompressobj(wbits=47)  # zlib's and gzip's
    if settings.get("format", lzma.FORMAT_XZ) == lzma.FORMAT_RAW:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=settings.get("filters"))
    return lzma.LZMADecompressor(memlimit=LZMA_MEMORY)


UNPACKERS: dict[str, Callable[[bytes, Mapping[str, Any], int, Callable[[bytes], Any]], bytes]] = {
    "zstd": _zstd, "blosc": _claimed, "lz4": _claimed, "zlib": _streamed, "gzip": _streamed, "bz2": _streamed,
    "lzma": _streamed,
}  # fmt: skip
