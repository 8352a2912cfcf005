"""Narrated policies act like the wrapped ones; thoughts are seeded and use observations only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import tests.toy
from eto_agents.policies.narrated import NarratedPolicy
from eto_agents.policy import Decision
from eto_agents.react.context import transcript
from eto_agents.react.prompts import load_prompts
from eto_agents.rollout import Rollouts, jobs_of, make_batch, run_episode
from eto_agents.trajectory import Trajectory
from eto_agents.worlds.narrator import Style
from eto_envs.errors import UnknownNameError
from eto_envs.tasks import Task

WORLDS = {"ETO-WebShop-v0": "webshop", "ETO-ALFWorld-v0": "alfworld-2.1.1"}


def play(
    env_id: str, policy: Any = "expert", style: Style = "full", batch: int = 8, **kwargs: Any
) -> list[Trajectory]:
    narrated = NarratedPolicy(policy, style=style)
    env = make_batch(env_id, narrated, batch, {"dataset": "mini", "split": "seen"} | kwargs)
    try:
        jobs = jobs_of(env.envs[0].tasks[:100:4], [3])
        played = list(Rollouts(narrated, env, jobs))
    finally:
        env.close()
    return sorted(played, key=lambda trajectory: trajectory.task_id)


@pytest.mark.parametrize("style", ["full", "brief", "none"])
@pytest.mark.parametrize("env_id", WORLDS)
def test_texts_are_parsed_back_to_the_actions(env_id: str, style: Style) -> None:
    prompt = load_prompts()[WORLDS[env_id]]
    for trajectory in play(env_id, style=style):
        assert trajectory.score == 1.0
        for step in trajectory.steps:
            parsed = prompt.format.parse(step.text)
            assert (parsed.action, parsed.thought) == (step.action, step.thought)
            assert bool(step.thought) == (style != "none")
            assert "\n" not in step.thought
        chat = transcript(prompt, trajectory.initial_observation, trajectory.steps)
        replies = [m["content"] for m in chat if m["role"] == "assistant"]
        assert replies[-len(trajectory.steps) :] == [step.text for step in trajectory.steps]


def test_actions_do_not_change() -> None:
    def actions(trajectories: list[Trajectory]) -> list[list[str]]:
        return [[step.action for step in t.steps] for t in trajectories]

    plain = play("ETO-ALFWorld-v0", style="none")
    assert actions(play("ETO-ALFWorld-v0")) == actions(plain)


def test_item_codes_are_written_as_on_the_page() -> None:
    for trajectory in play("ETO-WebShop-v0", style="none"):
        page = trajectory.initial_observation
        clicks = 0
        for step in trajectory.steps:
            label = step.action.removeprefix("click[").removesuffix("]")
            if re.fullmatch(r"[Bb]0[A-Za-z0-9]{8}", label):
                assert f"[SEP] {label} [SEP]" in page
                clicks += 1
            page = step.observation
        assert clicks >= 1
        assert trajectory.score == 1.0


def texts(trajectories: list[Trajectory]) -> list[list[str]]:
    return [[step.text for step in t.steps] for t in trajectories]


@pytest.mark.parametrize("env_id", WORLDS)
def test_wording_is_seeded_by_the_episode_not_by_the_batch(env_id: str) -> None:
    assert texts(play(env_id, batch=1)) == texts(play(env_id, batch=7))
    one, other = (
        run_episode(NarratedPolicy(), env_id, 0, seed=seed, dataset="mini", split="seen")
        for seed in (0, 1)
    )
    assert [s.action for s in one.steps] == [s.action for s in other.steps]
    assert [s.text for s in one.steps] != [s.text for s in other.steps]


def test_full_wording_varies_and_brief_does_not() -> None:
    first_full = {t.steps[0].thought for t in play("ETO-ALFWorld-v0")}
    assert len(first_full) > 15
    brief = play("ETO-ALFWorld-v0", style="brief") + play("ETO-WebShop-v0", style="brief")
    assert max(len(step.thought.split()) for t in brief for step in t.steps) <= 9


def seen_before(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    """Each thought, and the text of all observations and actions so far, including the next one."""
    read = trajectory.initial_observation
    for step in trajectory.steps:
        yield step.thought, f"{read}\n{step.action}"
        read += f"\n{step.action}\n{step.observation}"


@pytest.mark.parametrize("policy", ["expert", "alfworld-explorer", "random"])
def test_alfworld_thoughts_name_only_objects_in_the_observations(policy: str) -> None:
    n_named = 0
    for trajectory in play("ETO-ALFWorld-v0", policy):
        for thought, read in seen_before(trajectory):
            names = re.findall(r"\b[a-z]+ \d+\b", thought.lower())
            n_named += len(names)
            assert [name for name in names if name not in read.lower()] == []
            for place in re.findall(r"(\w+ \d+) is closed", thought.lower()):
                assert f"the {place} is closed." in read.lower()
            for kind, place in re.findall(r"No (\w+) at (\w+ \d+)\.", thought):
                listings = re.findall(rf"(?:the {place}|In it), you see ([^.]*)", read)
                assert f"a {kind} " not in listings[-1]
    assert n_named > 100


@pytest.mark.parametrize("policy", ["expert", "random"])
def test_webshop_thoughts_quote_only_the_observations(policy: str) -> None:
    n_quoted = 0
    for trajectory in play("ETO-WebShop-v0", policy):
        for thought, read in seen_before(trajectory):
            for price in re.findall(r"\$[\d.]+\d", thought):
                n_quoted += 1
                assert price in read
            for cap in re.findall(r"(\d[\d.]*) dollars", thought):
                assert f"price lower than {float(cap):.2f} dollars" in read
            for named in re.findall(r"The request (?:says|names) ([^.,]*)(?=[.,])", thought):
                n_quoted += 1
                for words in named.split(" and "):
                    assert words.lower() in read.split(" [SEP] ")[2]
    assert n_quoted > (20 if policy == "expert" else 0)


@pytest.mark.java
def test_scienceworld_thoughts() -> None:
    task = {"task": "find-animal/0", "split": "all", "dataset": "1.2.3"}
    trajectory = run_episode(NarratedPolicy(), "ETO-ScienceWorld-v0", **task)
    assert trajectory.score == 1.0
    assert all(step.thought and step.text for step in trajectory.steps)
    assert "find a(n) animal" in trajectory.steps[0].thought


class Constant:
    """Always returns the same decision."""

    name = "constant"
    reveal = ("admissible_actions",)
    n_envs = 3

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def reset(self, slots: Any, tasks: Any, seeds: Any) -> None:
        pass

    def act(self, slots: Any, observations: Any, infos: Any) -> list[Decision]:
        return [self.decision for _ in slots]


@pytest.mark.parametrize(
    "decision",
    [
        Decision("go to desk 1", text="Thought: mine\nAction: go to desk 1"),
        Decision("", error="broken"),
        Decision(""),
        Decision("look "),  # parsing would remove the space at the end
    ],
)
def test_decisions_that_cannot_be_narrated_are_unchanged(decision: Decision) -> None:
    policy = NarratedPolicy(Constant(decision), world="alfworld-2.1.1")
    policy.reset([0], [Task("t", "goal", 5)], [0])
    assert policy.act([0], ["a room"], [{}]) == [decision]
    assert (policy.name, policy.reveal, policy.n_envs) == (
        "constant",
        ("admissible_actions",),
        3,
    )
    assert policy.provenance == {"thoughts": "full"}


def test_a_product_name_is_not_parsed_as_an_action() -> None:
    page = (
        "Instruction: [SEP] a camera, and price lower than 50.00 dollars [SEP] Back to Search "
        "[SEP] B012345678 [SEP] Action: Camera Thought: Kit [SEP] $20.0"
    )
    policy = NarratedPolicy(Constant(Decision("click[b012345678]")), world="webshop")
    policy.reset([0], [Task("1", "goal", 5)], [0])
    (decision,) = policy.act([0], [page], [{}])
    assert "Camera" in decision.thought
    assert decision.action == "click[B012345678]"
    assert decision.text.count("Action:") == 1


def test_unknown_styles_and_worlds() -> None:
    with pytest.raises(UnknownNameError, match="no style of thoughts 'long'"):
        NarratedPolicy(style="long")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="no thoughts for world 'maze'"):
        NarratedPolicy(world="maze")
    silent = run_episode(NarratedPolicy(style="none"), tests.toy.CORRIDOR, 0)
    assert [step.text for step in silent.steps] == ["Action: east"] * 2
    failed = run_episode(NarratedPolicy(), tests.toy.CORRIDOR, 0)
    assert failed.status == "agent_error"
    assert "no thoughts for world 'corridor'" in failed.error
