"""`RunFolder`: a folder that records what it was made from and whether it is complete.

An evaluation, a collection, an exploration and every training stage each have such a folder::

    run.json       kind, settings, SHA-256 of the inputs, and the version that wrote it
    episodes.jsonl the episodes, if any are played        (`eto_agents.store`)
    metrics.jsonl  one line for each logging step of training
    trackers.json  what experiment trackers have received of it  (`eto_agents.tracking`)
    checkpoint/    the trained model
    work/          what an interrupted stage needs to resume; deleted when it is complete
    result.json    written last: the stage is complete (an evaluation writes results.json)

Repeating a call with the same settings and inputs resumes the run; with different ones it is
refused, so that no result ever mixes two runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from eto_agents.processes import is_main_process, wait_until
from eto_agents.settings import record_of
from eto_agents.strict_json import json_text, write_json
from eto_agents.tracking import Trackers
from eto_agents.trajectory import without_empty_tools
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from eto_envs.files import (
    naming,
    parse_json,
    read_json_object,
    read_text,
    sha256_of,
    write_whole,
)

SCHEMA_VERSION: Final = 3
"""Version of ``run.json``."""

_UNFINISHED: Final = re.compile(r"\..+\.\d+(\.old)?")
"""Names of files and folders that are being written; the number is that of the process."""

_RUN_ONLY: Final = frozenset(
    {"report_to", "device", "ray", "ray_actors", "explore_with", "explore_args"}
)
"""Settings that do not affect the result; they may change when a run is resumed."""


class RunMismatchError(DataError):
    """The folder holds a run with different settings or inputs."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``.

    Attributes:
        kind: what the folder holds, such as ``"evaluation"`` or ``"sft"``.
        settings: JSON-able values; they must not change when the run is resumed.
        inputs: SHA-256 of each input (or its name on a model hub), by the input's name; they must
            not change either.
        facts: further information, such as the number of planned episodes; it may change.
    """

    kind: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``run.json`` atomically."""
        head = {"schema": SCHEMA_VERSION, "version": metadata.version("eto-gym")}
        write_json(folder / "run.json", head | dataclasses.asdict(self))


