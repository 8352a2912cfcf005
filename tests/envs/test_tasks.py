"""Task sets: order, look-up, laziness, hash."""

from __future__ import annotations

import pytest

from eto_envs.errors import UnknownNameError
from eto_envs.tasks import Task, TaskSet, TaskSets, find_task_set
from tests.toy import corridor_tasks


def task_set(goal: str = "go", *, ids: tuple[str, ...] = ("a", "b"), print_: str = "f") -> TaskSet:
    return TaskSet(
        ids,
        lambda task_id: Task(task_id, goal, 10),
        split="train",
        dataset="d",
        fingerprint=print_,
    )


def test_sequence() -> None:
    tasks = corridor_tasks(3)
    assert [task.id for task in tasks] == list(tasks.ids) == ["room2", "room3", "room4"]
    assert len(tasks) == 3
    assert "room3" in tasks
    assert tasks[1] in tasks
    assert "room9" not in tasks
    assert [task.id for task in tasks[1:]] == ["room3", "room4"]
    assert tasks.find("room3") == tasks.find(1) == tasks[1]


def test_hash_covers_everything_that_could_change_a_score() -> None:
    base = task_set()
    assert base.sha256 == task_set().sha256
    others = [
        task_set("stop"),
        task_set(ids=("b", "a")),
        task_set(print_="g"),
        task_set(ids=("a",)),
    ]
    assert len({base.sha256, *(o.sha256 for o in others)}) == 5


def test_hash_is_pinned() -> None:
    """A changed value here means that results of older versions no longer compare."""
    expected = "12e805f2c714a875"
    assert corridor_tasks(3).sha256.startswith(expected)


def test_tasks_are_made_on_demand() -> None:
    made: list[str] = []

    def make(task_id: str) -> Task:
        made.append(task_id)
        return Task(task_id, "", 1)

    tasks = TaskSet([str(i) for i in range(10**5)], make, split="all", dataset="d")
    assert tasks[77].id == "77"
    assert made == ["77"]


def test_task_sets_are_made_when_they_are_read() -> None:
    made: list[str] = []

    def make(split: str) -> TaskSet:
        made.append(split)
        return corridor_tasks(3, split)

    sets = TaskSets(("train", "seen"), make)
    assert list(sets) == ["train", "seen"]
    assert len(sets) == 2
    assert "seen" in sets
    assert "unseen" not in sets
    assert sets.get("unseen") is None
    assert made == []
    assert sets["seen"] is sets["seen"]
    assert made == ["seen"]
    assert find_task_set(sets, "seen") is sets["seen"]
    with pytest.raises(UnknownNameError, match=r"mean 'seen'\? Dataset 'toy' has 'train', "):
        find_task_set(sets, "seem")


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'room3'"):
        corridor_tasks().find("rom3")
    with pytest.raises(UnknownNameError, match="0 to 4"):
        corridor_tasks().find(17)
    with pytest.raises(UnknownNameError, match="no task True"):
        corridor_tasks().find(True)
