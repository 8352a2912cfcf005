"""Worlds are found by the name that the environment states, never guessed from a task id."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest

from eto_agents.best_of_n import outcome
from eto_agents.evaluation.failures import failures
from eto_agents.formats.chats import chat_of
from eto_agents.formats.sft import read_eto_sft, write_eto_sft
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.narrated import NarratedPolicy
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.parse import DEFAULT_FORMAT
from eto_agents.react.prompts import load_prompts, prompt_key_of
from eto_agents.rollout import run_episode
from eto_agents.trajectory import Trajectory
from eto_agents.worlds import Failure, World, all_worlds, base, find_world
from eto_agents.worlds.narrator import Narrator, Style
from eto_envs.errors import BackendError, UnknownNameError
from eto_envs.tasks import Task, TaskSet
from eto_envs.vector import TextVectorEnv
from tests.toy import CorridorEnv

DIAL = "eto-test/Dial-v0"


class DialEnv(CorridorEnv):
    """The corridor as a world of its own, with task ids like WebShop's: digits."""

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
    assert prompt_key_of(played) == "dial"
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
def test_an_undescribed_world_does_not_get_webshops_description(policy: Any) -> None:
    episode = run_episode(policy, DIAL, "2")
    assert episode.status == "agent_error"
    assert "world 'dial'" in episode.error.splitlines()[0]


def test_a_prompt_is_found_by_the_world(tmp_path: Path) -> None:
    path = tmp_path / "dial.toml"
    path.write_text('world = "dial"\ninstruction = "Go east."\n', encoding="utf-8")
    model = ScriptedModel(lambda chat: "Action: east")
    assert run_episode(ReActPolicy(model, prompts=str(path)), DIAL, "2").score == 1.0
    assert model.requests[0][0]["content"] == "Go east."


def test_purchases_are_recognised_in_webshop_only(played: Trajectory) -> None:
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


class Dial(World):
    """A third party's description, with a prompt next to its module (tests/agents/worlds)."""

    name = "dial"
    title = "The Dial"
    env_id = DIAL
    variants = ("dial",)
    columns: ClassVar = {}
    failure_rules: ClassVar = {"lost": ("lost", "The walker did not arrive.")}

    @property
    def flaws(self) -> type[Any]:
        return Dizzy

    def narrator(self, style: Style, rng: random.Random) -> Narrator:
        return Guide(style, rng)

    def outcome(self, trajectory: Trajectory) -> int:
        return len(trajectory.steps)

    def failures(self, trajectory: Trajectory) -> list[Failure]:
        return [Failure("lost", f"after {len(trajectory.steps)} steps")]


@dataclasses.dataclass
class Dizzy:
    """Walks west now and then."""

    rng: random.Random
    west: float = 1.0

    def choose(self, observation: str, info: Any) -> str:
        return "west" if self.rng.random() < self.west else "east"


class Guide(Narrator):
    def see(self, observation: str, action: str) -> None:
        pass

    def full(self, action: str) -> str:
        return f"The way leads {action}."

    def brief(self, action: str) -> str:
        return action


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = EntryPoint("dial", f"{__name__}:Dial", base.ENTRY_POINT_GROUP)
    monkeypatch.setattr(base, "entry_points", lambda group: [entry])
    base._targets.cache_clear()
    yield
    base._targets.cache_clear()


@pytest.mark.usefixtures("described")
def test_an_entry_point_describes_a_world() -> None:
    assert [world.name for world in all_worlds()] == [*base.WORLDS, "dial"]
    assert base.title_of(DIAL) == "The Dial"
    narrated = run_episode(NarratedPolicy("expert"), DIAL, "2")
    expected = ["Thought: The way leads east.\nAction: east"] * 2
    assert [step.text for step in narrated.steps] == expected
    lost = run_episode("sloppy-expert", DIAL, "2")
    assert lost.status == "truncated"
    assert failures(lost)[0] == Failure("lost", f"after {len(lost.steps)} steps")
    assert outcome(lost) == len(lost.steps)


@pytest.mark.usefixtures("described")
def test_a_described_world_provides_its_prompt() -> None:
    assert "dial" not in load_prompts()  # a plug-in must not change other worlds' provenance
    model = ScriptedModel(lambda chat: f"Action: {'east' if 'dial' in chat[0]['content'] else ''}")
    episode = run_episode(ReActPolicy(model), DIAL, "2")
    assert episode.success


def test_a_world_without_a_description_has_defaults() -> None:
    world = find_world("nowhere")
    assert (world.name, world.format, world.flaws) == ("", DEFAULT_FORMAT, None)
    assert find_world("alfworld-2.1.2").name == "alfworld"
    with pytest.raises(UnknownNameError, match=r"no world 'alfword'.*'alfworld'"):
        base.known_world("alfword")


def test_entry_points_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(base, "entry_points", lambda group: calls.append(group) or [])
    base._targets.cache_clear()
    for _ in range(3):
        find_world("webshop")
    base._targets.cache_clear()
    assert calls == [base.ENTRY_POINT_GROUP]
