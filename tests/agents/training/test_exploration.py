"""Exploration: episodes of training tasks in a folder that records how they were played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.runs import RunMismatchError
from eto_agents.settings import DPO, ETO, RFT
from eto_agents.training import exploration
from eto_agents.training.exploration import explore, open_checkpoint
from eto_agents.training.task_splits import tasks_of
from eto_agents.trajectory import Trajectory
from eto_envs.files import read_json_object
from tests.agents.training.worlds import BANDIT, WORLD, undecided

pytestmark = pytest.mark.torch

QUICK = ETO(
    env=BANDIT, world=WORLD, temperature=1.0, max_new_tokens=6, n_envs=8, dpo=DPO(device="cpu")
)
TASKS = tasks_of(BANDIT, "train")[:3]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("exploration")
    save_checkpoint(undecided(folder), folder / "model")
    return folder / "model"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are loaded to play."""
    names: list[str] = []

    def spy(model: str | Path, settings: Any) -> Any:
        names.append(str(model))
        return open_checkpoint(model, settings)

    monkeypatch.setattr(exploration, "open_checkpoint", spy)
    return names


def go(start: Path, folder: Path, settings: ETO = QUICK, **changes: Any) -> list[Trajectory]:
    given: dict[str, Any] = {"model": start, "tasks": TASKS, "seeds": (0, 1)}
    return explore(settings=settings, folder=folder, **given | changes)


def test_a_complete_exploration_is_read_without_loading_the_model(
    start: Path, tmp_path: Path, loaded: list[str]
) -> None:
    episodes = go(start, tmp_path)
    assert [(e.task_id, e.seed) for e in episodes] == [
        (task.id, seed) for seed in (0, 1) for task in TASKS
    ]
    mean = sum(e.score for e in episodes) / 6
    assert read_json_object(tmp_path / "result.json") == {
        "n_episodes": 6, "score": pytest.approx(mean),
    }  # fmt: skip
    assert loaded == [str(start)]
    assert go(start, tmp_path) == episodes
    assert loaded == [str(start)]


def test_an_interrupted_exploration_plays_the_rest(
    start: Path, tmp_path: Path, loaded: list[str]
) -> None:
    whole = go(start, tmp_path / "whole")
    one_by_one = replace(QUICK, n_envs=1)
    cut = tmp_path / "cut"
    go(start, cut, one_by_one)
    (cut / "result.json").unlink()
    lines = (cut / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    before = b"".join([*lines[:4], lines[4][:100]])  # in the middle of a line
    (cut / "episodes.jsonl").write_bytes(before)
    loaded.clear()
    again = go(start, cut, one_by_one)
    assert loaded == [str(start)]
    assert (cut / "episodes.jsonl").read_bytes().startswith(b"".join(lines[:4]))
    assert (cut / "result.json").is_file()
    for episode, other in zip(again, whole, strict=True):
        assert episode.key == other.key
        assert [s.action for s in episode.steps] == [s.action for s in other.steps]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": TASKS[:2]}, "different inputs: tasks"),
        ({"seeds": (0, 2)}, "seeds"),
        ({"temperature": 0.5}, r"temperature 1\.0 \(now 0\.5\)"),
        ({"settings": replace(QUICK, temperature=0.0)}, r"temperature 1\.0 \(now 0\.0\)"),
        ({"settings": replace(QUICK, max_new_tokens=8)}, "max_new_tokens"),
        ({"settings": replace(QUICK, dataset="mini")}, "env_args"),
        ({"settings": replace(QUICK, split="seen")}, "split"),
    ],
)
def test_different_settings_are_refused(
    changes: dict[str, Any], message: str, start: Path, tmp_path: Path
) -> None:
    go(start, tmp_path)
    with pytest.raises(RunMismatchError, match=message):
        go(start, tmp_path, **changes)


def test_another_model_is_refused(start: Path, tmp_path: Path) -> None:
    go(start, tmp_path / "explored")
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "model")
    with pytest.raises(RunMismatchError, match="different inputs: model"):
        go(tmp_path / "model", tmp_path / "explored")


def test_n_envs_does_not_change_the_episodes(start: Path, tmp_path: Path) -> None:
    episodes = go(start, tmp_path)
    assert go(start, tmp_path, replace(QUICK, n_envs=1)) == episodes


def test_rft_can_explore_with_other_prompts(start: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(f'world = "{WORLD}"\ninstruction = "Other letters."\n')
    settings = RFT(env=BANDIT, world=WORLD, device="cpu")
    own = open_checkpoint(start, settings)
    assert (own.prompts, own.with_example) == (open_checkpoint(start, QUICK).prompts, False)
    changed = open_checkpoint(start, replace(settings, prompts=str(other), with_example=True))
    assert (changed.prompts, changed.with_example) == (str(other), True)
