"""Wrappers for any text environment that follows the contract of `eto_envs.core`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from eto_envs.shaping import Info, Shaper, Shaping, Transition


class ShapeReward(gym.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Adds the terms of shapers to the reward and to `info["reward_terms"]`.

    `info["task_reward"]` and `info["score"]` are left unchanged. For built-in shapers,
    `gym.make(..., shaping=("step_cost=0.01",))` does the same without a wrapper.
    """

    def __init__(self, env: gym.Env[str, str], shapers: Sequence[Shaper | str]) -> None:
        """Wrap `env`.

        Args:
            env: an environment that follows the contract.
            shapers: objects with `reset(info)` and `__call__(transition) -> float`, or names
                such as ``"step_cost=0.01"``.

        Raises:
            ValueError: a term has the same name as one of the environment's own.
        """
        RecordConstructorArgs.__init__(self, shapers=shapers, _disable_deepcopy=True)
        gym.Wrapper.__init__(self, env)
        self._shaping = Shaping(shapers)
        self._observation = ""
        self._info: Info = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin an episode; all terms are 0."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._info = self._with_terms(info, self._shaping.reset(info))
        return self._observation, dict(self._info)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Carry out one action; the reward is the wrapped environment's plus the terms."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        transition = Transition(
            self._observation,
            action,
            observation,
            info["task_reward"],
            terminated,
            truncated,
            self._info,
            info,
        )
        terms = self._shaping.terms(transition)
        self._observation, self._info = observation, self._with_terms(info, terms)
        total = float(reward) + sum(terms.values())
        return observation, total, terminated, truncated, dict(self._info)

    def snapshot(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The snapshot of the wrapped environment and the state of the shapers."""
        inner = self.env.get_wrapper_attr("snapshot")()
        return inner, self._shaping.snapshot()

    def restore(self, state: tuple[Any, dict[str, dict[str, Any]]]) -> tuple[str, Info]:
        """Restore what `snapshot` returned."""
        inner, shaping = state
        self._observation, info = self.env.get_wrapper_attr("restore")(inner)
        self._shaping.restore(shaping)
        self._info = self._with_terms(info, dict.fromkeys(self._shaping.names, 0.0))
        return self._observation, dict(self._info)

    @staticmethod
    def _with_terms(info: Info, terms: Mapping[str, float]) -> Info:
        taken = info["reward_terms"].keys() & terms.keys()
        if taken:
            raise ValueError(f"the environment already has a reward term {sorted(taken)[0]!r}")
        return info | {"reward_terms": info["reward_terms"] | terms}
