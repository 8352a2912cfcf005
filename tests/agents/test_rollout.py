"""Rollouts: episodes do not depend on the batch size, and failures are statuses."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import numpy as np
import pytest

from eto_agents.live_episode import episode_seed
from eto_agents.policy import as_policy
from eto_agents.rollout import Rollouts, jobs_of, make_batch, run_episode
from eto_agents.trajectory import Trajectory
from eto_envs.core import Advance
from eto_envs.errors import BackendError
from tests.toy import CORRIDOR, CorridorEnv, corridor_tasks


def play(
    policy: Any, n_envs: int, action_timeout_s: float | None = None, **env_args: Any
) -> list[Trajectory]:
    policy = as_policy(policy)
    env = make_batch(CORRIDOR, policy, n_envs, env_args)
    try:
        jobs = jobs_of(env.envs[0].tasks, (0, 1))
        played = list(Rollouts(policy, env, jobs, action_timeout_s=action_timeout_s))
    finally:
        env.close()
    return sorted((untimed(t) for t in played), key=lambda t: t.key)


def untimed(trajectory: Trajectory) -> Trajectory:
    steps = [dataclasses.replace(step, latency_s=0.0) for step in trajectory.steps]
    return dataclasses.replace(trajectory, steps=steps, wall_s=0.0)


def test_the_number_of_environments_changes_nothing() -> None:
    one = play("random", 1, shaping=("step_cost=0.1",))
    assert (
        one
        == play("random", 3, shaping=("step_cost=0.1",))
        == play("random", 50, shaping=("step_cost=0.1",))
    )
    assert len(one) == 10
    assert {t.status for t in one} == {"completed", "truncated"}
    assert len({tuple(s.action for s in t.steps) for t in one}) > 7


def test_a_trajectory_describes_its_episode() -> None:
    trajectory = run_episode("expert", CORRIDOR, "room3", seed=4, max_steps=2)
    assert (trajectory.status, trajectory.score) == ("truncated", 2 / 3)
    assert (trajectory.env_id, trajectory.policy, trajectory.seed) == (CORRIDOR, "expert", 4)
    assert (trajectory.dataset, trajectory.split) == ("toy", "train")
    assert trajectory.tasks_sha256 == corridor_tasks().sha256
    assert trajectory.messages == []  # the expert holds no conversation


def test_expert_and_replay() -> None:
    assert all(t.success and len(t.steps) == int(t.task_id[4:]) for t in play("expert", 4))
    from eto_agents.policies.simple import ReplayPolicy

    policy = ReplayPolicy(actions={f"room{i}": ["west", "east", "east"] for i in (2, 3)})
    by_task = {t.task_id: t for t in play(policy, 2)}
    assert by_task["room2"].status == "completed"
    assert by_task["room3"].status == "agent_error"
    assert by_task["room3"].score == pytest.approx(2 / 3)
    assert "no recorded action left for task 'room6'" in by_task["room6"].error


class Raises:
    def reset(self, task: Any, seed: int) -> None:
        self.task = task.id

    def act(self, observation: str, info: Any) -> Any:
        if self.task == "room3":
            raise ValueError("lost")
        return 5 if self.task == "room4" else "east"


def test_agent_failures_end_their_own_episode() -> None:
    by_task = {t.task_id: t for t in play(Raises, 5)}
    assert {task: t.status for task, t in by_task.items()} == {
        "room2": "completed",
        "room3": "agent_error",
        "room4": "agent_error",
        "room5": "completed",
        "room6": "completed",
    }
    assert "ValueError: lost" in by_task["room3"].error


class BatchPolicy:
    """Fails as a whole at the second call."""

    def __init__(self) -> None:
        self.n_calls = 0

    def reset(self, slots: Any, tasks: Any, seeds: Any) -> None:
        pass

    def act(self, slots: Any, observations: Any, infos: Any) -> Any:
        from eto_agents.policy import Decision

        self.n_calls += 1
        if self.n_calls == 2:
            raise MemoryError("full")
        return [Decision("east")] * len(slots)


def test_a_batch_that_fails_ends_its_live_episodes() -> None:
    played = play(BatchPolicy(), 4)
    assert sum(t.status == "agent_error" for t in played) == 4
    assert sum(t.status == "completed" for t in played) == 6


class Broken(BatchPolicy):
    """A batch policy that does something wrong with every call."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def reset(self, slots: Any, tasks: Any, seeds: Any) -> None:
        if self.how == "reset":
            raise OSError("no card")
        if self.how == "hanging reset":
            time.sleep(60)

    def act(self, slots: Any, observations: Any, infos: Any) -> Any:
        from eto_agents.policy import Decision

        if self.how == "hang":
            time.sleep(60)
        if self.how == "exit":
            raise SystemExit(1)
        return {
            "few": [Decision("east")] * (len(slots) - 1),
            "none": None,
            "text": ["east"] * len(slots),
        }.get(self.how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("reset", "OSError: no card"),
        ("hanging reset", "ActionTimeoutError: no answer within 0.2 s"),
        ("hang", "ActionTimeoutError: no answer within 0.2 s"),
        ("exit", "SystemExit: 1"),
        ("few", "decisions for"),
        ("none", "NoneType, not a list"),
        ("text", "act returned a str, not a Decision"),
    ],
)
def test_a_broken_batch_ends_its_episodes_and_the_run_continues(how: str, message: str) -> None:
    limit_s = 0.2 if "hang" in how else 60.0
    played = play(Broken(how), 3, action_timeout_s=limit_s)
    assert {t.status for t in played} == {"agent_error"}
    assert len(played) == 10
    assert (
        all(message in t.error.splitlines()[0] for t in played if len(t.error) > 1) or how == "few"
    )
    assert any(message in t.error for t in played)


