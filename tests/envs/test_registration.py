"""`task_sets` for ids that others register: classes, functions that make an environment, none."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

import eto_envs
from eto_envs.errors import UnknownNameError
from tests.toy import CORRIDOR, CorridorEnv, corridor_tasks


def make_corridor(**kwargs: Any) -> gym.Env[str, str]:
    return eto_envs.ShapeReward(CorridorEnv(**kwargs), ["step_cost"])


@pytest.fixture(params=[CORRIDOR, f"tests.toy:{CORRIDOR}", "eto-test/MadeCorridor-v0"])
def env_id(request: pytest.FixtureRequest) -> str:
    made = "eto-test/MadeCorridor-v0"
    if made not in gym.registry:
        gym.register(made, entry_point=make_corridor)
    return str(request.param)


def test_task_sets(env_id: str) -> None:
    sets = eto_envs.task_sets(env_id, n=3)
    assert list(sets) == ["train", "train_clean", "seen", "unseen", "all", "long"]
    assert type(sets) is dict
    assert sets["long"].ids == corridor_tasks(3, "long").ids


def test_arguments_of_the_registration_count() -> None:
    env_id = "eto-test/TwoCorridors-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point="tests.toy:CorridorEnv", kwargs={"n": 2})
    assert len(eto_envs.task_sets(env_id)["train"]) == 2
    assert len(eto_envs.task_sets(env_id, n=4)["train"]) == 4


def test_unknown_id_or_argument() -> None:
    with pytest.raises(gym.error.NameNotFound, match="ETO-WebShop"):
        eto_envs.task_sets("ETO-WebShp-v0")
    with pytest.raises(TypeError, match="dataset"):
        eto_envs.task_sets(CORRIDOR, "mini")
    with pytest.raises(UnknownNameError, match="goals"):
        eto_envs.task_sets("ETO-WebShop-v0", "mini", goals="humans")


def test_arguments_choose_the_tasks() -> None:
    human = eto_envs.task_sets("ETO-WebShop-v0", "mini")
    synthetic = eto_envs.task_sets("ETO-WebShop-v0", "mini", goals="synthetic")
    assert human["all"].sha256 != synthetic["all"].sha256
    assert "unseen" not in synthetic
    heat = ("pick_heat_then_place_in_recep",)
    kinds = {t.kind for t in eto_envs.task_sets("ETO-ALFWorld-v0", "mini", kinds=heat)["train"]}
    assert kinds == set(heat)
