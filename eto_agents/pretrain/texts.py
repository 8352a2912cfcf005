"""The texts that ``tiny-base`` is pretrained on: episodes of an agent that tries things at random.

The agent plays in worlds that no task set has: shops with other products, households in other
rooms, and variations of ScienceWorld's tasks from the last third of each type's train variations.
What it does solves nothing; the texts show what pages, rooms and actions look like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from eto_agents.evaluation.harness import evaluate
from eto_agents.policies.simple import RandomPolicy
from eto_agents.react.context import transcript
from eto_agents.react.prompts import load_prompts, prompt_key_of
from eto_agents.runs import episodes_file
from eto_agents.store import TrajectoryStore
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message
from eto_agents.worlds import find_world
from eto_envs.alfworld.mini.games import write_other_games
from eto_envs.files import write_whole
from eto_envs.scienceworld.tasks import TASK_TYPES, reserved_variations
from eto_envs.shaping import Info
from eto_envs.tasks import Task
from eto_envs.webshop.mini.dataset import build_other_shop

SHOP_SEEDS: Final = (1001, 1002, 1003)
"""Seeds of the shops; the mini dataset has others."""

ROUNDS: Final = tuple(range(101, 107))
"""Rounds of households; recipes train and select on rounds below 100."""

DEV_SHOP_SEEDS: Final = (1011,)
DEV_ROUNDS: Final = (111,)
"""A shop and a round of households to measure what was learned."""

MAX_VARIATIONS: Final = 30
"""The most variations of a ScienceWorld task type."""

_MAX_STEPS: Final = {"webshop": 12, "alfworld": 30, "scienceworld": 30}


def science_variations(n_variations: int) -> range:
    """The variations of a task type to pretrain on: up to 30 from the last third of train."""
    return reserved_variations(n_variations)[-MAX_VARIATIONS:]


class Wanderer(RandomPolicy):
    """Tries things at random: first a verb, then one of the admissible actions with it.

    So it does not do what most actions are, such as going somewhere, most of the time. It rarely
    buys and rarely commits itself, since that ends an episode.
    """

    name = "wanderer"

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Seed each slot's generator with the task's place and the seed."""
        for slot, task, seed in zip(slots, tasks, seeds, strict=True):
            self._rngs[slot] = np.random.default_rng([seed, *task.id.encode()])

    @staticmethod
    def _pick(rng: np.random.Generator, info: Info) -> str:
        by_verb: dict[str, list[str]] = {}
        for action in info["admissible_actions"]:
            verb = action.split("[")[0].split()[0]
            if (action != "click[buy now]" and verb != "focus") or rng.random() < 0.05:
                by_verb.setdefault(verb, []).append(action)
        if not by_verb:
            return "look"
        verb = sorted(by_verb)[int(rng.integers(len(by_verb)))]
        action = by_verb[verb][int(rng.integers(len(by_verb[verb])))]
        if "<keywords>" in action:
            words = info["goal"].split()
            start = int(rng.integers(max(1, len(words) - 4)))
            keywords = " ".join(words[start : start + int(rng.integers(2, 6))])
            action = action.replace("<keywords>", keywords.strip(",.").replace("]", ""))
        # Pages, and what is trained on later, have codes in upper case.
        label = action[len("click[") : -1]
        is_code = verb == "click" and len(label) == 10 and label.startswith("b0")
        return action.upper().replace("CLICK", "click") if is_code else action


def wander(
    out: Path,
    shop_seeds: Sequence[int] = SHOP_SEEDS,
    rounds: Sequence[int] = ROUNDS,
    *,
    java: bool = True,
) -> dict[str, list[Path]]:
    """Generate the worlds and wander in them; repeating the call resumes it.

    Args:
        out: the folder for the worlds and the episodes.
        shop_seeds: the shops.
        rounds: the households.
        java: whether ScienceWorld is among the worlds; it needs the extra ``scienceworld``.

    Returns:
        The files of the episodes, by world.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs: list[tuple[str, Path]] = []
    for seed in shop_seeds:
        if not (shop := out / f"shop-{seed}").exists():
            build_other_shop(shop, seed)
        runs.append(("webshop", shop))
    if not (pack := out / "households.pack").exists():
        write_other_games(pack, rounds)
    runs.append(("alfworld", pack))
    if java:
        runs.append(("scienceworld", _write_variations(out / "variations")))
    files: dict[str, list[Path]] = {}
    for world, dataset in runs:
        folder = out / f"{world}-{dataset.name}"
        evaluate(
            Wanderer(),
            find_world(world).env_id,
            ("train",),
            seeds=(0, 1),
            out=folder,
            n_envs=8,
            env_args={"dataset": str(dataset), "max_episode_steps": _MAX_STEPS[world]},
        )
        files.setdefault(world, []).append(episodes_file(folder))
    return files


def _write_variations(folder: Path) -> Path:
    """Index files in ETO's form with the variations to pretrain on; seen and unseen are empty."""
    rows = [
        [name, variation]
        for name, kind in TASK_TYPES.items()
        for variation in science_variations(kind.n_variations)
    ]
    folder.mkdir(exist_ok=True)
    for name, content in (("train", rows), ("dev", []), ("test", [])):
        write_whole(folder / f"{name}_indices.json", json_text(content).encode())
    return folder


def chats(files: Sequence[Path]) -> Iterator[list[Message]]:
    """The chats of episodes, with the brief prompts; the first action follows the task."""
    prompts = load_prompts("brief")
    for file in files:
        for episode in TrajectoryStore(file).read():
            if episode.steps:
                prompt = prompts[prompt_key_of(episode)]
                yield transcript(
                    prompt, episode.initial_observation, episode.steps, with_example=False
                )