def test_decisions_that_cannot_be_executed_or_stored_are_agent_errors() -> None:
    from eto_agents.policy import Decision

    class Says:
        def __init__(self, decision: Any) -> None:
            self.decision = decision

        def reset(self, task: Any, seed: int) -> None:
            pass

        def act(self, observation: str, info: Any) -> Any:
            return self.decision

    good = Decision("east", usage={"tokens": np.float32(2)}, token_ids=np.array([1, 2]))  # type: ignore[arg-type]
    trajectory = run_episode(Says(good), CORRIDOR, "room2")
    assert trajectory.status == "completed"
    assert json.loads(trajectory.to_json())["steps"][0]["token_ids"] == [1, 2]
    assert trajectory.steps[0].usage == {"tokens": 2.0}
    for bad, message in (
        ("a" * 100_000, "100,000 bytes, more than 65,536"),
        ("é" * 40_000, "80,000 bytes"),
        (b"east", "bytes, not str"),
        (Decision(None), "action is NoneType"),  # type: ignore[arg-type]
        (Decision("east", text="x" * 5_000_000), "text has 5,000,000 bytes"),
        (Decision("east", thought=3), "thought is int"),  # type: ignore[arg-type]
        (Decision("east", usage={"tokens": float("nan")}), "not finite"),
        (Decision("east", token_ids=[1], log_probs=[float("-inf")]), "not finite"),
        (Decision("east", usage={"tokens": "many"}), "cannot be stored"),  # type: ignore[dict-item]
        (Decision("east", usage={"tokens": 10**400}), "cannot be stored"),
        (Decision("east", token_ids=["a"]), "cannot be stored"),  # type: ignore[list-item]
    ):
        trajectory = run_episode(Says(bad), CORRIDOR, "room2")
        assert trajectory.status == "agent_error"
        assert message in trajectory.error
        assert len(trajectory.error) < 1_000
    assert run_episode(Says("\ud800"), CORRIDOR, "room2").status == "truncated"


def test_each_sample_has_its_own_seed() -> None:
    policy = as_policy("random")
    env = make_batch(CORRIDOR, policy, 4)
    jobs = jobs_of(env.envs[0].tasks, (0,), n_samples=3)
    assert [(job.task.id, job.sample) for job in jobs[:4]] == [
        ("room2", 0),
        ("room2", 1),
        ("room2", 2),
        ("room3", 0),
    ]
    actions = {t.key: [step.action for step in t.steps] for t in Rollouts(policy, env, jobs)}
    assert {key.sample for key in actions} == {0, 1, 2}
    assert len(actions) == 15
    assert len({tuple(a) for key, a in actions.items() if key.task_id == "room6"}) > 1


