from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from eto_agents.training.stage import StageMismatchError

from eto_agents.console import relayed
from eto_agents.models.checkpoints import save_checkpoint
from eto_agents.preference import read_pairs
from eto_agents.store import TrajectoryStore
from eto_agents.training.dpo import DPOSettings
from eto_agents.training.eto import ETOSettings, Exploration, eto
from eto_agents.training.pairs import NoPairsError
from eto_agents.trajectory import Trajectory
from eto_envs.errors import DataError
from tests.agents.training.worlds import BANDIT, WORLD, episode, undecided

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

LEARN = DPOSettings(
    learning_rate=1e-3, n_epochs=4, batch_size=4, save_every=2, nll_weight=0.3, device="cpu"
)
PLAY = Exploration(samples=3, temperature=1.0, max_new_tokens=6, lockstep=16)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b alike, and the expert's episodes of six of eight tasks."""
    folder = tmp_path_factory.mktemp("eto")
    save_checkpoint(undecided(folder), folder / "model")
    return folder


def write_experts(folder: Path, episodes: list[Trajectory] | None = None) -> Path:
    with TrajectoryStore(folder / "episodes.jsonl") as store:
        for played in episodes or [episode("b", task_id=f"t{i}") for i in range(6)]:
            store.append(played)
    return folder


def settings_for(start: Path, folder: Path, **changes: Any) -> ETOSettings:
    data = folder / "data"
    if not data.exists():
        write_experts(data)
    fields: dict[str, Any] = {
        "env": BANDIT,
        "data": (data,),
        "model": str(start / "model"),
        "out": folder / "run",
        "iterations": 1,
        "explore": PLAY,
        "dpo": LEARN,
        "world": WORLD,
    }
    return ETOSettings(**fields | changes)


def logged(lines: list[str]) -> contextlib.AbstractContextManager[None]:
    """What is logged inside goes to `lines`."""
    return relayed(lambda report: lines.append(report.text) if report.text else None)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_loop_explores_pairs_learns_and_is_scored(start: Path, tmp_path: Path) -> None:
    asked: list[tuple[Path, Path]] = []

    def evaluate(checkpoint: Path, folder: Path) -> Mapping[str, float]:
        asked.append((checkpoint, folder))
        return {"seen": 0.25 * len(asked)}

    settings = settings_for(start, tmp_path, iterations=2, dev_tasks=2)
    lines: list[str] = []
    with logged(lines):
        outcome = eto(settings, evaluate=evaluate)
    run = settings.out
    assert [i.number for i in outcome.iterations] == [0, 1, 2]
    assert [i.scores["seen"] for i in outcome.iterations] == [0.25, 0.5, 0.75]
    assert outcome.checkpoint == str(run / "iteration-2" / "dpo" / "checkpoint")
    assert [folder for _, folder in asked] == [
        run / f"iteration-{i}" / "evaluation" for i in range(3)
    ]
    first = outcome.iterations[1]
    # The agent says a half of the time: that loses. It says b otherwise, as the expert does.
    assert first.counts["lose"] > 0
    assert first.counts["pairs"] == len(list(read_pairs(run / "iteration-1/pairs/pairs.jsonl")))
    assert first.learning["accuracy"] is not None
    # It has learned not to.
    assert outcome.iterations[2].explored > first.explored  # type: ignore[operator]
    explored = list(TrajectoryStore(run / "iteration-1/explore/episodes.jsonl").read())
    known = {f"t{i}" for i in range(6)}
    dev = {e.task_id for e in TrajectoryStore(run / "iteration-1/dev/episodes.jsonl").read()}
    assert len(dev) == 2
    assert {e.task_id for e in explored} == known - dev  # tasks with an expert, dev left out
    assert len({e.seed for e in explored}) == 3
    table = read(run / "iterations.json")["iterations"]
    assert [row["dev"] for row in table] == [i.dev for i in outcome.iterations]
    assert any("exploring" in line for line in lines)
    # A second call plays and trains nothing.
    lines.clear()
    with logged(lines):
        assert eto(settings).checkpoint == outcome.checkpoint
    assert lines == []


@pytest.mark.parametrize("kind", ["trajectory", "step"])
def test_an_iteration_learns_from_so_many_tasks(kind: str, start: Path, tmp_path: Path) -> None:
    play = dataclasses.replace(PLAY, samples=1, max_tasks=4)
    settings = settings_for(start, tmp_path, pairs=kind, explore=play)
    folder = settings.out / "iteration-1"
    with contextlib.suppress(NoPairsError):  # it may have said b everywhere
        eto(settings)
    names = {"trajectory": "explore/episodes.jsonl", "step": "pairs/own_steps.jsonl"}
    played = folder / names[kind]
    tasks = [e.task_id for e in TrajectoryStore(played).read()]
    assert len(tasks) == 4
    assert set(tasks) < {f"t{i}" for i in range(6)}


