"""What clients send: read within bounds, told apart by its content, decoded as files of pictures are."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import numpy as np
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fullyconv.files import BadFile

PARTS = 8  # of a form: one picture, and what browsers add


async def read_upload(request: Request, most: int) -> bytes:
    """Read a picture's file: the body itself, or the one file of a form.

    Raises:
        HTTPException: 413 for more than ``most`` bytes, 400 for what is no upload.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise HTTPException(413, f"an upload has at most {most} bytes, not {declared}")
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _of_form(request, most)
    body = b"".join([piece async for piece in _bounded(request, most)])
    if not body:
        raise HTTPException(400, "the body is empty: send a picture's file, as the body or as a form's file")
    return body


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    length = 0
    async for piece in request.stream():
        length += len(piece)
        if length > most:
            raise HTTPException(413, f"an upload has at most {most} bytes")
        yield piece


async def _of_form(request: Request, most: int) -> bytes:
    parser = MultiPartParser(request.headers, _bounded(request, most), max_files=PARTS, max_fields=PARTS)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise HTTPException(400, f"the form cannot be read ({error})") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        if len(files) != 1:
            raise HTTPException(400, f"a form holds one file, not {len(files)}: send a request for each picture")
        return await files[0].read()
    finally:
        await form.close()


def decode(upload: bytes, read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Decode a picture, H x W x 3 uint8, exactly as ``predict`` reads its file.

    Args:
        upload: The file's content.
        read: Reads a file as a model sees it, ``Segmenter.pixels``.

    Raises:
        BadFile: For what is no picture, in the words of ``fullyconv.data.images`` but of no path of this machine.
    """
    with tempfile.TemporaryDirectory(prefix="fullyconv-") as folder:
        path = Path(folder, "upload")
        path.write_bytes(upload)
        try:
            return read(path)
        except BadFile as error:
            raise BadFile("upload", error.what.replace(str(path), "upload"), error.fix) from None
