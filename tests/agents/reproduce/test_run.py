"""Runs of a recipe: all methods once, what a failing method leaves, experts, and the time left."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eto_agents.cli import main
from eto_agents.evaluation.harness import evaluate
from eto_agents.evaluation.statistics import Estimate as Interval
from eto_agents.reproduce.recipe import METHODS, read_recipe
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

from eto_agents.reproduce.outcome import Outcome, run_folder
from eto_agents.reproduce.run import WorldRun, run
from eto_agents.reproduce.steps import Estimate, Event
from eto_agents.reproduce.tables import markdown, table_of
from eto_agents.runs import RunMismatchError


def trains(test: Any) -> Any:
    """Mark a test that trains."""
    ours = ".*gradient_checkpointing` is deprecated:FutureWarning"
    for mark in (pytest.mark.torch, pytest.mark.slow, pytest.mark.filterwarnings(f"ignore:{ours}")):
        test = mark(test)
    return test


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_time_left_is_what_was_measured(clock: Clock) -> None:
    left = Estimate({"expert": 10.0, "sft": 60.0, "eto": 30.0}, ["expert", "sft", "eto"], clock)
    assert left.seconds() == 100.0
    left.begin("expert")
    assert left.seconds() == 100.0
    clock.now_s += 4
    assert left.seconds() == 96.0
    clock.now_s += 6
    left.end()
    assert left.seconds() == 90.0
    left.begin("sft")
    clock.now_s += 75  # longer than it should have: what is left of it cannot be negative
    assert left.seconds() == 30.0


def test_the_time_left_follows_the_machines_speed(clock: Clock) -> None:
    left = Estimate({"expert": 10.0, "sft": 60.0, "eto": 30.0}, ["expert", "sft", "eto"], clock)
    left.begin("expert")
    clock.now_s += 20  # twice as long as it was measured
    left.end()
    assert left.seconds() == 2 * 90.0
    left.begin("sft")
    clock.now_s += 20
    assert left.seconds() == 2 * 90.0 - 20
    clock.now_s += 40  # 80 seconds in all for what was measured to take 70
    left.end()
    assert left.seconds() == pytest.approx(30.0 * 80 / 70)


def test_a_step_that_was_done_before_says_nothing_of_the_speed(clock: Clock) -> None:
    left = Estimate({"expert": 10.0, "sft": 60.0}, ["expert", "sft"], clock)
    left.begin("expert")
    clock.now_s += 0.1
    left.end()
    assert left.seconds() == 60.0


def test_the_time_left_is_unknown_where_a_step_was_never_measured(clock: Clock) -> None:
    left = Estimate({"expert": 10.0, "eto": 30.0}, ["expert", "sft", "eto"], clock)
    assert left.seconds() is None
    left.begin("expert")
    left.end()
    assert left.seconds() is None
    left.begin("sft")
    assert left.seconds() is None
    clock.now_s += 60
    left.end()
    assert left.seconds() == 30.0  # from here on all is known
    left.begin("eto")
    left.end()
    assert left.seconds() == 0.0


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="run `eto reproduce` first"):
        Outcome.load(tmp_path)
    outcome = Outcome(
        "webshop", 3, tmp_path, {"eto": "eto-2"}, {"ppo": "no result"}, {"SFT": {"wall_s": 1.5}}
    )
    outcome.save()
    assert Outcome.load(tmp_path) == outcome
    assert outcome.run("eto") == tmp_path / "runs" / "eto-2"
    assert outcome.run("ppo") is None
    (tmp_path / "outcome.json").write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        Outcome.load(tmp_path)


def test_a_dry_run_prints_the_steps_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "--recipe", "paper", "--dry-run", "--out", "all"]
    main([*command, "--worlds", "alfworld", "--seeds", "0", "3", "--set", "measured.eto=90"])
    printed = capsys.readouterr().out
    assert printed.startswith("# Recipe paper")
    assert "webshop" not in printed
    assert printed.index("## alfworld seed 0") < printed.index("## alfworld seed 3")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in printed.splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    steps = ["expert", "base", "sft", "best-of-n", "rft", "ppo", "eto", "sft-more"]
    assert [row[0] for row in rows] == ["step", *steps] * 2
    first = {row[0]: row for row in rows[: len(steps) + 1]}
    assert first["eto"][1:] == ["all/alfworld/seed-0/eto", "sft, demonstrations", "0:01:30"]
    assert first["best-of-n"][1] == "all/alfworld/seed-0/runs/best-of-n"
    assert "eto's updates" in first["sft-more"][2]
    assert first["sft"][3] == "–"
    main([*command, "--worlds", "alfworld", "--methods", "sft-more"])
    printed = capsys.readouterr().out
    assert printed.index("| sft |") < printed.index("| eto |") < printed.index("| sft-more |")
    assert "| ppo |" not in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "cpus"], "eto: no recipe 'cpus'; did you mean 'cpu'?"),
        (["--recipe", "cpu", "--set", "sft.epoch=3"], "'epoch'; did you mean 'epochs'?"),
        (["--recipe", "cpu", "--methods", "etoo"], "no method 'etoo'; did you mean 'eto'?"),
        (["--recipe", "cpu", "--worlds", "house"], "no world in recipe 'cpu': 'house'"),
    ],
)
def test_misuse_is_refused_before_anything_is_done(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        main(["reproduce", *arguments])
    assert exited.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@trains
def test_a_whole_reproduction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["reproduce", "--recipe", "smoke", "--methods", *METHODS, "--out", str(out)]
    command += ["--set", "grpo.n_updates=1", "grpo.n_episodes=8", "grpo.n_samples=4"]
    main(command)
    shown = capsys.readouterr()
    table = json.loads((out / "table.json").read_text())
    assert list(table["rows"]) == list(METHODS.values())
    for label, cells in table["rows"].items():
        assert label in shown.out
        assert set(cells) == {"WebShop seen", "WebShop unseen"}
        assert all(0.0 <= Interval(*cell).mean <= 1.0 for cell in cells.values())
    assert [d["column"] for d in table["differences"]][-1] == "average"
    assert all(f"  {method}: " in shown.err for method in ("expert", *METHODS.values()))

    outcome = Outcome.load(out / "webshop" / "seed-0")
    facts = outcome.facts
    assert list(outcome.rows) == list(read_recipe("smoke").narrowed(methods=[*METHODS]).steps[1:])
    assert facts["SFT-more"]["n_updates"] == facts["ETO"]["n_updates"] > 0
    assert facts["NLL on ETO's chosen"]["n_updates"] == facts["ETO"]["n_updates"]
    assert facts["RFT"]["n_episodes"] == 6  # the dev tasks are not explored
    assert facts["ETO"]["n_episodes"] == 12  # two samples of each
    dev = {line["task_id"] for line in episodes(outcome.folder / "eto" / "iteration-0" / "dev")}
    learnt = {line["task_id"] for line in episodes(outcome.folder / "demonstrations")}
    assert (len(dev), len(learnt)) == (2, 6)
    assert not dev & learnt
    assert "SFT-more" in (out / "report/webshop-seed-0/report.html").read_text()
    assert "<!-- eto replay -->" in (out / "replay/webshop-seed-0.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint/*.safetensors")}
    (outcome.folder / "runs" / "rft" / "results.json").unlink()  # as if killed at the very end
    main([*command, "--quiet"])
    assert (outcome.folder / "runs" / "rft" / "results.json").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # base, SFT, SFT-more and RFT twice, PPO, GRPO, NLL, ETO
    assert len(before) == 10
    assert table == json.loads((out / "table.json").read_text())

    changed = read_recipe("smoke", {"sft.epochs": 6})
    with pytest.raises(RunMismatchError, match="epochs 5"):
        run(changed, "webshop", 0, out)


def episodes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_bytes().splitlines()]


@trains
def test_a_method_that_cannot_learn_leaves_its_row_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("none of 8 episodes can be learned from")

    monkeypatch.setattr("eto_agents.reproduce.run.ppo", fail)
    recipe = read_recipe("smoke").narrowed(methods=["sft", "ppo"])
    seen: list[Event] = []
    outcome = run(recipe, "webshop", 0, tmp_path, seen.append)
    assert outcome.run("ppo") is None
    table = table_of([outcome], {"sft": "SFT", "ppo": "PPO"})
    assert "| PPO | – | – | – |" in markdown(table)
    assert "none of 8 episodes can be learned from" in markdown(table)
    ended = [event for event in seen if event.wall_s is not None]
    assert [event.method for event in ended] == ["expert", "SFT", "PPO"]
    assert [event.n_done for event in ended] == [1, 2, 3]
    assert {event.n_planned for event in seen} == {3}
    assert {event.left_s for event in seen[:-1]} == {None}  # the recipe has measured nothing
    assert seen[-1].left_s == 0.0


def test_the_expert_gets_its_arguments(tmp_path: Path) -> None:
    reads_first = {"settle": 0.0, "skip_option": 0.0, "read": 1.0, "vague": 0.0}
    changes = {"expert.policy": "sloppy-expert", "expert.policy_args": reads_first}
    recipe = read_recipe("smoke", changes).worlds["webshop"]
    world_run = WorldRun(recipe, 0, run_folder(tmp_path, "webshop", 0))
    world_run.collect_demonstrations()
    played = world_run.demonstrations
    pages = ("click[description]", "click[features]", "click[reviews]")
    assert played
    assert all(any(step.action in pages for step in e.steps) for e in played)


def test_demonstrations_end_where_the_expert_gives_up(tmp_path: Path) -> None:
    args = {"order": "likely-then-listed", "skip_treatment": 1.0}
    changes = {"world.n_rounds": 1, "expert.min_score": 0.0, "expert.policy_args": args}
    recipe = read_recipe("cpu", changes).worlds["alfworld"]
    folder = run_folder(tmp_path, "alfworld", 0)
    world_run = WorldRun(recipe, 0, folder)
    world_run.collect_demonstrations()
    played = world_run.demonstrations
    whole = {e["task_id"]: e for e in episodes(folder / "expert")}
    failures = [e for e in played if e.score < 1]
    assert len(failures) > len(played) / 3
    for e in failures:
        actions = [step.action for step in e.steps]
        assert actions[-2:] == [actions[-2], "look"]
        assert actions[-2] != "look"
        assert actions == [s["action"] for s in whole[e.task_id]["steps"]][: len(actions)]
    written = {e["task_id"]: e["steps"] for e in episodes(folder / "demonstrations")}
    assert list(written) == [e.task_id for e in played]
    successes = [e.task_id for e in played if e.score == 1]
    assert successes
    assert all(written[task_id] == whole[task_id]["steps"] for task_id in successes)


@trains
def test_eto_learns_from_episodes_that_were_played_by_other_means(tmp_path: Path) -> None:
    recipe = read_recipe("smoke").worlds["webshop"]
    world_run = WorldRun(recipe, 0, run_folder(tmp_path, "webshop", 0))
    world_run.prepare()
    world_run.sft()
    evaluate(
        "expert",
        recipe.world.env,
        ("train",),
        seeds=[2, 3],  # two samples a task: (1000 * seed + iteration) * 2 and the one after it
        out=tmp_path / "elsewhere",
        n_tasks=8,
        env_args={"dataset": world_run.dataset},
    )
    explored = world_run.folder / "eto" / "iteration-1" / "explore"
    explored.mkdir(parents=True)
    shutil.copy(tmp_path / "elsewhere" / "episodes.jsonl", explored)
    learned = world_run.eto()
    assert [iteration.number for iteration in learned.iterations] == [0]
    # The expert ties with itself.
    assert "no pairs to train on (tie 12, both_succeeded 12)" in learned.note
    assert {line["policy"] for line in episodes(explored)} == {"expert"}
