"""ETO: the loop explores, pairs and learns; it resumes, and refuses changed inputs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.console import relayed
from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.preference import read_pairs
from eto_agents.runs import RunFolder, RunMismatchError
from eto_agents.settings import DPO, ETO, SettingsError
from eto_agents.store import TrajectoryStore
from eto_agents.training.eto import Iteration, best_of, eto
from eto_agents.training.pairs import NoPairsError
from eto_envs.errors import DataError
from tests.agents.training.worlds import BANDIT, WORLD, episode, undecided

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

LEARN = DPO(learning_rate=1e-3, epochs=4, batch_size=4, save_every=2, nll_weight=0.3, device="cpu")
QUICK = ETO(
    env=BANDIT, world=WORLD, iterations=1, n_samples=3, temperature=1.0, max_new_tokens=6,
    n_envs=16, dpo=LEARN,
)  # fmt: skip
EXPERTS = [episode("b", task_id=f"t{i}") for i in range(6)]  # of six of eight tasks


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("eto")
    save_checkpoint(undecided(folder), folder / "model")
    return folder / "model"


def logged(lines: list[str]) -> contextlib.AbstractContextManager[None]:
    """Collect the lines that are logged inside the context."""
    return relayed(lambda report: lines.append(report.text) if report.text else None)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_loop_explores_pairs_and_learns(start: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, iterations=2, dev_tasks=2)
    lines: list[str] = []
    with logged(lines):
        done = list(eto(start, EXPERTS, settings, out=tmp_path))
    assert [i.number for i in done] == [0, 1, 2]
    assert [i.model for i in done] == [
        str(start), *(str(tmp_path / f"iteration-{i}" / "dpo" / "checkpoint") for i in (1, 2)),
    ]  # fmt: skip
    assert best_of(done, settings) is done[2]
    first = done[1]
    # Half of the time the agent says a, which loses; otherwise it says b, as the expert does.
    assert first.counts["lose"] > 0
    pairs = list(read_pairs(tmp_path / "iteration-1/pairs/pairs.jsonl"))
    assert first.counts["pairs"] == len(pairs)
    assert first.learning["accuracy"] is not None
    # After the first iteration it says a less often.
    assert done[2].explored > first.explored  # type: ignore[operator]
    explored = list(TrajectoryStore(tmp_path / "iteration-1/explore/episodes.jsonl").read())
    known = {f"t{i}" for i in range(6)}
    dev = {e.task_id for e in TrajectoryStore(tmp_path / "iteration-1/dev/episodes.jsonl").read()}
    assert len(dev) == 2
    assert {e.task_id for e in explored} == known - dev  # tasks with an expert, dev left out
    assert len({e.seed for e in explored}) == 3
    assert {pair.task_id for pair in pairs} <= known - dev
    table = read(tmp_path / "iterations.json")["iterations"]
    assert table == [json.loads(json.dumps(i._asdict())) for i in done]
    assert lines[0] == "iteration 1: exploring 4 tasks"
    assert lines[2] == f"iteration 1: DPO on {len(pairs)} pairs"
    assert lines[3].startswith("iteration 2: exploring")
    # A second call plays and trains nothing.
    lines.clear()
    with logged(lines):
        assert list(eto(start, EXPERTS, settings, out=tmp_path)) == done
    assert lines == []


def test_an_iteration_is_yielded_before_the_next_one_starts(start: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, iterations=2)
    loop = eto(start, EXPERTS, settings, out=tmp_path)
    assert next(loop) == Iteration(0, str(start), None, 0, {}, None, {})
    assert not tmp_path.joinpath("iteration-1").exists()
    first = next(loop)
    assert Path(first.model).is_dir()
    assert len(read(tmp_path / "iterations.json")["iterations"]) == 2
    assert not tmp_path.joinpath("iteration-2").exists()  # nothing runs ahead of the caller


@pytest.mark.parametrize("kind", ["trajectory", "step"])
def test_an_iteration_learns_from_max_tasks(kind: Any, start: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, pairs=kind, n_samples=1, max_tasks=4)
    with contextlib.suppress(NoPairsError):  # it may have said b everywhere
        list(eto(start, EXPERTS, settings, out=tmp_path))
    names = {"trajectory": "explore/episodes.jsonl", "step": "pairs/own_steps.jsonl"}
    played = tmp_path / "iteration-1" / names[kind]
    tasks = [e.task_id for e in TrajectoryStore(played).read()]
    assert len(tasks) == 4
    assert set(tasks) < {f"t{i}" for i in range(6)}


def test_an_interrupted_run_resumes_in_its_step(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = list(eto(start, EXPERTS, QUICK, out=whole))
    log = RunFolder.log

    def kill(run: RunFolder, record: Mapping[str, Any]) -> None:
        log(run, record)
        if record["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", kill)
        with pytest.raises(KeyboardInterrupt):
            list(eto(start, EXPERTS, QUICK, out=cut))
    names = ("explore/episodes.jsonl", "pairs/pairs.jsonl", "pairs/result.json")
    before = [(cut / "iteration-1" / name).read_bytes() for name in names]
    lines: list[str] = []
    with logged(lines):
        again = list(eto(start, EXPERTS, QUICK, out=cut))
    n_pairs = again[1].counts["pairs"]
    assert lines == [f"iteration 1: DPO on {n_pairs} pairs"]  # neither explored nor paired again
    assert [(cut / "iteration-1" / name).read_bytes() for name in names] == before
    weights = [
        (folder / "iteration-1/dpo/checkpoint/model.safetensors").read_bytes()
        for folder in (whole, cut)
    ]
    assert weights[0] == weights[1]
    assert again[1].counts == uninterrupted[1].counts
    steps = [
        json.loads(line)["step"]
        for line in (cut / "iteration-1/dpo/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)  # repeated steps are logged once


def test_changed_inputs_of_a_resumed_run_are_refused(start: Path, tmp_path: Path) -> None:
    list(eto(start, EXPERTS, QUICK, out=tmp_path))
    with pytest.raises(RunMismatchError, match="different inputs"):
        list(eto(start, [episode("b", task_id="t7")], QUICK, out=tmp_path))
    longer = [episode("ab", task_id=e.task_id, score=1.0) for e in EXPERTS]
    with pytest.raises(RunMismatchError, match="different inputs: experts"):
        list(eto(start, longer, QUICK, out=tmp_path))
    with pytest.raises(RunMismatchError, match="temperature"):
        list(eto(start, EXPERTS, replace(QUICK, temperature=0.5), out=tmp_path))


def test_the_error_says_why_there_are_no_pairs(start: Path, tmp_path: Path) -> None:
    # The reply is too short for an action, so the agent scores 0, as the expert does.
    mute = replace(QUICK, n_samples=1, temperature=0.0, max_new_tokens=1)
    with pytest.raises(NoPairsError, match=r"no pairs to train on \(tie 1\): explore more"):
        list(eto(start, [episode("a", score=0.0)], mute, out=tmp_path))


def test_experts_of_other_tasks_are_an_error(start: Path, tmp_path: Path) -> None:
    elsewhere = [episode("b", task_id="elsewhere")]
    message = "none of 1 expert trajectories belongs to a task of the split 'train'"
    with pytest.raises(DataError, match=message):
        next(eto(start, elsewhere, QUICK, out=tmp_path))


@pytest.mark.parametrize("kind", ["step", "mixture", "self", "success"])
def test_every_kind_of_pairs_trains(start: Path, tmp_path: Path, kind: Any) -> None:
    settings = replace(QUICK, pairs=kind, dpo=replace(LEARN, epochs=1))
    _, first = eto(start, EXPERTS, settings, out=tmp_path)
    assert first.counts["pairs"] > 0
    if kind in ("step", "mixture"):
        assert first.counts["step_pairs"] + first.counts.get("same_actions", 0) == 6
    assert (tmp_path / "iteration-1" / "explore").exists() == (kind != "step")


@pytest.mark.parametrize("kind", ["self", "success"])
def test_pairs_of_the_agents_episodes_need_no_expert(
    start: Path, tmp_path: Path, kind: Any
) -> None:
    settings = replace(QUICK, pairs=kind, dpo=replace(LEARN, epochs=1))
    _, first = eto(start, [], settings, out=tmp_path)
    assert first.counts["pairs"] > 0
    explored = TrajectoryStore(tmp_path / "iteration-1/explore/episodes.jsonl").read()
    assert len({e.task_id for e in explored}) == 8


def test_keep_best_selects_the_best_iteration_on_dev(start: Path, tmp_path: Path) -> None:
    # The wrong way round: the "expert" says a, and its recorded score is the best one.
    wrong = [episode("a", task_id=f"t{i}", score=1.5) for i in range(8)]
    settings = replace(QUICK, dev_tasks=3, keep_best=True)
    done = list(eto(start, wrong, settings, out=tmp_path))
    devs = [i.dev for i in done]
    best = best_of(done, settings)
    assert best.number == devs.index(max(devs))  # type: ignore[type-var]
    assert best is done[best.number]
    worse = [done[0]._replace(dev=0.8), done[1]._replace(dev=0.3)]
    assert best_of(worse, settings) is worse[0]
    assert best_of(worse, replace(settings, keep_best=False)) is worse[1]


def test_later_iterations_have_their_own_beta(start: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, iterations=2, later_beta=0.5, later_learning_rate=1e-4, pairs="step")
    list(eto(start, EXPERTS, settings, out=tmp_path))
    configs = [read(tmp_path / f"iteration-{i}/dpo/run.json")["settings"] for i in (1, 2)]
    assert [(c["beta"], c["learning_rate"]) for c in configs] == [(0.1, 1e-3), (0.5, 1e-4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_best": True}, "needs dev_tasks"),
        ({"iterations": -1}, "at least 0"),
        ({"pairs": "self", "n_samples": 1}, "n_samples of at least 2"),
        ({"temperature": 0.0}, "needs a temperature above 0"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(QUICK, **changes)
