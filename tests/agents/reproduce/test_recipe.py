"""Recipes: what the built-in ones say, which section takes precedence, and mistakes in them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from eto_agents.reproduce.options import Options
from eto_agents.reproduce.recipe import (
    METHODS,
    ON_REQUEST,
    Recipe,
    built_in_recipes,
    parse_recipe,
    read_recipe,
)
from eto_agents.settings import SettingsError
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError

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


def recipe_of(changes: dict[str, Any] | None = None, text: str = FILE) -> Recipe:
    return parse_recipe("mine", tomllib.loads(text), changes or {})


def test_built_in_recipes_can_be_read() -> None:
    assert {"cpu", "cpu-full", "1gpu", "paper", "smoke"} <= set(built_in_recipes())
    for name in built_in_recipes():
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.about
        assert {*recipe.methods, "base", *ON_REQUEST} == set(METHODS)
    full, cpu = read_recipe("cpu-full"), read_recipe("cpu")
    assert len(full.seeds) >= 3
    for name, world in full.worlds.items():  # the same, but for how much there is of it
        assert world.sft.epochs >= cpu.worlds[name].sft.epochs
        assert world.eto.dpo == cpu.worlds[name].eto.dpo
        assert world.eto.max_tasks is not None
        assert world.eto.max_tasks >= (cpu.worlds[name].eto.max_tasks or 0)
    assert full.n_processes == cpu.n_processes
    for name in ("cpu", "cpu-full"):
        assert {w.world.dataset for w in read_recipe(name).worlds.values()} == {"mini"}


def test_the_paper_recipe_has_the_papers_numbers() -> None:
    worlds = read_recipe("paper").worlds
    assert list(worlds) == ["webshop", "scienceworld", "alfworld"]
    for world in worlds.values():
        assert world.model.name == "meta-llama/Llama-2-7b-chat-hf"
        assert (world.sft.batch_size, world.sft.learning_rate, world.sft.epochs) == (64, 1e-5, 3)
        dpo = world.eto.dpo
        assert (dpo.batch_size, dpo.learning_rate, dpo.epochs) == (32, 1e-6, 3)
        assert (dpo.warmup_ratio, dpo.lr_schedule, dpo.nll_weight) == (0.03, "cosine", 0.0)
        assert (world.eto.n_samples, world.best_of_n.n) == (1, 10)
    assert [w.eto.dpo.beta for w in worlds.values()] == [0.1, 0.1, 0.5]
    assert [w.eto.iterations for w in worlds.values()] == [2, 2, 1]
    assert worlds["webshop"].evaluation.splits == ("seen",)


def test_a_worlds_section_wins_over_the_shared_one_and_changes_over_both() -> None:
    def numbers(recipe: Recipe) -> list[tuple[float, float]]:
        return [(w.sft.epochs, w.eto.dpo.beta) for w in recipe.worlds.values()]

    assert numbers(recipe_of()) == [(2, 0.1), (4, 0.5)]
    assert numbers(recipe_of({"sft.epochs": 7})) == [(7, 0.1), (7, 0.5)]
    assert numbers(recipe_of({"house.sft.epochs": 9, "sft.epochs": 7})) == [(7, 0.1), (9, 0.5)]
    assert recipe_of({"seeds": [5]}).seeds == (5,)
    assert recipe_of({"shop.world.dataset": "small"}).worlds["shop"].world.dataset == "small"


def test_methods_that_explore_share_a_budget() -> None:
    text = (
        FILE
        + """
