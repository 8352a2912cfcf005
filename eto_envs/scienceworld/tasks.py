"""ScienceWorld's task types, their variations, and the task sets.

Three datasets use the same simulator: ``"eto"`` has the splits of ETO (index files of
Yifan-Song793/ETO at commit a2fc5da, which must be downloaded), ``"1.2.3"`` the simulator's own
train, dev and test variations of all thirty task types (`PythonInterface.getSets`), and ``"mini"``
a part of the latter: the task types that ETO gives at most 20 steps. Not here: the
descriptions of tasks (`world.describe`) and the protocol (`env`).
"""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from eto_envs.errors import CorruptDataError, UnknownNameError
from eto_envs.files import read_json
from eto_envs.tasks import SPLITS, Task, TaskSet, TaskSets

OFFICIAL = "1.2.3"
ETO = "eto"
MINI = "mini"


class TaskType(NamedTuple):
    """A task type.

    Attributes:
        n_variations: the number of variations.
        max_steps: ETO's step limit (`eval_agent/data/sciworld/max_steps.json`); for types that ETO
            leaves out, the default limit of the simulator's Python class.
        is_in_eto: whether ETO uses this type.
    """

    n_variations: int
    max_steps: int
    is_in_eto: bool = True


TASK_TYPES: Mapping[str, TaskType] = {
    "boil": TaskType(30, 100),
    "change-the-state-of-matter-of": TaskType(30, 80),
    "chemistry-mix": TaskType(32, 60),
    "chemistry-mix-paint-secondary-color": TaskType(36, 15),
    "chemistry-mix-paint-tertiary-color": TaskType(36, 30),
    "find-animal": TaskType(300, 15),
    "find-living-thing": TaskType(300, 15),
    "find-non-living-thing": TaskType(300, 15),
    "find-plant": TaskType(300, 15),
    "freeze": TaskType(30, 80),
    "grow-fruit": TaskType(126, 60),
    "grow-plant": TaskType(126, 30),
    "identify-life-stages-1": TaskType(14, 30),
    "identify-life-stages-2": TaskType(10, 30),
    "inclined-plane-determine-angle": TaskType(168, 100, is_in_eto=False),
    "inclined-plane-friction-named-surfaces": TaskType(1386, 100, is_in_eto=False),
    "inclined-plane-friction-unnamed-surfaces": TaskType(162, 100, is_in_eto=False),
    "lifespan-longest-lived": TaskType(125, 10),
    "lifespan-longest-lived-then-shortest-lived": TaskType(125, 12),
    "lifespan-shortest-lived": TaskType(125, 10),
    "measure-melting-point-known-substance": TaskType(436, 120),
    "measure-melting-point-unknown-substance": TaskType(300, 100, is_in_eto=False),
    "melt": TaskType(30, 80),
    "mendelian-genetics-known-plant": TaskType(120, 100, is_in_eto=False),
    "mendelian-genetics-unknown-plant": TaskType(480, 100, is_in_eto=False),
    "power-component": TaskType(20, 20),
    "power-component-renewable-vs-nonrenewable-energy": TaskType(20, 30),
    "test-conductivity": TaskType(900, 30),
    "test-conductivity-of-unknown-substances": TaskType(600, 30),
    "use-thermometer": TaskType(540, 30),
}
"""All task types of the simulator, by their current name."""

EASY = ("teleportAction", "openDoors", "selfWateringFlowerPots")
SIMPLIFICATIONS = (*EASY, "openContainers", "noElectricalAction")
"""The simulator's own simplifications; ``"easy"`` is `EASY` and, where a task needs no circuit,
``noElectricalAction``."""

_MINI_MAX_STEPS = 20
_MINI_VARIATIONS = 10  # of each task type in seen, and in unseen

_INDEX_FILES = {
    "train": "train_indices.json",
    "seen": "dev_indices.json",
    "unseen": "test_indices.json",
}
_DOWNLOADS = "eto-splits/sciworld"


