"""A world is what its environment states: nothing is guessed from the form of a task's id."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from eto_agents.evaluation.failures import failures
from eto_agents.formats.chats import chat_of
from eto_agents.formats.sft import read_eto_sft, write_eto_sft
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.narrated import NarratedPolicy
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.prompts import load_prompts, world_of_trajectory
from eto_agents.rollout import run_episode
from eto_agents.trajectory import Trajectory
from eto_envs.errors import BackendError, UnknownNameError
from eto_envs.tasks import Task, TaskSet
from eto_envs.vector import TextVectorEnv
from tests.toy import CorridorEnv

DIAL = "eto-test/Dial-v0"


class DialEnv(CorridorEnv):
    """The corridor under a name of its own, with WebShop's form of task ids: digits."""

    world = "dial"
    revealable = (*CorridorEnv.revealable, "expert_plan")

    def __init__(self, split: str = "train", *, fails: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._fails = fails

        def make_task(task_id: str) -> Task:
            return Task(id=task_id, goal="walk", max_steps=4, data={"length": int(task_id)})

        self.tasks = TaskSet(["2", "3"], make_task, split=split, dataset="dial")

    def _start(self, task: Task) -> str:
        if self._fails:
            raise BackendError("no dial")
        return super()._start(task)

    def _reveal(self, name: str) -> Any:
        return ["east"] if name == "expert_plan" else super()._reveal(name)


def dial_vector_env(**kwargs: Any) -> TextVectorEnv:
    return TextVectorEnv(DialEnv, **kwargs)


gym.register(DIAL, DialEnv, vector_entry_point=dial_vector_env)


@pytest.fixture(scope="module")
def played() -> Trajectory:
    return run_episode("expert", DIAL, "3")


def test_a_trajectory_has_the_stated_world(played: Trajectory) -> None:
    assert (played.task_id, played.world, played.score) == ("3", "dial", 1.0)
    assert world_of_trajectory(played) == "dial"
    env = gym.make(DIAL)
    _, info = env.reset(seed=0)
    assert info["world"] == env.unwrapped.world == "dial"  # type: ignore[attr-defined]
    assert env.step("east")[4]["world"] == "dial"


def test_a_failed_start_is_recorded_with_its_world() -> None:
    episode = run_episode("random", DIAL, "2", fails=True)
    assert (episode.status, episode.world) == ("env_error", "dial")


@pytest.mark.parametrize(
    "policy",
    [NarratedPolicy("expert"), "sloppy-expert", ReActPolicy(ScriptedModel(lambda chat: "east"))],
)
def test_what_webshop_has_is_not_taken_for_it(policy: Any) -> None:
    episode = run_episode(policy, DIAL, "2")
    assert episode.status == "agent_error"
    assert "world 'dial'" in episode.error.splitlines()[0]


def test_a_prompt_is_found_by_the_world(tmp_path: Path) -> None:
    path = tmp_path / "dial.toml"
    path.write_text('world = "dial"\ninstruction = "Go east."\n', encoding="utf-8")
    model = ScriptedModel(lambda chat: "Action: east")
    assert run_episode(ReActPolicy(model, prompts=str(path)), DIAL, "2").score == 1.0
    assert model.requests[0][0]["content"] == "Go east."


def test_a_purchase_is_one_in_webshop_only(played: Trajectory) -> None:
    thanks = dataclasses.replace(played.steps[-1], observation="Thank you for shopping with us!")
    sold = dataclasses.replace(played, steps=[thanks], score=0.5, success=False)
    assert failures(sold)[0].kind == "task_failed"
    assert failures(dataclasses.replace(sold, world="webshop"))[0].kind == "wrong_purchase"


def test_an_exported_episode_keeps_its_world(played: Trajectory, tmp_path: Path) -> None:
    path = tmp_path / "dial_sft.json"
    chat = chat_of(played, load_prompts("brief")["webshop"])
    assert write_eto_sft(path, [chat]) == 1
    with pytest.raises(UnknownNameError, match="'dial'"):
        read_eto_sft(path)
