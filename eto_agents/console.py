"""The terminal: `show` prints results to stdout, a `Display` shows progress on stderr.

Long-running code calls `report`: a training method reports its steps and its loss, `Episodes` the
episodes played. A `Display` shows the reports made while it is open, as bars in a terminal and
elsewhere as a line every `LINE_EVERY_S` seconds; without one, or with `quiet`, nothing is shown.
`relayed` passes the reports of a worker process on to its parent.

Everything is printed literally: nothing in a name or a path is read as markup or reaches the
terminal as an escape sequence.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from eto_agents.plain_text import REPLACEMENT, one_line, printable
from eto_agents.trajectory import PLAYED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
    from rich.rule import Rule
    from rich.table import Table
    from typing_extensions import Self

    from eto_agents.trajectory import EpisodeSummary, Trajectory

LINE_EVERY_S = 20.0
"""Seconds between two lines where there is no terminal, even if nothing new was reported."""

_BEAT_S = 5.0
_BAR_WIDTH = 24

_ASCII: Final = {
    **dict.fromkeys("–—−‐‑─━═╌╸╺", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╞╡╪‡", "+"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    **{"…": "...", "×": "x", "±": "+/-", "≠": "!=", "→": "->", "•": "*", "·": "*"},
}
"""What a terminal shows that cannot encode these characters."""


def prepare_streams() -> None:
    """Let no character end the program that the terminal's encoding does not have."""
    codecs.register_error("eto-terminal", _replaced)
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "eto-terminal"),
        (sys.stderr, "eto-terminal"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if codecs.lookup(error.encoding).name == "utf-8":  # which cannot encode surrogates only
        return (REPLACEMENT * len(text)).encode(), error.end
    return "".join(_ASCII.get(character, "?") for character in text), error.end


def console(*, is_stderr: bool = False) -> Console:
    """A console that reads nothing in a text as markup; see `show`."""
    from rich.console import Console

    return Console(stderr=is_stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def rule(title: str) -> Rule:
    """A line across the terminal with a title in it."""
    from rich.rule import Rule
    from rich.text import Text

    return Rule(Text(printable(title)))


def show(*parts: Table | Rule | str) -> None:
    """Print to stdout, each part beginning on a line of its own."""
    # A table fits the terminal's width, but soft wrapping would switch that off.
    out = console()
    for part in parts:
        if isinstance(part, str):
            out.print(printable(part))
        else:
            out.print(part, soft_wrap=False)


class Report(NamedTuple):
    """The progress of one piece of work.

    Attributes:
        name: what is being done, such as the split being played or ``"sft"``.
        n_done: units done, including those of earlier runs.
        n_planned: total number of units; 0 if unknown.
        unit: what is counted, such as ``"episodes"``.
        figures: values to show, such as ``{"loss": "0.43"}``.
        is_even: whether all units take about the same time, so that the remaining time can be
            estimated from their number.
        text: a line to print permanently, in place of all the above.
    """

    name: str = ""
    n_done: int = 0
    n_planned: int = 0
    unit: str = ""
    figures: Mapping[str, str] = {}
    is_even: bool = True
    text: str = ""

    @property
    def is_done(self) -> bool:
        """Whether all planned units are done."""
        return self.n_done >= self.n_planned > 0

    def printable(self) -> Report:
        """The report with its name on one line, and without escape sequences."""
        figures = {printable(label): printable(value) for label, value in self.figures.items()}
        return self._replace(name=one_line(self.name), unit=one_line(self.unit), figures=figures)

    def shown_count(self) -> str:
        """Such as ``3/10 episodes``."""
        total = f"/{self.n_planned}" if self.n_planned else ""
        return f"{self.n_done}{total} {self.unit}".rstrip()

    def shown_figures(self) -> str:
        """Such as ``loss 0.43  accuracy 0.8``."""
        return "  ".join(f"{label} {value}".strip() for label, value in self.figures.items())

    def line(self) -> str:
        """Such as ``sft: 30/100 steps  loss 0.43``."""
        return f"{self.name}: {self.shown_count()}  {self.shown_figures()}".rstrip()


_receiver: ContextVar[Callable[[Report], None] | None] = ContextVar("receiver", default=None)


def report(
    name: str, n_done: int, n_planned: int, unit: str = "", figures: Mapping[str, str] | None = None
) -> None:
    """Report progress (see `Report`); does nothing unless a `Display` is open."""
    if (receive := _receiver.get()) is not None:
        receive(Report(name, n_done, n_planned, unit, dict(figures or {})))


def log(text: str) -> None:
    """Print a permanent line above the progress bars; does nothing unless a `Display` is open."""
    if (receive := _receiver.get()) is not None:
        receive(Report(text=text))


@contextlib.contextmanager
def relayed(receive: Callable[[Report], None]) -> Iterator[None]:
    """Send the reports made inside the context to `receive`, not to an enclosing display."""
    token = _receiver.set(receive)
    try:
        yield
    finally:
        _receiver.reset(token)


@dataclass
class _Row:
    """The latest report under a name, and when the first one arrived."""

    latest: Report
    n_first: int
    started_s: float
    shown_s: float

    def eta(self, now_s: float) -> str:
        """Estimated remaining time at the rate so far; empty if unknown."""
        n_left = self.latest.n_planned - self.latest.n_done
        n_new, elapsed_s = self.latest.n_done - self.n_first, now_s - self.started_s
        if not self.latest.is_even or n_left <= 0 or n_new <= 0 or elapsed_s <= 0:
            return ""
        return f"ETA {clock(n_left * elapsed_s / n_new)}"

    def line(self, now_s: float) -> str:
        """Such as ``sft: 30/100 steps  loss 0.43  ETA 0:01:10``."""
        return f"{self.latest.line()}  {self.eta(now_s)}".rstrip()


class Rows:
    """The latest report under each name, with an estimate of the time that is left.

    Args:
        now: clock in seconds, replaced in tests.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        """Begin without any."""
        self._now = now or time.monotonic
        self._rows: dict[str, _Row] = {}

    def update(self, latest: Report) -> _Row:
        """Take a report; one of fewer units than the last begins a new row."""
        row = self._rows.get(latest.name)
        if row is None or latest.n_done < row.latest.n_done:
            now_s = self._now()
            row = self._rows[latest.name] = _Row(latest, latest.n_done, now_s, now_s)
        row.latest = latest
        return row

    def line(self, latest: Report) -> str:
        """Take a report, and describe it with the estimate."""
        return self.update(latest).line(self._now())

    def get(self, name: str) -> _Row | None:
        """The row of a name."""
        return self._rows.get(name)

    def unfinished(self) -> list[_Row]:
        """The rows of what is not done."""
        return [row for row in self._rows.values() if not row.latest.is_done]


class Display:
    """Shows the reports that are made while it is open; a context manager.

    Args:
        quiet: show nothing.
        console: the console to write to; stderr by default.
        now: clock in seconds, replaced in tests.
    """

    def __init__(
        self,
        quiet: bool = False,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up the display; nothing is shown before the first report."""
        self._quiet = quiet
        self._console = console
        self._now = now
        self._rows = Rows(now)
        self._lock = threading.RLock()  # `_keep_beating` runs in a thread of its own
        self._closed = threading.Event()
        self._bars: Bars | None = None
        self._bar_ids: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin to receive reports."""
        self._token = _receiver.set(None if self._quiet else self.receive)
        is_terminal = self._console.is_terminal if self._console else sys.stderr.isatty()
        if self._quiet:
            return self
        if is_terminal:
            self._bars = _bars(self._console or console(is_stderr=True))
            self._bars.start()
        else:
            self._closed.clear()
            threading.Thread(target=self._keep_beating, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; the last state remains visible."""
        _receiver.reset(self._token)
        self._closed.set()
        if self._bars is not None:
            with contextlib.suppress(OSError):  # the terminal has been closed
                self._bars.stop()

    def receive(self, latest: Report) -> None:
        """Show a report, from this process or from another one."""
        if self._quiet:
            return
        with self._lock:
            if latest.text:
                self._write(latest.text)
                return
            latest = latest.printable()
            now_s = self._now()
            row = self._rows.get(latest.name)
            has_just_ended = latest.is_done and not (row is not None and row.latest.is_done)
            row = self._rows.update(latest)
            if self._bars is not None:
                self._show_bar(self._bars, row, now_s)
            elif has_just_ended:
                row.shown_s = now_s
                self._write(row.line(now_s))
            else:
                self.beat()

    def beat(self) -> None:
        """Write a line for every unfinished row that had none for `LINE_EVERY_S` seconds."""
        with self._lock:
            now_s = self._now()
            for row in self._rows.unfinished():
                if now_s - row.shown_s >= LINE_EVERY_S:
                    row.shown_s = now_s
                    self._write(row.line(now_s))

    def _keep_beating(self) -> None:
        while not self._closed.wait(_BEAT_S):
            self.beat()

    def _show_bar(self, bars: Bars, row: _Row, now_s: float) -> None:
        latest = row.latest
        if latest.name not in self._bar_ids:
            self._bar_ids[latest.name] = bars.add_task(latest.name, total=None, count="", about="")
        bars.update(
            self._bar_ids[latest.name],
            completed=latest.n_done,
            total=latest.n_planned or None,
            count=latest.shown_count(),
            about=f"{row.eta(now_s)}  {latest.shown_figures()}".strip(),
        )

    def _write(self, line: str) -> None:
        line = printable(line)
        out = self._bars.console if self._bars is not None else self._console
        if out is not None:
            out.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    return Bars(
        TextColumn("{task.description}", "bold", markup=False),
        BarColumn(_BAR_WIDTH),
        TextColumn("{task.fields[count]}", markup=False),
        # Text that does not fit wraps to a second line.
        TextColumn("{task.fields[about]}", "dim", markup=False, table_column=Column(ratio=1)),
        console=console,
        refresh_per_second=4,
        expand=True,
    )


class Progress(NamedTuple):
    """Argument of an episode callback, called at the start of a split and after every episode.

    Attributes:
        split: the split being played.
        n_done: episodes that have ended, including those of earlier runs.
        n_planned: total number of episodes.
        trajectory: the episode that just ended, or its summary if it was played on another machine;
            None at the start.
        earlier: at the start, the episodes of earlier runs that count; later empty.
    """

    split: str
    n_done: int
    n_planned: int
    trajectory: Trajectory | EpisodeSummary | None
    earlier: Sequence[Trajectory] = ()


@dataclass
class _Tally:
    """Running totals over the episodes of one split."""

    started_s: float
    scores: dict[str, list[float]] = field(default_factory=dict)
    # Sums over the tasks' mean scores and their squares: a report after every episode must not cost
    # more the more episodes there are.
    total: float = 0.0
    total_of_squares: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    n_new: int = 0
    n_tokens: float = 0.0

    def add(self, episode: Trajectory | EpisodeSummary, *, is_new: bool) -> None:
        self.statuses[episode.status] += 1
        if episode.status in PLAYED:
            scores = self.scores.setdefault(episode.task_id, [])
            before = sum(scores) / len(scores) if scores else 0.0
            scores.append(episode.score)
            mean = sum(scores) / len(scores)
            self.total += mean - before
            self.total_of_squares += mean**2 - before**2
        if is_new:
            self.n_new += 1
            self.n_tokens += episode.n_completion_tokens

    def reward(self) -> str:
        """Mean over tasks, with 1.96 standard errors if there are at least two tasks.

        The normal approximation serves the display only; reports use a bootstrap interval.
        """
        n = len(self.scores)
        if not n:
            return ""
        mean = self.total / n
        if n < 2:
            return f"{mean:.3f}"
        variance = max(0.0, self.total_of_squares - n * mean**2) / (n - 1)
        return f"{mean:.3f} ± {1.96 * math.sqrt(variance / n):.3f}"

    def figures(self, now_s: float) -> dict[str, str]:
        """Reward, speed and counts by status, as they are shown."""
        figures = {"reward": reward} if (reward := self.reward()) else {}
        elapsed_s = now_s - self.started_s
        if self.n_new and elapsed_s > 0:
            figures["ep/s"] = _rate(self.n_new / elapsed_s)
            if self.n_tokens:
                figures["tokens/s"] = _rate(self.n_tokens / elapsed_s)
        statuses = ", ".join(f"{status} {n}" for status, n in sorted(self.statuses.items()))
        return figures | ({"": f"({statuses})"} if statuses else {})


class Episodes:
    """Reports the episodes of each split as they end; an episode callback.

    It shows the mean reward so far with its interval (over all samples, if a task is played several
    times), episodes and tokens per second, and the number of episodes by status.

    Args:
        prefix: text before the split's name.
        now: clock in seconds, replaced in tests.
    """

    def __init__(self, prefix: str = "", now: Callable[[], float] = time.monotonic) -> None:
        """Start counting from zero."""
        self._prefix = prefix
        self._now = now
        self._tallies: dict[str, _Tally] = {}

    def __call__(self, event: Progress) -> None:
        """Count the new episodes, and report."""
        tally = self._tallies.setdefault(event.split, _Tally(self._now()))
        for episode in event.earlier:
            tally.add(episode, is_new=False)
        if event.trajectory is not None:
            tally.add(event.trajectory, is_new=True)
        name = f"{self._prefix}{event.split}"
        report(name, event.n_done, event.n_planned, "episodes", tally.figures(self._now()))


def clock(seconds: float) -> str:
    """Format a duration, such as ``0:01:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    caption: str = "",
    right: Collection[str] = (),
    folded: Collection[str] = (),
    is_compact: bool = False,
) -> Table:
    """A table for the terminal, to be printed by `rich.console.Console`.

    Texts are shown as they are: nothing in them is read as rich's markup.

    Args:
        headings: one for each column.
        rows: cells, as many in each row as there are headings.
        title: shown above.
        caption: shown below.
        right: headings of the columns that are aligned right.
        folded: headings of the columns whose long words are broken into lines; in other columns
            what does not fit is cut off.
        is_compact: no frame, title and caption aligned left, and no cell broken into lines.
    """
    from rich.box import HEAVY_HEAD, SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    side: Literal["left", "center"] = "left" if is_compact else "center"
    shown = Table(
        title=Text(printable(title), style="table.title") if title else None,
        caption=Text(printable(caption), style="table.caption") if caption else None,
        box=SIMPLE_HEAD if is_compact else HEAVY_HEAD,
        title_justify=side,
        caption_justify=side,
    )
    for heading in headings:
        shown.add_column(
            Text(printable(heading)),
            justify="right" if heading in right else "left",
            overflow="fold" if heading in folded else "ellipsis",
            no_wrap=is_compact,
        )
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    return shown
