"""`Comparison`: the report of a world that was held against its original.

What is compared, and how, is each world's own business (`alfworld.audit`, `scienceworld.audit`,
`webshop.audit`); here are the counts, what is printed of them, and reading recorded episodes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.errors import CorruptDataError, DataNotFoundError

MAX_DIFFERENCES = 1000
"""So many are kept; all are counted."""


class Difference(NamedTuple):
    """One thing in which a world and its original differ.

    Attributes:
        task_id: the episode's task.
        n_steps: after how many actions, 0 at the start.
        command: the last of them, empty at the start.
        what: what differs, such as ``"observation"``.
        native: what the world shows.
        original: what the original shows.
    """

    task_id: str
    n_steps: int
    command: str
    what: str
    native: Any
    original: Any


@dataclass
class Comparison:
    """What a comparison with an original found.

    Attributes:
        world: the world's name.
        dataset: name of the dataset, or of the recording.
        n_episodes: how many were played.
        n_steps: how many actions were done in them.
        n_skipped: recorded episodes of tasks that the dataset does not have.
        n_differences: in how many things the two differed.
        differences: the first `MAX_DIFFERENCES` of them.
        note: a remark for the report.
    """

    world: str
    dataset: str
    n_episodes: int = 0
    n_steps: int = 0
    n_skipped: int = 0
    n_differences: int = 0
    differences: list[Difference] = field(default_factory=list)
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether something was compared and nothing differed."""
        return self.n_episodes > 0 and self.n_differences == 0

    def __str__(self) -> str:
        """One line with the counts, and one for each of the first ten differences."""
        skipped = f", {self.n_skipped} skipped" if self.n_skipped else ""
        lines = [
            f"{self.world} {self.dataset}: {self.n_episodes} episodes{skipped}, "
            f"{self.n_steps} steps, differences: {self.n_differences}"
        ]
        lines[0] += f" ({self.note})" if self.note else ""
        lines += [
            f"{d.task_id}, step {d.n_steps} ({d.command!r}): {d.what} "
            f"{_shown(d.native)}, original {_shown(d.original)}"
            for d in self.differences[:10]
        ]
        return "\n".join(lines)

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it if there is room."""
        self.n_differences += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(difference)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def read_recordings(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and values of a file of recorded episodes, JSON lines, may be gzipped.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line is no JSON.
    """
    if not path.is_file():
        raise DataNotFoundError(f"{path}: there is no such file of recorded episodes")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, json.loads(line)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise no_recording(path, max(number, 1), error) from None


def no_recording(path: Path, number: int, error: Exception) -> CorruptDataError:
    """What to raise where a line is not what it should be."""
    return CorruptDataError(f"{path}: line {number} is no recorded episode ({error!r})")
