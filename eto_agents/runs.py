"""`RunFolder`: a folder that remembers what it was made from and whether it is complete.

An evaluation, a collection, an exploration and every stage of training are such folders::

    run.json       kind, settings, SHA-256 of the inputs, and the release that wrote it
    episodes.jsonl the episodes, if any are played        (`eto_agents.store`)
    metrics.jsonl  a line for every log of training
    checkpoint/    the trained model
    work/          what an interrupted stage needs to resume; deleted when it is complete
    result.json    written last: the stage is complete (an evaluation writes results.json)

The same call with the same settings and inputs resumes; with others it is refused, so that no
result mixes two runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from eto_agents.processes import is_main_process, wait_until
from eto_agents.settings import read_json, record_of, write_json
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from eto_envs.files import sha256_of, write_whole

SCHEMA_VERSION: Final = 3
"""Version of ``run.json``."""

_RUN_ONLY: Final = frozenset({"report_to", "device"})
"""Settings that do not change the result, so that a run may be resumed with others."""


class RunMismatchError(DataError):
    """A folder holds a run with other settings or inputs."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``.

    Attributes:
        kind: what the folder holds, such as ``"evaluation"`` or ``"sft"``.
        settings: JSON-able values that must not change.
        inputs: SHA-256 (or a name on a hub) of what was read, by name; must not change either.
        facts: what else is stated, such as the number of planned episodes; may change.
    """

    kind: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``run.json`` whole."""
        head = {"schema": SCHEMA_VERSION, "version": metadata.version("eto-gym")}
        write_json(folder / "run.json", head | dataclasses.asdict(self))


def read_record(folder: Path) -> RunRecord | None:
    """Read a folder's ``run.json``; None if there is none.

    Raises:
        DataError: another release of eto-gym made the folder; names it.
        CorruptDataError: the file is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        if (folder / "config.json").is_file() and (folder / "inputs.json").is_file():
            raise _other_release(folder, "an early version")
        return None
    record = read_json(path)
    if record.get("schema") != SCHEMA_VERSION:
        raise _other_release(
            folder, f"version {record['version']}" if "version" in record else "an early version"
        )
    fields = {field.name: record.get(field.name) for field in dataclasses.fields(RunRecord)}
    for name, value in fields.items():
        if not isinstance(value, str if name == "kind" else dict):
            raise CorruptDataError(f"{path} is damaged: no usable {name!r}")
    return RunRecord(**fields)  # type: ignore[arg-type]


def _other_release(folder: Path, release: str) -> DataError:
    return DataError(
        f"{folder} was made by {release} of eto-gym, whose folders this one "
        f"({metadata.version('eto-gym')}) does not read: choose another folder, or delete it"
    )


class RunFolder:
    """One run's folder; a context manager that keeps other processes out.

    Attributes:
        folder: the folder.
        record: what the caller runs.
        is_writer: whether this process writes to it; in a run on several GPUs only one does.
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
        """Name the folder; nothing is read or written yet.

        Args:
            folder: the folder.
            settings: a dataclass or a mapping of JSON-able values.
            inputs: hashes by name (`hash_input`).
            kind: what the folder holds.
            may_grow: whether inputs may be added to a run that was begun without them.
        """
        self._may_grow = may_grow
        self.folder = Path(folder)
        self.record = RunRecord(kind, record_of(settings), dict(inputs))
        self.is_writer = is_main_process()

    @property
    def checkpoint(self) -> Path:
        """Where the trained model is."""
        return self.folder / "checkpoint"

    @property
    def work(self) -> Path:
        """Where an interrupted stage keeps what it needs to resume."""
        return self.folder / "work"

    @property
    def episodes(self) -> Path:
        """The file of episodes."""
        return self.folder / "episodes.jsonl"

    @property
    def result(self) -> dict[str, Any] | None:
        """What the complete stage wrote; None if it is not complete."""
        path = self.folder / "result.json"
        return read_json(path) if path.is_file() else None

    def __enter__(self) -> RunFolder:
        """Claim the folder for these settings and inputs.

        Raises:
            RunMismatchError: it holds a run with others.
            DataError: another process is at work in it, or another release made it.
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
        """Release the folder."""
        self._lock.release()

    def wait(self) -> None:
        """In a process that does not write, return once another has completed the stage."""
        if not self.is_writer:
            wait_until(lambda: self.result is not None)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        if self.is_writer:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``; an unfinished last line is skipped.

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
        """Drop the metrics logged after a step, which is about to be repeated."""
        remaining = [line for line in self.metrics() if line.get("step", 0) <= step]
        text = "".join(json.dumps(line) + "\n" for line in remaining)
        if self.is_writer:
            write_whole(self.folder / "metrics.jsonl", text.encode())

    def state(self, **facts: Any) -> None:
        """Write further facts into ``run.json``; they are no part of the claim."""
        if self.is_writer:
            self.record.facts.update(record_of(facts))
            self.record.save(self.folder)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, by which the stage is complete, and delete its ``work/``."""
        if self.is_writer:
            write_json(self.folder / "result.json", result)
            shutil.rmtree(self.work, ignore_errors=True)

    def _claim(self) -> None:
        """Write ``run.json``, or see that the one that is there describes the same run."""
        if self.is_writer:  # an interrupted write leaves a file that nobody reads
            for unfinished in self.folder.glob(".*.*.*"):
                if unfinished.suffix[1:].isdigit():  # `write_whole` names them by its process
                    unfinished.unlink(missing_ok=True)
        before, ours = read_record(self.folder), self.record
        if before is None:
            if self.is_writer:
                ours.save(self.folder)
            return
        if before.kind != ours.kind:
            raise RunMismatchError(
                f"{self.folder} holds another run: its kind is {before.kind!r}, this one's is "
                f"{ours.kind!r}; choose another folder"
            )
        changed = list(_differences(before.settings, ours.settings))
        if changed:
            raise RunMismatchError(
                f"{self.folder} was begun with other settings: {', '.join(changed)}. Choose "
                "another folder, or delete it."
            )
        changed = self._changed(before.inputs)
        if changed:
            raise RunMismatchError(
                f"{self.folder} was begun with other inputs: {', '.join(changed)} changed since. "
                "Choose another folder, or delete it."
            )
        ours.inputs.update(before.inputs)
        ours.facts.update(before.facts)

    def _changed(self, before: Mapping[str, str]) -> list[str]:
        """Names of the inputs that are not what they were."""
        now = self.record.inputs
        names = {*before} & {*now} if self._may_grow else {*before, *now}
        return sorted(name for name in names if before.get(name) != now.get(name))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Such as ``dpo.beta 0.1 (now 0.5)`` for every setting with another value."""
    for name in sorted({*before, *now} - _RUN_ONLY):
        was, is_now = before.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from (f"{name}.{inner}" for inner in _differences(was, is_now))
        elif was != is_now:
            yield f"{name} {was!r} (now {is_now!r})"


def episodes_file(path: Path) -> Path:
    """The file of episodes in a run's folder; a path that is no folder is such a file itself."""
    return path / "episodes.jsonl" if path.is_dir() else path


