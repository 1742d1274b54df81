"""A web server on this machine with byte ranges, and with the faults of others on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """A web server on this machine, whose misbehaviour tests choose."""

    content: bytes
    tag: str | None = '"v1"'
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes after which each next connection is cut
    statuses: list[int] = field(default_factory=list)  # answers before the real ones
    redirect: str = ""
    lying_length: int | None = None
    asked: list[str | None] = field(default_factory=list)  # the Range of every request
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/files/data.bin"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        if self.redirect:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            request.end_headers()
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.ranges else 0
        if start and request.headers.get("If-Range", self.tag) != self.tag:
            start = 0
        if start and start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        self.send(request, start)

    def send(self, request: BaseHTTPRequestHandler, start: int) -> None:
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if self.tag:
            request.send_header("ETag", self.tag)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("Content-Length", str(self.lying_length or len(body)))
        request.end_headers()
        if self.breaks:
            body = body[: self.breaks.pop(0)]
            request.close_connection = True
        with suppress(OSError):  # the client may have left
            request.wfile.write(body)


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """Serve ``content`` at any path of a free port."""
    state = Server(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()
