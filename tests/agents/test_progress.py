"""The display: what it says of a run, on a terminal, in a log, and when it is to be quiet."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from eto_agents.evaluation.harness import Progress
from eto_agents.progress import LINE_EVERY_S, Display, Episodes
from eto_agents.trajectory import Trajectory
from tests.agents.test_trajectory import episode


class Clock:
    """A clock that is set by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def ended(task: str, score: float, status: str = "completed", n_tokens: int = 0) -> Trajectory:
    trajectory = episode(task)
    step = dataclasses.replace(trajectory.steps[0], usage={"completion_tokens": n_tokens})
    return dataclasses.replace(trajectory, score=score, status=status, steps=[step])  # type: ignore[arg-type]


def make(*, is_terminal: bool, quiet: bool = False) -> tuple[Display, Clock, Console]:
    clock = Clock()
    console = Console(
        file=io.StringIO(), force_terminal=is_terminal, width=100, record=True, color_system=None
    )
    return Display(quiet, console, clock), clock, console


def play(display: Display, clock: Clock) -> None:
    show = Episodes(display)
    show(Progress("seen", 1, 5, None, [ended("a", 0.5)]))
    for n, (score, status) in enumerate(
        [(1.0, "completed"), (0.0, "truncated"), (0.0, "agent_error")], start=2
    ):
        clock.now_s += 2.0
        show(Progress("seen", n, 5, ended(f"t{n}", score, status, n_tokens=50)))


def test_a_terminal_shows_everything_at_once() -> None:
    display, clock, console = make(is_terminal=True)
    with display:
        play(display, clock)
    text = console.export_text()
    last = text[text.rindex("seen") :]
    assert "4/5 episodes" in last
    assert "ETA 0:00:02" in last  # 3 episodes in 6 seconds, those of earlier runs not counted
    # Three counted tasks: mean 0.5, standard deviation 0.5.
    assert f"reward 0.500 ± {1.96 * 0.5 / 3**0.5:.3f}" in last
    assert "ep/s 0.5" in last
    assert "tokens/s 25" in last
    assert "agent_error 1, completed 2, truncated 1" in last


def test_a_log_gets_plain_lines_now_and_then() -> None:
    display, clock, console = make(is_terminal=False)
    with display:
        play(display, clock)
        assert console.export_text(clear=False) == ""  # 6 seconds are not long enough
        clock.now_s += LINE_EVERY_S
        Episodes(display)(Progress("unseen", 0, 3, None))
        clock.now_s += 1
        Episodes(display)(Progress("unseen", 3, 3, ended("z", 1.0)))
    first, last = console.export_text().splitlines()
    assert first == "unseen: 0/3 episodes ETA –"
    assert last == "unseen: 3/3 episodes reward 1.000 ep/s 1 (completed 1)"


def test_training_uses_the_same_display() -> None:
    for is_terminal in (True, False):
        display, clock, console = make(is_terminal=is_terminal)
        with display:
            for n_done in (10, 50):
                display.update("sft", n_done, 50, {"loss": f"{1 / n_done:.3f}"}, unit="steps")
                clock.now_s += 1
        assert "sft" in (text := console.export_text())
        assert "50/50 steps" in text
        assert "loss 0.020" in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_is_quiet(is_terminal: bool) -> None:
    display, clock, console = make(is_terminal=is_terminal, quiet=True)
    with display:
        play(display, clock)
    assert console.export_text() == ""


def test_the_last_line_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        Episodes(display)(Progress("seen", 1, 1, ended("a", 0.25)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("seen: 1/1 episodes reward 0.250")


def test_names_do_not_become_markup() -> None:
    display, _, console = make(is_terminal=True)
    with display:
        display.update("[bold]x[/nonsense]", 1, 2, {"a": "[red]"})
    assert "[bold]x[/nonsense]" in (text := console.export_text())
    assert "a [red]" in text


def test_nothing_counted_yet(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        Episodes(display)(Progress("seen", 1, 1, ended("a", 0.25, "agent_error")))
    assert capsys.readouterr().err == "seen: 1/1 episodes (agent_error 1)\n"
