"""`eto reproduce`: tiers and what is wrong with them, plans, tables, and one whole reproduction."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from eto_agents.reproduce.runs import Event, Outcome, run_track, track_folder
from eto_agents.reproduce.settings import Told
from eto_agents.reproduce.tiers import METHODS, Costs, Tier, built_in_tiers, parse_tier, read_tier
from eto_agents.reproduce.tracks import Track

from eto_agents.cli import main
from eto_agents.evaluation.harness import evaluate
from eto_agents.evaluation.published import load_published
from eto_agents.evaluation.statistics import Estimate
from eto_agents.reproduce import plans
from eto_agents.reproduce.tables import (
    Entry,
    Table,
    build_table,
    markdown,
    markdown_differences,
    published_rows,
    table_of,
)
from eto_agents.runs import RunMismatchError
from eto_agents.settings import SettingsError
from eto_agents.training.eto import ETOSettings
from eto_agents.training.sft import SFTSettings
from eto_envs.errors import DataError, DataNotFoundError, UnknownNameError
from tests.agents.evaluation.made_runs import made_run, scores_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = """
seeds = [0, 1]
[model]
name = "tiny:nano"
[sft]
epochs = 2
learning_rate = 1e-3
[dpo]
beta = 0.1
[worlds.shop]
env = "ETO-WebShop-v0"
dataset = "mini"
[worlds.house]
env = "ETO-ALFWorld-v0"
[worlds.house.dpo]
beta = 0.5
[worlds.house.sft]
epochs = 4
"""


def tier_of(changes: dict[str, Any] | None = None, text: str = FILE) -> Tier:
    return parse_tier("mine", tomllib.loads(text), changes or {})


def test_built_in_tiers_can_be_read() -> None:
    assert {"cpu", "cpu-full", "1gpu", "paper", "smoke"} <= set(built_in_tiers())
    for name in built_in_tiers():
        tier = read_tier(name)
        assert tier.name == name
        assert tier.about
        assert {*tier.methods, "base"} == set(METHODS)
    full, cpu = read_tier("cpu-full"), read_tier("cpu")
    assert len(full.seeds) >= 3
    for name, recipe in full.recipes.items():  # the same, but for how much there is of it
        assert recipe.sft.epochs >= cpu.recipes[name].sft.epochs
        assert recipe.eto.dpo == cpu.recipes[name].eto.dpo
        assert recipe.eto.explore.max_tasks >= cpu.recipes[name].eto.explore.max_tasks
    assert full.n_processes == cpu.n_processes
    for name in ("cpu", "cpu-full"):
        assert {r.world.dataset for r in read_tier(name).recipes.values()} == {"mini"}


def test_the_paper_tier_has_the_papers_numbers() -> None:
    recipes = read_tier("paper").recipes
    assert list(recipes) == ["webshop", "scienceworld", "alfworld"]
    for recipe in recipes.values():
        assert recipe.model.name == "meta-llama/Llama-2-7b-chat-hf"
        assert (recipe.sft.batch_size, recipe.sft.learning_rate, recipe.sft.epochs) == (64, 1e-5, 3)
        dpo = recipe.eto.dpo
        assert (dpo.batch_size, dpo.learning_rate, dpo.n_epochs) == (32, 1e-6, 3)
        assert (dpo.warmup_share, dpo.schedule, dpo.nll_weight) == (0.03, "cosine", 0.0)
        assert (recipe.eto.explore.samples, recipe.best_of_n.n) == (1, 10)
    assert [r.eto.dpo.beta for r in recipes.values()] == [0.1, 0.1, 0.5]
    assert [r.eto.iterations for r in recipes.values()] == [2, 2, 1]
    assert recipes["webshop"].evaluation.splits == ("seen",)


def test_a_worlds_section_wins_over_the_shared_one_and_changes_over_both() -> None:
    def numbers(tier: Tier) -> list[tuple[float, float]]:
        return [(r.sft.epochs, r.eto.dpo.beta) for r in tier.recipes.values()]

    assert numbers(tier_of()) == [(2, 0.1), (4, 0.5)]
    assert numbers(tier_of({"sft.epochs": 7})) == [(7, 0.1), (7, 0.5)]
    assert numbers(tier_of({"house.sft.epochs": 9, "sft.epochs": 7})) == [(7, 0.1), (9, 0.5)]
    assert tier_of({"seeds": [5]}).seeds == (5,)
    assert tier_of({"shop.world.dataset": "small"}).recipes["shop"].world.dataset == "small"


def test_stages_inherit_what_follows_from_others() -> None:
    recipe = tier_of({"rft.epochs": 5}).recipes["shop"]
    assert recipe.sft_more.learning_rate == recipe.rft.learning_rate == 1e-3
    assert (recipe.sft.epochs, recipe.rft.epochs) == (2, 5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sft.epoch": 1}, UnknownNameError, "epoch.*did you mean.*epochs"),
        ({"stf.epochs": 1}, UnknownNameError, "section or world.*stf.*sft"),
        ({"sft.seed": 1}, UnknownNameError, r"\[shop.sft\].*seed"),
        ({"eto.out": "x"}, UnknownNameError, r"\[shop.eto\].*out"),
        ({"ppo.dev_tasks": 3}, UnknownNameError, "dev_tasks"),
        ({"epochs": 1}, UnknownNameError, "section.key=value"),
        ({"sft.epochs": "many"}, SettingsError, r"\[shop.sft\].*epochs must be float"),
        ({"sft.epochs": -1.0}, SettingsError, "epochs must be positive"),
        ({"dpo.beta": 0.0}, SettingsError, r"\[shop.dpo\].*beta must be above 0"),
        ({"ppo.lam": 2.0}, SettingsError, r"\[shop.ppo\].*lam must be in"),
        ({"eto.keep_best": True}, SettingsError, "keep_best needs dev_tasks"),
        ({"explore.samples": 3}, SettingsError, "all alike"),
        ({"shop.world.n_rounds": 0}, SettingsError, "n_rounds must be at least 1"),
        ({"house.world.n_rounds": 2}, SettingsError, "n_rounds is for a mini dataset"),
        ({"methods": ["sft", "dagger"]}, UnknownNameError, "dagger"),
        ({"expert.policy_args": "skip_option=1"}, SettingsError, "policy_args must be dict"),
        ({"expert.thoughts": "long"}, SettingsError, "thoughts must be one of"),
    ],
)
def test_mistakes_in_settings_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        tier_of(changes)


def test_mistakes_in_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="cpu"):
        read_tier("cpus")
    with pytest.raises(DataNotFoundError, match=r"nothing\.toml"):
        read_tier("nothing.toml")
    with pytest.raises(DataNotFoundError, match="no world"):
        tier_of(text="seeds = [0]")
    with pytest.raises(SettingsError, match="env is missing"):
        tier_of(text="[worlds.shop]\ndataset = 'mini'")
    with pytest.raises(UnknownNameError, match="section in tier"):
        tier_of(text=FILE + "[worlds.house.sfft]\nepochs = 1")
    own = tmp_path / "mine.toml"
    own.write_text(FILE)
    assert read_tier(str(own)).name == "mine"


def test_a_tier_can_be_narrowed() -> None:
    tier = tier_of().narrowed(["house"], ["eto", "sft"], [3])
    assert (list(tier.recipes), tier.methods, tier.seeds) == (["house"], ("sft", "eto"), (3,))
    with pytest.raises(UnknownNameError, match="shop"):
        tier_of().narrowed(["shopp"])
    with pytest.raises(UnknownNameError, match="best-of-n"):
        tier_of().narrowed(methods=["best-of-m"])


def test_a_plan_counts_as_it_says() -> None:
    costs = {
        "n_parameters": 1e6, "n_train": 100, "n_evaluated": 10, "turns": 5.0, "head_tokens": 50.0,
        "turn_tokens": 4.0, "observation_tokens": 6.0, "pairs_per_task": 0.5, "n_devices": 2,
        "train_flops_per_s": 1e9, "play_flops_per_s": 1e8,
    }  # fmt: skip
    changes: dict[str, Any] = {f"costs.{name}": value for name, value in costs.items()}
    changes |= {"eto.dev_tasks": 20, "dpo.n_epochs": 3.0, "best_of_n.n": 4}
    assert plans.trajectory_tokens(Costs(**costs)) == 100.0
    found = plans.plan(tier_of(changes), Path("runs"))
    assert list(found) == ["shop seed 0", "shop seed 1", "house seed 0", "house seed 1"]
    stages = {stage.stage: stage for stage in found["shop seed 0"]}
    sft = stages["SFT"]
    assert (sft.trained_tokens, sft.played_tokens) == (80 * 100 * 2, 10 * 100)
    assert sft.seconds == pytest.approx((6e6 * 16_000 / 1e9 + 2e6 * 1_000 / 1e8) / 2)
    assert stages["Best-of-N"].played_tokens == 4 * 10 * 100
    # 40 pairs have two sides of 100 tokens; three epochs; twice, as there are two iterations.
    assert stages["ETO 1"].trained_tokens == 40 * 2 * 100 * 3
    assert stages["SFT-more"].trained_tokens == 2 * stages["ETO 1"].trained_tokens
    assert {"expert", "untuned", "RFT", "PPO", "ETO 2"} <= set(stages)


def test_a_dry_run_tells_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["reproduce", "--tier", "paper", "--dry-run", "--worlds", "alfworld"])
    printed = capsys.readouterr().out
    for text in ("ETO 1", "SFT-more", "6 N a token", "1.2e+14", "accelerate launch", "vllm serve"):
        assert text in printed
    assert "webshop seed" not in printed
    main(["reproduce", "--tier", "paper", "--dry-run", "--set", "costs.train_flops_per_s=7e13"])
    assert "7e+13" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_launch_lines_name_files_that_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("paper", "1gpu"):
        words = " ".join(read_tier(name).launch.values()).split()
        files = [word for word in words if word.startswith("baselines/")]
        assert [file for file in files if not (root / file).is_file()] == []
    assert any("fsdp2" in line for line in read_tier("paper").launch.values())


def test_launch_lines_mean_the_stages_own_settings(tmp_path: Path) -> None:
    tier = read_tier("paper", {"sft.too_long": "error", "model.with_example": False})
    track = Told(tier.recipes["alfworld"], 3, tmp_path / "alfworld" / "seed-3")
    settings = track.sft_settings(tmp_path / "sft", "somebody/some-model")
    flags = plans.flags_of(settings)
    assert tyro.cli(SFTSettings, args=flags) == settings
    loop = track.eto_settings("somebody/some-model", tmp_path / "eto")
    assert tyro.cli(ETOSettings, args=plans.flags_of(loop)) == loop
    lines = "\n".join(plans.launch_lines(tier, "alfworld", 3, tmp_path))
    assert "{" not in lines
    assert "--world alfworld-2.1.1" in lines
    assert "--seeds 3001 " in lines  # as the loop numbers the episodes of its first iteration


def runs_of(folder: Path, scores: dict[str, list[list[float]]], env_id: str) -> list[Entry]:
    """By label, for each seed the scores of the seen tasks."""
    entries = []
    for label, seeds in scores.items():
        runs = []
        for seed, values in enumerate(seeds):
            path = folder / f"{label}-{env_id}-{seed}"
            runs.append((seed, made_run(path, {"seen": scores_of(*values)}, env_id=env_id)))
        entries.append(Entry(label, runs))
    return entries


def test_a_cell_is_the_mean_over_tasks_and_seeds(tmp_path: Path) -> None:
    scores = {"a": [[0.0, 1.0, 0.5], [0.5, 1.0, 0.0]]}
    table = build_table(runs_of(tmp_path, scores, "ETO-WebShop-v0"))
    cell = table.cell("a", ("ETO-WebShop-v0", "seen"))
    assert cell is not None
    assert cell.mean == pytest.approx(0.5)
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < 0.5 < cell.high
    assert table.average("a") == pytest.approx(0.5)


def two_worlds(folder: Path) -> Table:
    shop = {"ETO": [[0.6] * 8, [0.8] * 8, [0.7] * 8], "SFT-more": [[0.5] * 8] * 3}
    house = {"ETO": [[1.0, 0.0]] * 3, "SFT-more": [[0.0, 0.0]] * 3}
    entries = runs_of(folder, shop, "ETO-WebShop-v0") + runs_of(folder, house, "ETO-ALFWorld-v0")
    return build_table(entries)


def test_the_average_difference_counts_columns_alike(tmp_path: Path) -> None:
    found = {d.title: d for d in two_worlds(tmp_path).differences("ETO", "SFT-more")}
    assert list(found) == ["WebShop seen", "ALFWorld seen", "average"]
    assert found["WebShop seen"].result.difference.mean == pytest.approx(0.2)
    assert found["ALFWorld seen"].result.difference.mean == pytest.approx(0.5)
    assert found["average"].result.difference.mean == pytest.approx((0.2 + 0.5) / 2)
    assert found["average"].result.n_tasks == 10
    assert found["average"].by_seed == pytest.approx({0: 0.3, 1: 0.4, 2: 0.35})


def test_seeds_have_an_interval_of_their_own(tmp_path: Path) -> None:
    found = two_worlds(tmp_path).differences("ETO", "SFT-more")[0]
    over = found.over_seeds
    assert over is not None
    assert over.low is not None
    assert over.mean == pytest.approx(0.2)
    half = 4.302653 * statistics.stdev([0.1, 0.3, 0.2]) / math.sqrt(3)  # t of 2 degrees, 0.975
    assert over.mean - over.low == pytest.approx(half, rel=1e-5)
    assert found._replace(by_seed={0: 0.1, 1: 0.3}).over_seeds is None
    assert "+20.0" in markdown_differences([found], "ETO", "SFT-more")


def test_what_was_not_played_is_a_dash(tmp_path: Path) -> None:
    entries = [*runs_of(tmp_path, {"a": [[0.25, 0.75]]}, "ETO-WebShop-v0"), Entry("b", [])]
    table = build_table(entries, ["b: nothing"])
    text = markdown(table, published_rows(["ETO"]))
    assert "| b | – | – |" in text
    assert "- b: nothing" in text
    assert "67.4" in text
    assert table.average("b") is None
    assert table.differences("a", "b") == []
    assert table.differences("a", "c") == []


def test_published_rows_are_the_papers() -> None:
    rows = published_rows(["SFT", "ETO"], "Mistral-7B")
    assert [row.values["webshop"] for row in rows] == [60.1, 66.2]
    assert all(row in load_published().rows for row in rows)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
def test_a_whole_reproduction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["reproduce", "--tier", "smoke", "--out", str(out)]
    main(command)
    shown = capsys.readouterr()
    table = json.loads((out / "table.json").read_text())
    assert list(table["rows"]) == list(METHODS.values())
    for label, cells in table["rows"].items():
        assert label in shown.out
        assert set(cells) == {"WebShop seen", "WebShop unseen"}
        assert all(0.0 <= Estimate(*cell).mean <= 1.0 for cell in cells.values())
    assert [d["column"] for d in table["differences"]][-1] == "average"
    assert all(f"  {stage}: " in shown.err for stage in ("expert", *METHODS.values()))

    outcome = Outcome.load(out / "webshop" / "seed-0")
    stages = outcome.stages
    assert stages["SFT-more"]["n_steps"] == stages["ETO"]["n_updates"] > 0
    dev = {line["task_id"] for line in episodes(outcome.folder / "eto" / "iteration-0" / "dev")}
    learnt = {line["task_id"] for line in episodes(outcome.folder / "demonstrations")}
    assert (len(dev), len(learnt)) == (2, 6)
    assert not dev & learnt
    assert "SFT-more" in (out / "report/webshop-seed-0/report.html").read_text()
    assert "<!-- eto replay -->" in (out / "replay/webshop-seed-0.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint/*.safetensors")}
    (outcome.folder / "runs" / "rft" / "result.json").unlink()  # as if killed at the very end
    main([*command, "--quiet"])
    assert (outcome.folder / "runs" / "rft" / "result.json").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) == 6  # base, SFT, SFT-more, RFT, PPO, ETO
    assert table == json.loads((out / "table.json").read_text())

    changed = read_tier("smoke", {"sft.epochs": 6})
    with pytest.raises(RunMismatchError, match="epochs 5"):
        run_track(changed, "webshop", 0, out, lambda event: None)


def episodes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
def test_a_method_that_cannot_learn_leaves_its_row_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("none of 8 episodes can be learned from")

    monkeypatch.setattr("eto_agents.reproduce.tracks.ppo", fail)
    tier = read_tier("smoke").narrowed(methods=["sft", "ppo"])
    seen: list[Event] = []
    outcome = run_track(tier, "webshop", 0, tmp_path, seen.append)
    assert outcome.run("ppo") is None
    table = table_of([outcome], {"sft": "SFT", "ppo": "PPO"})
    assert "| PPO | – | – | – |" in markdown(table)
    assert "none of 8 episodes can be learned from" in markdown(table)
    ended = [event for event in seen if event.wall_s is not None]
    assert [event.stage for event in ended] == ["expert", "SFT", "PPO"]
    assert [event.n_done for event in ended] == [1, 2, 3]


def test_the_expert_gets_its_arguments(tmp_path: Path) -> None:
    reads_first = {"settle": 0.0, "skip_option": 0.0, "read": 1.0, "vague": 0.0}
    changes = {"expert.policy": "sloppy-expert", "expert.policy_args": reads_first}
    recipe = read_tier("smoke", changes).recipes["webshop"]
    folder = track_folder(tmp_path, "webshop", 0)
    Track(recipe, 0, folder).demonstrations()
    played = episodes(folder / "demonstrations")
    pages = ("click[description]", "click[features]", "click[reviews]")
    assert played
    assert all(any(step["action"] in pages for step in e["steps"]) for e in played)


def test_demonstrations_end_where_the_expert_gives_up(tmp_path: Path) -> None:
    args = {"order": "likely-then-listed", "skip_treatment": 1.0}
    changes = {"world.n_rounds": 1, "expert.min_score": 0.0, "expert.policy_args": args}
    recipe = read_tier("cpu", changes).recipes["alfworld"]
    folder = track_folder(tmp_path, "alfworld", 0)
    Track(recipe, 0, folder).demonstrations()
    played = episodes(folder / "demonstrations")
    whole = {e["task_id"]: e for e in episodes(folder / "expert")}
    failures = [e for e in played if e["score"] < 1]
    assert len(failures) > len(played) / 3
    for e in failures:
        actions = [step["action"] for step in e["steps"]]
        assert actions[-2:] == [actions[-2], "look"]
        assert actions[-2] != "look"
        assert actions == [s["action"] for s in whole[e["task_id"]]["steps"]][: len(actions)]
    assert all(e["steps"] == whole[e["task_id"]]["steps"] for e in played if e["score"] == 1)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
def test_eto_learns_from_episodes_that_were_played_by_other_means(tmp_path: Path) -> None:
    tier = read_tier("smoke")
    recipe = tier.recipes["webshop"]
    track = Track(recipe, 0, track_folder(tmp_path, "webshop", 0))
    track.sft()
    line = plans.launch_lines(
        dataclasses.replace(tier, launch={"x": "{SEEDS} {EXPLORE}"}), "webshop", 0, tmp_path
    )[0]
    *seeds, folder = line.rpartition("\n")[2].split()
    evaluate(
        "expert",
        recipe.world.env,
        ("train",),
        seeds=[int(seed) for seed in seeds],
        out=folder,
        n_tasks=8,
        env_args=track.env_args,
    )
    learned = track.eto()
    assert learned.iterations == []  # the expert ties with itself
    assert "no pair is left to train on (tie 12, both_succeeded 12)" in learned.note
    assert {line["policy"] for line in episodes(Path(folder))} == {"expert"}
