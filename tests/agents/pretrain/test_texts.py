"""What ``tiny-base`` reads: worlds that no task set has, with things that have other names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from eto_agents.pretrain.exercises import KINDS, draw_exercise
from eto_agents.pretrain.renaming import Names, Renaming
from eto_agents.pretrain.texts import (
    DEV_ROUNDS,
    DEV_SHOP_SEEDS,
    ROUNDS,
    SHOP_SEEDS,
    Wanderer,
    science_variations,
)
from eto_agents.trajectory import Message
from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.mini.games import write_mini as write_games
from eto_envs.alfworld.mini.games import write_other_games
from eto_envs.scienceworld.tasks import TASK_TYPES, find_splits
from eto_envs.tasks import Task
from eto_envs.webshop.data.official import PRODUCTS_FILE
from eto_envs.webshop.mini import products
from eto_envs.webshop.mini.dataset import write_mini as write_shop
from eto_envs.webshop.mini.dataset import write_other_shop
from eto_envs.webshop.mini.products import read_kinds

VOCABULARY = Path(products.__file__).with_name("vocabulary.json")
CODE = re.compile(r"B0[0-9A-Z]{8}")


def _products(folder: Path) -> list[dict[str, str]]:
    items: list[dict[str, str]] = json.loads((folder / PRODUCTS_FILE).read_bytes())
    return items


def test_shops_share_no_product_and_no_unseen_category_with_mini(tmp_path: Path) -> None:
    mini = _products(write_shop(tmp_path / "mini"))
    vocabulary = json.loads(VOCABULARY.read_bytes())
    unseen = {kind.category for kind in read_kinds(vocabulary) if kind.is_unseen}
    assert unseen
    assert unseen < {product["category"] for product in mini}
    for seed in (*SHOP_SEEDS, *DEV_SHOP_SEEDS):
        shop = _products(write_other_shop(tmp_path / str(seed), seed))
        assert len(shop) > 500
        for key in ("asin", "name"):
            assert not {p[key] for p in shop} & {p[key] for p in mini}
        assert not {p["category"] for p in shop} & unseen


def test_the_seed_of_mini_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed 41 is that of the mini dataset"):
        write_other_shop(tmp_path, 41)


def test_households_share_no_room_with_a_task_set(tmp_path: Path) -> None:
    def rooms(pack: Pack) -> set[str]:
        ids = (task_id for split in pack.splits.values() for task_id in split)
        return {task_id.split("/")[0].rpartition("-")[2] for task_id in ids}

    recipes = rooms(write_games(tmp_path / "mini.pack", n_rounds=15))
    others = rooms(write_other_games(tmp_path / "others.pack", (ROUNDS[0], *DEV_ROUNDS)))
    assert others
    assert not others & recipes
    assert min(ROUNDS) > 99
    assert not {*ROUNDS} & {*DEV_ROUNDS}


@pytest.mark.parametrize("dataset", ["1.2.3", "mini"])
def test_variations_are_in_no_split_that_is_scored(dataset: str) -> None:
    pretrained = {
        f"{name}/{variation}"
        for name, kind in TASK_TYPES.items()
        for variation in science_variations(kind.n_variations)
    }
    splits = find_splits(dataset).ids
    assert len(pretrained) > 300
    assert not pretrained & {*splits["seen"], *splits["unseen"]}
    if dataset == "mini":  # a recipe's dev tasks are among its train tasks
        assert not pretrained & {*splits["train"]}


def _chat(text: str) -> list[Message]:
    head: list[Message] = [
        {"role": "user", "content": "instruction"},
        {"role": "assistant", "content": "OK"},
    ]
    return [*head, {"role": "user", "content": text}]


def test_renaming_is_consistent_within_a_chat_and_differs_between_chats() -> None:
    names = Names(frozenset({"the", "see", "you"}), ("kettle", "lamp"))
    chat = [*_chat("you see B0ABCDEFGH, mug 1, mug 2"), *_chat("the Mug is B0ABCDEFGH, mug 2")[2:]]

    def renamed(seed: int) -> list[str]:
        renaming = Renaming(np.random.default_rng(seed), names, words=1.0, numbers=True)
        return [message["content"] for message in renaming.apply(chat)]

    first, second = renamed(0)[2:]
    assert renamed(0)[2:] == [first, second] != renamed(1)[2:]
    assert CODE.findall(first) == CODE.findall(second) != ["B0ABCDEFGH"]
    mug = re.search(r", ([a-z]+) ([0-9]+), \1 ([0-9]+)", first)
    assert mug is not None
    assert mug[2] != mug[3]
    assert second.startswith(f"the {mug[1].capitalize()} is ")
    assert second.endswith(f", {mug[1]} {mug[3]}")
    assert first.startswith("you see ")  # words of the template stay


def test_names_separate_the_template_from_what_it_is_filled_with() -> None:
    chats = [_chat(f"you see a thing{'abcdefghijklmnopqrstuvwxyz'[i]}") for i in range(26)]
    names = Names.of(chats)
    assert {"you", "see", "instruction"} <= names.template
    assert "thinga" in names.others
    assert "thinga" not in names.template


def test_answers_of_exercises_are_in_their_questions() -> None:
    names = Names(frozenset(), ("kettle", "lamp", "mug"))
    seen = set()
    for seed in range(200):
        question, answer = (m["content"] for m in draw_exercise(np.random.default_rng(seed), names))
        what = re.sub(r"^Action: (take|click)\W", "", answer).removesuffix("]")
        for part in what.split(" from "):
            assert part in question
        seen.add(answer.split("[")[0].split(" ")[1] if answer.startswith("Action") else "repeat")
    assert len(seen) == len(KINDS) - 1  # two kinds take something


def test_the_wanderer_rarely_ends_an_episode_and_copies_codes_as_they_are() -> None:
    actions = ["click[b0abcdefgh]", "click[buy now]", "search[<keywords>]"]
    info = {"admissible_actions": actions, "goal": "i want a red mug, and cheap, please"}
    wanderer = Wanderer()
    task = Task("1", info["goal"], 10, "webshop", {})
    wanderer.reset([0], [task], [0])
    chosen = [wanderer.act([0], [""], [info])[0].action for _ in range(400)]
    assert "click[B0ABCDEFGH]" in chosen
    assert 0 < chosen.count("click[buy now]") < 20
    assert any(action.startswith("search[") and "red" in action for action in chosen)
