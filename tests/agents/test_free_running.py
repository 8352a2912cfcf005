"""Episodes that do not wait for each other: concurrent policies, and models behind a server."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eto_agents.best_of_n import BestOfN
from eto_agents.models import Completion, Sampling
from eto_agents.policies.narrated import NarratedPolicy
from eto_agents.policies.react import ReActPolicy
from eto_agents.policy import as_policy, is_concurrent, with_time_limit
from eto_agents.rollout import Rollouts, jobs_of, make_batch
from eto_agents.trajectory import Trajectory
from tests.agents.test_rollout import Broken, play, untimed
from tests.toy import CORRIDOR

ROOT = Path(__file__).resolve().parents[2]


class Waits:
    """Walks east; in the shortest corridor only after all others have been walked."""

    concurrent = True
    n_others = 0
    others_are_done = threading.Event()
    threads: dict[int, set[str]] = {}  # noqa: RUF012

    def reset(self, task: Any, seed: int) -> None:
        self.left = int(task.data["length"])
        self.is_short = task.id == "room2"
        self.where = {threading.current_thread().ident}

    def act(self, observation: str, info: Any) -> str:
        self.where.add(threading.current_thread().ident)
        assert len(self.where) == 1
        if self.is_short:
            assert Waits.others_are_done.wait(60)
        self.left -= 1
        if not self.left and not self.is_short:
            Waits.n_others += 1
            if Waits.n_others == 4:
                Waits.others_are_done.set()
        return "east"


@pytest.mark.parametrize(
    "wrap",
    [as_policy, lambda agent: NarratedPolicy(agent, style="none"), lambda agent: BestOfN(agent, 1)],
)
@pytest.mark.parametrize("timeout_s", [None, 90.0])
def test_an_episode_does_not_wait_for_the_others(wrap: Any, timeout_s: float | None) -> None:
    Waits.n_others = 0
    Waits.others_are_done.clear()
    policy = wrap(Waits)
    env = make_batch(CORRIDOR, policy, 2)
    jobs = jobs_of(env.envs[0].tasks, (0,))
    played = list(Rollouts(policy, env, jobs, action_timeout_s=timeout_s))
    assert [t.status for t in played] == ["completed"] * 5
    ids = [t.task_id for t in played]
    assert ids[:3] == ["room3", "room4", "room5"]
    assert set(ids[3:]) == {"room6", "room2"}  # their last decisions are made at the same time


def test_wrappers_pass_on_whether_a_policy_is_concurrent() -> None:
    class Batch:
        def reset(self, slots: Any, tasks: Any, seeds: Any) -> None: ...

        def act(self, slots: Any, observations: Any, infos: Any) -> Any: ...

    for value in (True, False):
        batch: Any = Batch()
        batch.concurrent = value
        limited = with_time_limit(batch, 5.0)
        assert limited is not batch
        wrapped = BestOfN(batch, 2)
        wrapped.limit_time(5.0)
        for policy in (batch, limited, wrapped, NarratedPolicy(batch), NarratedPolicy(wrapped)):
            assert is_concurrent(policy) is value
    assert not is_concurrent(as_policy("expert"))


@pytest.mark.parametrize(
    ("how", "timeout_s", "message"),
    [
        ("reset", None, "OSError: no card"),
        ("hanging reset", 0.3, "ActionTimeoutError: no answer within 0.3 s"),
        ("hang", 0.3, "ActionTimeoutError: no answer within 0.3 s"),
        ("exit", None, "SystemExit: 1"),
        ("none", None, "NoneType, not a list"),
        ("text", None, "act returned a str, not a Decision"),
    ],
)
def test_a_broken_concurrent_policy_ends_its_episodes(
    how: str, timeout_s: float | None, message: str
) -> None:
    policy: Any = Broken(how)
    policy.concurrent = True
    played = play(policy, 3, action_timeout_s=timeout_s)
    assert {t.status for t in played} == {"agent_error"}
    assert len(played) == 10
    assert all(message in t.error.splitlines()[0] for t in played)


def test_a_time_limit_holds_for_each_episode() -> None:
    class Stuck(Waits):
        def act(self, observation: str, info: Any) -> str:
            while self.is_short:
                pass
            return "east"

    by_task = {t.task_id: t for t in play(Stuck, 5, action_timeout_s=3.0) if not t.seed}
    assert by_task.pop("room2").error.startswith("ActionTimeoutError: no answer within 3 s")
    assert {t.status for t in by_task.values()} == {"completed"}


def test_an_interruption_does_not_wait() -> None:
    release = threading.Event()
    is_stuck = threading.Event()

    class Interrupted(Waits):
        def act(self, observation: str, info: Any) -> str:
            if self.is_short:
                is_stuck.set()
                release.wait(60)
            elif observation.startswith("You are in room 2"):
                is_stuck.wait(60)
                raise KeyboardInterrupt
            return "east"

    policy = as_policy(Interrupted)
    env = make_batch(CORRIDOR, policy, 2)
    rollouts = Rollouts(policy, env, jobs_of(env.envs[0].tasks[:2], (0,)))
    with pytest.raises(KeyboardInterrupt):
        list(rollouts)
    cancelled = {t.task_id: (t.status, len(t.steps)) for t in rollouts.cancel()}
    assert cancelled == {"room2": ("cancelled", 0), "room3": ("cancelled", 2)}
    assert not release.is_set()
    release.set()


@pytest.mark.parametrize("concurrent", [True, False])
def test_an_episode_cancelled_before_its_first_step_has_no_messages(concurrent: bool) -> None:
    class Stale(Broken):
        """Still has the conversation of an earlier episode."""

        def act(self, slots: Any, observations: Any, infos: Any) -> Any:
            raise KeyboardInterrupt

        def conversation(self, slot: int) -> Any:
            return [{"role": "user", "content": "Something else."}]

    policy: Any = Stale("")
    policy.concurrent = concurrent
    env = make_batch(CORRIDOR, policy, 2)
    rollouts = Rollouts(policy, env, jobs_of(env.envs[0].tasks, (0,)))
    with pytest.raises(KeyboardInterrupt):
        list(rollouts)
    assert [(t.status, t.messages) for t in rollouts.cancel()] == [("cancelled", [])] * 2


def test_hundreds_of_episodes_at_once() -> None:
    n = 300
    all_are_there = threading.Barrier(n)

    class Crowd(Waits):
        def act(self, observation: str, info: Any) -> str:
            if observation.startswith("walk"):
                all_are_there.wait(60)
            return "east"

    policy = as_policy(Crowd)
    env = make_batch(CORRIDOR, policy, n)
    jobs = jobs_of(env.envs[0].tasks, range(n // 5))
    played = list(Rollouts(policy, env, jobs))
    assert [t.status for t in played] == ["completed"] * n
    assert len({t.key for t in played}) == n


def test_a_call_that_outlives_its_run_leaves_the_next_conversation_alone(tmp_path: Path) -> None:
    is_called, release = threading.Event(), threading.Event()

    class Late:
        name = "late"
        concurrent = True

        def generate(
            self, conversations: Sequence[Any], sampling: Sampling, seeds: Any = None
        ) -> list[Completion]:
            if not is_called.is_set():
                is_called.set()
                release.wait(60)
                return [Completion("Action: west")]
            return [Completion("Action: east")]

    policy = ReActPolicy(Late(), prompts=str(corridor_prompt(tmp_path)), world="corridor")
    task, seed, info = [None], [0], {"world": "corridor"}
    policy.reset([0], task, seed)  # type: ignore[arg-type]
    old = threading.Thread(target=policy.act, args=([0], ["Room 0."], [info]))
    old.start()
    assert is_called.wait(60)
    policy.reset([0], task, seed)  # type: ignore[arg-type]
    assert policy.act([0], ["Room 0."], [info])[0].action == "east"
    release.set()
    old.join(60)
    assert [m["content"] for m in policy.conversation(0)][-1] == "Action: east"


def corridor_prompt(folder: Path) -> Path:
    path = folder / "corridor.toml"
    path.write_text('world = "corridor"\ninstruction = "Go east."\n', encoding="utf-8")
    return path


needs_openai = pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="openai is not installed"
)


@pytest.fixture
def server() -> Iterator[Any]:
    pytest.importorskip("openai")
    from tests.agents.models.test_openai import Server

    server = Server()
    yield server
    server.close()


def walker(server: Any, folder: Path, **arguments: Any) -> ReActPolicy:
    """Plays the corridor with the server's model."""
    from eto_agents.models.openai import OpenAIModel

    model = OpenAIModel("m", base_url=server.url, **arguments)
    prompt = str(corridor_prompt(folder))
    return ReActPolicy(model, prompts=prompt, world="corridor", temperature=1.0)


