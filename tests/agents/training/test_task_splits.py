from __future__ import annotations

from pathlib import Path

import pytest

from eto_agents.console import relayed
from eto_agents.policies.simple import ExpertPolicy
from eto_agents.training.task_splits import mean_score, play, split_dev, tasks_of
from eto_agents.trajectory import Trajectory
from eto_envs.tasks import Task
from tests.agents.training.episodes import episode
from tests.toy import CORRIDOR


def tasks(n: int) -> list[Task]:
    return [Task(str(i), "goal", 5) for i in range(n)]


def ids(tasks: list[Task]) -> list[str]:
    return [task.id for task in tasks]


def test_train_and_dev_share_no_task_and_keep_their_order() -> None:
    train, dev = split_dev(tasks(20), 5)
    assert len(dev) == 5
    assert sorted(ids(train) + ids(dev), key=int) == ids(tasks(20))
    for part in (train, dev):
        assert ids(part) == sorted(ids(part), key=int)


def test_the_selection_depends_on_ids_and_seed_only() -> None:
    dev = set(ids(split_dev(tasks(20), 5).dev))
    assert set(ids(split_dev(tasks(20)[::-1], 5).dev)) == dev
    assert set(ids(split_dev(tasks(20), 5, seed=1).dev)) != dev
    assert dev == {"2", "4", "8", "9", "10"}  # the same on every machine


def test_a_task_that_occurs_twice_is_in_one_part_only() -> None:
    train, dev = split_dev(tasks(6) + tasks(6), 3)
    assert len(train) == len(dev) == 3


def test_impossible_numbers_of_development_tasks_are_refused() -> None:
    assert split_dev(tasks(3), 0).train == tasks(3)
    for n in (3, -1):
        with pytest.raises(ValueError, match="development tasks out of 3 tasks"):
            split_dev(tasks(3), n)


def test_stored_episodes_are_not_played_again(tmp_path: Path) -> None:
    tasks = tasks_of(CORRIDOR, "train")
    reports: list[tuple[int, int]] = []
    made: list[ExpertPolicy] = []

    def make() -> ExpertPolicy:
        made.append(ExpertPolicy())
        return made[-1]

    def go(n: int) -> list[Trajectory]:
        with relayed(lambda report: reports.append((report.n_done, report.n_planned))):
            return play(
                make, CORRIDOR, tasks[:n], tmp_path / "episodes.jsonl",
                split="train", seeds=(0, 1),
            )  # fmt: skip

    assert [(e.task_id, e.seed) for e in go(2)] == [
        ("room2", 0), ("room3", 0), ("room2", 1), ("room3", 1),
    ]  # fmt: skip
    assert reports[-1] == (4, 4)
    reports.clear()
    assert mean_score(go(3)) == 1.0
    assert reports == [(4, 6), (5, 6), (6, 6)]  # the third task, twice
    assert len(made) == 2
    assert len(go(3)) == 6
    assert len(made) == 2  # no agent is made where nothing is left to play


def test_the_mean_score_counts_episodes_as_evaluation_does() -> None:
    played, failed = episode(score=0.8), episode(score=0.5, status="agent_error")
    unplayed = [episode(score=0.0, status=status) for status in ("env_error", "cancelled")]
    assert mean_score([played, failed, *unplayed]) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no episodes"):
        mean_score(unplayed)


def test_a_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="the mean score of no episodes"):
        mean_score([])