def current_name(name: str) -> str:
    """The current name of a task type, given that name or the one in ETO's files.

    ``task-1-boil`` is ``boil``; ``task-9-mendellian-genetics-(known-plant)`` is
    ``mendelian-genetics-known-plant`` (`scienceworld.utils.infer_task`).
    """
    name = name.replace("mendellian", "mendelian")
    return re.sub(r"task-(\d|a|b)+-|[()]", "", name)


def simplifications_of(task: str, simplification: str) -> str:
    """The simplification string to pass to the simulator for a task.

    Args:
        task: the name of the task type.
        simplification: ``"eto"``, ``"easy"``, names from `SIMPLIFICATIONS` joined by commas, or
            the empty string.

    Raises:
        UnknownNameError: an unknown simplification, or one that rules out circuits although the
            task needs them.
    """
    needs_circuits = "power-component" in task or "conductivity" in task
    if simplification == "easy":
        return simplification
    if simplification == "eto":
        # ETO ran a modified simulator with "easy"; its prompt and recorded observations show open
        # containers, which the published simulator has only with "openContainers".
        teleport, *others = EASY
        electrical = [] if needs_circuits else ["noElectricalAction"]
        return ",".join([teleport, *electrical, *others, "openContainers"])
    for name in filter(None, simplification.split(",")):
        if name not in SIMPLIFICATIONS:
            raise UnknownNameError("simplification", name, ("eto", "easy", *SIMPLIFICATIONS))
        if name == "noElectricalAction" and needs_circuits:
            hint = f"Task {task!r} is about circuits; 'eto' and 'easy' omit it there."
            raise UnknownNameError("simplification", name, (), hint)
    return simplification


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset's task ids by split, and the files that list them."""

    dataset: str
    ids: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str] = field(default_factory=dict)


class SimulatorTasks(TaskSet):
    """A task set whose hash does not require running the simulator.

    A task is determined by the simulator, the simplification, its name and its variation. The hash
    is computed from these and the step limits, so no task description has to be generated.
    """

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the fingerprint and of every id and step limit, in order."""
        digest = hashlib.sha256(self.fingerprint.encode() + b"\n")
        for task_id in self.ids:
            limit = TASK_TYPES[split_id(task_id)[0]].max_steps
            digest.update(f"{task_id} {limit}\n".encode())
        return digest.hexdigest()


def split_id(task_id: str) -> tuple[str, int]:
    """``("boil", 3)`` of ``"boil/3"``."""
    name, _, variation = task_id.rpartition("/")
    return name, int(variation)


def make_task_sets(
    splits: Splits, fingerprint: str, describe: Callable[[str, int], str]
) -> TaskSets:
    """The task sets of a dataset.

    Args:
        splits: from `find_splits`.
        fingerprint: hash of what all tasks share.
        describe: returns the description of a task, given its name and variation.
    """

    def make_task(task_id: str) -> Task:
        name, variation = split_id(task_id)
        return Task(
            id=task_id,
            goal=describe(name, variation),
            max_steps=TASK_TYPES[name].max_steps,
            kind=name,
            data={"task": name, "variation": variation},
        )

    def make(split: str) -> TaskSet:
        return SimulatorTasks(
            splits.ids[split],
            make_task,
            split=split,
            dataset=splits.dataset,
            fingerprint=fingerprint,
            source=splits.files.get(split, ""),
        )

    return TaskSets(splits.ids, make)


def find_splits(dataset: str = "auto") -> Splits:
    """The splits of a dataset.

    Args:
        dataset: ``"auto"``, ``"eto"``, ``"1.2.3"``, ``"mini"``, or a folder with ETO's three index
            files.

    Raises:
        DataNotFoundError: ETO's index files are not on this machine, or not in the folder.
        CorruptDataError: an index file names a task that does not exist.
        UnknownNameError: `dataset` is neither a known name nor a folder.
    """
    from eto_envs import data

    if dataset == "auto":
        found = all(data.find(f"{_DOWNLOADS}/{name}") for name in _INDEX_FILES.values())
        if not found:
            _warn_once()
        dataset = ETO if found else OFFICIAL
    if dataset == MINI:
        return _mini_splits()
    if dataset == OFFICIAL:
        return _official_splits()
    if dataset == ETO:
        files = {s: data.path(f"{_DOWNLOADS}/{name}") for s, name in _INDEX_FILES.items()}
        return _eto_splits(ETO, tuple(files.items()))
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        hint = "It can also be a folder with ETO's index files."
        raise UnknownNameError("dataset", dataset, ("auto", ETO, OFFICIAL, MINI), hint)
    return _eto_splits(folder.name, tuple((s, folder / n) for s, n in _INDEX_FILES.items()))


def official_variations(n_variations: int) -> dict[str, range]:
    """The simulator's own splits: half train, a quarter dev (``"seen"``), the rest test."""
    quarter = n_variations // 4
    return {
        "train": range(2 * quarter),
        "seen": range(2 * quarter, 3 * quarter),
        "unseen": range(3 * quarter, n_variations),
    }


