"""The progress display: in a terminal, in a log file, and with `quiet`."""

from __future__ import annotations

import dataclasses
import io
import itertools
import sys

import pytest
from rich.console import Console

from eto_agents.console import (
    LINE_EVERY_S,
    Display,
    Episodes,
    Progress,
    Report,
    log,
    prepare_streams,
    relayed,
    report,
    rule,
    show,
    table,
)
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


def play(clock: Clock) -> None:
    show = Episodes(now=clock)
    show(Progress("seen", 1, 5, None, [ended("a", 0.5)]))
    for n, (score, status) in enumerate(
        [(1.0, "completed"), (0.0, "truncated"), (0.0, "agent_error")], start=2
    ):
        clock.now_s += 2.0
        show(Progress("seen", n, 5, ended(f"t{n}", score, status, n_tokens=50)))


def test_a_terminal_shows_every_figure() -> None:
    display, clock, console = make(is_terminal=True)
    with display:
        play(clock)
    text = console.export_text()
    last = " ".join(text[text.rindex("seen") :].split())
    assert "4/5 episodes" in last
    assert "ETA 0:00:02" in last  # 3 episodes in 6 seconds, those of earlier runs not counted
    # Three counted tasks: mean 0.5, standard deviation 0.5.
    assert f"reward 0.500 ± {1.96 * 0.5 / 3**0.5:.3f}" in last
    assert "ep/s 0.5" in last
    assert "tokens/s 25" in last
    assert "agent_error 1, completed 2, truncated 1" in last


def test_a_log_file_gets_a_plain_line_every_20_seconds() -> None:
    display, clock, console = make(is_terminal=False)
    with display:
        play(clock)
        assert console.export_text(clear=False) == ""  # 6 seconds are not long enough
        clock.now_s += LINE_EVERY_S
        display.beat()  # nothing was reported, and a line is due
        show = Episodes(now=clock)
        show(Progress("unseen", 0, 3, None))
        clock.now_s += 1
        show(Progress("unseen", 3, 3, ended("z", 1.0)))
    first, last = console.export_text().splitlines()
    assert first.startswith("seen: 4/5 episodes  reward 0.500")
    assert first.endswith("(agent_error 1, completed 2, truncated 1)  ETA 0:00:09")
    assert last == "unseen: 3/3 episodes  reward 1.000  ep/s 1  (completed 1)"


def test_a_row_that_restarts_has_a_new_clock() -> None:
    display, clock, console = make(is_terminal=False)
    with display:
        report("dpo", 0, 4, "updates")
        clock.now_s += 4
        report("dpo", 4, 4, "updates")
        clock.now_s += 1000
        report("dpo", 0, 4, "updates")
        clock.now_s += LINE_EVERY_S
        report("dpo", 1, 4, "updates", {"loss": "0.5"})
    lines = console.export_text().splitlines()
    assert lines == ["dpo: 4/4 updates", "dpo: 1/4 updates  loss 0.5  ETA 0:01:00"]


def test_logged_lines_are_permanent_and_uneven_units_have_no_eta() -> None:
    display, clock, console = make(is_terminal=False)
    with display:
        display.receive(Report("shop", 0, 7, "stages", is_even=False))
        log("SFT: 3 s")
        clock.now_s += LINE_EVERY_S
        display.receive(Report("shop", 1, 7, "stages", {"": "PPO"}, is_even=False))
    assert console.export_text().splitlines() == ["SFT: 3 s", "shop: 1/7 stages  PPO"]


def test_reports_reach_the_innermost_receiver() -> None:
    seen: list[Report] = []
    display, _, console = make(is_terminal=False)
    report("nobody", 1, 1)
    with display, relayed(seen.append):
        report("sft", 2, 2, "steps", {"loss": "1"})
    assert seen == [Report("sft", 2, 2, "steps", {"loss": "1"})]
    assert console.export_text() == ""


