"""The sloppy expert: seeded, mostly good, with flaws of every kind."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from eto_agents.policies.sloppy import SloppyExpertPolicy
from eto_agents.policy import as_policy, load_policy
from eto_agents.rollout import Rollouts, jobs_of, make_batch
from eto_agents.trajectory import Trajectory
from eto_envs.tasks import Task

WEBSHOP, ALFWORLD, SCIENCEWORLD = "ETO-WebShop-v0", "ETO-ALFWorld-v0", "ETO-ScienceWorld-v0"


def play(env_id: str, n_tasks: int, n_envs: int = 32, **kwargs: Any) -> list[Trajectory]:
    rates = kwargs.pop("rates", {})
    policy = load_policy("sloppy-expert", **rates)
    arguments = {"dataset": "1.2.3" if env_id == SCIENCEWORLD else "mini"} | kwargs
    env = make_batch(env_id, policy, n_envs, arguments)
    try:
        tasks = [env.envs[0].tasks[i] for i in range(n_tasks)]
        played = list(Rollouts(policy, env, jobs_of(tasks, (0,))))
    finally:
        env.close()
    assert {t.status for t in played} <= {"completed", "truncated"}
    return sorted(played, key=lambda t: t.key)


def actions(trajectories: list[Trajectory]) -> list[list[str]]:
    return [[step.action for step in t.steps] for t in trajectories]


def mean(trajectories: list[Trajectory]) -> float:
    return sum(t.score for t in trajectories) / len(trajectories)


def test_it_scores_like_people_in_webshop() -> None:
    played = play(WEBSHOP, 300)
    assert 0.75 <= mean(played) <= 0.88
    low = sum(t.score < 0.5 for t in played)
    assert 0 < low < 30
    assert sum(t.score == 1.0 for t in played) > 90
    assert all(step.is_valid for t in played for step in t.steps)
    clicked = Counter(a for episode in actions(played) for a in episode)
    assert clicked["click[< prev]"] > 10
    assert clicked["click[description]"] > 0


def test_it_wanders_in_alfworld() -> None:
    played = play(ALFWORLD, 150)
    assert 0.85 <= mean(played) < 1.0
    perfect = play(ALFWORLD, 150, rates=dict.fromkeys(("detour", "look", "wrong_thing"), 0.0))
    assert sum(map(len, actions(played))) > 1.15 * sum(map(len, actions(perfect)))
    assert all(step.is_valid for t in played for step in t.steps)
    put_back = 0
    for episode in actions(played):
        for taken, put in itertools.pairwise(episode):
            thing, _, place = taken.removeprefix("take ").partition(" from ")
            put_back += put == f"put {thing} in/on {place}"
    assert put_back > 5
    revisits = sum(len(w) - len(set(w)) for w in map(_walks, actions(played)))
    assert revisits > 20


def _walks(episode: list[str]) -> list[str]:
    return [action for action in episode if action.startswith("go to ")]


@pytest.mark.parametrize("env_id", [WEBSHOP, ALFWORLD])
def test_the_flaws_depend_on_the_seed_only(env_id: str) -> None:
    first = actions(play(env_id, 40))
    assert first == actions(play(env_id, 40, n_envs=3))
    policy = load_policy("sloppy-expert")
    env = make_batch(env_id, policy, 8, {"dataset": "mini"})
    tasks = [env.envs[0].tasks[i] for i in range(40)]
    other = sorted(Rollouts(policy, env, jobs_of(tasks, (1,))), key=lambda t: t.key)
    assert first != actions(other)


@pytest.mark.parametrize("env_id", [WEBSHOP, ALFWORLD])
def test_without_flaws_it_is_the_expert(env_id: str) -> None:
    flaws = SloppyExpertPolicy().provenance["flaws"]
    rates = {name: 0.0 for habits in flaws.values() for name in habits}
    assert mean(play(env_id, 30, rates=rates)) == 1.0


@pytest.mark.java
def test_it_makes_mistakes_in_scienceworld() -> None:
    choice = {"split": "seen", "max_steps": None}
    kinds = ("find-animal", "lifespan-longest-lived", "use-thermometer", "power-component")
    policy = load_policy("sloppy-expert", look=0.2, wrong_room=0.3, skip=0.1, wrong_choice=0.15)
    runs = []
    for n_envs in (4, 1):
        env = make_batch(SCIENCEWORLD, policy, n_envs, {"dataset": "1.2.3", **choice})
        ids = [i for kind in kinds for i in env.envs[0].tasks.ids if i.startswith(f"{kind}/")]
        first = [i for kind in kinds for i in [j for j in ids if j.startswith(f"{kind}/")][:4]]
        tasks = [env.envs[0].tasks.find(i) for i in first]
        played = list(Rollouts(policy, env, jobs_of(tasks, (0,))))
        runs.append(sorted(played, key=lambda t: t.key))
        env.close()
    assert actions(runs[0]) == actions(runs[1])
    assert {t.status for t in runs[0]} <= {"completed", "truncated"}
    assert 0.5 <= mean(runs[0]) <= 1.0
    done = [action for episode in actions(runs[0]) for action in episode]
    assert any(action.startswith(("look", "examine", "inventory")) for action in done)


def test_unknown_rates_and_worlds() -> None:
    with pytest.raises(TypeError, match="there is no flaw 'skp'"):
        load_policy("sloppy-expert", skp=0.1)
    policy = as_policy(SloppyExpertPolicy)
    policy.reset([0], [Task("room1", "goal", 5)], [0])
    [decision] = policy.act([0], [""], [{"world": "corridor"}])
    assert "no flaws for world 'corridor'" in decision.error
