"""Reward shaping: additional reward terms that leave the task's own reward unchanged.

A shaper is any object with `reset(info)` and `__call__(transition) -> float`. Its value is added to
the returned reward and recorded under its name in `info["reward_terms"]`. `info["task_reward"]` and
`info["score"]` are not affected, so shaping never changes a result.

Potential-based shaping follows Ng, Harada and Russell, "Policy invariance under reward
transformations" (ICML 1999). That the potential is 0 at the end of an episode follows Grzes,
"Reward shaping in episodic reinforcement learning" (AAMAS 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from eto_envs.errors import UnknownNameError

Info: TypeAlias = dict[str, Any]


class Transition(NamedTuple):
    """One step as a shaper sees it.

    Attributes:
        observation: the text before the action.
        action: the action, as passed to `step`.
        next_observation: the text after it.
        task_reward: the unshaped reward of this step.
        terminated: whether the task ended.
        truncated: whether a limit ended the episode.
        info: the info before the action.
        next_info: the info after it.
    """

    observation: str
    action: str
    next_observation: str
    task_reward: float
    terminated: bool
    truncated: bool
    info: Info
    next_info: Info

    @property
    def ended(self) -> bool:
        """Whether this was the last step of the episode."""
        return self.terminated or self.truncated


class Shaper(Protocol):
    """The interface of a shaper; the term is named after its attribute `name`, if it has one."""

    def reset(self, info: Info) -> None:
        """Begin an episode; `info` is what the environment's `reset` returned."""

    def __call__(self, transition: Transition) -> float:
        """The value of the term for one step."""


class StepCost:
    """`-cost` on every step."""

    name = "step_cost"

    def __init__(self, cost: float = 0.01) -> None:
        """Make the shaper."""
        self.cost = cost

    def reset(self, info: Info) -> None:
        """Do nothing: this shaper has no state."""

    def __call__(self, transition: Transition) -> float:
        """The negative cost."""
        return -self.cost


class InvalidActionPenalty:
    """`-penalty` on every step whose action the world does not accept."""

    name = "invalid"

    def __init__(self, penalty: float = 0.05) -> None:
        """Make the shaper."""
        self.penalty = penalty

    def reset(self, info: Info) -> None:
        """Do nothing: this shaper has no state."""

    def __call__(self, transition: Transition) -> float:
        """The negative penalty, or 0."""
        return 0.0 if transition.next_info["is_valid_action"] else -self.penalty


class RepeatPenalty:
    """`-penalty` for repeating an action in the same situation, which is the sign of a loop.

    Two situations are the same if the observation before the action is.
    """

    name = "repeat"

    def __init__(self, penalty: float = 0.05) -> None:
        """Make the shaper."""
        self.penalty = penalty
        self._done: set[tuple[str, str]] = set()

    def reset(self, info: Info) -> None:
        """Forget the last episode."""
        self._done = set()

    def __call__(self, transition: Transition) -> float:
        """The negative penalty, or 0."""
        key = (transition.observation, transition.action)
        if key in self._done:
            return -self.penalty
        self._done.add(key)
        return 0.0


def reached_subgoals(info: Info) -> list[str]:
    """The sub-goals that hold: those of the world if it reveals them, else quarters of the score.

    With ``reveal=("subgoals",)``, ``info["subgoals"]`` maps the name of each to whether it holds.
    """
    if "subgoals" in info:
        return [name for name, holds in info["subgoals"].items() if holds]
    return [f"score {q}" for q in (0.25, 0.5, 0.75, 1.0) if info["score"] >= q]


class SubgoalBonus:
    """`bonus` for each sub-goal the first time it is reached in an episode."""

    name = "subgoal"

    def __init__(
        self,
        bonus: float = 0.1,
        detect: Callable[[Transition], Iterable[str]] | None = None,
    ) -> None:
        """Make the shaper.

        Args:
            bonus: the reward for each sub-goal.
            detect: returns the names of the sub-goals that hold after a step; by default
                `reached_subgoals`.
        """
        self.bonus = bonus
        self.detect = detect
        self._reached: set[str] = set()

    def reset(self, info: Info) -> None:
        """Forget the last episode; sub-goals that hold at the start earn no bonus."""
        self._reached = set() if self.detect else set(reached_subgoals(info))

    def __call__(self, transition: Transition) -> float:
        """The bonus times the number of sub-goals reached for the first time."""
        holding = self.detect(transition) if self.detect else reached_subgoals(transition.next_info)
        new = set(holding) - self._reached
        self._reached |= new
        return self.bonus * len(new)


def progress(observation: str, info: Info) -> float:
    """The progress of an episode, in [0, 1]: the default potential.

    This is the fraction of the world's sub-goals that hold if it reveals them, else the score.
    """
    subgoals = info.get("subgoals")
    return sum(subgoals.values()) / len(subgoals) if subgoals else float(info["score"])


