"""Recorded replies of a server, with which a run can be repeated offline.

A file has one JSON line per reply, with the SHA-256 of the request's body as its key: the same
request gets the same reply. Only replies are saved, no requests, addresses or API keys.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eto_agents.strict_json import json_text
from eto_envs.errors import CorruptDataError
from eto_envs.files import append_whole, parse_json, read_bytes

logger = logging.getLogger(__name__)


def request_key(body: Mapping[str, Any]) -> str:
    """SHA-256 of a request's body, whatever the order of its keys."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Recordings:
    """A file of replies; threads of one process may use it at once.

    Attributes:
        path: the file; it may not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the file if it exists; an unfinished last line is cut off.

        Raises:
            CorruptDataError: a line is not a recorded reply.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._replies: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._read()

    def __len__(self) -> int:
        """Number of replies."""
        return len(self._replies)

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply to a request, or None."""
        return self._replies.get(key)

    def put(self, key: str, reply: dict[str, Any]) -> dict[str, Any]:
        """Save the reply to a request, unless it has one already; returns the saved one."""
        line = (json_text({"key": key, "reply": reply}) + "\n").encode()
        with self._lock:
            if key not in self._replies:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab", buffering=0) as file:
                    append_whole(file, line)
                self._replies[key] = reply
            return self._replies[key]

    def _read(self) -> None:
        content = read_bytes(self.path)
        end = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:end].splitlines(), start=1):
            place = f"{self.path}, line {number}"
            record = parse_json(line, place)
            try:
                self._replies.setdefault(str(record["key"]), dict(record["reply"]))
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptDataError(f"{place}: not a recorded reply ({error!r})") from error
        if end < len(content):
            logger.warning("%s: cut off an unfinished line", self.path)
            with self.path.open("r+b") as file:
                file.truncate(end)