def read_record(folder: Path) -> RunRecord | None:
    """Read a folder's ``run.json``; None if there is none.

    Raises:
        DataError: an incompatible version of eto-gym wrote the folder; names the version.
        CorruptDataError: the file is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        if (folder / "config.json").is_file() and (folder / "inputs.json").is_file():
            raise _incompatible(folder, "an early version")
        return None
    record = read_json_object(path)
    if record.get("schema") != SCHEMA_VERSION:
        raise _incompatible(
            folder, f"version {record['version']}" if "version" in record else "an early version"
        )
    fields = {field.name: record.get(field.name) for field in dataclasses.fields(RunRecord)}
    for name, value in fields.items():
        if not isinstance(value, str if name == "kind" else dict):
            raise CorruptDataError(f"{path} is damaged: {name!r} is missing or has the wrong type")
    found = RunRecord(**fields)  # type: ignore[arg-type]
    if found.kind == EPISODES:
        for name, kind in (("policy", str), ("env_args", dict), ("policy_provenance", dict)):
            if not isinstance(found.settings.get(name, kind()), kind):
                raise CorruptDataError(f"{path} is damaged: the setting {name!r} has a wrong type")
    return found


def _incompatible(folder: Path, version: str) -> DataError:
    return DataError(
        f"{folder} was written by {version} of eto-gym, whose folders the installed version "
        f"({metadata.version('eto-gym')}) cannot read: choose another folder, or delete this one"
    )


class RunFolder:
    """The folder of one run; a context manager that locks other processes out.

    Attributes:
        folder: the folder.
        record: the run that the caller wants to do.
        is_writer: whether this process writes to the folder; of several processes only one does.
    """

    def __init__(
        self,
        folder: Path,
        settings: Any,
        inputs: Mapping[str, str],
        *,
        kind: str,
        may_grow: bool = False,
    ) -> None:
        """Describe the run; nothing is read or written yet.

        Args:
            folder: the folder.
            settings: a dataclass or a mapping of JSON-able values.
            inputs: hashes by name (`hash_input`).
            kind: what the folder holds.
            may_grow: whether inputs may be added to a run that was started without them.
        """
        self._may_grow = may_grow
        self.folder = Path(folder)
        self.record = RunRecord(kind, record_of(settings), dict(inputs))
        self.is_writer = is_main_process()
        self._trackers = Trackers((), self.folder, {})

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained model."""
        return self.folder / "checkpoint"

    @property
    def work(self) -> Path:
        """Folder in which an interrupted stage keeps what it needs to resume."""
        return self.folder / "work"

    @property
    def episodes(self) -> Path:
        """Path of the episodes file."""
        return self.folder / "episodes.jsonl"

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the completed stage; None if it is not complete."""
        path = self.folder / "result.json"
        return read_json_object(path) if path.is_file() else None

    def __enter__(self) -> RunFolder:
        """Claim the folder for these settings and inputs.

        Raises:
            RunMismatchError: the folder holds a run with different settings or inputs.
            DataError: another process is using the folder, or an incompatible version wrote it.
            CorruptDataError: one of its files is damaged.
        """
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / ".lock")
        if self.is_writer:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise DataError(f"another process is using {self.folder}") from None
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
        """Release the folder."""
        self._lock.release()

    def wait(self) -> None:
        """Block until the stage is complete, if another process is the one that writes."""
        if not self.is_writer:
            wait_until(lambda: self.result is not None)

    @contextlib.contextmanager
    def reporting(self, names: Sequence[str]) -> Iterator[Trackers]:
        """Send what is logged inside the context to experiment trackers, too.

        Raises:
            UnknownNameError: there is no such tracker.
            MissingExtraError: its package is not installed.
        """
        settings = {"kind": self.record.kind, **self.record.settings}
        with Trackers(names, self.folder, settings) as self._trackers:
            yield self._trackers

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``, and send it to the trackers."""
        if self.is_writer:
            path = self.folder / "metrics.jsonl"
            with naming(path), path.open("a", encoding="utf-8") as lines:
                lines.write(json_text(metrics) + "\n")
            self._trackers.log(metrics)

    def metrics(self) -> list[dict[str, Any]]:
        """Read all lines of ``metrics.jsonl``; an incomplete last line is skipped.

        Raises:
            CorruptDataError: a line is damaged.
        """
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        *lines, _incomplete = read_text(path).split("\n")
        records = [parse_json(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict) or not isinstance(record.get("step", 0), int):
                raise CorruptDataError(f"{path}, line {number} is damaged: {record!r:.80}")
        return records

    def rewind(self, step: int) -> None:
        """Remove the metrics logged after `step`; the steps after it are about to be repeated.

        Trackers receive those of the remaining ones that they do not have, such as a tracker that
        the run was started without.
        """
        remaining = [line for line in self.metrics() if line.get("step", 0) <= step]
        text = "".join(json_text(line) + "\n" for line in remaining)
        if self.is_writer:
            write_whole(self.folder / "metrics.jsonl", text.encode())
            for line in remaining:
                self._trackers.log(line)

    def state(self, **facts: Any) -> None:
        """Add facts to ``run.json``; they are not compared when the run is resumed."""
        if self.is_writer:
            self.record.facts.update(record_of(facts))
            self.record.save(self.folder)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the stage as complete: write ``result.json`` and delete ``work/``."""
        if self.is_writer:
            write_json(self.folder / "result.json", result)
            _remove(self.work)

    def _claim(self) -> None:
        """Write ``run.json``, or check that the existing one describes the same run."""
        if self.is_writer:
            self._remove_leftovers()
        before, ours = read_record(self.folder), self.record
        if before is None:
            if self.is_writer:
                ours.save(self.folder)
            return
        if before.kind != ours.kind:
            raise RunMismatchError(
                f"{self.folder} holds another run, of kind {before.kind!r} and not {ours.kind!r}; "
                "choose another folder"
            )
        changed = list(_differences(before.settings, ours.settings, self.folder))
        if changed:
            raise RunMismatchError(
                f"{self.folder} holds a run with different settings: {', '.join(changed)}. Choose "
                "another folder, or delete it."
            )
        changed = self._changed(before.inputs)
        if changed:
            raise RunMismatchError(
                f"{self.folder} holds a run with different inputs: {', '.join(changed)} changed "
                "since it was started. Choose another folder, or delete it."
            )
        ours.inputs.update(before.inputs)
        ours.facts.update(before.facts)

    def _remove_leftovers(self) -> None:
        """Delete what a killed process left: this one holds the folder's lock, so it is dead."""
        for path in [*self.folder.glob(".*"), *self.work.glob("**/.*")]:
            if _UNFINISHED.fullmatch(path.name):
                _remove(path)
        if (self.folder / "result.json").is_file():
            _remove(self.work)

    def _changed(self, before: Mapping[str, str]) -> list[str]:
        """Names of the inputs whose hashes differ from those in `before`."""
        now = self.record.inputs
        names = {*before} & {*now} if self._may_grow else {*before, *now}
        return sorted(name for name in names if before.get(name) != now.get(name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Describe every setting that changed, such as ``dpo.beta 0.1 (now 0.5)``."""
    for name in sorted({*before, *now} - _RUN_ONLY):
        was, is_now = before.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from (f"{name}.{inner}" for inner in _differences(was, is_now, folder))
        elif was != is_now and not _is_same_path(was, is_now, folder):
            yield f"{name} {was!r} (now {is_now!r})"


def _is_same_path(was: Any, is_now: Any, folder: Path) -> bool:
    """Whether two settings are the same file or folder, written in two ways.

    A run may be resumed from another working folder than the one it was started in, which usually
    is a parent of the run's `folder`.
    """
    if not isinstance(was, str) or not isinstance(is_now, str):
        return False
    kind, colon, path = was.partition(":")
    if colon and is_now.startswith(f"{kind}:"):  # such as ``hf:FOLDER``
        was, is_now = path, is_now[len(kind) + 1 :]
    try:
        return any(
            os.path.samefile(place / was, is_now)
            for place in (Path(), *folder.resolve().parents)
            if (place / was).exists() and os.path.exists(is_now)
        )
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def episodes_file(path: Path) -> Path:
    """The file of episodes in a run's folder; a path that is no folder is such a file itself."""
    return path / "episodes.jsonl" if path.is_dir() else path


EPISODES: Final = "episodes"
"""The kind of evaluations, collections and imports: all hold the episodes of one policy."""


def episodes_folder(
    folder: Path,
    *,
    env_id: str,
    env_args: Mapping[str, Any],
    policy: str,
    policy_provenance: Mapping[str, Any],
    task_sets: Mapping[str, str],
    may_grow: bool = True,
) -> RunFolder:
    """Describe the folder of a run that plays episodes.

    Args:
        folder: the folder.
        env_id: the Gymnasium id.
        env_args: keyword arguments for the environment, except for the split.
        policy: the policy's name.
        policy_provenance: what the policy's decisions depend on.
        task_sets: SHA-256 of the task sets by split.
        may_grow: whether further splits may be added later.
    """
    settings = {
        "env_id": env_id,
        "env_args": dict(env_args),
        "policy": policy,
        "policy_provenance": dict(policy_provenance),
    }
    return RunFolder(folder, settings, task_sets, kind=EPISODES, may_grow=may_grow)


def once(
    folder: Path,
    make: Callable[[RunFolder], Mapping[str, Any]],
    *,
    kind: str,
    settings: Any,
    everywhere: bool = False,
    **inputs: Any,
) -> RunFolder:
    """Run a stage unless its folder is already complete.

    Args:
        folder: the stage's folder; repeating the call resumes an interrupted stage.
        make: does the work in the claimed folder and returns the content of ``result.json``.
        kind: what the stage is, such as ``"sft"``.
        settings: a dataclass or a mapping; everything that affects the result.
        everywhere: whether every process of a launch runs `make`, as training needs; otherwise the
            main process does, and the others wait.
        inputs: what the stage reads, as arguments for `hash_input`.

    Returns:
        The folder, with its `result`.

    Raises:
        RunMismatchError: the folder holds a run with different settings or inputs.
        DataError: another process is using the folder, or an incompatible version wrote it.
    """
    hashes = {name: hash_input(value) for name, value in inputs.items()}
    with RunFolder(folder, settings, hashes, kind=kind) as run:
        if run.result is None and (run.is_writer or everywhere):
            with naming(run.folder), run.reporting(run.record.settings.get("report_to", ())):
                result = make(run)
            run.finish(result)
        run.wait()
    return run


def hash_input(source: str | Path | Iterable[Any]) -> str:
    """Identify an input, so that a resumed run notices when it has changed.

    Args:
        source: a file or folder, a name on a model hub, or dataclasses such as trajectories or
            pairs.

    Returns:
        SHA-256 in hexadecimal; for a run's folder that of its episodes, for a name on a hub the
        name itself.

    Raises:
        DataNotFoundError: there is no such path.
    """
    if isinstance(source, str) and not Path(source).exists():
        return source
    if isinstance(source, str | Path):
        return _hash_path(Path(source))
    digest = hashlib.sha256()
    for item in source:
        value = _record(item) if dataclasses.is_dataclass(item) else item
        digest.update((json.dumps(value, default=str) + "\n").encode())
    return digest.hexdigest()


def _record(item: Any) -> dict[str, Any]:
    return dataclasses.asdict(item, dict_factory=without_empty_tools)


def _hash_path(path: Path) -> str:
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        raise DataNotFoundError(f"no file or folder at {path}")
    if (path / "episodes.jsonl").is_file():  # a run: reports and timings beside it do not matter
        return sha256_of(path / "episodes.jsonl")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()
