"""`Display`: how a long command shows where it is.

On a terminal one live block, elsewhere a plain line now and then and at the end, with `quiet`
nothing. Whatever has a name, a count and some figures can be shown with `Display.update`: a
training stage gives its steps and its loss; `Episodes` gives what `evaluate` and `eto collect`
report. All of it goes to stderr: stdout is for results.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from typing_extensions import Self

    from eto_agents.trajectory import Trajectory

LINE_EVERY_S = 10.0
BAR_WIDTH = 24


class ProgressEvent(Protocol):
    """What `Episodes` is called with; `eto_agents.evaluation.harness.Progress` is one."""

    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def n_done(self) -> int: ...  # noqa: D102
    @property
    def n_planned(self) -> int: ...  # noqa: D102
    @property
    def trajectory(self) -> Trajectory | None: ...  # noqa: D102
    @property
    def earlier(self) -> Sequence[Trajectory]: ...  # noqa: D102


@dataclass
class _Row:
    """One thing that goes on, such as a split or an epoch."""

    n_done: int
    n_planned: int
    figures: Mapping[str, str]
    note: str
    unit: str
    n_earlier: int
    started_s: float

    def count(self) -> str:
        """Such as ``3/10 episodes``."""
        return f"{self.n_done}/{self.n_planned} {self.unit}".rstrip()

    def rate(self, now_s: float) -> float:
        """Units a second, or 0 while it cannot be told."""
        elapsed_s = now_s - self.started_s
        return (self.n_done - self.n_earlier) / elapsed_s if elapsed_s > 0 else 0.0

    def left(self, now_s: float) -> str:
        """The time that is left at this rate."""
        rate = self.rate(now_s)
        if self.n_done >= self.n_planned:
            return "done"
        return f"ETA {_clock((self.n_planned - self.n_done) / rate)}" if rate else "ETA –"


class Display:
    """Shows rows of progress; a context manager.

    Args:
        quiet: show nothing.
        console: a `rich.console.Console`; by default the terminal's stderr.
        now: the clock in seconds, for tests.
    """

    def __init__(
        self,
        quiet: bool = False,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set it up; nothing is shown before there is something to show."""
        self._quiet = quiet
        self._console = console
        self._now = now
        self._rows: dict[str, _Row] = {}
        self._live: Any = None
        self._last_line_s = now()

    def __enter__(self) -> Self:
        """Begin; the live block appears with the first update."""
        is_terminal = self._console.is_terminal if self._console else sys.stderr.isatty()
        if is_terminal and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self._render,
                console=self._console or Console(stderr=True),
                refresh_per_second=4,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state standing."""
        if self._live is not None:
            self._live.stop()

    def update(
        self,
        name: str,
        n_done: int,
        n_planned: int,
        figures: Mapping[str, str] | None = None,
        *,
        unit: str = "",
        note: str = "",
    ) -> None:
        """Say where something is.

        Args:
            name: what goes on; its first update starts its clock.
            n_done: units done, earlier runs included.
            n_planned: units there will be.
            figures: what is known so far, such as ``{"loss": "0.43"}``.
            unit: what is counted, such as ``"episodes"``.
            note: a second line, or part of the plain line.
        """
        if self._quiet:
            return
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = _Row(n_done, n_planned, {}, "", unit, n_done, self._now())
        row.n_done, row.n_planned = n_done, n_planned
        row.figures, row.note = figures or {}, note
        now_s = self._now()
        if self._live is None and (
            n_done >= n_planned or now_s - self._last_line_s >= LINE_EVERY_S
        ):
            self._last_line_s = now_s
            self._write(self._line(name, row, now_s))

    def started_s(self, name: str) -> float:
        """When a row's clock started; now, if it has not."""
        return self._rows[name].started_s if name in self._rows else self._now()

    def now_s(self) -> float:
        """The display's clock."""
        return self._now()

    def _line(self, name: str, row: _Row, now_s: float) -> str:
        parts = [f"{name}: {row.count()}"]
        parts += [f"{label} {value}" for label, value in row.figures.items()]
        parts += [row.left(now_s)] if row.n_done < row.n_planned else []
        parts += [f"({row.note})"] if row.note else []
        return " ".join(parts)

    def _write(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now_s = self._now()
        width = max((len(name) for name in self._rows), default=0)
        parts: list[Any] = []
        for name, row in self._rows.items():
            head = Table.grid(padding=(0, 2, 0, 0))
            bar = ProgressBar(max(row.n_planned, 1), row.n_done, width=BAR_WIDTH)
            title = Text(f"{name:{width}}", style="bold")
            head.add_row(title, bar, Text(row.count()), row.left(now_s))
            figures = "  ".join(f"{label} {value}" for label, value in row.figures.items())
            lines = [" " * (width + 2) + text for text in (figures, row.note) if text]
            parts += [head, *(Text(line, style="dim") for line in lines)]
        return Group(*parts)


@dataclass
class _Tally:
    """What the episodes of one split add up to."""

    scores: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    n_new: int = 0
    n_tokens: float = 0.0

    def add(self, episode: Trajectory, *, is_new: bool) -> None:
        self.statuses[episode.status] += 1
        if episode.status in ("completed", "truncated"):
            self.scores.setdefault(episode.task_id, []).append(episode.score)
        if is_new:
            self.n_new += 1
            self.n_tokens += sum(s.usage.get("completion_tokens", 0.0) for s in episode.steps)

    def reward(self) -> str:
        """Mean over tasks, with 1.96 standard errors of it where there are two tasks.

        The normal approximation is for the eye; the report's interval is a bootstrap.
        """
        means = [sum(scores) / len(scores) for scores in self.scores.values()]
        if not means:
            return ""
        mean = math.fsum(means) / len(means)
        if len(means) < 2:
            return f"{mean:.3f}"
        variance = math.fsum((x - mean) ** 2 for x in means) / (len(means) - 1)
        return f"{mean:.3f} ± {1.96 * math.sqrt(variance / len(means)):.3f}"


class Episodes:
    """Shows episodes as they end; give it to `evaluate` as `progress`.

    For each split: episodes done, the mean reward so far with its interval (over all samples, where
    a task is played several times), episodes a second, tokens that the agent wrote a second, the
    time left, and how many episodes ended how.
    """

    def __init__(self, display: Display) -> None:
        """Show on `display`."""
        self._display = display
        self._tallies: dict[str, _Tally] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Take one report of progress in."""
        tally = self._tallies.setdefault(event.split, _Tally())
        for episode in event.earlier:
            tally.add(episode, is_new=False)
        if event.trajectory is not None:
            tally.add(event.trajectory, is_new=True)
        elapsed_s = self._display.now_s() - self._display.started_s(event.split)
        figures = {"reward": reward} if (reward := tally.reward()) else {}
        if tally.n_new and elapsed_s > 0:
            figures["ep/s"] = _rate(tally.n_new / elapsed_s)
            if tally.n_tokens:
                figures["tokens/s"] = _rate(tally.n_tokens / elapsed_s)
        note = ", ".join(f"{status} {n}" for status, n in sorted(tally.statuses.items()))
        self._display.update(
            event.split, event.n_done, event.n_planned, figures, unit="episodes", note=note
        )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
