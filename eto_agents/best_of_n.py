"""`BestOfN`: play each task N times with any policy and count the best episode.

The paper's baseline (section 4): of N = 10 samples the one with the highest final reward is
selected. The selection uses the true reward, which a deployed agent does not know, so Best-of-N is
an upper bound on what selecting among samples can achieve; `majority` selects without the reward.
The evaluation harness plays and averages; this module has the policy and the pure functions of one
task's samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from eto_agents.policy import (
    Decision,
    as_policy,
    conversation_of,
    is_concurrent,
    load_policy,
    name_of,
    reveal_of,
    tools_of,
    with_time_limit,
)
from eto_agents.settings import SettingsError
from eto_agents.trajectory import PLAYED, Message, Trajectory
from eto_agents.worlds import find_world
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class BestOfN:
    """A policy for which `evaluate` plays each task `n_samples` times and counts the best sample.

    Each sample is an episode of the wrapped policy with its own seed, and all are stored; sample 0
    is the episode that the policy plays without Best-of-N. Outside `evaluate` (`run_episode`,
    `Rollouts`) this policy acts as the wrapped one.

    Attributes:
        n_samples: N.
        policy: the wrapped policy.
        name: such as ``"best-of-10 (random)"``.

    Args:
        policy: anything `as_policy` takes.
        n: N, at least 1.
        **arguments: keyword arguments for the policy, if it is given by name.
    """

    def __init__(self, policy: Any, n: int = 10, **arguments: Any) -> None:
        """Wrap a policy.

        Raises:
            SettingsError: `n` is not a positive integer.
            UnknownNameError: there is no policy of that name.
            TypeError: there are arguments for a policy that is not given by name, or the policy is
                a Best-of-N itself.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise SettingsError(f"n must be a positive integer, got {n!r}")
        if arguments and not isinstance(policy, str):
            raise TypeError(f"unexpected arguments: {', '.join(arguments)}")
        self.policy = load_policy(policy, **arguments) if arguments else as_policy(policy)
        if isinstance(self.policy, BestOfN):
            raise TypeError("the policy is a Best-of-N already: pass the policy that it wraps")
        self.n_samples = n
        self.name = f"best-of-{n} ({name_of(self.policy)})"
        self.reveal = reveal_of(self.policy)
        self.concurrent = is_concurrent(self.policy)
        self.tools = tools_of(self.policy)
        self.provenance = {
            "best_of_n": n,
            "chosen_by": "final reward",
            **getattr(self.policy, "provenance", {}),
        }
        if n > 1 and _is_greedy(self.provenance):
            warnings.warn(
                f"{self.name}: at temperature 0 all samples of a task are the same; "
                "give the policy a temperature such as 0.7",
                stacklevel=2,
            )
        if hasattr(self.policy, "n_envs"):
            self.n_envs: int = self.policy.n_envs

    def limit_time(self, seconds: float | None) -> None:
        """Limit the time that the wrapped policy may take to decide."""
        self.policy = with_time_limit(self.policy, seconds)

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin an episode in each of `slots`."""
        self.policy.reset(slots, tasks, seeds)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return the wrapped policy's decisions."""
        return self.policy.act(slots, observations, infos)

    def conversation(self, slot: int) -> list[Message]:
        """The wrapped policy's conversation in a slot."""
        return conversation_of(self.policy, slot)


def _is_greedy(provenance: Mapping[str, Any]) -> bool:
    sampling = provenance.get("sampling")
    return isinstance(sampling, Mapping) and sampling.get("temperature") == 0


def best(samples: Sequence[Trajectory]) -> Trajectory:
    """The sample with the highest final score; ties go to the first.

    A sample that was not played to its end is selected only if none was.

    Raises:
        ValueError: `samples` is empty.
    """
    ordered = sorted(samples, key=lambda t: t.sample)
    return max(ordered, key=lambda t: (t.status in PLAYED, t.score))


def pass_at_k(n: int, n_successes: int, k: int) -> float:
    """Probability that at least one of `k` samples, drawn from `n` without replacement, succeeds.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1).

    Args:
        n: number of samples.
        n_successes: number of successes among them, in [0, n].
        k: number of samples drawn, in [1, n].

    Raises:
        ValueError: `k` or `n_successes` is out of range.
    """
    if not 1 <= k <= n or not 0 <= n_successes <= n:
        raise ValueError(f"pass@{k} is undefined for {n_successes} successes in {n} samples")
    return 1.0 - math.comb(n - n_successes, k) / math.comb(n, k)


def best_at_k(scores: Sequence[float], k: int) -> float:
    """Expected highest score among `k` of the samples, drawn without replacement.

    For scores of 0 and 1 it equals `pass_at_k`.

    Args:
        scores: the samples' final scores.
        k: number of samples drawn, in [1, len(scores)].

    Raises:
        ValueError: `k` is out of range.
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"best@{k} is undefined for {n} scores")
    # In ascending order, the i-th score (from 0) is the highest in comb(i, k - 1) of the draws.
    weighted = (score * math.comb(i, k - 1) for i, score in enumerate(sorted(scores)))
    return math.fsum(weighted) / math.comb(n, k)


def outcome(trajectory: Trajectory) -> Hashable:
    """What the agent achieved, without looking at the score.

    It is what the world defines as the outcome (`World.outcome`), such as the product bought in
    WebShop; if the world defines none, the sequence of actions that the environment accepted.
    """
    stated = find_world(trajectory.world).outcome(trajectory)
    if stated is not None:
        return stated
    return tuple(step.action for step in trajectory.steps if step.is_valid)


def majority(samples: Sequence[Trajectory]) -> Trajectory:
    """The first sample with the most frequent `outcome`; ties go to the earliest outcome.

    Raises:
        ValueError: `samples` is empty.
    """
    groups: dict[Hashable, list[Trajectory]] = {}
    for sample in sorted(samples, key=lambda t: t.sample):
        groups.setdefault(outcome(sample), []).append(sample)
    return max(groups.values(), key=len)[0]
