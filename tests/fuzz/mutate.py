"""Make hostile files of valid ones: the same seed gives the same file.

Each function takes a random source and the content of a valid file (and others of its kind, to graft from), and
gives content that is nearly valid. Those that know a format change a part of it and keep the rest consistent
(lengths, check sums, compression), so that readers get past the first check.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]

EXTREMES = (
    0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1,
)  # fmt: skip
NUMBERS = (
    "0", "-1", "1", "2", "7", "255", "256", "300", "65536", "4294967296", "-2147483648", "1e999", "-1e999", "nan",
    "1e-320", "0.5", "10000000", "99999999999999999999999999", "0x7fffffff", "1_0", "1e3", "٣", "",
)  # fmt: skip
WORDS = (
    "null", "true", "~", "[]", "{}", "''", '"', "'", "[", "]", "{", "}", ":", ",", "&a", "*a", "<<", "---", "...", "#",
    "!!python/object:os.system", "\\", "\x00", "\x1b[2J", "\ufeff", "\u202e", "é", "\U0001f600", "2001-01-01", "no",
    "a" * 300, "../../x", "/etc/passwd", "numpy:zeros", "os:abort", "%s", "${x}", "\r\n", "\t",
)  # fmt: skip
NAMES = ("", "..", "/x", "a/../../b", "x\0y", "é", "x" * 300, "\udcff")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 255, 300, 65536, 2**31, 10**30, 1.5, -0.0, 1e308, "", "x", "numpy:zeros", "\x1b[2J", "a" * 1000,
    [], [[]], {}, [0], [None], ["x", "x"], {"x": 1}, [[1, 2, 3]], [0] * 50, "NaN", "٣",
)  # fmt: skip


def of_bytes(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change bytes anywhere, some times over."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(data) + 1)
        random.choice((_flip, _set, _number, _cut, _insert, _repeat, _truncate, _graft))(random, data, at, others)
    return bytes(data)


def _flip(random: Random, data: bytearray, at: int, _: Sequence[bytes]) -> None:
    if data:
        data[at % len(data)] ^= 1 << random.randrange(8)


def _set(random: Random, data: bytearray, at: int, _: Sequence[bytes]) -> None:
    if data:
        data[at % len(data)] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))


def _number(random: Random, data: bytearray, at: int, _: Sequence[bytes]) -> None:
    size = random.choice((1, 2, 4, 8))
    number = random.choice(EXTREMES) & (256**size - 1)
    data[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))


def _cut(random: Random, data: bytearray, at: int, _: Sequence[bytes]) -> None:
    del data[at : at + random.choice((1, 2, 4, 16, 100))]


def _insert(random: Random, data: bytearray, at: int, _: Sequence[bytes]) -> None:
    data[at:at] = random.randbytes(random.choice((1, 2, 4, 16, 100)))


def _repeat(random: Random, data: bytearray, at: int, _: Sequence[bytes]) -> None:
    data[at:at] = bytes(data[at : at + random.choice((1, 4, 16, 64))]) * random.choice((1, 2, 50))


def _truncate(_: Random, data: bytearray, at: int, __: Sequence[bytes]) -> None:
    del data[at:]


def _graft(random: Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    other = random.choice(others or (bytes(data),))
    start = random.randrange(len(other) + 1)
    data[at : at + random.randrange(65)] = other[start : start + random.randrange(65)]


def of_text(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change numbers, words and lines of a text."""
    text = content.decode("utf-8", "replace")
    if random.random() < 0.5:  # one token for another: what is left is read far
        return _of_token(random, text).encode("utf-8", "surrogatepass")
    lines = text.splitlines(keepends=True) or [""]
    pool = random.choice(others).decode("utf-8", "replace").splitlines(keepends=True) if others else lines
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(lines)) if lines else 0
        kind = random.randrange(7)
        if kind <= 2 and lines:
            lines[at] = _of_line(random, lines[at])
        elif kind == 3 and lines:
            del lines[at]
        elif kind == 4:
            lines[at:at] = [random.choice(pool or [""])] * random.choice((1, 1, 2, 300))
        elif kind == 5:
            depth = random.choice((2, 50, 1000))
            opening, closing = random.choice(("[]", "{}", "()", ("a: ", ""), ("x { ", " }"), ("- ", "")))
            lines[at:at] = [opening * depth + closing * random.choice((0, depth)) + "\n"]
        else:
            random.shuffle(lines)
    return "".join(lines).encode("utf-8", "surrogatepass")


