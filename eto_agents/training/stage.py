"""A stage of training as a folder that knows what it was made of and whether it is done.

``config.json`` has the settings, ``inputs.json`` the SHA-256 of what was read, ``metrics.jsonl`` a
line for every log, ``checkpoint/`` the model; ``result.json`` is written last and means that the
stage is complete. The same stage with the same settings and inputs goes on where it was killed;
with others it is refused, so that no result is ever of two minds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from eto_agents.settings import read_json, record_of, write_json
from eto_agents.training.processes import is_main_process, wait_until
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from eto_envs.files import sha256_of, write_whole

_RUN_ONLY: Final = frozenset({"out", "report_to", "device", "config"})
"""Settings that say where, not what; a stage may go on with others."""


class StageMismatchError(DataError):
    """A folder holds a stage with other settings or inputs."""


class Stage:
    """One stage's folder; a context manager that keeps other processes out.

    Attributes:
        folder: the folder.
        settings: what the stage was told.
        inputs: SHA-256 by the names of what it reads.
        is_writer: whether this process writes to it; in a run on several GPUs only one does.
    """

    def __init__(self, folder: Path, settings: Any, inputs: Mapping[str, str]) -> None:
        """Name the folder; nothing is read or written yet."""
        self.folder = Path(folder)
        self.settings = settings
        self.inputs = dict(inputs)
        self.is_writer = is_main_process()

    @property
    def checkpoint(self) -> Path:
        """Where the finished model is."""
        return self.folder / "checkpoint"

    @property
    def work(self) -> Path:
        """Where what a resumed stage needs is, until the stage is complete."""
        return self.folder / "work"

    @property
    def result(self) -> dict[str, Any] | None:
        """What the complete stage came to; None if it is not complete."""
        path = self.folder / "result.json"
        return read_json(path) if path.is_file() else None

    def wait(self) -> None:
        """Where another process writes: until it has completed the stage."""
        if not self.is_writer:
            wait_until(lambda: self.result is not None)

    def __enter__(self) -> Stage:
        """Claim the folder for these settings and inputs.

        Raises:
            StageMismatchError: it holds a stage with others.
            DataError: another process is at work in it.
            CorruptDataError: one of its files is damaged.
        """
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / ".lock")
        if self.is_writer:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise DataError(f"another process is at work in {self.folder}") from None
        try:
            self._claim()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let others in."""
        self._lock.release()

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        if self.is_writer:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``; one that a kill left unfinished is passed over.

        Raises:
            CorruptDataError: a line is damaged.
        """
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        *lines, _unfinished = path.read_text(encoding="utf-8").split("\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise CorruptDataError(f"{path} is damaged ({error})") from error

    def rewind(self, step: int) -> None:
        """Forget what was logged after a step, which is going to be done again."""
        kept = [record for record in self.metrics() if record.get("step", 0) <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        if self.is_writer:
            write_whole(self.folder / "metrics.jsonl", text.encode())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``: the stage is complete."""
        if self.is_writer:
            write_json(self.folder / "result.json", result)

    def _claim(self) -> None:
        told = record_of(self.settings)
        config, inputs = self.folder / "config.json", self.folder / "inputs.json"
        if config.is_file():
            before = read_json(config)
            names = [n for n in {**before, **told} if n not in _RUN_ONLY]
            changed = sorted(n for n in names if before.get(n) != told.get(n))
            if changed:
                was = ", ".join(f"{n} {before.get(n)!r} (now {told.get(n)!r})" for n in changed)
                raise StageMismatchError(
                    f"{self.folder} was begun with other settings: {was}. Choose another folder, "
                    "or delete it."
                )
        if inputs.is_file():
            known = read_json(inputs)
            names = [*known, *self.inputs]
            changed = sorted({n for n in names if known.get(n) != self.inputs.get(n)})
            if changed:
                raise StageMismatchError(
                    f"{self.folder} was begun with other inputs: {', '.join(changed)} changed "
                    "since. Choose another folder, or delete it."
                )
        if self.is_writer:
            if not config.is_file():
                write_json(config, told)
            if not inputs.is_file():
                write_json(inputs, self.inputs)


def hash_input(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files (episodes of a run).

    Raises:
        DataNotFoundError: there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        raise DataNotFoundError(f"nothing at {path}")
    if (path / "episodes.jsonl").is_file():  # a run: its reports and times do not matter
        return sha256_of(path / "episodes.jsonl")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()
