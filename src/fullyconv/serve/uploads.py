"""What clients send: read within bounds, told apart by its content, decoded as files of pictures are."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fullyconv.files import BadFile
from fullyconv.predict.inputs import Pixels

PARTS = 8  # of a form: one picture, and what browsers add


class Arrivals:
    """Uploads that are not whole yet: each has to keep coming, and all together are bounded.

    They hold no place of the service, so that who sends slowly keeps nobody waiting.

    Args:
        most: Bytes of one upload.
        held: Bytes of all that are not whole.
        patience: Seconds before the rate counts.
        rate: Bytes a second that each has to bring from then on.
    """

    def __init__(self, most: int, held: int, *, patience: float, rate: float) -> None:
        self.most, self._room, self._patience, self._rate = most, held, patience, rate
        self.held = 0

    async def pieces(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of a body as they come.

        Raises:
            HTTPException: 413 for too many bytes, 408 for too few a second, 503 where all together are too many.
        """
        loop, stream = asyncio.get_running_loop(), request.stream()
        started, length = loop.time(), 0
        try:
            while True:
                async with asyncio.timeout_at(started + self._patience + length / self._rate) as time:
                    piece = await anext(stream, None)
                if piece is None:
                    return
                length += len(piece)
                self.held += len(piece)
                if length > self.most:
                    raise HTTPException(413, f"an upload has at most {self.most} bytes")
                if self.held > self._room:
                    raise HTTPException(503, "too many uploads arrive at once: come again", {"Retry-After": "5"})
                yield piece
        except TimeoutError:
            if not time.expired():  # the whole request's
                raise
            what = f"the upload came too slowly: it has to bring {self._rate / 1024:g} KiB a second"
            raise HTTPException(408, what) from None
        finally:
            self.held -= length


async def read_upload(request: Request, arrivals: Arrivals) -> bytes:
    """Read a picture's file: the body itself, or the one file of a form.

    Raises:
        HTTPException: As ``Arrivals.pieces`` does, and 400 for what is no upload.
    """
    most = arrivals.most
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise HTTPException(413, f"an upload has at most {most} bytes, not {declared}")
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _of_form(request, arrivals)
    async with aclosing(arrivals.pieces(request)) as pieces:
        body = b"".join([piece async for piece in pieces])
    if not body:
        raise HTTPException(400, "the body is empty: send a picture's file, as the body or as a form's file")
    return body


async def _of_form(request: Request, arrivals: Arrivals) -> bytes:
    try:
        async with aclosing(arrivals.pieces(request)) as pieces:
            form = await MultiPartParser(request.headers, pieces, max_files=PARTS, max_fields=PARTS).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise HTTPException(400, f"the form cannot be read ({error})") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        if len(files) != 1:
            raise HTTPException(400, f"a form holds one file, not {len(files)}: send a request for each picture")
        return await files[0].read()
    finally:
        await form.close()


def decode(upload: bytes, read: Callable[[Path], Pixels]) -> Pixels:
    """Decode a picture, H x W x 3 uint8, exactly as ``predict`` reads its file.

    Args:
        upload: The file's content.
        read: Reads a file as a model sees it, ``Segmenter.read``.

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