def _of_token(random: Random, text: str) -> str:
    """Put a number in the place of a number, or a word of the text in the place of a word."""
    tokens = list(re.finditer(r"-?[0-9][0-9.e+-]*|[A-Za-z_]+", text))
    if not tokens:
        return text
    old = random.choice(tokens)
    numeric = not old[0][0].isalpha()
    new = random.choice(NUMBERS) if numeric or random.random() < 0.2 else random.choice(tokens)[0]
    return text[: old.start()] + new + text[old.end() :]


def _of_line(random: Random, line: str) -> str:
    words = line.split(" ")
    at = random.randrange(len(words))
    new = random.choice(random.choice((NUMBERS, WORDS)))
    kind = random.randrange(4)
    if kind == 0:
        words[at] = new
    elif kind == 1:
        words[at:at] = [new]
    elif kind == 2:
        place = random.randrange(len(words[at]) + 1)
        words[at] = words[at][:place] + new + words[at][place + random.randrange(3) :]
    else:
        del words[at]
    return " ".join(words)


def of_json(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change values and keys of a JSON document."""
    try:
        document = json.loads(content)
    except ValueError:
        return of_text(random, content, others)
    for _ in range(random.choice((1, 1, 2))):
        document = _of_value(random, document, random.choice((0, 1, 2, 3, 4)))
    return json.dumps(document).encode()


def _of_value(random: Random, value: Any, depth: int) -> Any:
    if depth and isinstance(value, dict) and value:
        key = random.choice(list(value))
        if random.random() < 0.2:
            return {name: entry for name, entry in value.items() if name != key}
        if random.random() < 0.2:
            return value | {random.choice(("x", "", key + "s", "classes", "é")): random.choice(VALUES)}
        return value | {key: _of_value(random, value[key], depth - 1)}
    if depth and isinstance(value, list) and value:
        at = random.randrange(len(value))
        if random.random() < 0.3:
            return value[:at] + value[at + 1 :] * random.choice((0, 1, 2))
        return [*value[:at], _of_value(random, value[at], depth - 1), *value[at + 1 :]]
    return random.choice(VALUES)


def of_png(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change a chunk of a PNG and put its check sum right; image data are changed unpacked, too."""
    at, chunks = 8, []
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    index = random.randrange(len(chunks))
    name, data = chunks[index]
    if name == b"IDAT" and random.random() < 0.5:
        data = zlib.compress(of_bytes(random, zlib.decompress(data), ()))
    elif name == b"IHDR":
        fields = list(struct.unpack(">IIBBBBB", data[:13]))
        which = random.randrange(7)
        fields[which] = random.choice(EXTREMES) % (2**32 if which < 2 else 256)
        data = struct.pack(">IIBBBBB", *fields)
    else:
        data = of_bytes(random, data, others)
    chunks[index] = (name, data)
    if random.random() < 0.2:
        chunks[index:index] = [random.choice(chunks)]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return content[:8] + b"".join(packed)


def of_tiff(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change the type, count or value of an entry in a TIFF's first directory."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, at)
    width = 20 if big else 12
    entry = at + (8 if big else 2) + width * random.randrange(count)
    data = bytearray(content)
    part, size = random.choice(((0, 2), (2, 2), (4, 8 if big else 4), (12 if big else 8, 8 if big else 4)))
    number = random.choice((*EXTREMES, *range(1, 14), random.randrange(2**16))) % 256**size
    data[entry + part : entry + part + size] = number.to_bytes(size, "little" if order == "<" else "big")
    return bytes(data) if random.random() < 0.8 else of_bytes(random, bytes(data), others)


def of_zip(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change a member of a zip (an .npz is one), its name or its compression, and pack it again."""
    with zipfile.ZipFile(io.BytesIO(content)) as pack:
        members = [(name, pack.read(name)) for name in pack.namelist()]
    index = random.randrange(len(members))
    name, data = members[index]
    if random.random() < 0.3:
        name = random.choice(
            ("", "..", "/x", "a/../../b", "x\0y", "C:/x", "é", "x" * 300, "\udcff", "a//b", ".", "\\..\\x")
        )
    else:
        data = (of_npy if data[:6] == b"\x93NUMPY" else of_bytes)(random, data, others)
    members[index] = (name, data)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as pack:
        for each, inside in members * random.choice((1, 1, 1, 2)):
            info = zipfile.ZipInfo("x")
            info.filename = each
            info.external_attr = random.choice((0, 0o100644 << 16, 0o120777 << 16, 0o40755 << 16))
            try:
                pack.writestr(info, inside)
            except UnicodeEncodeError:
                return of_bytes(random, content, others)
    return buffer.getvalue()


def of_npy(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change the header of a .npy file, its length put right."""
    if random.random() < 0.4:
        return of_bytes(random, content, others)
    (size,) = struct.unpack("<H", content[8:10])
    header = of_text(random, content[10 : 10 + size], ())
    for old, new in ((b"<f4", b"|O8"), (b"False", b"True"), (b"(", b"(-"), (b", ", b"99999, ")):
        if random.random() < 0.2:
            header = header.replace(old, new, 1)
    return content[:8] + struct.pack("<H", min(len(header), 65535)) + header + content[10 + size :]


def of_tar(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change a field of a tar's headers, their check sums put right."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(entry, tar.extractfile(entry)) for entry in tar]
        contents = [(entry, b"" if file is None else file.read()) for entry, file in members]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for entry, data in contents:
            if random.random() < 0.5:
                entry.name = random.choice(
                    ("..", "/x", "a/../../b", "", "é", "x" * 300, "\udcff", entry.name + "/", "x\0y")
                )
            if random.random() < 0.3:
                entry.type = random.choice(
                    (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"S", b"Z")
                )
                entry.linkname = random.choice(("", "..", "/etc", "a"))
            if random.random() < 0.2:
                entry.pax_headers = {
                    random.choice(("size", "path", "mtime", "GNU.sparse.size")): random.choice(NUMBERS)
                }
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    packed = buffer.getvalue()
    return packed if random.random() < 0.7 else of_bytes(random, packed, others)


def of_mat(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change an array of a MATLAB 5 file where it is compressed, and compress it again."""
    at, parts = 128, [content[:128]]
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        data = content[at + 8 : at + 8 + size]
        if kind == 15 and random.random() < 0.7:
            data = zlib.compress(of_bytes(random, zlib.decompress(data), others))
        elif random.random() < 0.5:
            data = of_bytes(random, data, others)
        parts.append(struct.pack("<II", kind, len(data)) + data)
        at += 8 + size
    return b"".join(parts)


def of_safetensors(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change the header of a safetensors file, its length put right."""
    (size,) = struct.unpack("<Q", content[:8])
    header = of_json(random, content[8 : 8 + size], others)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def of_wire(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change a field of a protobuf message, or of one within it, and put all lengths right."""
    fields = _wire_fields(content)
    if not fields:
        return of_bytes(random, content, others)
    index = random.randrange(len(fields))
    number, kind, value = fields[index]
    choice = random.randrange(6)
    if choice <= 2 and kind == 2:
        inside = bytes(value)
        deeper = random.random() < 0.75 and _wire_fields(inside)
        fields[index] = (number, kind, (of_wire if deeper else of_bytes)(random, inside, others))
    elif choice == 3:
        fields[index] = (random.choice((1, 2, 3, 5, 6, 7, 8, 100, number)), kind, value)
    elif choice == 4:
        fields[index:index] = [fields[index]] * random.choice((1, 2, 40))
    elif kind == 0:
        fields[index] = (number, 0, random.choice(EXTREMES))
    else:
        del fields[index]
    return b"".join(_wire_field(*field) for field in fields)


def _wire_fields(data: bytes) -> list[tuple[int, int, Any]]:
    """Read the fields of a message; none where it is no message."""
    at, fields = 0, []
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == 0:
                value, at = _varint(data, at)
                fields.append((tag >> 3, kind, value))
                continue
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            if at + size > len(data):
                return []
            fields.append((tag >> 3, kind, data[at : at + size]))
            at += size
    except (IndexError, KeyError):
        return []
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _wire_field(number: int, kind: int, value: Any) -> bytes:
    def varint(rest: int) -> bytes:
        parts = bytearray()
        while rest > 127:
            parts.append(rest & 127 | 128)
            rest >>= 7
        return bytes([*parts, rest])

    tag = varint(number << 3 | kind)
    if kind == 0:
        return tag + varint(value)
    return tag + (varint(len(value)) if kind == 2 else b"") + bytes(value)
