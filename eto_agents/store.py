"""`TrajectoryStore`: an append-only JSONL file of trajectories that survives a crash.

Each line is written and flushed before the next episode is stored. A process killed in the middle
of a line leaves a line without a newline; the next writer removes it, and that episode is played
again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from eto_agents.trajectory import EpisodeKey, Trajectory
from eto_envs.errors import CorruptDataError, DataError
from eto_envs.files import append_whole, naming, refuse_pointer

logger = logging.getLogger(__name__)


class TrajectoryStore:
    """One JSONL file of trajectories, open for appending by one process at a time.

    Use it as a context manager for writing; `read` needs none.
    """

    def __init__(self, path: Path) -> None:
        """Set the path; nothing is opened yet."""
        self.path = path

    def read(self) -> Iterator[Trajectory]:
        """Read the file's trajectories in the order in which they were written.

        An incomplete last line is skipped.

        Raises:
            CorruptDataError: a line is not UTF-8 text or not a trajectory; names the line.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                if number == 1:
                    refuse_pointer(self.path, line)
                where = f"{self.path}, line {number}"
                try:
                    yield Trajectory.from_json(line.decode("utf-8-sig"))
                except UnicodeDecodeError as error:
                    raise CorruptDataError(f"{where}: not UTF-8 text ({error.reason})") from error
                except CorruptDataError as error:
                    raise CorruptDataError(f"{where}: {error}") from error

    def n_records(self) -> int:
        """Number of complete lines: episodes that were played again count each time."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as lines:
            return sum(line.endswith(b"\n") for line in lines)

    def has_unfinished_line(self) -> bool:
        """Whether the file ends in the middle of a line."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            return file.read() not in (b"", b"\n")

    def latest(self) -> dict[EpisodeKey, Trajectory]:
        """The last record of each episode, by key: an episode that was played again counts once."""
        return {trajectory.key: trajectory for trajectory in self.read()}

    def __enter__(self) -> TrajectoryStore:
        """Open the file for appending.

        Raises:
            DataError: another process is writing to the same file.
        """
        import filelock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise DataError(f"another process is writing to {self.path}") from None
        try:
            self._remove_incomplete_line()
            self._file = self.path.open("ab", buffering=0)
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
        """Close the file and release its lock."""
        try:
            with naming(self.path):  # a full disk shows when the rest is written
                self._file.close()
        finally:
            self._lock.release()

    def append(self, trajectory: Trajectory) -> None:
        """Write one trajectory; it is on file when this returns, and not at all if this fails."""
        self.append_lines((trajectory.to_json() + "\n").encode())

    def append_lines(self, lines: bytes) -> None:
        """Write lines made by `Trajectory.to_json`, each with its newline, as `append` does."""
        append_whole(self._file, lines)

    def _remove_incomplete_line(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            end = size = file.seek(0, 2)
            while end > 0:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                logger.warning("%s: removed an incomplete line of %d bytes", self.path, size - end)
                file.truncate(end)