[budget]
n_episodes = 400
[rft]
n_samples = 2
[eto]
iterations = 2
[ppo]
n_episodes = 32
[grpo]
n_episodes = 64
"""
    )
    world = recipe_of(text=text).worlds["shop"]
    assert (world.rft.max_tasks, world.eto.max_tasks) == (200, 200)
    assert (world.ppo.n_updates, world.grpo.n_updates) == (12, 6)
    changed = recipe_of({"house.budget.n_episodes": 100}, text).worlds
    assert (changed["shop"].eto.max_tasks, changed["house"].eto.max_tasks) == (200, 50)
    with pytest.raises(SettingsError, match=r"\[shop.ppo\]: n_updates follows from \[budget\]"):
        recipe_of({"ppo.n_updates": 3}, text)
    with pytest.raises(SettingsError, match="n_episodes must be at least 1"):
        recipe_of({"budget.n_episodes": 0}, text)


def test_the_methods_of_the_cpu_recipes_play_the_same_number_of_episodes() -> None:
    for name in ("cpu", "cpu-full"):
        for world in read_recipe(name).worlds.values():
            assert world.rft.max_tasks is not None
            assert world.eto.max_tasks is not None
            played = {
                world.rft.max_tasks * world.rft.n_samples,
                world.ppo.n_updates * world.ppo.n_episodes,
                world.eto.max_tasks * world.eto.n_samples * world.eto.iterations,
            }
            assert played == {world.budget.n_episodes}


def test_rft_and_sft_more_inherit_the_settings_of_sft() -> None:
    world = recipe_of({"rft.epochs": 5}).worlds["shop"]
    assert world.sft_more.learning_rate == world.rft.learning_rate == 1e-3
    assert (world.sft.epochs, world.rft.epochs) == (2, 5)


def test_a_file_can_be_like_a_built_in_recipe(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    # cpu-full is itself like cpu.
    own.write_text('like = "cpu-full"\nseeds = [7]\n[worlds.alfworld.dpo]\nbeta = 0.25\n')
    mine, full = read_recipe(str(own)), read_recipe("cpu-full")
    assert (mine.name, mine.seeds, mine.methods) == ("mine", (7,), full.methods)
    assert mine.worlds["webshop"] == full.worlds["webshop"]
    house, theirs = mine.worlds["alfworld"], full.worlds["alfworld"]
    assert house.eto.dpo == dataclasses.replace(theirs.eto.dpo, beta=0.25)
    assert house.eto.max_tasks == theirs.eto.max_tasks == 800
    assert house.sft == theirs.sft
    own.write_text('like = "cpuu"')
    with pytest.raises(UnknownNameError, match="no recipe 'cpuu'; did you mean 'cpu'"):
        read_recipe(str(own))


def test_measured_times_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, own = tmp_path / "parent.toml", tmp_path / "mine.toml"
    parent.write_text(
        '[measured]\nsft = 5\n[worlds.shop]\nenv = "ETO-WebShop-v0"\n'
        "[worlds.shop.measured]\nexpert = 1\n"
    )
    own.write_text('like = "parent"\n[worlds.shop.measured]\nsft = 7\n')
    monkeypatch.setattr("eto_agents.reproduce.recipe._built_in", lambda name: parent)
    assert read_recipe(str(parent)).worlds["shop"].measured == {"sft": 5.0, "expert": 1.0}
    assert read_recipe(str(own)).worlds["shop"].measured == {"sft": 7.0}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sft.epoch": 1}, UnknownNameError, "epoch.*did you mean.*epochs"),
        ({"stf.epochs": 1}, UnknownNameError, "section or world.*stf.*sft"),
        ({"sft.seed": 1}, UnknownNameError, r"\[shop.sft\].*seed"),
        ({"eto.out": "x"}, UnknownNameError, r"\[shop.eto\].*out"),
        ({"ppo.dev_tasks": 3}, UnknownNameError, "dev_tasks"),
        ({"epochs": 1}, UnknownNameError, "section.key=value"),
        ({"measured.sftt": 1.0}, UnknownNameError, r"\[shop.measured\].*sftt.*did you mean 'sft'"),
        (
            {"measured.sft": -1.0},
            SettingsError,
            r"\[shop.measured\]: sft must be a number of seconds",
        ),
        (
            {"measured.sft": "long"},
            SettingsError,
            r"\[shop.measured\]: sft must be a number of seconds",
        ),
        ({"sft.epochs": "many"}, SettingsError, r"\[shop.sft\].*epochs must be float"),
        ({"sft.epochs": -1.0}, SettingsError, r"\[shop.sft\]: epochs must be above 0, got -1"),
        ({"dpo.beta": 0.0}, SettingsError, r"\[shop.dpo\].*beta must be above 0"),
        ({"ppo.lam": 2.0}, SettingsError, r"\[shop.ppo\].*lam must be in"),
        ({"grpo.n_samples": 3}, SettingsError, r"\[shop.grpo\].*must be a multiple of n_samples 3"),
        ({"eto.keep_best": True}, SettingsError, "keep_best needs dev_tasks"),
        ({"eto.n_samples": 3}, SettingsError, "n_samples=3 needs a temperature above 0"),
        ({"shop.world.n_rounds": 0}, SettingsError, "n_rounds must be at least 1"),
        ({"house.world.n_rounds": 2}, SettingsError, "n_rounds needs a mini dataset"),
        ({"methods": ["sft", "dagger"]}, UnknownNameError, "dagger"),
        ({"expert.policy_args": "skip_option=1"}, SettingsError, "policy_args must be dict"),
        ({"expert.thoughts": "long"}, SettingsError, "thoughts must be one of"),
    ],
)
def test_mistakes_in_settings_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        recipe_of(changes)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("seeds = [0]", DataNotFoundError, "recipe 'mine' has no worlds: add a section"),
        ("[worlds.shop]\ndataset = 'mini'", SettingsError, "env is missing"),
        ("[worlds]\nshop = 'mini'", SettingsError, r"\[worlds.shop\] is missing, got 'mini'"),
        (FILE + "[worlds.house.sfft]\nepochs = 1", UnknownNameError, "section in recipe.*'sft'"),
        (FILE + "[sfft]\nepochs = 1", UnknownNameError, "section in recipe.*did you mean 'sft'"),
        ("seed = [1]\n" + FILE, UnknownNameError, "setting in recipe.*did you mean 'seeds'"),
        ("sft = 3\n[worlds.shop]\nenv = 'x'", SettingsError, "sft must be a section, got 3"),
        (FILE + "[ppo]\nn_update = 1", UnknownNameError, "'n_update'; did you mean 'n_updates'"),
    ],
)
def test_mistakes_in_files_are_named(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        recipe_of(text=text)


def test_recipes_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no recipe 'cpus'; did you mean 'cpu'"):
        read_recipe("cpus")
    with pytest.raises(UnknownNameError, match=r"no recipe 'xyz'; there are 5: '1gpu', .* TOML"):
        read_recipe("xyz")
    with pytest.raises(DataNotFoundError, match=r"nothing\.toml"):
        read_recipe("nothing.toml")
    own = tmp_path / "mine.toml"
    own.write_text(FILE)
    assert read_recipe(str(own)).name == "mine"
    own.write_text("= 1")
    with pytest.raises(CorruptDataError, match="is not valid TOML"):
        read_recipe(str(own))


def test_a_recipe_can_be_narrowed() -> None:
    recipe = recipe_of().narrowed(["house"], ["eto", "sft"], [3])
    assert (list(recipe.worlds), recipe.methods, recipe.seeds) == (["house"], ("sft", "eto"), (3,))
    with pytest.raises(UnknownNameError, match="shop"):
        recipe_of().narrowed(["shopp"])
    with pytest.raises(UnknownNameError, match="best-of-n"):
        recipe_of().narrowed(methods=["best-of-m"])


@pytest.mark.parametrize(
    ("methods", "steps"),
    [
        (["base"], ["expert", "base"]),
        (["ppo"], ["expert", "sft", "ppo"]),
        (["sft-more"], ["expert", "sft", "eto", "sft-more"]),
        (["grpo", "sft-more", "base"], ["expert", "base", "sft", "grpo", "eto", "sft-more"]),
    ],
)
def test_steps_bring_what_they_need(methods: list[str], steps: list[str]) -> None:
    assert list(recipe_of().narrowed(methods=methods).steps) == steps


def test_options_change_a_recipe() -> None:
    options = Options("cpu", worlds=("alfworld",), seeds=(4, 4), set=("dpo.beta=0.3", "seeds=[9]"))
    recipe = options.load()
    assert list(recipe.worlds) == ["alfworld"]
    assert recipe.worlds["alfworld"].eto.dpo.beta == 0.3
    assert recipe.seeds == (4,)  # flags win over --set
    smoke = options.for_smoke_test()
    assert smoke.recipe == "smoke"
    assert smoke.out == options.out / "smoke"
    with pytest.raises(UnknownNameError, match="KEY=VALUE"):
        Options(set=("dpo.beta",)).load()
