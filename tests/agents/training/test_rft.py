"""RFT: what is kept of what was explored; the whole of it is run by tests/baselines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eto_agents.settings import SettingsError
from eto_agents.training.rft import RFTSettings, successes
from tests.agents.training.episodes import episode


def test_successes_are_kept_once_and_only_what_the_expert_did_not_do() -> None:
    expert = [episode(0)]
    new = replace(episode(0, n_steps=3), policy="agent")
    shouted = replace(new, seed=1, steps=[replace(s, action=s.action.upper()) for s in new.steps])
    elsewhere = episode(1)
    explored = [
        episode(0),  # as the expert
        episode(0, n_steps=4, score=0.5),
        episode(0, n_steps=5, status="agent_error"),
        new,
        shouted,  # the same actions to a world that does not mind upper case
        elsewhere,
    ]
    assert successes(explored, expert) == [new, elsewhere]
    assert len(successes(explored, expert, min_score=0.5)) == 3
    assert successes([], expert) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_samples": 0}, "n_samples must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"min_sampled_score": 2.0}, "not in"),
        ({"epochs": -1.0}, "epochs must be positive"),
    ],
)
def test_settings_are_checked(changed: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RFTSettings(data=(Path("x"),), **changed)  # type: ignore[arg-type]
