"""Progress of a run: events to be shown, seconds by step, and an estimate of the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from eto_agents.console import Report, Rows
from eto_agents.reproduce.outcome import FILE, Facts, Outcome


class Event(NamedTuple):
    """Progress of a run.

    Attributes:
        run: such as ``"webshop seed 0"``.
        method: the label of the method that is running or has ended.
        n_done: number of methods that have ended.
        n_planned: number of methods in the run.
        text: the method's progress, or its result.
        wall_s: seconds the method took; None while it runs.
        left_s: estimated seconds to the end of the run; None if the recipe has no measured times.
    """

    run: str
    method: str
    n_done: int
    n_planned: int
    text: str = ""
    wall_s: float | None = None
    left_s: float | None = None


OnEvent = Callable[[Event], None]


class Estimate:
    """The time left in a run, from the seconds its steps took when the recipe was measured.

    The steps completed so far give the ratio of this machine's speed to that of the measurement;
    steps that an earlier call completed are ignored.
    """

    def __init__(
        self,
        measured_s: Mapping[str, float],
        steps: Sequence[str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the measured seconds by step, and the planned steps in order."""
        self._measured_s = measured_s
        self._waiting = list(steps)
        self._now = now
        self._step = ""
        self._spent_s = self._expected_s = 0.0

    def begin(self, step: str) -> None:
        """Start a step."""
        self._step, self._started_s = step, self._now()
        self._waiting.remove(step)

    def end(self) -> None:
        """End the step."""
        spent_s, expected_s = self._now() - self._started_s, self._measured_s.get(self._step, 0.0)
        if spent_s > 0.05 * expected_s:  # otherwise it was read from its folder
            self._spent_s += spent_s
            self._expected_s += expected_s
        self._step = ""

    def seconds(self) -> float | None:
        """Seconds to the end of the last step; None if a remaining step was never measured."""
        steps = [*self._waiting, *([self._step] if self._step else [])]
        if not all(step in self._measured_s for step in steps):
            return None
        slowness = self._spent_s / self._expected_s if self._expected_s else 1.0
        waiting_s = slowness * sum(self._measured_s[step] for step in self._waiting)
        if not self._step:
            return waiting_s
        current_s = slowness * self._measured_s[self._step] - (self._now() - self._started_s)
        return waiting_s + max(0.0, current_s)


class Steps:
    """Times the steps of a run, and reports where it is."""

    def __init__(
        self,
        outcome: Outcome,
        methods: Sequence[str],
        measured_s: Mapping[str, float],
        on_event: OnEvent,
    ) -> None:
        """Begin a run.

        Args:
            outcome: where seconds and facts of each step are written.
            methods: the steps after the expert's, in order.
            measured_s: seconds that each took when the recipe was last measured.
            on_event: called with what happens.
        """
        self._outcome = outcome
        self._on_event = on_event
        self._title = f"{outcome.world} seed {outcome.seed}"
        known = (outcome.folder / FILE).is_file()
        self._earlier = Outcome.load(outcome.folder).facts if known else {}
        self._left = Estimate(measured_s, ["expert", *methods])
        self._n_planned, self._n_done = len(methods) + 1, 0
        self._label = ""
        self._rows = Rows()
        self._last_s = 0.0

    @contextlib.contextmanager
    def step(self, method: str, label: str) -> Iterator[Facts]:
        """Run a step in the body of the `with`; facts written into the dict are shown and kept."""
        self._label = label
        self._rows = Rows()
        self._left.begin(method)
        self._report("")
        started_s = time.monotonic()
        facts: Facts = {}
        yield facts
        wall_s = time.monotonic() - started_s
        self._left.end()
        self._n_done += 1
        spent_s = wall_s + self._earlier.get(label, {}).get("wall_s", 0.0)
        self._outcome.facts[label] = facts | {"wall_s": round(spent_s, 1)}
        self._report(_shown(facts), wall_s)

    def relay(self, report: Report) -> None:
        """Forward a method's report, at most one a second."""
        now_s = time.monotonic()
        text = report.text or self._rows.line(report)
        if report.text or now_s - self._last_s >= 1.0:
            self._last_s = now_s
            self._report(text)

    def _report(self, text: str, wall_s: float | None = None) -> None:
        where = (self._title, self._label, self._n_done, self._n_planned)
        self._on_event(Event(*where, text, wall_s, self._left.seconds()))


def _shown(facts: Facts) -> str:
    """Such as ``n_steps 300, last_loss 0.41, seen 45.0``; scores x 100."""
    shown = []
    for name, value in facts.items():
        if isinstance(value, float):
            is_score = name in ("seen", "unseen", "score", "train")
            value = f"{100 * value:.1f}" if is_score else f"{value:.3g}"
        shown.append(f"{name} {value}")
    return ", ".join(shown)
