"""The mini dataset: a generated shop, in the layout of the official files.

``python -m eto_envs.webshop.mini FOLDER [ROUNDS]`` writes it: about a thousand products of sixty
types in fifteen categories, and 1,400 goals in three splits (1,000 train, 200 seen, 200 unseen).
The unseen goals are about products from three categories that occur in no other split; the seen
goals are about products that no train goal is about, but from categories that occur in train. The
products of a type form families of the same brand and line that differ in attributes, options and
price, so that the first result of a search is often not quite the right one. The bytes are the same
on every machine: all draws use `random.Random.random`. The folder `bundle` contains the bundle that
is built from these files. Nothing is taken from the official catalogue, and scores are not
comparable with published results.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_envs.webshop.data import official
from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.goals import shuffled_order
from eto_envs.webshop.mini.products import (
    N_MEMBERS,
    Draw,
    Item,
    attribute_entry,
    draw_asins,
    draw_family,
    marked_nouns,
    plain,
    product_entry,
    read_kinds,
)
from eto_envs.webshop.mini.requests import request

MINI_BUNDLE = Path(__file__).with_name("bundle")
N_GOALS = {"train": 1000, "seen": 200, "unseen": 200}
_VOCABULARY = Path(__file__).with_name("vocabulary.json")
_SEED = 41
_N_FAMILIES = 6  # of each product type
_N_SEEN_PER_TYPE = 3  # products of each type that are reserved for the seen split


def _human_entry(draw: Draw, item: Item, known: set[str]) -> dict[str, Any]:
    """An entry of the human file: a request for a product whose wording is unique."""
    while True:
        n_attributes = draw.pick((1, 2, 2, 3, 3))
        attributes = draw.sample(item.attributes, n_attributes)
        names = draw.some(
            list(item.options), max(1, len(item.options) - int(1.25 * draw.uniform()))
        )
        options = {name: draw.pick(item.options[name]) for name in names}
        text = request(draw, item, attributes, options)
        if text not in known:
            known.add(text)
            return {
                "asin": item.asin,
                "instruction": text,
                "attributes": [attribute.text for attribute in item.attributes],
                "options": [f"{name}: {value}" for name, value in options.items()],
                "instruction_attributes": [attribute.text for attribute in attributes],
                "instruction_options": list(options.values()),
            }


def _draw_splits(
    draw: Draw, items: Sequence[Item], n_goals: Mapping[str, int]
) -> dict[str, list[str]]:
    """The split of each goal of each product, by ASIN: one or two goals of the same split."""
    pools: dict[str, list[Item]] = {split: [] for split in n_goals}
    for start in range(0, len(items), _N_FAMILIES * N_MEMBERS):
        members = draw.shuffled(items[start : start + _N_FAMILIES * N_MEMBERS])
        n_seen = 0 if members[0].kind.is_unseen or "seen" not in pools else _N_SEEN_PER_TYPE
        if n_seen:
            pools["seen"] += members[:n_seen]
        pools["unseen" if members[0].kind.is_unseen else "train"] += members[n_seen:]
    splits: dict[str, list[str]] = {item.asin: [] for item in items}
    for split, pool in pools.items():
        n_once = min(len(pool), n_goals[split])
        for item in draw.sample(pool, n_once) + draw.sample(pool, n_goals[split] - n_once):
            splits[item.asin].append(split)
    return splits


def write_mini(target: Path, n_rounds: int = 1) -> Path:
    """Write the files of the mini dataset into a folder, which is created if necessary.

    Args:
        target: the folder.
        n_rounds: the number of rounds of train goals. The goals of each further round are about the
            same products, in other words and with other attributes and options. The seen and unseen
            goals do not change, except for their indices and prices, which depend on the number of
            goals.

    Returns:
        `target`.
    """
    return _write(target, n_rounds, _SEED, N_GOALS)


def write_other_shop(target: Path, seed: int) -> Path:
    """Write the files of another shop, which has none of mini's products and no unseen category.

    Args:
        target: the folder, created if necessary.
        seed: determines its products and its goals, which are all in the train split.

    Returns:
        `target`.

    Raises:
        ValueError: the seed is that of the mini dataset.
    """
    if seed in (_SEED, _SEED + 1):
        raise ValueError(f"seed {seed} is that of the mini dataset")
    return _write(target, 1, seed, {"train": N_GOALS["train"]})


def _write(target: Path, n_rounds: int, seed: int, n_goals: Mapping[str, int]) -> Path:
    vocabulary = json.loads(_VOCABULARY.read_bytes())
    draw = Draw(seed)
    asins = draw_asins(draw)
    items = [
        item
        for kind in read_kinds(vocabulary)
        if "unseen" in n_goals or not kind.is_unseen
        for _ in range(_N_FAMILIES)
        for item in draw_family(draw, kind, vocabulary, asins)
    ]
    splits = _draw_splits(draw, items, n_goals)
    items = draw.shuffled(items)
    known: set[str] = set()
    products = [product_entry(draw, item) for item in items]
    human = {i.asin: [_human_entry(draw, i, known) for _ in splits[i.asin]] for i in items}
    extra_draw = Draw(seed + 1)
    for item in items:
        if "train" in splits[item.asin]:
            n_more = (n_rounds - 1) * len(splits[item.asin])
            human[item.asin] += [_human_entry(extra_draw, item, known) for _ in range(n_more)]
            splits[item.asin] += ["train"] * n_more
    split_of_goal = [split for item in items for split in splits[item.asin]]
    order = shuffled_order(len(split_of_goal))
    files: dict[str, object] = {
        official.PRODUCTS_FILE: products,
        official.ATTRIBUTES_FILE: {item.asin: attribute_entry(draw, item) for item in items},
        official.HUMAN_FILE: {asin: entries for asin, entries in human.items() if entries},
        official.NOUNS_FILE: {plain(item.title): marked_nouns(item.title) for item in items},
    }
    for split, name in official.SPLIT_FILES.items():
        files[name] = [i for i, place in enumerate(order) if split_of_goal[place] == split]
    target.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
        (target / name).write_bytes(text.encode())
    return target


def build_mini_bundle(target: Path, n_rounds: int = 1) -> Path:
    """Build the bundle that is part of the package, or one with more train goals.

    Returns:
        `target`.
    """
    name = "mini" if n_rounds == 1 else f"mini-{n_rounds}-rounds"
    with tempfile.TemporaryDirectory() as folder:
        files = write_mini(Path(folder), n_rounds)
        return build_bundle(files, target, nouns="file", dataset=name)


def build_other_shop(target: Path, seed: int) -> Path:
    """Build the bundle of another shop; see `write_other_shop`."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_other_shop(Path(folder), seed)
        return build_bundle(files, target, nouns="file", dataset=f"shop-{seed}")
