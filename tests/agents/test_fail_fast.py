"""A run in which the agent cannot work stops, stores nothing of it, and is resumed by a rerun."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import tests.toy  # noqa: F401 (registers the corridor)
from eto_agents import TrajectoryStore
from eto_agents.cli import main
from eto_agents.collect import collect
from eto_agents.evaluation.harness import evaluate
from eto_agents.policy import Decision
from eto_agents.rollout import AgentFailedError, Rollouts, jobs_of, make_batch, run_episode
from eto_agents.training.task_splits import play, tasks_of
from eto_agents.trajectory import Trajectory
from tests.toy import CORRIDOR

WRONG_KEY = Decision("", error="wrong key", is_permanent=True)
EAST = Decision("east")


class Model:
    """Decides by a function of the task's id, the run's seed, and the number of the decision."""

    name = "model"

    def __init__(self, decide: Callable[[str, int, int], Decision], *, concurrent: bool) -> None:
        self.decide = decide
        self.concurrent = concurrent
        self.n_decisions = 0
        self.tasks: dict[int, str] = {}
        self.turns: dict[int, int] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[Any], seeds: Sequence[int]) -> None:
        self.tasks |= {slot: task.id for slot, task in zip(slots, tasks, strict=True)}
        self.turns |= dict.fromkeys(slots, 0)

    def act(self, slots: Sequence[int], observations: Any, infos: Any) -> list[Decision]:
        decisions = []
        for slot in slots:
            self.n_decisions += 1
            self.turns[slot] += 1
            decisions.append(self.decide(self.tasks[slot], self.turns[slot], self.n_decisions))
        return decisions


def rollouts(
    decide: Callable[[str, int, int], Decision],
    *,
    concurrent: bool,
    n_envs: int = 3,
    n_tasks: int = 5,
    **options: Any,
) -> Rollouts:
    policy = Model(decide, concurrent=concurrent)
    env = make_batch(CORRIDOR, policy, n_envs)
    jobs = jobs_of(env.envs[0].tasks[:n_tasks], range(4))
    return Rollouts(policy, env, jobs, **({"is_whole_run": True} | options))


both_ways = pytest.mark.parametrize("concurrent", [False, True])


@both_ways
@pytest.mark.parametrize(("n_envs", "n_failures"), [(1, 5), (3, 5), (8, 8), (20, 20), (50, 20)])
def test_a_run_stops_if_nothing_but_permanent_errors_comes(
    n_envs: int, n_failures: int, concurrent: bool
) -> None:
    played = rollouts(lambda task, turn, n: WRONG_KEY, concurrent=concurrent, n_envs=n_envs)
    with pytest.raises(AgentFailedError, match="wrong key") as caught:
        next(iter(played))
    n_reported = int(str(caught.value).split(" episodes in a row")[0].rpartition(" ")[2])
    assert n_failures <= n_reported < n_failures + n_envs
    assert [t for t in played.cancel() if t.status != "cancelled"] == []


@both_ways
def test_few_failures_are_enough_if_there_are_no_other_episodes(concurrent: bool) -> None:
    four: dict[str, Any] = {"concurrent": concurrent, "n_tasks": 1}
    with pytest.raises(AgentFailedError, match="in 4 episodes in a row"):
        list(rollouts(lambda *_: WRONG_KEY, **four))
    played = list(rollouts(lambda *_: WRONG_KEY, **four, is_whole_run=False))
    assert [t.status for t in played] == ["agent_error"] * 4
    trajectory = run_episode(Model(lambda *_: WRONG_KEY, concurrent=concurrent), CORRIDOR, "room2")
    assert (trajectory.status, trajectory.error) == ("agent_error", "wrong key")


@both_ways
def test_permanent_errors_of_single_tasks_end_their_episodes(concurrent: bool) -> None:
    def refuse(task: str, turn: int, n: int) -> Decision:
        return WRONG_KEY if task in ("room3", "room4") else EAST

    played = list(rollouts(refuse, concurrent=concurrent))
    failed = {"room3", "room4"}
    assert len({t.key for t in played}) == len(played) == 20
    assert {t.task_id for t in played if t.status == "agent_error"} == failed
    assert {t.task_id for t in played if t.status == "completed"} == {"room2", "room5", "room6"}


@both_ways
def test_permanent_errors_after_the_first_action_end_their_episodes(concurrent: bool) -> None:
    """As in a chat that outgrows the model's context."""
    played = list(
        rollouts(lambda task, turn, n: WRONG_KEY if turn == 2 else EAST, concurrent=concurrent)
    )
    assert [(t.status, len(t.steps)) for t in played] == [("agent_error", 1)] * 20


@both_ways
def test_errors_that_may_pass_do_not_stop_a_run(concurrent: bool) -> None:
    played = list(rollouts(lambda *_: Decision("", error="busy"), concurrent=concurrent))
    assert [t.status for t in played] == ["agent_error"] * 20


@both_ways
def test_a_run_stops_when_the_agent_stops_working(concurrent: bool) -> None:
    stored = []
    played = rollouts(lambda task, turn, n: EAST if n <= 20 else WRONG_KEY, concurrent=concurrent)
    with pytest.raises(AgentFailedError, match="wrong key"):
        stored.extend(played)
    assert {t.status for t in stored} == {"completed"}
    assert 0 < len(stored) < 10


