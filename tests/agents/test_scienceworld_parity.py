"""ScienceWorld through the ways into the worlds that need no other project's package."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eto_agents import ChatEpisode
from eto_agents.bridges.functions import act_in
from eto_agents.bridges.trl import environment_factory
from eto_agents.bridges.verl_agent import WorldEnvironmentManager
from tests.agents.scientist import SCIENCEWORLD, SEEN, TASKS, agent_of, replier_of, score_of

pytestmark = [pytest.mark.java, pytest.mark.slow]


def in_thoughts(task: str) -> float:
    with ChatEpisode(SCIENCEWORLD, task, **SEEN) as episode:
        reply = replier_of(task)
        while not episode.over:
            episode.reply(reply(episode.messages))
    return episode.score


def by_function(task: str) -> float:
    with ChatEpisode(SCIENCEWORLD, task, protocol="tool", **SEEN) as episode:
        act, agent = act_in(episode), agent_of(task)
        text = episode.messages[-1]["content"]
        while not episode.over:
            text = act(agent(text))
    return episode.score


def through_trl(task: str) -> float:
    world = environment_factory(SCIENCEWORLD, **SEEN)()
    text, agent = world.reset(task=task), agent_of(task)
    while not world.episode.over:
        text = world.act(agent(text))
    score = world.get_reward()
    assert score is not None
    return score


def through_verl_agent(task: str) -> float:
    manager = WorldEnvironmentManager(SCIENCEWORLD, n_tasks=1, **SEEN)
    read, _ = manager.reset(kwargs=[{"task": task}])
    reply, total, done = replier_of(task), 0.0, False
    while not done:
        read, rewards, dones, _ = manager.step([reply(read)])
        total, done = total + float(rewards[0]), bool(dones[0])
    manager.close()
    return total


@pytest.mark.parametrize(
    "score_through", [in_thoughts, by_function, through_trl, through_verl_agent]
)
def test_the_scores_are_those_of_evaluate(score_through: Callable[[str], float]) -> None:
    for task in TASKS:
        assert score_through(task) == pytest.approx(score_of(task))
