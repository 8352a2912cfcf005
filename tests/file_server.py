"""A file server on a local port, with the faults that downloads meet."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ServedFile:
    """What the server does when it is asked for a path.

    Attributes:
        content: the file.
        breaks: after how many sent bytes the next answers break off, one entry used up an answer.
        statuses: status codes of the next answers, one entry used up an answer.
        ranges: whether it can send a part of the file.
        content_type: as in the header.
        delay_s: waits so long before it answers.
        has_length: whether it says how long an answer is.
        drip_bytes: if not 0, sends this many bytes at a time, with pauses of 10 ms.
    """

    content: bytes
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    content_type: str = "application/octet-stream"
    delay_s: float = 0.0
    has_length: bool = True
    drip_bytes: int = 0


class FileServer:
    """Files by path, and a log of requests as pairs of path and Range header ("" without one)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, ServedFile] = {}
        self.requests: list[tuple[str, str]] = []

    def add(self, path: str, content: bytes) -> ServedFile:
        self.files[f"/{path}"] = ServedFile(content)
        return self.files[f"/{path}"]


class _Handler(BaseHTTPRequestHandler):
    files: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.files.requests.append((self.path.lstrip("/"), wanted))
        file = self.files.files.get(self.path)
        if file is None:
            self.send_error(404)
            return
        time.sleep(file.delay_s)
        if file.statuses:
            self.send_error(file.statuses.pop(0))
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and file.ranges else 0
        if start and start >= len(file.content):
            self.send_error(416)
            return
        self._send(file, start)

    def _send(self, file: ServedFile, start: int) -> None:
        n_bytes = len(file.content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{n_bytes - 1}/{n_bytes}")
        self.send_header("Content-Type", file.content_type)
        if file.has_length:
            self.send_header("Content-Length", str(n_bytes - start))
        self.end_headers()
        body = file.content[start:]
        body = body[: file.breaks.pop(0)] if file.breaks else body
        size = file.drip_bytes or len(body) or 1
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            for at in range(0, len(body), size):
                self.wfile.write(body[at : at + size])
                time.sleep(0.01 if file.drip_bytes else 0)
        self.close_connection = True  # after a short body the client sees the connection end

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve_files() -> Iterator[FileServer]:
    """A server that runs while the block does."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.files = FileServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield handler.files
        finally:
            server.shutdown()
            thread.join()
