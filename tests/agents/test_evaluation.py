"""The evaluation harness: means, intervals, resuming, refusing to mix runs, the table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from eto_agents import Results, TrajectoryStore, evaluate
from eto_agents.best_of_n import BestOfN
from eto_agents.evaluation import tables
from eto_agents.evaluation.results import summarise
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError, UnknownNameError
from tests.agents.test_trajectory import episode
from tests.agents.trackers import install
from tests.toy import CORRIDOR


def run(out: Path | None, policy: Any = "random", **kwargs: Any) -> Results:
    return evaluate(policy, CORRIDOR, ("train", "seen"), out=out, seeds=(0, 1), **kwargs)


def lines(out: Path) -> list[str]:
    return (out / "episodes.jsonl").read_text().splitlines(keepends=True)


def test_results_of_a_split(tmp_path: Path) -> None:
    results = run(tmp_path, "expert")
    split = results.splits["seen"]
    assert split.reward == split.success == (1.0, pytest.approx(0.566, abs=1e-3), 1.0)
    assert (split.n_tasks, split.n_episodes, split.n_planned) == (5, 10, 10)
    assert (split.steps, split.invalid_actions) == (4.0, 0.0)
    assert split.statuses == {"completed": 10}
    assert Results.load(tmp_path) == results
    assert results.provenance["seeds"] == [0, 1]
    assert results.provenance["versions"]["gymnasium"]


def test_an_interrupted_run_resumes_and_ends_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", n_envs=1)
    out = tmp_path / "killed"
    run(out, n_envs=1)
    complete = lines(out)[:7]
    (out / "episodes.jsonl").write_text("".join(complete) + lines(out)[7][:40])
    seen: list[Any] = []
    again = run(out, n_envs=3, progress=seen.append)
    for split, split_result in again.splits.items():
        expected = whole.splits[split]
        assert split_result.reward == expected.reward
        assert split_result.statuses == expected.statuses
    assert lines(out)[:7] == complete
    assert len(lines(out)) == 20
    assert seen[0][:3] == ("train", 7, 10)
    assert len(seen[0].earlier) == 7
    assert sum(p.trajectory is not None for p in seen) == 13


def test_an_interrupted_run_keeps_its_episodes(tmp_path: Path) -> None:
    def interrupt(progress: Any) -> None:
        if progress.n_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=interrupt, n_envs=2)
    statuses = [t.status for t in TrajectoryStore(tmp_path / "episodes.jsonl").read()]
    assert statuses.count("cancelled") >= 1
    results = run(tmp_path)
    assert results.splits["train"].n_episodes == 10
    assert "cancelled" not in results.splits["train"].statuses


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(DataError, match=r"policy 'random' \(now 'expert'\)"):
        run(tmp_path, "expert")
    with pytest.raises(DataError, match="env_args"):
        run(tmp_path, env_args={"max_steps": 3})
    evaluate("random", CORRIDOR, ("unseen",), out=tmp_path)  # another split joins
    record = json.loads((tmp_path / "run.json").read_text())
    record["inputs"]["train"] = "another"
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="different inputs: train changed"):
        run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"panels": record["inputs"]}))
    with pytest.raises(DataError, match="written by an early version"):
        run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptDataError, match=r"run\.json, line 1"):
        run(tmp_path)


class Sick:
    """Fails on two of five tasks."""

    def reset(self, task: Any, seed: int) -> None:
        self.ok = task.id not in ("room3", "room6")

    def act(self, observation: str, info: Any) -> str:
        if not self.ok:
            raise OSError("server away")
        return "east"


def test_agent_errors_are_excluded_or_count_as_zero_and_are_always_reported() -> None:
    left_out = evaluate(Sick, CORRIDOR, ("seen",)).splits["seen"]
    assert (left_out.reward.mean, left_out.n_tasks, left_out.n_planned) == (1.0, 3, 5)
    assert left_out.statuses == {"completed": 3, "agent_error": 2}
    result = evaluate(Sick, CORRIDOR, ("seen",), agent_errors="zero")
    assert result.splits["seen"].reward.mean == pytest.approx(0.6)
    assert "count as 0" in tables.results_page([result])
    assert "2 (2 agent_error)" in tables.results_page([evaluate(Sick, CORRIDOR, ("seen",))])


def test_agent_errors_are_played_again_on_request(tmp_path: Path) -> None:
    first = evaluate(Sick, CORRIDOR, ("seen",), out=tmp_path)
    again = evaluate(Sick, CORRIDOR, ("seen",), out=tmp_path)
    assert again.splits == first.splits
    assert len(lines(tmp_path)) == 5

    class Well(Sick):
        name = "Sick"

        def act(self, observation: str, info: Any) -> str:
            return "east"

    healed = evaluate(Well, CORRIDOR, ("seen",), out=tmp_path, retry_agent_errors=True)
    assert healed.splits["seen"].statuses == {"completed": 5}
    assert len(lines(tmp_path)) == 7


def test_an_agents_failure_is_stored_with_its_traceback(tmp_path: Path) -> None:
    evaluate(Sick, CORRIDOR, ("seen",), out=tmp_path)
    failed = [t for t in TrajectoryStore(tmp_path / "episodes.jsonl").read() if t.error]
    assert [t.task_id for t in failed] == ["room3", "room6"]
    first, *rest = failed[0].error.splitlines()
    assert first.startswith("OSError: server away (test_evaluation.py:")
    assert rest[0].startswith("Traceback")
    assert 'raise OSError("server away")' in "\n".join(rest)


def test_batch_size_is_another_name_of_n_envs() -> None:
    results = evaluate("random", CORRIDOR, ("seen",), batch_size=3)
    assert results.provenance["n_envs"] == 3


def test_the_mean_of_no_episodes_is_not_zero() -> None:
    split_result = summarise("seen", "00", [], n_planned=3)
    assert math.isnan(split_result.reward.mean)
    assert tables.estimate(split_result.reward) == "–"


def test_n_tasks_and_invalid_arguments(tmp_path: Path) -> None:
    result = run(None, n_tasks=2)
    assert result.splits["seen"].n_planned == 4
    assert "only the first 2 tasks" in tables.results_page([result])
    with pytest.raises(ValueError, match="n_tasks"):
        run(None, n_tasks=0)
    with pytest.raises(UnknownNameError, match="agent_errors"):
        run(None, agent_errors="ignore")
    with pytest.raises(TypeError, match="sequence"):
        evaluate("random", CORRIDOR, "seen")
    with pytest.raises(DataNotFoundError, match="eto eval"):
        Results.load(tmp_path)


def test_results_file_checks(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "results.json"
    record = json.loads(path.read_text())
    for change in ({"schema": 9}, {"splits": {"seen": {}}}, {"other": 1}):
        path.write_text(json.dumps(record | change))
        with pytest.raises(CorruptDataError):
            Results.load(path)


def test_tokens_and_invalid_actions_are_summed() -> None:
    split_result = summarise("seen", "00", [episode("a"), episode("b")], n_planned=2)
    assert split_result.tokens == 6
    assert split_result.invalid_actions == 0.0


class Failing:
    """An agent that answers nothing."""

    def reset(self, task: Any, seed: int) -> None:
        pass

    def act(self, observation: str, info: Any) -> str:
        raise RuntimeError("no answer")


@pytest.mark.parametrize("n_samples", [1, 2])
def test_results_of_nothing_are_strict_json(n_samples: int, tmp_path: Path) -> None:
    policy = Failing() if n_samples == 1 else BestOfN(Failing(), n_samples)
    results = run(tmp_path, policy)
    split = results.splits["seen"]
    assert (split.n_tasks, split.n_episodes, split.statuses) == (0, 0, {"agent_error": 10})
    for name in ("results.json", "run.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
    for line in lines(tmp_path):
        json.loads(line, parse_constant=pytest.fail)
    loaded = Results.load(tmp_path).splits["seen"]
    assert math.isnan(loaded.reward.mean)
    assert math.isnan(loaded.success.mean)
    assert math.isnan(loaded.steps)
    assert math.isnan(loaded.invalid_actions)
    assert loaded.reward[1:] == (None, None)
    page = tables.results_page([Results.load(tmp_path)])
    assert "| 0 | – | – | – | – | 10 (10 agent_error) |" in page


def test_trackers_receive_scores_so_far_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve of a resumed evaluation goes on, and a repetition adds nothing to it."""
    wandb = install(monkeypatch, "wandb")

    def interrupt(progress: Any) -> None:
        if progress.split == "seen" and progress.n_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "expert", n_envs=1, progress=interrupt, report_to=("wandb",))
    for _ in range(2):
        results = run(tmp_path, "expert", n_envs=1, report_to=("wandb",))
    ((run_id, seen),) = wandb.runs.items()
    steps = [step for step, _ in seen["lines"]]
    # Ten episodes of train, and ten of seen, in the fourth of which the run was interrupted; the
    # results take the place of a last point.
    assert steps == [*range(1, 10), 11, 12, 13, *range(15, 20), 20]
    assert seen["lines"][8][1] == {"train/episodes": 9, "train/reward": 1.0}
    last = seen["lines"][-1][1]
    split = results.splits["seen"]
    assert (last["seen/reward"], last["seen/success"]) == (1.0, 1.0)
    assert (last["seen/reward_low"], last["seen/reward_high"]) == split.reward[1:]
    assert (last["seen/episodes"], last["train/episodes"], last["train/missing"]) == (10, 10, 0)
    assert seen["config"]["env_id"] == CORRIDOR
    assert seen["config"]["kind"] == "episodes"
    # Episodes that are played again count again, so that their results come later.
    evaluate("expert", CORRIDOR, ("train",), out=tmp_path, seeds=(2,), report_to=("wandb",))
    assert seen["lines"][-1][0] == 25
    assert list(wandb.runs) == [run_id]


def test_a_long_evaluation_sends_a_hundred_points_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = install(monkeypatch, "wandb")
    seeds = range(60)  # 300 episodes
    evaluate("expert", CORRIDOR, ("seen",), out=tmp_path, seeds=seeds, report_to=("wandb",))
    (seen,) = wandb.runs.values()
    assert [step for step, _ in seen["lines"]] == list(range(3, 301, 3))


def test_an_unknown_tracker_is_an_error_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no tracker 'wandbb'"):
        run(tmp_path, report_to=("wandbb",))
    assert not (tmp_path / "episodes.jsonl").exists() or not lines(tmp_path)
