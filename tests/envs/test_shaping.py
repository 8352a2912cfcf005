"""Shapers: their values, their names, and that they never touch the task's own reward."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_envs import shaping
from eto_envs.errors import UnknownNameError
from eto_envs.wrappers import ShapeReward
from tests.toy import CorridorEnv

WALKS = list(itertools.product(("east", "west", "jump"), repeat=4))


def returns(env: Any, actions: tuple[str, ...], gamma: float = 1.0) -> tuple[float, float]:
    """Discounted returns of one episode: shaped, unshaped."""
    env.reset(options={"task": "room3"})
    shaped = unshaped = 0.0
    for t, action in enumerate(actions):
        _, reward, terminated, truncated, info = env.step(action)
        shaped += gamma**t * reward
        unshaped += gamma**t * info["task_reward"]
        if terminated or truncated:
            break
    return shaped, unshaped


def steps(shaper: str, *actions: str) -> list[float]:
    env = CorridorEnv(shaping=(shaper,), max_steps=len(actions))
    env.reset(options={"task": "room4"})
    out = []
    for action in actions:
        _, reward, _, _, info = env.step(action)
        (term,) = info["reward_terms"].values()
        assert reward == pytest.approx(info["task_reward"] + term)
        out.append(term)
    return out


def test_values_of_the_built_in_shapers() -> None:
    assert steps("step_cost=0.1", "east", "jump") == [-0.1, -0.1]
    assert steps("invalid=0.2", "east", "jump", "west") == [0.0, -0.2, 0.0]
    assert steps("repeat=0.3", "west", "jump", "west", "west", "west") == [
        0.0,
        0.0,
        0.0,
        0.0,
        -0.3,
    ]
    assert steps("subgoal=0.5", "east", "west", "east", "east") == [0.5, 0.0, 0.0, 0.5]
    assert steps("score_delta=2", "east", "west", "east", "east") == [0.5, 0.0, 0.0, 0.5]
    assert steps("terminal_only", "east", "west", "east", "east") == [-0.25, 0.0, 0.0, 0.25]


def test_terminal_only_pays_the_same_in_the_end() -> None:
    for walk in WALKS:
        shaped, unshaped = returns(CorridorEnv(shaping=("terminal_only",), max_steps=4), walk)
        assert shaped == pytest.approx(unshaped)


@given(
    gamma=st.floats(0.0, 1.0),
    potentials=st.lists(st.floats(-100, 100), min_size=5, max_size=5),
)
def test_potential_shaping_shifts_every_return_by_the_same(
    gamma: float, potentials: list[float]
) -> None:
    """So the order of policies (here: of all deterministic walks of four steps) is unchanged."""

    def phi(observation: str, info: shaping.Info) -> float:
        digits = [c for c in observation.split("room ")[-1] if c.isdigit()]
        return potentials[int(digits[0]) if digits else 4]

    env = ShapeReward(CorridorEnv(max_steps=4), [shaping.PotentialShaping(gamma, phi)])
    for walk in WALKS[:: len(WALKS) // 27]:
        shaped, unshaped = returns(env, walk, gamma)
        assert shaped - unshaped == pytest.approx(-potentials[0], abs=1e-6)


@given(st.lists(st.sampled_from(sorted(shaping.BUILT_IN)), unique=True), st.sampled_from(WALKS))
def test_shaping_never_changes_the_result(names: list[str], walk: tuple[str, ...]) -> None:
    plain, shaped = CorridorEnv(max_steps=4), CorridorEnv(max_steps=4, shaping=tuple(names))
    for env in (plain, shaped):
        env.reset(options={"task": "room3"})
    for action in walk:
        a, b = plain.step(action), shaped.step(action)
        for key in a[4].keys() - {"reward_terms"}:
            assert a[4][key] == b[4][key]
        assert (a[0], a[2], a[3]) == (b[0], b[2], b[3])
        if a[2]:
            break


def test_wrapper_equals_the_keyword() -> None:
    names = ("step_cost=0.1", "repeat=0.2", "potential=0.9")
    inside = CorridorEnv(shaping=names, max_steps=4)
    outside = ShapeReward(CorridorEnv(max_steps=4), names)
    for walk in WALKS:
        for env in (inside, outside):
            env.reset(options={"task": "room3"})
        for action in walk:
            a, b = inside.step(action), outside.step(action)
            assert a == b
            if a[2]:
                break


def test_wrapper_snapshot_keeps_the_shapers_memory() -> None:
    env = ShapeReward(CorridorEnv(), ["repeat=1"])
    env.reset(seed=0)
    env.step("west")
    env.step("west")
    state = env.snapshot()
    first = env.step("west")
    env.reset(seed=1)
    env.restore(state)
    assert env.step("west") == first
    assert first[1] == -1.0


def test_own_shaper_and_clashing_names() -> None:
    class Bonus:
        def reset(self, info: shaping.Info) -> None:
            self.n = 0

        def __call__(self, transition: shaping.Transition) -> float:
            self.n += 1
            return float(self.n)

    env = ShapeReward(CorridorEnv(), [Bonus(), Bonus(), "step_cost"])
    _, info = env.reset()
    assert info["reward_terms"] == {"Bonus": 0.0, "Bonus#2": 0.0, "step_cost": 0.0}
    env.step("west")
    assert env.step("west")[1] == pytest.approx(2 + 2 - 0.01)
    twice = ShapeReward(CorridorEnv(shaping=("step_cost",)), ["step_cost"])
    with pytest.raises(ValueError, match="already has a reward term 'step_cost'"):
        twice.reset()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("step_cots=1", UnknownNameError, "did you mean 'step_cost'"),
        ("step_cost=much", ValueError, "'much' is not a number"),
        ("terminal_only=1", ValueError, "takes no number"),
        ("potential=2", ValueError, "gamma"),
    ],
)
def test_bad_names(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CorridorEnv(shaping=(text,))


def test_a_bare_text_is_refused() -> None:
    with pytest.raises(TypeError, match="add a comma"):
        CorridorEnv(shaping="step_cost=0.1")