class PotentialShaping:
    """`gamma * phi(next) - phi(now)`, with `phi = 0` once the episode has ended.

    The discounted sum over any episode is `-phi(first)`, whatever the agent does, so the ranking of
    policies is preserved (for returns discounted with the same `gamma`).
    """

    name = "potential"

    def __init__(
        self,
        gamma: float = 0.99,
        phi: Callable[[str, Info], float] = progress,
    ) -> None:
        """Make the shaper; `phi(observation, info)` is the potential, `gamma` is in [0, 1]."""
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}")
        self.gamma = gamma
        self.phi = phi

    def reset(self, info: Info) -> None:
        """Do nothing: this shaper has no state."""

    def __call__(self, transition: Transition) -> float:
        """The discounted difference of the potentials."""
        before = self.phi(transition.observation, transition.info)
        if transition.ended:
            return -before
        return self.gamma * self.phi(transition.next_observation, transition.next_info) - before


class ScoreDelta:
    """`scale` times the change of the score."""

    name = "score_delta"

    def __init__(self, scale: float = 1.0) -> None:
        """Make the shaper."""
        self.scale = scale

    def reset(self, info: Info) -> None:
        """Do nothing: this shaper has no state."""

    def __call__(self, transition: Transition) -> float:
        """The scaled change."""
        return self.scale * float(transition.next_info["score"] - transition.info["score"])


class TerminalOnly:
    """Withholds the task rewards and pays their sum on the last step."""

    name = "terminal_only"

    def __init__(self) -> None:
        """Make the shaper."""
        self._withheld = 0.0

    def reset(self, info: Info) -> None:
        """Forget the last episode."""
        self._withheld = 0.0

    def __call__(self, transition: Transition) -> float:
        """The correction that moves all of the reward to the last step."""
        if transition.ended:
            return self._withheld
        self._withheld += transition.task_reward
        return -transition.task_reward


BUILT_IN: Mapping[str, Callable[..., Shaper]] = {
    shaper.name: shaper
    for shaper in (
        StepCost,
        InvalidActionPenalty,
        RepeatPenalty,
        SubgoalBonus,
        PotentialShaping,
        ScoreDelta,
        TerminalOnly,
    )
}


def parse_shaper(text: str) -> Shaper:
    """Make the shaper that a string such as ``"step_cost=0.01"`` or ``"terminal_only"`` describes.

    Raises:
        UnknownNameError: there is no built-in shaper of that name.
        ValueError: the part after ``=`` is not a number, or the shaper takes no parameter.
    """
    name, equals, value = text.partition("=")
    if name not in BUILT_IN:
        raise UnknownNameError("shaper", name, BUILT_IN, "Write it as 'name' or 'name=number'.")
    if not equals:
        return BUILT_IN[name]()
    if name == TerminalOnly.name:
        raise ValueError(f"{name!r} takes no number, got {text!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is not a number") from None
    return BUILT_IN[name](number)


class Shaping:
    """A list of shapers applied to one episode after another."""

    def __init__(self, shapers: Sequence[Shaper | str]) -> None:
        """Collect the shapers; strings are parsed by `parse_shaper`."""
        if isinstance(shapers, str):
            raise TypeError(f"shapers must be a sequence, got the string {shapers!r}: add a comma")
        self._shapers = [parse_shaper(s) if isinstance(s, str) else s for s in shapers]
        self.names: list[str] = []
        for shaper in self._shapers:
            name = str(getattr(shaper, "name", type(shaper).__name__))
            n_same = sum(n == name or n.startswith(f"{name}#") for n in self.names)
            self.names.append(f"{name}#{n_same + 1}" if n_same else name)

    def __bool__(self) -> bool:
        """Whether there is any shaper."""
        return bool(self._shapers)

    def reset(self, info: Info) -> dict[str, float]:
        """Begin an episode and return every term at 0."""
        for shaper in self._shapers:
            shaper.reset(info)
        return dict.fromkeys(self.names, 0.0)

    def terms(self, transition: Transition) -> dict[str, float]:
        """The value of every term for one step, by name."""
        pairs = zip(self.names, self._shapers, strict=True)
        return {name: float(shaper(transition)) for name, shaper in pairs}

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """A copy of each shaper's attributes, by the name of its term."""
        pairs = zip(self.names, self._shapers, strict=True)
        return {name: copy.deepcopy(vars(shaper)) for name, shaper in pairs}

    def restore(self, state: Mapping[str, dict[str, Any]]) -> bool:
        """Restore the attributes; if the terms differ, return False and change nothing."""
        if list(state) != self.names:
            return False
        for shaper, attributes in zip(self._shapers, state.values(), strict=True):
            vars(shaper).update(copy.deepcopy(attributes))
        return True
