"""Tasks and frozen task sets.

A `Task` is one problem with a stable id. A `TaskSet` is an ordered list of tasks, a split of a
dataset, with a hash of everything that could change a score: results on task sets with different
hashes are not comparable. `TaskSets` holds all splits of a dataset. Tasks are built on demand, so a
set of a million tasks costs no more than a list of ids.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from eto_envs.errors import EmptySplitError, UnknownNameError

SPLITS = ("train", "train_clean", "seen", "unseen", "all")


@dataclass(frozen=True, slots=True)
class Task:
    """One problem.

    Attributes:
        id: stable string, unique in its dataset (WebShop ``"17"``, ScienceWorld ``"boil/3"``).
        goal: the instruction as the agent reads it.
        max_steps: the protocol's step limit.
        kind: the task type, for breakdowns in reports.
        data: what the environment needs to start the task. It is part of the task set's hash, so
            it must be JSON-serialisable and complete (a changed price or text must change it).
    """

    id: str
    goal: str
    max_steps: int
    kind: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def canonical(self) -> bytes:
        """The task as one line of canonical JSON, which the hash of the task set covers."""
        record = [self.id, self.goal, self.max_steps, self.kind, self.data]
        return json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n"


class TaskSet(Sequence[Task]):
    """An ordered set of tasks: a split of a dataset.

    Attributes:
        split: the split's name, one of `SPLITS`.
        dataset: the dataset's name as results quote it.
        ids: the tasks' ids, in order.
        fingerprint: hash of what all tasks share (catalogue, grammar); part of `sha256`.
    """

    def __init__(
        self,
        ids: Sequence[str],
        make: Callable[[str], Task],
        *,
        split: str,
        dataset: str,
        fingerprint: str = "",
        source: str = "",
    ) -> None:
        """Make a task set of `ids`; `make(id)` builds a task when it is needed.

        Args:
            ids: the ids of the tasks, in order.
            make: builds the task of an id.
            split: the name of the split.
            dataset: the name of the dataset.
            fingerprint: a hash of what all tasks share.
            source: what lists the ids, such as the path of a file; for the error if it lists none.
        """
        self.ids = tuple(ids)
        self.split = split
        self.dataset = dataset
        self.fingerprint = fingerprint
        self.source = source
        self._make = make

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Task: ...

    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...

    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        """The task at a position, or the tasks of a slice as a list."""
        if isinstance(index, slice):
            return [self._make(task_id) for task_id in self.ids[index]]
        return self._make(self.ids[index])

    def __iter__(self) -> Iterator[Task]:
        """The tasks in order."""
        return (self._make(task_id) for task_id in self.ids)

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {task_id: position for position, task_id in enumerate(self.ids)}

    def __contains__(self, item: object) -> bool:
        """Whether a task or a task id is in the set."""
        return (item.id if isinstance(item, Task) else item) in self._positions

    def find(self, task: str | int | Task) -> Task:
        """The task that `reset(options={"task": task})` refers to.

        Args:
            task: an id, a position in the set (NumPy integers too), or a task of this set.

        Raises:
            UnknownNameError: this set has no such task.
        """
        if isinstance(task, Task):
            task = task.id
        if isinstance(task, str):
            if task in self._positions:
                return self._make(task)
        elif hasattr(task, "__index__") and not isinstance(task, bool):
            position = task.__index__()
            if 0 <= position < len(self.ids):
                return self[position]
            raise UnknownNameError(
                "task", task, (), f"Positions in split {self.split!r} go from 0 to {len(self) - 1}."
            )
        hint = f"This is split {self.split!r} of {self.dataset!r}; split='all' has every task."
        raise UnknownNameError("task", task, self.ids, hint)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the fingerprint and of every task, in order."""
        digest = hashlib.sha256(self.fingerprint.encode() + b"\n")
        for task in self:
            digest.update(task.canonical())
        return digest.hexdigest()

    def __repr__(self) -> str:
        """Split, dataset and size."""
        return f"TaskSet(split={self.split!r}, dataset={self.dataset!r}, n={len(self)})"


class TaskSets(Mapping[str, TaskSet]):
    """The splits of a dataset by name; each task set is made when it is first accessed."""

    def __init__(self, splits: Iterable[str], make: Callable[[str], TaskSet]) -> None:
        """List the splits; `make(split)` builds a task set and is called at most once for each."""
        self._splits = tuple(splits)
        self._make = functools.cache(make)

    def __getitem__(self, split: str) -> TaskSet:
        """The task set of a split; KeyError if there is no such split."""
        if split not in self._splits:
            raise KeyError(split)
        return self._make(split)

    def __contains__(self, split: object) -> bool:
        """Whether there is such a split; does not make its task set."""
        return split in self._splits

    def __iter__(self) -> Iterator[str]:
        """The splits in order."""
        return iter(self._splits)

    def __len__(self) -> int:
        """Number of splits."""
        return len(self._splits)

    def __repr__(self) -> str:
        """The splits."""
        return f"TaskSets({', '.join(map(repr, self._splits))})"


def find_task_set(task_sets: Mapping[str, TaskSet], split: str) -> TaskSet:
    """The task set of a split.

    Raises:
        UnknownNameError: the dataset has no such split.
        EmptySplitError: the split is empty; a `ValueError`, too.
    """
    if not isinstance(split, str) or split not in task_sets:
        splits = list(task_sets)
        dataset = task_sets[splits[0]].dataset
        hint = f"Dataset {dataset!r} has {', '.join(map(repr, splits))} only."
        raise UnknownNameError("split", split, splits, hint)
    tasks = task_sets[split]
    if len(tasks) == 0:
        where = f": {tasks.source} has no matching entry" if tasks.source else ""
        raise EmptySplitError(f"{tasks!r} has no task{where}")
    return tasks