class Flaky(CorridorEnv):
    """Fails `n_failures` times, then works."""

    left = 0

    def _advance(self, action: str) -> Advance:
        if self._length == 3 and Flaky.left > 0:
            Flaky.left -= 1
            raise BackendError("the simulator is gone")
        return super()._advance(action)


@pytest.mark.parametrize(("n_failures", "status"), [(2, "completed"), (3, "env_error")])
def test_a_failing_environment_is_retried_and_then_reported(n_failures: int, status: str) -> None:
    from eto_envs.vector import TextVectorEnv

    policy = as_policy("expert")
    env = TextVectorEnv(Flaky, 2, autoreset_mode="Disabled", reveal=policy.reveal)
    Flaky.left = n_failures
    by_task = {t.task_id: t for t in Rollouts(policy, env, jobs_of(env.envs[0].tasks, (0,)))}
    assert {t.status for task, t in by_task.items() if task != "room3"} == {"completed"}
    assert by_task["room3"].status == status
    assert ("simulator is gone" in by_task["room3"].error) == (status == "env_error")
    assert len(by_task) == 5


def test_cancel_returns_the_live_episodes() -> None:
    policy = as_policy("expert")
    env = make_batch(CORRIDOR, policy, 3)
    rollouts = Rollouts(policy, env, jobs_of(env.envs[0].tasks, (0,)))
    first = next(iter(rollouts))
    assert first.task_id == "room2"
    assert [(t.task_id, t.status, len(t.steps)) for t in rollouts.cancel()] == [
        ("room3", "cancelled", 2),
        ("room4", "cancelled", 2),
    ]


def test_episode_seeds() -> None:
    seeds = {episode_seed(s, t) for s in range(20) for t in ("a", "b", "1/2", "12")}
    assert len(seeds) == 80
    assert all(0 <= s < 2**63 for s in seeds)
    assert len({episode_seed(0, "a", i) for i in range(20)} | seeds) == 99
    assert episode_seed(0, "a") == 7606779636460171844  # a changed value changes every run


class Ahead(CorridorEnv):
    """Logs the actions that are sent ahead; fails to send in one task."""

    log: list[str] = []  # noqa: RUF012

    def send(self, action: str) -> None:
        Ahead.log.append(f"send {self._length}")
        if self._length == 4:
            raise BackendError("not now")

    def _advance(self, action: str) -> Advance:
        Ahead.log.append(f"step {self._length}")
        return super()._advance(action)


def test_all_actions_are_sent_before_the_first_step() -> None:
    from eto_envs.vector import TextVectorEnv

    policy = as_policy("expert")
    env = TextVectorEnv(Ahead, 5, autoreset_mode="Disabled", reveal=policy.reveal)
    Ahead.log.clear()
    played = list(Rollouts(policy, env, jobs_of(env.envs[0].tasks, (0,))))
    lengths = range(2, 7)
    assert Ahead.log[:10] == [f"send {n}" for n in lengths] + [f"step {n}" for n in lengths]
    assert [t.status for t in played] == ["completed"] * 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["score", "task_reward", "reward", "shaping"])
def test_a_number_that_is_not_finite_is_the_environments_failure(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CorridorEnv.step

    def step(self: CorridorEnv, action: str) -> Any:
        observation, reward, terminated, truncated, info = original(self, action)
        if name == "reward":
            reward = value
        elif name == "shaping":
            info["reward_terms"] = {"shaping": value}
        else:
            info[name] = value
        return observation, reward, terminated, truncated, info

    monkeypatch.setattr(CorridorEnv, "step", step)
    trajectory = run_episode("expert", CORRIDOR, "room3")
    assert trajectory.status == "env_error"
    assert f"the environment returned {value} as its {name}" in trajectory.error
    json.loads(trajectory.to_json(), parse_constant=pytest.fail)
