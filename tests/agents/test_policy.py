"""Making policies from names and objects; one-episode agents; time limits."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eto_agents.best_of_n import BestOfN
from eto_agents.policy import (
    MAX_TRACEBACK_CHARS,
    Decision,
    OneEpisodePolicy,
    as_policy,
    describe,
    failure,
    load_policy,
    with_time_limit,
)
from eto_agents.rollout import run_episode
from eto_agents.threads import ActionTimeoutError
from eto_envs.errors import UnknownNameError
from eto_envs.tasks import Task

TASK = Task("t", "goal", 5)


class Counter:
    """A one-episode agent that counts its own steps."""

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def reset(self, task: Task, seed: int) -> None:
        self.n = self.start

    def act(self, observation: str, info: dict[str, Any]) -> str:
        self.n += 1
        if observation == "boom":
            raise RuntimeError("no idea")
        return f"{observation}{self.n}"


@pytest.mark.parametrize("agent", [Counter, Counter(), lambda: Counter()])
def test_one_episode_agents_keep_their_slots_apart(agent: Any) -> None:
    policy = as_policy(agent)
    policy.reset([0, 5], [TASK, TASK], [1, 2])
    assert [d.action for d in policy.act([0, 5], ["a", "b"], [{}, {}])] == ["a1", "b1"]
    assert [d.action for d in policy.act([5], ["b"], [{}])] == ["b2"]
    policy.reset([5], [TASK], [3])
    assert [d.action for d in policy.act([0, 5], ["a", "b"], [{}, {}])] == ["a2", "b1"]


def test_an_instance_is_not_changed() -> None:
    agent = Counter()
    policy = as_policy(agent)
    policy.reset([0], [TASK], [0])
    assert not hasattr(agent, "n")


def test_an_agent_that_fails_ends_only_its_own_episode() -> None:
    policy = as_policy(Counter)
    policy.reset([0, 1], [TASK, TASK], [0, 0])
    bad, good = policy.act([0, 1], ["boom", "x"], [{}, {}])
    assert bad.error.startswith("RuntimeError: no idea (test_policy.py:")
    assert "Traceback" in bad.error
    assert 'raise RuntimeError("no idea")' in bad.error
    assert (good.action, good.error) == ("x1", "")


def test_a_reset_that_fails_ends_only_its_own_episode() -> None:
    class Picky(Counter):
        def reset(self, task: Task, seed: int) -> None:
            if seed == 1:
                raise KeyError("not this one")
            super().reset(task, seed)

    policy = as_policy(Picky)
    policy.reset([0, 1], [TASK, TASK], [0, 1])
    good, bad = policy.act([0, 1], ["x", "x"], [{}, {}])
    assert (good.error, bad.error.startswith("KeyError")) == ("", True)
    policy.reset([1], [TASK], [2])
    assert policy.act([1], ["x"], [{}])[0].action == "x1"


def test_a_return_value_of_the_wrong_type_is_an_error() -> None:
    class Silent(Counter):
        def act(self, observation: str, info: dict[str, Any]) -> Any:
            return None

    policy = as_policy(Silent)
    policy.reset([0], [TASK], [0])
    assert "NoneType" in policy.act([0], ["x"], [{}])[0].error


def test_names() -> None:
    assert load_policy("random").name == "random"
    policy = load_policy("tests.agents.test_policy:Counter", start=7)
    assert isinstance(policy, OneEpisodePolicy)
    policy.reset([0], [TASK], [0])
    assert policy.act([0], ["x"], [{}]) == [Decision("x8")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("randm", "did you mean 'random'"),
        ("tests.agents.no_such:Agent", "no module 'tests.agents.no_such'"),
        ("tests.agents.test_policy:Countr", "did you mean 'Counter'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load_policy(name)


@pytest.mark.parametrize("value", [object(), 3, "tests.agents.test_policy:TASK"])
def test_objects_that_are_not_policies(value: Any) -> None:
    with pytest.raises(TypeError, match="is not a policy"):
        as_policy(value)


class Dazed(Counter):
    """Hangs on request, in `reset` or in `act`, asleep or in a loop."""

    n_made = 0

    def __init__(self) -> None:
        super().__init__()
        Dazed.n_made += 1

    def reset(self, task: Task, seed: int) -> None:
        super().reset(task, seed)
        if seed == 13:
            time.sleep(60)

    def act(self, observation: str, info: dict[str, Any]) -> str:
        while observation == "loop":
            pass
        if observation == "sleep":
            time.sleep(60)
        return super().act(observation, info)


def test_an_agent_that_hangs_ends_its_own_episode() -> None:
    policy = with_time_limit(as_policy(Dazed), 2.0)
    policy.reset([0, 1, 2], [TASK] * 3, [0, 1, 2])
    started_s = time.monotonic()
    loop, fine, sleep = policy.act([0, 1, 2], ["loop", "x", "sleep"], [{}] * 3)
    assert time.monotonic() - started_s < 40  # the sleeper takes a minute
    assert fine == Decision("x1")
    for decision, line in ((loop, 'while observation == "loop"'), (sleep, "time.sleep(60)")):
        first, *rest = decision.error.splitlines()
        assert first == "ActionTimeoutError: no answer within 2 s"
        assert line in "\n".join(rest)
    n_made = Dazed.n_made
    policy.reset([0], [TASK], [3])  # makes a new agent: the old one may still be busy
    assert Dazed.n_made == n_made + 1
    assert policy.act([0, 1], ["y", "x"], [{}] * 2) == [Decision("y1"), Decision("x2")]


def test_a_reset_that_hangs_ends_its_own_episode() -> None:
    policy = with_time_limit(as_policy(Dazed), 2.0)
    policy.reset([0, 1], [TASK] * 2, [13, 1])
    hung, fine = policy.act([0, 1], ["x", "x"], [{}] * 2)
    assert hung.error.startswith("ActionTimeoutError")
    assert fine.action == "x1"


def test_without_a_limit_agents_run_in_the_callers_thread() -> None:
    class Where(Counter):
        def act(self, observation: str, info: dict[str, Any]) -> str:
            return threading.current_thread().name

    policy = as_policy(Where)
    limits = ((None, "MainThread"), (30.0, "eto-agent"), (None, "MainThread"))
    for limit_s, expected in limits:
        policy = with_time_limit(policy, limit_s)
        policy.reset([0], [TASK], [0])
        assert policy.act([0], [""], [{}])[0].action == expected


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_time_limit_is_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        with_time_limit(as_policy(Counter), seconds)


def test_limits_do_not_pile_up() -> None:
    class Batch:
        def reset(self, slots: Any, tasks: Any, seeds: Any) -> None:
            pass

        def act(self, slots: Any, observations: Any, infos: Any) -> list[Decision]:
            time.sleep(0.3)
            return [Decision(threading.current_thread().name)]

    batch = Batch()
    assert with_time_limit(batch, None) is batch
    limited = with_time_limit(batch, 30)
    assert with_time_limit(limited, 0.05) is limited
    with pytest.raises(ActionTimeoutError, match=r"0\.05 s"):
        limited.act([0], [""], [{}])
    assert with_time_limit(limited, None).act([0], [""], [{}]) == [Decision("eto-agent")]


def test_an_entry_point_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[eto_agents.policies]\ncounter = tests.agents.test_policy:Counter\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_policy("counter", start=2).name == "Counter"  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="did you mean 'counter'"):
        load_policy("countre")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def test_any_exception_has_a_description() -> None:
    assert describe(Mute()) == "Mute: (its message cannot be read)"
    assert describe(ValueError("two\nlines")) == "ValueError: two lines"
    assert len(describe(ValueError("x" * 100_000))) < 1_000
    assert len(failure(ValueError("x" * 100_000))) < MAX_TRACEBACK_CHARS + 1_000
    with pytest.raises(KeyboardInterrupt):
        failure(KeyboardInterrupt())


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, RecursionError, Mute])
def test_what_an_agent_may_raise(kind: type[BaseException]) -> None:
    class Rude(Counter):
        def act(self, observation: str, info: dict[str, Any]) -> str:
            raise kind

    policy = as_policy(Rude)
    policy.reset([0], [TASK], [0])
    assert policy.act([0], ["x"], [{}])[0].error.startswith(kind.__name__)


@pytest.mark.parametrize("reveal", ["admissible_actions", ["admissible_actions"]])
def test_what_an_agent_needs_may_be_a_single_name(reveal: Any) -> None:
    class Agent:
        def __init__(self) -> None:
            self.reveal = reveal

        def reset(self, task: Any, seed: int) -> None: ...

        def act(self, observation: str, info: Any) -> str:
            return str(info["admissible_actions"][-1])

    for policy in (Agent(), BestOfN(Agent(), 1)):
        assert as_policy(policy).reveal == ("admissible_actions",)  # type: ignore[attr-defined]
        played = run_episode(policy, "ETO-WebShop-v0", 0, dataset="mini", max_steps=1)
        assert played.steps[0].action == "click[search]"
    played = run_episode("random", "ETO-WebShop-v0", 0, dataset="mini", reveal="hidden_state")
    assert played.status in ("completed", "truncated")
