"""SkyRL-gym's environments: the scores of `evaluate`, and what goes wrong."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skyrl_gym

from eto_agents.bridges.rows import task_rows
from eto_envs.errors import BackendError, UnknownNameError
from tests import test_docs
from tests.agents import scientist, shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
OF_TOYS = {"prompts": "brief", "world": "webshop"}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    skyrl_gym.register("eto", entry_point="eto_agents.bridges.skyrl:WorldTextEnv")
    yield
    skyrl_gym.envs.registration.registry.pop("eto")


def play(row: dict[str, Any], agent: Callable[[Any], str]) -> tuple[float, dict[str, Any]]:
    """What SkyRL's generator does: the sum of rewards, and the metrics."""
    extras = {name: value for name, value in row.items() if name != "prompt"}
    env = skyrl_gym.make("eto", env_config={}, extras={**extras, "max_turns": 1})
    chat, _ = env.init(row["prompt"])
    total, done = 0.0, False
    while not done:
        output = env.step(reply := agent(chat))
        chat = [*chat, {"role": "assistant", "content": reply}, *output["observations"]]
        total += output["reward"]
        done = output["done"]
    assert env.turns == env.get_metrics()["n_steps"] == output["metadata"]["n_steps"]
    assert chat[-1]["role"] == "assistant"
    env.close()
    return total, env.get_metrics()


def test_the_scores_are_those_of_evaluate() -> None:
    rows = task_rows(WEBSHOP, split="seen", prompts="brief", dataset="mini")[:50]
    scores = []
    for row in rows:
        total, metrics = play(row, shopper.reply)
        assert total == pytest.approx(metrics["score"])
        scores.append(metrics["score"])
    assert statistics.fmean(scores[:20]) == pytest.approx(shopper.SCORES[20], abs=5e-6)
    assert statistics.fmean(scores) == pytest.approx(shopper.SCORES[50], abs=5e-6)
    means = skyrl_gym.envs.base_text_env.BaseTextEnv.aggregate_metrics(
        [play(row, shopper.reply)[1] for row in rows[:5]]
    )
    assert means["score"] == pytest.approx(shopper.SCORES[5], abs=5e-6)
    assert means["success"] < 1.0


@pytest.mark.java
def test_the_scores_in_scienceworld() -> None:
    for task in scientist.TASKS:
        row = {"prompt": [], "env_id": scientist.SCIENCEWORLD, "task": task}
        total, _ = play(row | {"options": scientist.SEEN}, scientist.replier_of(task))
        assert total == pytest.approx(scientist.score_of(task))


def test_the_class_s_configuration_is_the_default() -> None:
    config = {"env_id": CORRIDOR, "options": {"n": 3, **OF_TOYS}}
    env = skyrl_gym.make("eto", env_config=config, extras={"task": 2})
    assert "walk 4 rooms" in env.init([])[0][-1]["content"]
    with pytest.raises(UnknownNameError, match="from 0 to 2"):
        skyrl_gym.make("eto", env_config=config, extras={"task": 3})
    with pytest.raises(KeyError, match="env_id"):
        skyrl_gym.make("eto", extras={"task": 3})


def test_a_world_that_fails_raises() -> None:
    row = {"prompt": [], "env_id": BROKEN, "task": 0, "options": OF_TOYS}
    with pytest.raises(BackendError, match="the world ended"):
        play(row, lambda _: "Action: go")


def test_a_reply_without_an_action_costs_a_step() -> None:
    row = task_rows(WEBSHOP, split="seen", dataset="mini", max_steps=2)[0]
    total, metrics = play(row, lambda _: "I would rather not.")
    assert (total, metrics) == (0.0, {"score": 0.0, "success": 0.0, "n_steps": 2})


def test_the_page_s_examples_run(tmp_path: Path) -> None:
    test_docs.test_examples_run(test_docs.ROOT / "docs/bridges/skyrl.md", tmp_path)