EPISODES: Final = "episodes"
"""The kind of evaluations, collections and imports, which all are episodes of one policy."""


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
    """The folder of a run that plays.

    Args:
        folder: the folder.
        env_id: the Gymnasium id.
        env_args: keyword arguments for the environment, but for the split.
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
    """Do a stage unless its folder says that it is complete.

    Args:
        folder: the stage's folder; the same call on it resumes.
        make: does the work in the claimed folder and returns what ``result.json`` will have.
        kind: what the stage is.
        settings: a dataclass or a mapping; decides on the result.
        everywhere: whether all processes of a launch have to run `make`, as training has; else the
            main one does, and the others wait.
        inputs: what is read, as `hash_input` takes it.

    Returns:
        The folder, with its `result`.

    Raises:
        RunMismatchError: the folder holds a run with other settings or inputs.
        DataError: another process is at work in it, or another release made it.
    """
    hashes = {name: hash_input(value) for name, value in inputs.items()}
    with RunFolder(folder, settings, hashes, kind=kind) as run:
        if run.result is None and (run.is_writer or everywhere):
            run.finish(make(run))
        run.wait()
    return run


def hash_input(source: str | Path | Iterable[Any]) -> str:
    """By what a run knows an input again.

    Args:
        source: a file or folder, a name on a hub, or dataclasses such as trajectories or pairs.

    Returns:
        SHA-256 in hexadecimal; of a run's folder that of its episodes, of a name the name.

    Raises:
        DataNotFoundError: there is no such path.
    """
    if isinstance(source, str) and not Path(source).exists():
        return source
    if isinstance(source, str | Path):
        return _hash_path(Path(source))
    digest = hashlib.sha256()
    for item in source:
        value = dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item  # type: ignore[arg-type]
        digest.update((json.dumps(value, default=str) + "\n").encode())
    return digest.hexdigest()


def _hash_path(path: Path) -> str:
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
