"""A live episode: the record that it leaves, and the conversation in it."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from eto_agents.live_episode import Job, LiveEpisode, checked_decision, messages_of
from eto_agents.policy import Decision
from eto_agents.rollout import run_episode
from eto_agents.trajectory import Message, Trajectory
from tests.toy import CORRIDOR, CorridorEnv


def live(task: str, **env_args: Any) -> LiveEpisode:
    env = CorridorEnv(**env_args)
    episode = LiveEpisode(env, Job(env.tasks.find(task), 4), env_id=CORRIDOR, policy="expert")
    episode.begin()
    return episode


@pytest.mark.parametrize(("max_steps", "status"), [(9, "completed"), (2, "truncated")])
def test_an_episode_played_by_hand_leaves_the_record_of_a_rollout(
    max_steps: int, status: str
) -> None:
    episode = live("room3", max_steps=max_steps)
    while episode.advance(checked_decision(Decision("east"))):
        assert episode.status is None
    assert episode.status == status
    trajectory = episode.end([])
    expected = run_episode("expert", CORRIDOR, "room3", seed=4, max_steps=max_steps)
    assert untimed(trajectory) == untimed(expected)


def untimed(trajectory: Trajectory) -> Trajectory:
    steps = [dataclasses.replace(step, latency_s=0.0) for step in trajectory.steps]
    return dataclasses.replace(trajectory, steps=steps, wall_s=0.0)


def test_a_decision_with_an_error_ends_the_episode_without_a_step() -> None:
    episode = live("room3")
    assert episode.advance(Decision("east"))
    assert not episode.advance(Decision("", error="the server is down"))
    trajectory = episode.end([])
    assert (trajectory.status, trajectory.error) == ("agent_error", "the server is down")
    assert len(trajectory.steps) == 1
    assert trajectory.score == pytest.approx(1 / 3)


def test_an_episode_that_goes_on_ends_only_with_a_status() -> None:
    episode = live("room3")
    with pytest.raises(ValueError, match="the episode goes on"):
        episode.end([])
    assert episode.end([], "cancelled").status == "cancelled"


class Talks:
    """A policy with a given conversation."""

    def __init__(self, conversation: Any) -> None:
        self._conversation = conversation

    def reset(self, slots: Any, tasks: Any, seeds: Any) -> None: ...

    def act(self, slots: Any, observations: Any, infos: Any) -> Any: ...

    def conversation(self, slot: int) -> Any:
        return self._conversation


def test_tool_calls_are_recorded() -> None:
    call = {"id": "call-1", "type": "function", "index": 0}
    function = {"name": "act", "arguments": '{"action": "east"}'}
    said: list[Any] = [
        {"role": "user", "content": "Go.", "name": "task"},
        {"role": "assistant", "content": None, "tool_calls": [{**call, "function": function}]},
        {"role": "tool", "content": "You are in room 2.", "tool_call_id": "call-1"},
        {"role": "assistant", "content": "Done.", "tool_calls": None},
    ]
    expected: list[Message] = [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call-1",
                    "type": "function",
                    "function": {"name": "act", "arguments": '{"action": "east"}'},
                }
            ],
        },
        {"role": "tool", "content": "You are in room 2.", "tool_call_id": "call-1"},
        {"role": "assistant", "content": "Done."},
    ]
    messages = messages_of(Talks(said), 0)
    assert messages == expected
    episode = live("room2")
    trajectory = episode.end(messages, "cancelled")
    assert Trajectory.from_json(trajectory.to_json()).messages == expected


@pytest.mark.parametrize(
    "message",
    [{"role": "user"}, "text", {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}],
)
def test_a_malformed_conversation_is_left_out_with_a_warning(
    message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert messages_of(Talks([message]), 0) == []
    assert "the policy's conversation cannot be recorded" in caplog.text