def test_a_killed_run_goes_on_in_its_stage_and_step(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_agents.training.stage import Stage

    whole = settings_for(start, tmp_path)
    kept = eto(whole)
    cut = dataclasses.replace(whole, out=tmp_path / "cut")
    log = Stage.log

    def kill(stage: Stage, record: Mapping[str, Any]) -> None:
        log(stage, record)
        if record["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "log", kill)
        with pytest.raises(KeyboardInterrupt):
            eto(cut)
    before = (cut.out / "iteration-1/explore/episodes.jsonl").read_bytes()
    lines: list[str] = []
    with logged(lines):
        again = eto(cut)
    assert lines == [f"iteration 1: DPO on {again.iterations[1].counts['pairs']} pairs"]
    assert (cut.out / "iteration-1/explore/episodes.jsonl").read_bytes() == before
    weights = [
        (folder / "iteration-1/dpo/checkpoint/model.safetensors").read_bytes()
        for folder in (whole.out, cut.out)
    ]
    assert weights[0] == weights[1]
    assert again.iterations[1].counts == kept.iterations[1].counts
    steps = [
        json.loads(line)["step"]
        for line in (cut.out / "iteration-1/dpo/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)  # what was done again is logged once


def test_changed_data_under_a_resumed_run_is_refused(start: Path, tmp_path: Path) -> None:
    settings = settings_for(start, tmp_path)
    eto(settings)
    write_experts(tmp_path / "data", [episode("b", task_id="t7")])
    with pytest.raises(StageMismatchError, match="other inputs"):
        eto(settings)


def test_no_pairs_left_is_a_clear_error(start: Path, tmp_path: Path) -> None:
    # Too short a turn for an action, so the agent scores 0; and so has the expert.
    mute = Exploration(max_new_tokens=1)
    data = write_experts(tmp_path / "data", [episode("a", score=0.0)])
    with pytest.raises(NoPairsError, match=r"no pair is left to train on \(tie 1\): explore more"):
        eto(settings_for(start, tmp_path, data=(data,), explore=mute))


def test_experts_of_other_tasks_are_an_error(start: Path, tmp_path: Path) -> None:
    data = write_experts(tmp_path / "data", [episode("b", task_id="elsewhere")])
    with pytest.raises(DataError, match="none of 1 expert trajectories is of a task of 'train'"):
        eto(settings_for(start, tmp_path, data=(data,)))


@pytest.mark.parametrize("kind", ["step", "mixture", "self", "success"])
def test_every_kind_of_pairs_trains(start: Path, tmp_path: Path, kind: Any) -> None:
    settings = settings_for(start, tmp_path, pairs=kind, dpo=dataclasses.replace(LEARN, n_epochs=1))
    counts = eto(settings).iterations[1].counts
    assert counts["pairs"] > 0
    if kind in ("step", "mixture"):
        assert counts["step_pairs"] + counts.get("same_actions", 0) == 6
    assert (settings.out / "iteration-1" / "explore").exists() == (kind != "step")


def test_the_best_on_dev_is_kept(start: Path, tmp_path: Path) -> None:
    # The wrong way round: the "expert" says a and is believed to have scored best.
    data = write_experts(
        tmp_path / "data", [episode("a", task_id=f"t{i}", score=1.5) for i in range(8)]
    )
    settings = settings_for(start, tmp_path, data=(data,), dev_tasks=3, keep_best=True)
    outcome = eto(settings)
    devs = [i.dev for i in outcome.iterations]
    assert outcome.best == devs.index(max(devs))  # type: ignore[type-var]
    assert outcome.checkpoint == outcome.iterations[outcome.best].checkpoint


def test_later_iterations_have_their_own_beta(start: Path, tmp_path: Path) -> None:
    settings = settings_for(
        start, tmp_path, iterations=2, later_beta=0.5, later_learning_rate=1e-4, pairs="step"
    )
    eto(settings)
    told = [read(settings.out / f"iteration-{i}/dpo/config.json") for i in (1, 2)]
    assert [(c["beta"], c["learning_rate"]) for c in told] == [(0.1, 1e-3), (0.5, 1e-4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_best": True}, "needs dev_tasks"),
        ({"iterations": -1}, "at least 0"),
        ({"pairs": "self", "explore": Exploration()}, "explore.samples of 2 or more"),
        ({"explore": Exploration(samples=2)}, "all alike at explore.temperature 0"),
    ],
)
def test_settings_that_contradict_each_other(
    start: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings_for(start, tmp_path, **changes)
