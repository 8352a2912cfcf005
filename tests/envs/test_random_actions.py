"""No action that an agent can write makes a world fail.

A few thousand random actions a world here; `pytest tests/envs/test_random_actions.py --timeout 0
--n-actions 1000000` plays a million in each.
"""

from __future__ import annotations

import math
import random
from typing import Any

import gymnasium as gym
import pytest

import eto_envs
from eto_envs.core import MAX_TEXT_CHARS

WORLDS = {
    "ETO-WebShop-v0": [
        {"dataset": "mini"},
        {"dataset": "mini", "goals": "synthetic", "observation_mode": "text_rich"},
        {"dataset": "mini", "num_prev_obs": 3, "num_prev_actions": 3, "show_attrs": True},
    ],
    "ETO-ALFWorld-v0": [{"dataset": "mini"}, {"dataset": "mini-2.1.2"}],
    "ETO-ScienceWorld-v0": [{"dataset": "1.2.3"}],
}
MARKS = {"ETO-ScienceWorld-v0": [pytest.mark.java]}
N_ACTIONS = {"ETO-ScienceWorld-v0": 500}
N_BY_DEFAULT = 4_000

VERBS = (
    *("search[", "click[", "buy now", "go to", "open", "close", "take", "put", "move", "use"),
    *("clean", "heat", "cool", "slice", "examine", "look", "inventory", "help", "focus on", "wait"),
    *("look around", "look at", "pick up", "pour", "mix", "connect", "dunk", "read", "teleport to"),
    *("activate", "deactivate", "eat", "flush", "disconnect", "task", "reset task", "0", "1"),
)
JOINTS = (" ", "  ", " from ", " in/on ", " to ", " with ", " in ", "] ", "][", "[", "", "\n", "\t")
ODD = (
    *("", " ", "\x00", "\x7f", "\u2028", "\ufeff", "\ud800", "\udfff", "\U0010ffff", "İ", "ß"),
    *("e\u0301" * 40, "\u202e", "]" * 9, "[" * 9, "%s%n", "{}", "\\", "'\"`", "<script>", "$(x)"),
    *("٣", "1" * 400, "-1", "nan", "1e999", " " * 500, "\r\n", "a" * 5_000, "\x1b[2J"),
)


class Actions:
    """Random actions: admissible ones, damaged ones, words of the world put together, nonsense."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self, observation: str, info: dict[str, Any]) -> str:
        draw = self._random
        kind = draw.random()
        if kind < 0.4 and info.get("admissible_actions"):
            action = draw.choice(info["admissible_actions"])
            return self._damaged(action) if draw.random() < 0.3 else action
        words = observation.split()
        parts = [draw.choice(VERBS)]
        for _ in range(draw.randrange(4)):
            start = draw.randrange(len(words)) if words else 0
            phrase = " ".join(words[start : start + draw.randrange(1, 4)]).rstrip(".,:")
            parts += [draw.choice(JOINTS), phrase if draw.random() < 0.9 else draw.choice(ODD)]
        action = "".join(parts) + "]" * (parts[0].endswith("[") and draw.random() < 0.9)
        return self._damaged(action) if kind > 0.9 else action

    def _damaged(self, action: str) -> str:
        draw = self._random
        at, end = sorted(draw.randrange(len(action) + 1) for _ in range(2))
        return draw.choice(
            (
                action[:at] + action[end:],
                action[:at] + draw.choice(ODD) + action[at:],
                action[:at] + chr(draw.randrange(0x110000)) + action[end:],
                action.swapcase(),
                action * draw.randrange(2, 40),
                " ".join(str(draw.randrange(10**6)) for _ in range(draw.choice((3, 1_200)))),
                "search[" + " ".join(map(str, range(draw.choice((3, 1_200))))) + "]",
            )
        )[: MAX_TEXT_CHARS - 1]


def play(env_id: str, n_actions: int, seed: int) -> int:
    """Play random actions in every variant of a world; returns the number of valid ones."""
    n_valid = 0
    for variant, kwargs in enumerate(WORLDS[env_id]):
        # The simulator lists its valid actions slowly: there, words of observations serve.
        reveal = () if env_id == "ETO-ScienceWorld-v0" else ("admissible_actions",)
        env = gym.make(env_id, split="all", reveal=reveal, **kwargs)
        actions = Actions(seed + variant)
        observation, info = env.reset(seed=seed)
        for n in range(math.ceil(n_actions / len(WORLDS[env_id]))):
            action = actions.next(observation, info)
            place = f"{kwargs}, seed {seed}, task {info['task_id']!r}, action {n}: {action!r:.300}"
            try:
                observation, reward, terminated, truncated, info = env.step(action)
            except Exception as error:
                raise AssertionError(place) from error
            assert isinstance(observation, str), place
            assert env.observation_space.contains(observation), place
            assert math.isfinite(reward), place
            assert 0.0 <= info["score"] <= 1.0, place
            n_valid += info["is_valid_action"]
            if terminated or truncated:
                observation, info = env.reset()
        env.close()
    return n_valid


def test_every_world_is_tried_here() -> None:
    # The browser's world has the engine of `ETO-WebShop-v0`, and takes a second for an action.
    assert {*WORLDS, "ETO-WebShopBrowser-v0"} == set(eto_envs.IDS)


@pytest.mark.parametrize(
    "env_id", [pytest.param(env_id, marks=MARKS.get(env_id, [])) for env_id in WORLDS]
)
def test_no_action_makes_a_world_fail(env_id: str, request: pytest.FixtureRequest) -> None:
    n_actions = request.config.getoption("--n-actions") or N_ACTIONS.get(env_id, N_BY_DEFAULT)
    n_valid = play(env_id, n_actions, seed=request.config.getoption("--fuzz-seed"))
    assert 0.02 * n_actions < n_valid < 0.98 * n_actions  # both sorts of actions are played
