from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullyconv.caffe.wire import read_weights, write_weights
from fullyconv.files import BadFile


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, content: bytes | int) -> bytes:
    """Write a field by hand, as an oracle for the schema."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


NUMBERS = np.arange(6, dtype=np.float32)
PACKED = field(5, NUMBERS.astype("<f4").tobytes())
SHAPE = field(7, field(1, varint(2) + varint(3)))
LEGACY = b"".join(field(number, size) for number, size in ((1, 1), (2, 1), (3, 2), (4, 3)))


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def layer(blob: bytes) -> bytes:
    return field(100, field(1, b"fc") + field(2, b"InnerProduct") + field(7, blob))


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (layer(SHAPE + PACKED), (2, 3)),
        (layer(LEGACY + PACKED), (1, 1, 2, 3)),
        (field(2, field(4, b"fc") + field(5, 14) + field(6, LEGACY + PACKED)), (1, 1, 2, 3)),
        (layer(SHAPE + b"".join(varint(5 << 3 | 5) + struct.pack("<f", n) for n in NUMBERS)), (2, 3)),
        (layer(SHAPE + field(8, NUMBERS.astype("<f8").tobytes())), (2, 3)),
        (layer(SHAPE + field(5, NUMBERS[:2].tobytes()) + field(5, NUMBERS[2:].tobytes())), (2, 3)),
    ],
    ids=["new", "legacy shape", "old layers", "unpacked", "double", "two chunks"],
)
def test_every_form_of_blob_is_read(tmp_path: Path, content: bytes, shape: tuple[int, ...]) -> None:
    weights = read_weights(saved(tmp_path / "w", content))
    assert [blob.shape for blob in weights["fc"]] == [shape]
    assert np.array_equal(weights["fc"][0].ravel(), NUMBERS)
    assert weights["fc"][0].dtype == np.float32


def test_what_is_written_reads_back_bit_for_bit(tmp_path: Path) -> None:
    blobs = [np.random.default_rng(0).normal(size=(3, 2, 1, 4)).astype(np.float32), np.zeros(3, np.float32)]
    write_weights(tmp_path / "w", "net", {"a/b": ("Convolution", blobs)})
    again = read_weights(tmp_path / "w")
    assert again.keys() == {"a/b"}
    assert all(np.array_equal(one, other) for one, other in zip(again["a/b"], blobs, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no layer"),
        (b"not a caffemodel at all", "truncated, or not a caffemodel"),
        (layer(SHAPE + PACKED)[:-3], "truncated"),
        (layer(field(7, field(1, varint(2**62))) + PACKED), "with 6 numbers"),
        (layer(field(7, field(1, varint(2**64 - 1))) + PACKED), "blob of shape"),
        (layer(field(7, field(1, b"\x01" * 40)) + field(5, b"\0" * 4)), "too many axes"),
        (layer(field(5, b"\0" * 6)), "cut within a number"),
        (field(100, b"") * 300_000, "over 200000 entries"),
        (field(100, field(7, b"") * 300_000), "over 200000 entries"),
        (layer(field(7, b"") + field(5, b"") * 2000), "too many axes or pieces"),
        (layer(SHAPE), "with 0 numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        read_weights(saved(tmp_path / "w", content))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(layer(SHAPE + PACKED) * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_weights(saved(tmp_path / "w", bytes(content[: data.draw(st.integers(0, len(content)))])))
    except BadFile as error:
        assert error.fix  # noqa: PT017


def test_the_absence_of_protobuf_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['google.protobuf'] = None\n"
        "from fullyconv.caffe.wire import read_weights\n"
        "try: read_weights('w')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'fullyconv[caffe]'" in done.stdout


def test_files_beyond_protobuf_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "w").open("wb") as file:
        file.truncate(2**31 + 10)
    with pytest.raises(BadFile, match="larger than"):
        read_weights(tmp_path / "w")
    with pytest.raises(BadFile, match="No such file"):
        read_weights(tmp_path / "absent")
