"""`check_text_env` passes what keeps the contract and names the rule that is broken."""

from __future__ import annotations

from typing import Any

import pytest

from eto_envs.core import Advance
from eto_envs.shaping import Info
from eto_envs.testing import ConformanceError, check_text_env
from tests.toy import CorridorEnv, corridor_tasks


def test_a_good_environment_passes() -> None:
    check_text_env(lambda: CorridorEnv(reveal=("admissible_actions",)))
    check_text_env(lambda: CorridorEnv(shaping=("repeat=0.1", "potential=0.9")))


class ScoreAboveOne(CorridorEnv):
    def _advance(self, action: str) -> Advance:
        return super()._advance(action)._replace(score=2.0)


class ForgetsState(CorridorEnv):
    def _world_state(self) -> Any:
        return (0, 0)


class Undetermined(CorridorEnv):
    n_made = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        Undetermined.n_made += 1
        self._number = Undetermined.n_made

    def _advance(self, action: str) -> Advance:
        advance = super()._advance(action)
        return advance._replace(observation=f"{advance.observation} ({self._number})")


class ChangesKeys(CorridorEnv):
    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"extra": 1}


class SwallowsBadActions(CorridorEnv):
    def step(self, action: Any) -> tuple[str, float, bool, bool, Info]:
        return super().step(str(action))


class HiddenBonus(CorridorEnv):
    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + 1.0, terminated, truncated, info


class Nameless(CorridorEnv):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.world = ""


class OtherWorld(CorridorEnv):
    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = super().reset(**kwargs)
        return observation, info | {"world": "another"}


class IgnoresSplits(CorridorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, Info]:
        options = {key: value for key, value in (options or {}).items() if key != "split"}
        return super().reset(seed=seed, options=options)


class KeepsTheSplit(CorridorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, Info]:
        result = super().reset(seed=seed, options=options)
        if options and "split" in options:
            self.tasks = self.find_tasks(options["split"])
        return result


class SeedsBeforeItRefuses(CorridorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, Info]:
        if seed is not None:
            super().reset(seed=seed)
        return super().reset(seed=seed, options=options)


class OtherTasks(CorridorEnv):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = corridor_tasks(2)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (ScoreAboveOne, r"score must be in \[0, 1\]"),
        (ForgetsState, "after restore"),
        (Undetermined, "same seed"),
        (ChangesKeys, "same keys"),
        (SwallowsBadActions, "ActionTypeError"),
        (HiddenBonus, "task_reward plus"),
        (Nameless, "world must be a name"),
        (OtherWorld, "must be the environment's world"),
        (OtherTasks, "must be one of env.unwrapped.task_sets"),
        (IgnoresSplits, "must draw from that split|must have the split chosen"),
        (KeepsTheSplit, "must apply to one episode only"),
        (SeedsBeforeItRefuses, "must not change the episode or the generator"),
    ],
)
def test_a_broken_rule_is_named(broken: type[CorridorEnv], rule: str) -> None:
    with pytest.raises(ConformanceError, match=rule):
        check_text_env(lambda: broken(reveal=("admissible_actions",)))


def test_a_class_without_a_world_cannot_be_made() -> None:
    class Unnamed(CorridorEnv):
        world = ""

    with pytest.raises(TypeError, match="Unnamed has no world"):
        Unnamed()
