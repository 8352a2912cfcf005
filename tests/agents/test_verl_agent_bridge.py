"""verl-agent's environment manager: the scores of `evaluate` in a loop like verl-agent's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from eto_agents.bridges.verl_agent import WorldEnvironmentManager
from eto_envs import task_sets
from eto_envs.errors import BackendError, UnknownNameError
from tests.agents import shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP, ALFWORLD = "ETO-WebShop-v0", "ETO-ALFWorld-v0"
MINI: dict[str, Any] = {"split": "seen", "dataset": "mini"}
OF_TOYS: dict[str, Any] = {"prompts": "brief", "world": "webshop"}
Agent = Callable[[str, Any], str]


def shop(page: str, _: Any) -> str:
    return shopper.reply([{"content": page}])


def rollout(
    manager: WorldEnvironmentManager, agent: Agent, max_steps: int = 50, kwargs: Any = None
) -> tuple[Any, Any, list[list[Any]]]:
    """verl-agent's loop: what it passes to the manager, and what it makes of the answers."""
    obs, infos = manager.reset(kwargs=kwargs)
    n = len(obs["text"])
    assert len(obs["anchor"]) == len(infos) == n
    is_done, total = np.zeros(n, dtype=bool), np.zeros(n)
    total_infos: list[list[Any]] = [[] for _ in range(n)]
    records: list[list[Any]] = [[] for _ in range(n)]
    for _ in range(max_steps):
        active = ~is_done
        replies = [agent(page, info) for page, info in zip(obs["anchor"], infos, strict=True)]
        obs, rewards, dones, infos = manager.step(replies)
        assert rewards.shape == dones.shape == (n,)
        np.array([info["is_action_valid"] for info in infos], dtype=bool)
        total[active] += rewards[active]
        for i in range(n):
            records[i].append({"active_masks": active[i]})
            total_infos[i].append(infos[i])
        is_done |= dones
        if is_done.all():
            break
    success = manager.success_evaluator(
        total_infos=total_infos,
        total_batch_list=records,
        episode_rewards=total,
        episode_lengths=None,
    )
    return total, success, total_infos


def test_the_scores_are_those_of_evaluate() -> None:
    manager = WorldEnvironmentManager(WEBSHOP, n_tasks=48, shuffle=False, prompts="brief", **MINI)
    scores: list[float] = []
    for _ in range(2):
        total, success, _ = rollout(manager, shop)
        assert total == pytest.approx(success["task_score"])
        assert (success["success_rate"] == (success["task_score"] == 1.0)).all()
        scores += total.tolist()
    for n, expected in shopper.SCORES.items():
        assert statistics.fmean(scores[:n]) == pytest.approx(expected, abs=5e-6)
    manager.close()


@pytest.mark.parametrize("env_id", [WEBSHOP, ALFWORLD])
def test_the_expert_scores_1(env_id: str) -> None:
    manager = WorldEnvironmentManager(env_id, n_tasks=3, reveal=("expert_action",), **MINI)
    _, success, infos = rollout(manager, lambda _, info: f"Action: {info['expert_action']}")
    assert success["success_rate"].tolist() == [1.0] * 3
    ids = task_sets(env_id, "mini")["seen"].ids
    assert all(episode[-1]["won"] and episode[0]["extra.gamefile"] in ids for episode in infos)
    assert infos[0][0]["available_actions"] == infos[0][0]["admissible_actions"]
    manager.close()


def goals(obs: Any) -> list[str]:
    return [text.partition(".")[0] for text in obs["anchor"]]


def corridors(**options: Any) -> WorldEnvironmentManager:
    return WorldEnvironmentManager(CORRIDOR, **{**OF_TOYS, **options})


def test_each_task_comes_once_before_any_comes_again() -> None:
    manager = corridors(n_tasks=5, seed=1, n=10)
    orders = [goals(manager.reset()[0]) for _ in range(4)]
    assert len({*orders[0], *orders[1]}) == len({*orders[2], *orders[3]}) == 10
    assert orders[:2] != orders[2:]
    assert goals(corridors(n_tasks=5, seed=1, n=10).reset()[0]) == orders[0]
    assert goals(corridors(n_tasks=5, seed=2, n=10).reset()[0]) != orders[0]
    in_order = corridors(n_tasks=2, group_size=3, shuffle=False)
    assert goals(in_order.reset()[0]) == ["walk 2 rooms"] * 3 + ["walk 3 rooms"] * 3
    assert goals(in_order.reset()[0]) == ["walk 4 rooms"] * 3 + ["walk 5 rooms"] * 3
    rows = [{"task": "room6"}, {"task": np.int64(0)}]
    assert goals(in_order.reset(kwargs=rows)[0]) == ["walk 6 rooms", "walk 2 rooms"]


def after(manager: WorldEnvironmentManager, replies: Sequence[str]) -> str:
    manager.reset(kwargs=[{"task": "room6"}])
    for reply in replies:
        obs, *_ = manager.step([reply])
    text: str = obs["text"][0]
    return text


def test_the_prompt_is_the_conversation_as_one_text() -> None:
    replies = ["<think>Action: west</think>\nAction: east", "Action: west", "Well.", "Action: east"]
    instruction = "WebShop. Actions: search[words], click[label]."
    start = [instruction, "walk 6 rooms. You are in room 0."]
    turns = ["Action: east", "You are in room 1.", "Action: west", "You are in room 0."]
    turns += ["Well.", "INVALID", "Action: east", "You are in room 1."]

    def parts(text: str) -> list[str]:
        found = [part.removeprefix("Observation:\n") for part in text.split("\n\n")]
        return ["INVALID" if "Invalid format" in part else part for part in found]

    assert parts(corridors(n_tasks=1).reset()[0]["text"][0])[0] == instruction
    assert parts(after(corridors(n_tasks=1), replies)) == start + turns
    for n, left_out in ((0, 4), (1, 3), (3, 1)):
        shown = turns[-2 * n - 1 :]
        notes = [f"[{left_out} earlier turns are not shown]"]
        found = parts(after(corridors(n_tasks=1, history_length=n), replies))
        assert found == start + notes + shown
    assert parts(after(corridors(n_tasks=1, history_length=4), replies)) == start + turns
    text = after(corridors(n_tasks=1, show_actions=True), replies)
    assert text.endswith("\n\nPossible actions:\neast\nwest")


def test_an_episode_that_is_over_stays_as_it_is() -> None:
    manager = corridors(n_tasks=2, shuffle=False)
    manager.reset()
    for expected in ([False, False], [True, False], [True, True]):
        _, _, dones, infos = manager.step(["Action: east"] * 2)
        assert dones.tolist() == expected
    _, rewards, dones, infos = manager.step(["Action: east"] * 2)
    assert rewards.tolist() == [0.0, 0.0]
    assert dones.all()
    assert [info["n_steps"] for info in infos] == [2, 3]


def test_what_goes_wrong_raises() -> None:
    manager = WorldEnvironmentManager(BROKEN, n_tasks=2, **OF_TOYS)
    manager.reset(kwargs=[{"task": "room2"}, {"task": "room3"}])
    with pytest.raises(BackendError, match="the world ended"):
        manager.step(["Action: go"] * 2)
    with pytest.raises(ValueError, match="1 replies for 2 episodes"):
        manager.step(["Action: go"])
    with pytest.raises(UnknownNameError, match="room99"):
        manager.reset(kwargs=[{"task": "room99"}])
    with pytest.raises(UnknownNameError, match="nowhere"):
        corridors(n_tasks=1, split="nowhere")