@both_ways
def test_a_rerun_resumes(concurrent: bool, tmp_path: Path) -> None:
    def run(decide: Callable[[str, int, int], Decision]) -> Any:
        policy = Model(decide, concurrent=concurrent)
        return evaluate(policy, CORRIDOR, ("seen",), seeds=range(4), out=tmp_path, n_envs=3)

    with pytest.raises(AgentFailedError):
        run(lambda task, turn, n: EAST if n <= 20 else WRONG_KEY)
    n_before = len(list(TrajectoryStore(tmp_path / "episodes.jsonl").read()))
    assert not (tmp_path / "results.json").exists()
    results = run(lambda task, turn, n: EAST)
    assert results.splits["seen"].statuses == {"completed": 20}
    episodes = list(TrajectoryStore(tmp_path / "episodes.jsonl").read())
    assert 0 < n_before < len(episodes) == 20


@both_ways
@pytest.mark.parametrize("n_refused", [1, 3])
def test_a_rerun_in_which_only_refused_tasks_are_left_ends(
    n_refused: int, concurrent: bool, tmp_path: Path
) -> None:
    refused = [f"room{i}" for i in (6, 5, 4)][:n_refused]
    policy: Any = None

    def run(decide: Callable[[str, int, int], Decision], n_tasks: int | None = None) -> Any:
        nonlocal policy
        policy = Model(decide, concurrent=concurrent)
        return evaluate(
            policy, CORRIDOR, ("seen",), seeds=range(3), out=tmp_path, n_envs=3, n_tasks=n_tasks
        )

    def decide(task: str, turn: int, n: int) -> Decision:
        return WRONG_KEY if task in refused else EAST

    run(decide, n_tasks=5 - n_refused)
    with pytest.raises(AgentFailedError):  # the key has become wrong meanwhile
        run(lambda *_: WRONG_KEY)
    statuses = run(decide).splits["seen"].statuses
    assert statuses == {"completed": 3 * (5 - n_refused), "agent_error": 3 * n_refused}
    # Nothing but the first decision of an episode on file has been asked for again.
    assert 1 <= policy.n_decisions - 3 * n_refused <= 2


def test_a_collection_and_an_exploration_stop_too(tmp_path: Path) -> None:
    broken = Model(lambda *_: WRONG_KEY, concurrent=False)
    with pytest.raises(AgentFailedError):
        collect(broken, CORRIDOR, ("train",), out=tmp_path / "collection")
    tasks = tasks_of(CORRIDOR, "train")
    file = tmp_path / "exploration" / "episodes.jsonl"
    file.parent.mkdir()
    with pytest.raises(AgentFailedError):
        play(lambda: broken, CORRIDOR, tasks, file, split="train")
    well = Model(lambda *_: EAST, concurrent=False)
    assert all(t.success for t in play(lambda: well, CORRIDOR, tasks, file, split="train"))


def test_the_message_is_short_and_on_one_line() -> None:
    page = Decision("", error="a page\nof HTML" + "x" * 20_000, is_permanent=True)
    with pytest.raises(AgentFailedError, match="a page of HTMLxxx") as caught:
        list(rollouts(lambda *_: page, concurrent=False))
    assert len(str(caught.value)) < 1_500
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.fixture
def server() -> Iterator[Any]:
    pytest.importorskip("openai")
    from tests.agents.models.test_openai import Server

    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, {"message": "Incorrect API key provided", "code": "invalid_api_key"}),
        (404, {"message": "The model `m` does not exist", "code": "model_not_found"}),
        (400, {"message": "Unsupported value: 'temperature'", "code": "unsupported_value"}),
    ],
)
@pytest.mark.parametrize("n_tasks", [1, 5])
def test_from_the_command_line(
    n_tasks: int,
    status: int,
    error: dict[str, str],
    server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.agents.models.test_openai import reply

    prompt = tmp_path / "corridor.toml"
    prompt.write_text('world = "corridor"\ninstruction = "Go east."\n', encoding="utf-8")
    command = ["eval", "--env", CORRIDOR, "--model", "openai:m", "--prompts", str(prompt)]
    command += ["--splits", "seen", "--n-tasks", str(n_tasks), "--out", str(tmp_path / "run")]
    command += ["--policy-args", f"base_url={server.url}", "world=corridor", "--quiet"]
    server.answer = lambda body, n: (status, {"error": error}, {})
    with pytest.raises(SystemExit) as caught:
        main(command)
    printed = capsys.readouterr()
    assert caught.value.code == 1
    assert printed.err.startswith("eto: the agent failed before its first action in ")
    assert error["message"] in printed.err
    assert "rerun the command to resume" in printed.err
    assert printed.err.count("\n") == 1
    assert len(server.bodies) == n_tasks
    server.answer = lambda body, n: reply("Action: east")
    main(command)
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["splits"]["seen"]["statuses"] == {"completed": n_tasks}
    lines = (tmp_path / "run" / "episodes.jsonl").read_bytes().splitlines()
    assert len(lines) == n_tasks
    assert {Trajectory.from_json(line).status for line in lines} == {"completed"}
