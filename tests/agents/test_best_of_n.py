"""Best-of-N: its pure functions against brute force, and the results of `evaluate`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_agents import Results, TrajectoryStore, evaluate
from eto_agents.best_of_n import BestOfN, best, best_at_k, majority, outcome, pass_at_k
from eto_agents.evaluation import tables
from eto_agents.evaluation.samples import summarise_samples
from eto_agents.rollout import run_episode
from eto_agents.trajectory import Trajectory
from tests.agents.test_trajectory import episode
from tests.toy import CORRIDOR


def sample(
    number: int, score: float, text: str = "look", status: str = "completed", task: str = "a"
) -> Trajectory:
    return dataclasses.replace(
        episode(task, text),
        sample=number,
        score=score,
        success=score >= 1,
        status=status,  # type: ignore[arg-type]
    )


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8), st.data())
def test_estimators_equal_the_mean_over_all_draws(scores: list[float], data: Any) -> None:
    k = data.draw(st.integers(1, len(scores)))
    draws = [max(draw) for draw in itertools.combinations(scores, k)]
    assert best_at_k(scores, k) == pytest.approx(math.fsum(draws) / len(draws))
    wins = scores.count(1.0)
    expected = sum(value == 1.0 for value in draws) / len(draws)
    assert pass_at_k(len(scores), wins, k) == pytest.approx(expected)


@pytest.mark.parametrize("numbers", [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_numbers_out_of_range_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(*numbers)
    with pytest.raises(ValueError, match="best@3"):
        best_at_k([0.5, 0.5], 3)


def test_the_first_of_the_best_samples_is_selected() -> None:
    samples = [sample(2, 0.7), sample(1, 0.7), sample(0, 0.1), sample(3, 0.9, status="cancelled")]
    assert best(samples).sample == 1
    failed = [sample(1, 0.2, status="agent_error"), sample(0, 0.1, status="agent_error")]
    assert best(failed).status == "agent_error"
    assert best([*failed, sample(2, 0.0)]).sample == 2


def test_the_majority_needs_no_score() -> None:
    samples = [sample(0, 1.0, "jump"), sample(1, 0.2, "look"), sample(2, 0.2, "look")]
    assert majority(samples).sample == 1
    assert majority(samples[:2]).sample == 0  # equally frequent: the earliest
    page = "Thank you! [SEP] Purchased [SEP] asin [SEP] {} [SEP] options [SEP] {} [SEP] attrs [SEP]"
    bought = [
        dataclasses.replace(
            t,
            world="webshop",
            steps=[dataclasses.replace(t.steps[0], observation=page.format(asin, options))],
        )
        for t, asin, options in zip(samples, "ABA", ("{}", "{}", "{}"), strict=True)
    ]
    assert outcome(bought[0]) == ("A", "{}") == outcome(bought[2])
    assert majority(bought).sample == 0


def test_metrics_of_samples() -> None:
    groups = [
        [sample(0, 0.0, "x"), sample(1, 1.0, "y"), sample(2, 0.0, "x")],
        [sample(0, 0.5, task="b"), sample(1, 0.5, "z", status="agent_error", task="b")],
    ]
    result = summarise_samples(groups, 3)
    assert result["reward_mean"][0] == pytest.approx((1 / 3 + 0.5) / 2)
    assert result["reward_best"][0] == 0.75
    assert result["reward_majority"][0] == 0.25
    assert result["pass_at_k"] == {"1": pytest.approx(1 / 6), "2": pytest.approx(2 / 3), "3": 1.0}
    assert result["best_at_k"]["1"] == pytest.approx(result["reward_mean"][0])
    assert result["distinct_outcomes"] == 1.5
    assert result["statuses"] == {"completed": 4, "agent_error": 1}
    assert result["n_short"] == 1
    zero = summarise_samples(groups, 3, agent_errors="zero")
    assert zero["reward_mean"][0] == pytest.approx((1 / 3 + 0.25) / 2)
    assert summarise_samples([], 3)["pass_at_k"] == {"1": None, "2": None, "3": None}


def run(out: Path | None, policy: Any, **kwargs: Any) -> Results:
    arguments = {"env_args": {"max_steps": 6}} | kwargs
    return evaluate(policy, CORRIDOR, ("seen",), out=out, **arguments)


def test_evaluate_plays_and_stores_every_sample(tmp_path: Path) -> None:
    results = run(tmp_path, BestOfN("random", n=4), seeds=(0, 1))
    split = results.splits["seen"]
    log = list(TrajectoryStore(tmp_path / "episodes.jsonl").read())
    assert len({t.key for t in log}) == len(log) == 5 * 2 * 4
    assert {t.policy for t in log} == {"best-of-4 (random)"} == {results.policy}
    assert (split.n_tasks, split.n_episodes, split.n_planned) == (5, 10, 10)
    by_hand = [
        max(t.score for t in log if (t.task_id, t.seed) == (task, seed))
        for task in {t.task_id for t in log}
        for seed in (0, 1)
    ]
    assert split.reward.mean == pytest.approx(sum(by_hand) / 10)
    assert split.samples["reward_best"] == list(split.reward)
    assert split.samples["best_at_k"]["4"] == pytest.approx(split.reward.mean)
    assert split.samples["pass_at_k"]["4"] == pytest.approx(split.success.mean)
    assert split.samples["reward_mean"][0] < split.reward.mean
    assert split.samples["distinct_outcomes"] > 1
    assert results.provenance["policy"]["best_of_n"] == 4
    assert Results.load(tmp_path) == results
    assert "of 4 samples per task" in tables.results_page([results])


def test_sample_0_is_the_episode_of_the_wrapped_policy(tmp_path: Path) -> None:
    plain = run(None, "random")
    one = run(tmp_path, BestOfN("random", n=1))
    assert one.splits["seen"].reward == plain.splits["seen"].reward
    run(tmp_path / "three", BestOfN("random", n=3))
    log = TrajectoryStore(tmp_path / "three" / "episodes.jsonl").read()
    actions = {t.key: [s.action for s in t.steps] for t in log}
    for first in TrajectoryStore(tmp_path / "episodes.jsonl").read():
        assert actions[first.key] == [s.action for s in first.steps]
        others = [actions[first.key._replace(sample=i)] for i in (1, 2)]
        assert [s.action for s in first.steps] != others[0] != others[1]


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", BestOfN("random", n=3))
    out = tmp_path / "killed"
    run(out, BestOfN("random", n=3))
    lines = (out / "episodes.jsonl").read_text().splitlines(keepends=True)
    (out / "episodes.jsonl").write_text("".join(lines[:7]) + lines[7][:30])
    again = run(out, BestOfN("random", n=3), n_envs=2)
    for key in ("reward", "success", "steps", "samples", "statuses"):
        assert getattr(again.splits["seen"], key) == getattr(whole.splits["seen"], key), key


def test_wrapping() -> None:
    inner = BestOfN("replay", n=2, actions={"room3": ["east", "west"]})
    assert inner.name == "best-of-2 (replay)"
    assert run_episode(inner, CORRIDOR, "room3").status == "agent_error"
    assert BestOfN("expert").n_samples == 10
    json.dumps(inner.provenance)
    for n in (0, -1, 2.0, True, "3"):
        with pytest.raises(ValueError, match="positive integer"):
            BestOfN("random", n)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="already"):
        BestOfN(BestOfN("random"))
    with pytest.raises(TypeError, match="unexpected"):
        BestOfN(BestOfN("random").policy, 2, source="x")


def test_sampling_at_temperature_0_warns() -> None:
    from eto_agents.models.scripted import ScriptedModel
    from eto_agents.policies.react import ReActPolicy

    model = ScriptedModel(["Action: east"])
    with pytest.warns(UserWarning, match=r"a temperature such as 0\.7"):
        BestOfN(ReActPolicy(model))
    BestOfN(ReActPolicy(model), n=1)
    BestOfN(ReActPolicy(model, temperature=0.7))


class Forgetful:
    """Hangs in the second sample of one task."""

    def reset(self, task: Any, seed: int) -> None:
        self.is_stuck = task.id == "room2" and seed % 2 == 0

    def act(self, observation: str, info: Any) -> str:
        while self.is_stuck:
            pass
        return "east"


def test_a_time_limit_reaches_the_wrapped_agents() -> None:
    results = run(None, BestOfN(Forgetful, n=4), action_timeout_s=3.0, n_tasks=2)
    samples = results.splits["seen"].samples
    assert samples["statuses"]["agent_error"] >= 1
    assert samples["statuses"]["completed"] >= 5
    assert samples["n_short"] == 1
    assert results.splits["seen"].reward.mean == 1.0
