"""Reading a run's episodes, finished or not, and refusing what is damaged.

Every line is checked: that it is a trajectory (`Trajectory.from_json`), and that it belongs to the
run that `run.json` describes. Reports, replay pages and training all read
through `read_log`; nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eto_agents.runs import EPISODES, RunRecord, episodes_file, read_record
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import EpisodeKey, Message, Trajectory
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError


@dataclass(frozen=True)
class EpisodeLog:
    """The episodes that a run has played so far.

    Attributes:
        path: the run's folder, or a file of episodes alone.
        label: what a report calls the agent: the policy's name, or what the caller gave.
        record: the content of ``run.json``; None if there is none.
        episodes: the last record of each episode, in the order of the file.
        has_unfinished_line: the file ends in the middle of a line, which was left out: the run is
            still writing it, or was killed while it did.
    """

    path: Path
    label: str
    record: RunRecord | None
    episodes: tuple[Trajectory, ...]
    has_unfinished_line: bool

    @property
    def is_finished(self) -> bool:
        """Whether the run has written ``results.json``."""
        return (episodes_file(self.path).parent / "results.json").is_file()

    @property
    def n_planned(self) -> dict[str, int] | None:
        """Number of planned episodes by split; None if ``run.json`` does not state it."""
        planned = None if self.record is None else self.record.facts.get("n_planned")
        if not isinstance(planned, dict) or not all(isinstance(n, int) for n in planned.values()):
            return None
        return planned


def read_log(
    path: str | Path,
    label: str = "",
    *,
    may_mix: bool = False,
    keep_messages: Callable[[Sequence[Message]], bool] = lambda _: False,
) -> EpisodeLog:
    """Read the episodes of a run's folder, or a file of episodes.

    Args:
        path: the folder, or the file.
        label: what a report calls the agent; by default the policy's name.
        may_mix: whether to accept episodes of other agents, worlds or task sets than ``run.json``
            states, as an import from several sources has them.
        keep_messages: which conversations to keep; they take most of the memory.

    Raises:
        DataNotFoundError: there is no such file, or no episode in it has ended.
        CorruptDataError: a line is damaged or belongs to another run; names the file and the line.
        DataError: a file cannot be read, or another release of eto-gym wrote it.
    """
    path = Path(path)
    file = episodes_file(path)
    if not file.is_file():
        raise DataNotFoundError(
            f"no episodes at {file}: run `eto collect --out {path}` or `eto eval --out {path}`"
        )
    record = read_record(path) if path.is_dir() else None
    claim = None if may_mix else _claim(path, record)
    store = TrajectoryStore(file)
    latest: dict[EpisodeKey, Trajectory] = {}
    try:
        has_unfinished_line = store.has_unfinished_line()
        for number, episode in enumerate(store.read(), start=1):
            for problem in _differences(episode, claim):
                raise CorruptDataError(f"{file}, line {number}: {problem}")
            is_kept = keep_messages(episode.messages)
            latest[episode.key] = episode if is_kept else replace(episode, messages=[])
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    if not latest:
        raise DataNotFoundError(
            f"{file} has no complete episode: wait for the first one to end, or run "
            f"`eto eval --out {path}` again to resume"
        )
    episodes = tuple(latest.values())
    return EpisodeLog(path, label or episodes[0].policy, record, episodes, has_unfinished_line)


def labelled(text: str) -> tuple[Path, str]:
    """``FOLDER`` or ``AGENT=FOLDER`` as the folder and the agent's name, which may be empty."""
    label, equals, folder = text.partition("=")
    return (Path(folder), label) if equals and not Path(text).exists() else (Path(text), "")


def _claim(folder: Path, record: RunRecord | None) -> RunRecord | None:
    """The record that every episode has to agree with; None if there is none.

    Raises:
        CorruptDataError: ``run.json`` does not say who plays what.
    """
    if record is None or record.kind != EPISODES:
        return None
    for key, kind in {"env_id": str, "env_args": dict, "policy": str}.items():
        if not isinstance(record.settings.get(key), kind):
            raise CorruptDataError(f"{folder / 'run.json'} is damaged: no usable {key!r}")
    return record


def _differences(episode: Trajectory, claim: RunRecord | None) -> Iterator[str]:
    """Why an episode does not belong to the run that ``run.json`` describes."""
    if claim is None:
        return
    expected = {
        "env_id": claim.settings["env_id"],
        "policy": claim.settings["policy"],
        "tasks_sha256": claim.inputs.get(episode.split),
    }
    for name, value in expected.items():
        actual = getattr(episode, name)
        if actual != value:
            yield (
                f"its {name} is {actual!r:.80}, but run.json says {value!r:.80}: "
                "two runs are mixed here"
            )
