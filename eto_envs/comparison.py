"""`Comparison`: the result of comparing a world with its original.

Each world decides what is compared and how (`alfworld.audit`, `scienceworld.audit`,
`webshop.audit`). This module counts the differences, prints them, and reads recorded episodes.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import parse_json

MAX_DIFFERENCES = 1000
"""The number of differences that are stored; all are counted."""


class Difference(NamedTuple):
    """One difference between a world and its original.

    Attributes:
        task_id: the task of the episode.
        n_steps: the number of actions so far, 0 at the start.
        command: the last action, empty at the start.
        what: what differs, such as ``"observation"``.
        native: its value in the world.
        original: its value in the original.
    """

    task_id: str
    n_steps: int
    command: str
    what: str
    native: Any
    original: Any


@dataclass
class Comparison:
    """The result of a comparison with an original.

    Attributes:
        world: the name of the world.
        dataset: the name of the dataset, or of the recording.
        n_episodes: the number of episodes played.
        n_steps: the number of actions in them.
        n_skipped: the number of recorded episodes whose task is not in the dataset.
        n_differences: the number of differences.
        differences: the first `MAX_DIFFERENCES` of them.
        remark: a remark for the report.
    """

    world: str
    dataset: str
    n_episodes: int = 0
    n_steps: int = 0
    n_skipped: int = 0
    n_differences: int = 0
    differences: list[Difference] = field(default_factory=list)
    remark: str = ""

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
        lines[0] += f" ({self.remark})" if self.remark else ""
        lines += [
            f"{d.task_id}, step {d.n_steps} ({d.command!r}): {d.what} "
            f"{_shown(d.native)}, original {_shown(d.original)}"
            for d in self.differences[:10]
        ]
        return "\n".join(lines)

    def add(self, difference: Difference) -> None:
        """Count a difference, and store it unless there are too many."""
        self.n_differences += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(difference)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


MAX_LINE_CHARS = 1 << 28
"""The most characters of a recorded episode."""


def read_recordings(path: Path) -> Iterator[tuple[int, Any]]:
    """The line numbers and values of a JSON-lines file of recorded episodes, optionally gzipped.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line is not JSON.
    """
    if not path.is_file():
        raise DataNotFoundError(f"there is no file of recorded episodes {path}")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            # Bounded, because a gzipped line could unpack to more than the memory.
            for number, line in enumerate(
                iter(lambda: lines.readline(MAX_LINE_CHARS), ""), start=1
            ):
                try:
                    value = parse_json(line, "the line")
                except CorruptDataError as error:
                    raise not_a_recording(path, number, error) from error
                yield number, value
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise not_a_recording(path, number + 1, error) from None


def not_a_recording(path: Path, number: int, error: Exception) -> CorruptDataError:
    """The error to raise for a line that is not a recorded episode."""
    return CorruptDataError(f"{path}: line {number} is not a recorded episode ({error!r})")
