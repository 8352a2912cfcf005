"""Task types and splits; only the counts of variations need the simulator."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import pytest

from eto_envs import data
from eto_envs.errors import (
    CorruptDataError,
    DataNotFoundError,
    EmptySplitError,
    UnknownNameError,
)
from eto_envs.scienceworld import tasks
from eto_envs.scienceworld.tasks import (
    TASK_TYPES,
    current_name,
    find_splits,
    make_task_sets,
    official_variations,
    simplifications_of,
    split_id,
)
from eto_envs.scienceworld.world import count_variations
from eto_envs.tasks import find_task_set


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("task-1-boil", "boil"),
        ("task-2a-test-conductivity", "test-conductivity"),
        ("task-5-chemistry-mix-paint-(tertiary-color)", "chemistry-mix-paint-tertiary-color"),
        ("task-9-mendellian-genetics-(known-plant)", "mendelian-genetics-known-plant"),
        ("identify-life-stages-1", "identify-life-stages-1"),
    ],
)
def test_current_names(old: str, name: str) -> None:
    assert current_name(old) == name
    assert name in TASK_TYPES


def test_official_splits() -> None:
    splits = find_splits("1.2.3")
    ids = {split: set(task_ids) for split, task_ids in splits.ids.items()}
    assert len(TASK_TYPES) == 30
    assert len(splits.ids["all"]) == 7207
    assert ids["train"] | ids["seen"] | ids["unseen"] == ids["all"]
    assert sum(len(ids[split]) for split in ("train", "seen", "unseen")) == 7207
    assert splits.ids["train_clean"] == splits.ids["train"]
    sizes = [len(part) for part in official_variations(30).values()]
    assert sizes == [14, 7, 9]


@pytest.mark.java
def test_the_simulator_has_these_variations(java: str) -> None:
    assert {n: t.n_variations for n, t in TASK_TYPES.items()} == count_variations(java)


@pytest.mark.data
@pytest.mark.usefixtures("eto_splits")
def test_eto_splits() -> None:
    splits = find_splits()
    assert splits.dataset == "eto"
    sizes = {split: len(task_ids) for split, task_ids in splits.ids.items()}
    assert sizes == {
        "train": 1483,
        "train_clean": 1429,
        "seen": 194,
        "unseen": 211,
        "all": 7207,
    }
    ids = {split: set(task_ids) for split, task_ids in splits.ids.items()}
    assert all(len(ids[split]) == sizes[split] for split in sizes)
    assert len(ids["train"] & ids["seen"]) == 54
    assert not (ids["train"] | ids["seen"]) & ids["unseen"]
    assert not ids["train_clean"] & (ids["seen"] | ids["unseen"])
    assert ids["train_clean"] == ids["train"] - ids["seen"]
    official = find_splits("1.2.3").ids
    assert ids["seen"] <= set(official["seen"])
    assert ids["unseen"] <= set(official["unseen"])
    used = Counter(split_id(task_id)[0] for task_ids in ids.values() for task_id in task_ids)
    in_eto = {name for name, task_type in TASK_TYPES.items() if task_type.is_in_eto}
    assert {split_id(i)[0] for s in ("train", "seen", "unseen") for i in ids[s]} == in_eto
    assert len(in_eto) == 24
    assert set(used) == set(TASK_TYPES)


@pytest.mark.data
@pytest.mark.usefixtures("eto_splits")
def test_limits_are_those_of_eto() -> None:
    limits = json.loads(data.path("eto-splits/sciworld/max_steps.json").read_text())
    ours = {name: t.max_steps for name, t in TASK_TYPES.items() if t.is_in_eto}
    assert {current_name(name): limit for name, limit in limits.items()} == ours


def test_auto_without_downloads_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    tasks._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = {find_splits().dataset for _ in range(3)}
    assert names == {"1.2.3"}
    assert ["eto data download eto-splits" in str(w.message) for w in caught] == [True]
    with pytest.raises(DataNotFoundError, match="eto data download eto-splits"):
        find_splits("eto")


def test_a_folder_of_index_files(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"train_indices\.json"):
        find_splits(str(tmp_path))
    rows = {"train": [["task-1-boil", 3], ["task-1-melt", 0]], "dev": [["task-1-boil", 3]]}
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}_indices.json").write_text(json.dumps(rows.get(name, [])))
    splits = find_splits(str(tmp_path))
    assert splits.dataset == tmp_path.name
    assert splits.ids["train"] == ("boil/3", "melt/0")
    assert splits.ids["train_clean"] == ("melt/0",)
    tasks = make_task_sets(splits, "", lambda name, variation: "")
    with pytest.raises(
        EmptySplitError, match=r"split='unseen'.*test_indices\.json has no matching"
    ):
        find_task_set(tasks, "unseen")


@pytest.mark.parametrize(
    "content", ["[", "[3]", '[["task-1-boil", 30]]', '[["boyle", 1]]', '[["task-1-boil", "3"]]']
)
def test_bad_index_files(tmp_path: Path, content: str) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}_indices.json").write_text(content)
    with pytest.raises(CorruptDataError, match=r"train_indices\.json"):
        find_splits(str(tmp_path))


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'eto'"):
        find_splits("etoo")
    with pytest.raises(UnknownNameError, match="did you mean 'openDoors'"):
        simplifications_of("boil", "openDoor")
    with pytest.raises(UnknownNameError, match="about circuits"):
        simplifications_of("power-component", "openDoors,noElectricalAction")
    with pytest.raises(UnknownNameError, match="did you mean 'seen'"):
        find_task_set(make_task_sets(find_splits("1.2.3"), "", lambda name, variation: ""), "sen")


def test_simplifications() -> None:
    eto = "teleportAction,noElectricalAction,openDoors,selfWateringFlowerPots,openContainers"
    assert simplifications_of("boil", "eto") == eto
    assert simplifications_of("test-conductivity", "eto") == eto.replace("noElectricalAction,", "")
    assert simplifications_of("boil", "easy") == "easy"
    assert simplifications_of("boil", "") == ""
    assert simplifications_of("boil", "openDoors,teleportAction") == "openDoors,teleportAction"


def test_a_task_set_is_hashed_without_asking_for_texts() -> None:
    def describe(name: str, variation: int) -> str:
        raise AssertionError("asked for a text")

    splits = find_splits("1.2.3")
    sets = [make_task_sets(splits, fingerprint, describe) for fingerprint in "ab"]
    hashes = {task_sets[split].sha256 for task_sets in sets for split in ("seen", "all")}
    assert len(hashes) == 4
    task = make_task_sets(splits, "", lambda name, variation: f"Do {name}.")["all"][0]
    assert (task.id, task.goal, task.max_steps, task.kind) == ("boil/0", "Do boil.", 100, "boil")