def reserved_variations(n_variations: int) -> range:
    """The last third of a task type's train variations, which `MINI` leaves out."""
    train = official_variations(n_variations)["train"]
    return train[len(train) - len(train) // 3 :]


@functools.cache
def _mini_splits() -> Splits:
    """Two thirds of the train variations of the short task types, ten of dev and ten of test.

    The last third of the train variations is left to whoever wants to try things on tasks that no
    agent is trained on: ``tiny-base`` is pretrained there.
    """
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, task_type in TASK_TYPES.items():
        if not task_type.is_in_eto or task_type.max_steps > _MINI_MAX_STEPS:
            continue
        of_type = official_variations(task_type.n_variations)
        train = of_type["train"]
        chosen = {
            "train": train[: len(train) - len(reserved_variations(task_type.n_variations))],
            "seen": of_type["seen"][:_MINI_VARIATIONS],
            "unseen": of_type["unseen"][:_MINI_VARIATIONS],
        }
        for split, variations in chosen.items():
            ids[split] += [f"{name}/{variation}" for variation in variations]
    ids["train_clean"] = ids["train"]
    ids["all"] = [*ids["train"], *ids["seen"], *ids["unseen"]]
    return Splits(MINI, {split: tuple(task_ids) for split, task_ids in ids.items()})


@functools.cache
def _official_splits() -> Splits:
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, task_type in TASK_TYPES.items():
        for split, variations in official_variations(task_type.n_variations).items():
            ids[split] += [f"{name}/{variation}" for variation in variations]
        ids["all"] += [f"{name}/{variation}" for variation in range(task_type.n_variations)]
    ids["train_clean"] = ids["train"]
    return Splits(OFFICIAL, {split: tuple(task_ids) for split, task_ids in ids.items()})


@functools.lru_cache(maxsize=8)
def _eto_splits(dataset: str, files: Sequence[tuple[str, Path]]) -> Splits:
    ids = {split: tuple(_read_index(path)) for split, path in files}
    held_out = {*ids["seen"], *ids["unseen"]}
    # 54 of ETO's seen tasks are also in its train split; the splits are used as published.
    ids["train_clean"] = tuple(task_id for task_id in ids["train"] if task_id not in held_out)
    ids["all"] = _official_splits().ids["all"]
    sources = {split: str(path) for split, path in files}
    sources["train_clean"] = sources["train"]
    return Splits(dataset, {split: ids[split] for split in SPLITS}, sources)


def _read_index(path: Path) -> Iterator[str]:
    hint = "`eto data download eto-splits` downloads ETO's index files."
    rows = read_json(path, hint)
    if not isinstance(rows, list):
        raise CorruptDataError(f"{path} is not a JSON list. {hint}")
    for row in rows:
        try:
            name, variation = row
            name = current_name(name)
            is_known = type(variation) is int and variation in range(TASK_TYPES[name].n_variations)
        except (TypeError, ValueError, KeyError, AttributeError):
            is_known = False
        if not is_known:
            raise CorruptDataError(f"{path}: {row!r:.80} is not a task and a variation")
        yield f"{name}/{variation}"


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "using the simulator's own train, dev and test variations of ScienceWorld (dataset "
        f"{OFFICIAL!r}), not ETO's splits. To get those, run `eto data download eto-splits`; "
        f"to silence this warning, pass dataset={OFFICIAL!r}.",
        UserWarning,
        stacklevel=2,
    )