def test_training_uses_the_same_display() -> None:
    for is_terminal in (True, False):
        display, clock, console = make(is_terminal=is_terminal)
        with display:
            for n_done in (10, 50):
                report("sft", n_done, 50, "steps", {"loss": f"{1 / n_done:.3f}"})
                clock.now_s += 1
        assert "sft" in (text := console.export_text())
        assert "50/50 steps" in text
        assert "loss 0.020" in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_shows_nothing(is_terminal: bool) -> None:
    display, clock, console = make(is_terminal=is_terminal, quiet=True)
    with display:
        play(clock)
    assert console.export_text() == ""


def test_the_last_line_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Display():
        Episodes()(Progress("seen", 1, 1, ended("a", 0.25)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("seen: 1/1 episodes  reward 0.250")


def test_names_are_not_interpreted_as_markup() -> None:
    display, _, console = make(is_terminal=True)
    with display:
        report("[bold]x[/nonsense]", 1, 2, figures={"a": "[red]"})
    assert "[bold]x[/nonsense]" in (text := console.export_text())
    assert "a [red]" in text


def test_without_scores_no_reward_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Display():
        show = Episodes(now=lambda: 100.0)
        show(Progress("seen", 1, 1, ended("a", 0.25, "agent_error")))
    assert capsys.readouterr().err == "seen: 1/1 episodes  (agent_error 1)\n"


@pytest.mark.parametrize("is_compact", [False, True])
def test_a_table_shows_texts_as_they_are(is_compact: bool) -> None:
    console = Console(file=io.StringIO(), width=80)
    cells = [("[red]a[/red]", "1.0 [0.5, 1.0]"), ("b [/]", ":smile:")]
    console.print(
        table(
            ("agent [x]", "score"),
            cells,
            title="[bold]title",
            caption="caption [/b]",
            right=("score",),
            is_compact=is_compact,
        )
    )
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("agent [x]", "[bold]title", "caption [/b]", *itertools.chain(*cells)):
        assert text in shown
    lines = [line.rstrip(" │┃") for line in shown.splitlines()]
    ends = [len(line) for line in lines if line.endswith(("score", ":smile:"))]
    assert len(ends) == 2
    assert len(set(ends)) == 1  # aligned right


def test_long_words_are_folded_or_cut_off() -> None:
    console = Console(file=io.StringIO(), width=30)
    console.print(table(("kept", "cut"), [("a" * 60, "b" * 60)], folded=("kept",)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("a") == 60
    assert shown.count("b") < 60
    assert "…" in shown


EVIL = "model[/b] :smile: [red]x[/red] \x1b[31m\x9b2J\a\r a\u202eb \ud800"
SHOWN = "model[/b] :smile: [red]x[/red] �[31m�2J�� a�b �"


def test_names_are_shown_literally(capsys: pytest.CaptureFixture[str]) -> None:
    show(EVIL, f"{EVIL}\nnext", "x" * 300)
    assert capsys.readouterr().out == f"{SHOWN}\n{SHOWN}\nnext\n{'x' * 300}\n"
    shown = table((EVIL,), [(EVIL,)], title=EVIL, caption=EVIL)
    show(shown, rule(EVIL))
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 5
    assert "\x1b" not in out


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_names_literally(is_terminal: bool) -> None:
    display, _, console = make(is_terminal=is_terminal)
    with display:
        report(EVIL, 1, 1, "[b]episodes[/b]", {"[i]": EVIL})
        log(EVIL)
    text = console.export_text()
    assert SHOWN in text
    assert "[b]episodes[/b]" in text
    assert "\x1b[31m" not in text


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "+/- - x ... | ? ?"),
        ("latin-1", "± - × ... | ? ?"),
        ("utf-8", "± – × … │ \ufffd 世"),
    ],
)
def test_a_terminal_without_a_character_shows_another(
    encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    prepare_streams()
    sys.stdout.write("± – × … │ \ud800 世")
    sys.stdout.flush()
    assert written.getvalue().decode(encoding) == expected
