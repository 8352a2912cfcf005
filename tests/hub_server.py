"""The Hugging Face hub on a local port: as much of it as a push and the reading of files need."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "standin" * 5


@dataclass
class Repo:
    """A repository.

    Attributes:
        files: the content of its files by path.
        commits: the messages of its commits, with the paths that each changed.
    """

    is_private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = field(default_factory=list)


class HubServer:
    """Repositories by type and name, such as ``"models/me/x"``.

    Attributes:
        url: its address, for ``HF_ENDPOINT``.
        objects: large files by their SHA-256.
        statuses: status codes with which requests are refused, by a part of their path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.requests: list[str] = []

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
        about = {"url": self.address(name)}
        if name in self.repos:
            return 409, about | {"error": "You already created this repo"}
        # As `private` by huggingface_hub 1.5; the hub takes both.
        self.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private", False))
        return 200, about

    def address(self, name: str) -> str:
        return f"{self.url}/{name.removeprefix('models/')}"

    def preupload(self, repo: Repo, asked: dict[str, Any]) -> tuple[int, Any]:
        files = []
        for file in asked["files"]:
            is_large = file["path"].endswith(".safetensors")
            here = repo.files.get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": None if here is None else _oid(here, is_large=is_large),
                }
            )
        return 200, {"files": files}

    def lfs_batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for wanted in asked["objects"]:
            entry = dict(wanted)
            if wanted["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        repo = self.repos[name]
        header, *operations = lines
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                repo.files[value["path"]] = self.objects[value["oid"]]
            else:
                assert operation["key"] == "file"
                repo.files[value["path"]] = base64.b64decode(value["content"])
        paths = sorted(operation["value"]["path"] for operation in operations)
        repo.commits.append((header["value"]["summary"], paths))
        oid = f"{len(repo.commits):040x}"
        return 200, {"commitUrl": f"{self.address(name)}/commit/{oid}", "commitOid": oid}


def _oid(content: bytes, *, is_large: bool) -> str:
    """The name that git, or git-lfs, gives to a content."""
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_POST(self) -> None:
        self._answer(*self._post(self._body()))

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self._answer(200, {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self._resolve()
            return
        name = self.path.removeprefix("/api/").partition("/revision/")[0]
        repo = self.hub.repos.get(name)
        if (status := self._status()) is not None:
            self._answer(status, {"error": "refused"})
        elif repo is None:
            self._answer(404, {"error": "Repository not found"})
        else:
            about = {"id": name.partition("/")[2], "private": repo.is_private, "sha": "0" * 40}
            self._answer(200, about | {"siblings": [], "tags": [], "downloads": 0})

    def _resolve(self) -> None:
        """Send a file of a model as it is downloaded."""
        self.hub.requests.append(f"{self.command} {self.path}")
        name, _, file = self.path.strip("/").partition("/resolve/")
        repo = self.hub.repos.get(f"models/{name}", Repo())
        content = repo.files.get(file.partition("/")[2])
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", f"{len(repo.commits):040x}")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    def _post(self, body: bytes) -> tuple[int, Any]:
        if (status := self._status()) is not None:
            return status, {"error": "refused"}
        if self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return 200, {"errors": [], "warnings": []}
        if self.path == "/api/repos/create":
            return self.hub.create(json.loads(body))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self.hub.lfs_batch(json.loads(body))
        name, _, action = self.path.removeprefix("/api/").removesuffix("/main").rpartition("/")
        if action == "preupload":
            return self.hub.preupload(self.hub.repos[name], json.loads(body))
        assert action == "commit"
        return self.hub.commit(name, [json.loads(line) for line in body.splitlines()])

    def _status(self) -> int | None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401
        found = (status for part, status in self.hub.statuses.items() if part in self.path)
        return next(found, None)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, record: Any) -> None:
        content = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serve an empty hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    _Handler.hub = hub = HubServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
