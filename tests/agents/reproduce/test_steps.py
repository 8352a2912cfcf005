"""The progress of a run's steps."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from eto_agents.console import Report
from eto_agents.reproduce.outcome import Outcome
from eto_agents.reproduce.steps import Event, Steps


def test_work_under_way_says_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=2.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    events: list[Event] = []
    steps = Steps(Outcome("webshop", 0, tmp_path), ["sft"], {}, events.append)
    with steps.step("sft", "SFT"):
        for n_done in (0, 1, 2):
            steps.relay(Report("sft", n_done, 100, "steps", {"loss": "0.5"}))
    texts = [event.text for event in events]
    assert texts[1] == "sft: 0/100 steps  loss 0.5"
    assert texts[2].startswith("sft: 1/100 steps  loss 0.5  ETA 0:")
    assert events[2].left_s is None  # of the whole run, which was not measured