def test_the_episodes_are_those_of_lockstep_byte_for_byte(server: Any, tmp_path: Path) -> None:
    from tests.agents.models.test_openai import Answer, reply

    latencies = random.Random(0)

    def answer(body: dict[str, Any], n: int) -> Answer:
        time.sleep(0.01 * latencies.random())
        return reply(f"Thought: {body['seed']}.\nAction: {('east', 'west')[body['seed'] % 2]}")

    server.answer = answer

    def lines(n_envs: int, *, concurrent: bool) -> list[str]:
        policy = walker(server, tmp_path)
        assert policy.concurrent
        policy.concurrent = concurrent
        env = make_batch(CORRIDOR, policy, n_envs, {"max_steps": 3})
        jobs = jobs_of(env.envs[0].tasks, range(7))
        return sorted(untimed(t).to_json() for t in Rollouts(policy, env, jobs))

    expected = lines(1, concurrent=False)
    assert len(set(expected)) == 35
    for n_envs in (1, 8, 32):
        assert lines(n_envs, concurrent=True) == expected
    assert lines(8, concurrent=False) == expected


def test_hundreds_of_requests_at_once(server: Any, tmp_path: Path) -> None:
    from tests.agents.models.test_openai import Answer, reply

    n = 200
    all_are_there = threading.Barrier(n)

    def answer(body: dict[str, Any], n: int) -> Answer:
        all_are_there.wait(60)
        return reply("Action: east")

    server.answer = answer
    policy = walker(server, tmp_path)
    env = make_batch(CORRIDOR, policy, n, {"max_steps": 1})
    played = list(Rollouts(policy, env, jobs_of(env.envs[0].tasks, range(n // 5))))
    assert [t.status for t in played] == ["truncated"] * n
    assert server.most_at_once == n


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_whose_requests_hang(
    number: signal.Signals, code: int, server: Any, tmp_path: Path
) -> None:
    from tests.agents.models.test_openai import Answer, reply

    release = threading.Event()

    def answer(body: dict[str, Any], n: int) -> Answer:
        if n > 2:
            release.wait(120)
        return reply("Action: east")

    server.answer = answer
    code_text = "import tests.toy; from eto_agents.__main__ import main; main()"
    arguments = ["eval", "--env", CORRIDOR, "--model", "openai:m", "--splits", "seen"]
    arguments += ["--n-envs", "2", "--prompts", str(corridor_prompt(tmp_path)), "--quiet"]
    arguments += ["--policy-args", f"base_url={server.url}", "world=corridor", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", code_text, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(server.bodies) < 4 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)  # the requests hang for two minutes
    finally:
        process.kill()
        release.set()
    assert process.returncode == code
    assert "rerun the command to resume (run)" in errors
    assert "Traceback" not in errors
    lines = (tmp_path / "run" / "episodes.jsonl").read_bytes().splitlines()
    statuses = [Trajectory.from_json(line).status for line in lines]
    assert statuses[-1] == "cancelled"
