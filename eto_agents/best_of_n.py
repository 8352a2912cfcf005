"""`BestOfN`: play a task N times with any policy and keep the best try.

The paper's baseline (section 4): N = 10 samples, the one with the highest final reward is
chosen. That reward is the true one, which no agent in use would know: Best-of-N is a bound on what
choosing among samples could give. `majority` needs no reward. Playing and averaging are the
harness's part; here are the policy and the pure functions of one task's samples.
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
    load_policy,
    with_time_limit,
)
from eto_agents.trajectory import PLAYED, Message, Trajectory
from eto_agents.worlds import find_world
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class BestOfN:
    """A policy whose tasks are played `n_samples` times by `evaluate`; the best sample counts.

    Each sample is an episode of the wrapped policy with a seed of its own, kept in the episode log;
    sample 0 is the episode the policy plays without Best-of-N. Whoever plays this policy by other
    means (`run_episode`, `Rollouts`) plays the wrapped one.

    Attributes:
        n_samples: N.
        policy: the wrapped policy.
        name: such as ``"best-of-10 (random)"``.

    Args:
        policy: anything `as_policy` takes.
        n: N, at least 1.
        **arguments: for a policy that is named.
    """

    def __init__(self, policy: Any, n: int = 10, **arguments: Any) -> None:
        """Wrap a policy.

        Raises:
            ValueError: `n` is no whole number of at least 1.
            UnknownNameError: no such policy.
            TypeError: arguments for a policy that was given, not named, or that is Best-of-N.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n must be a whole number of at least 1, got {n!r}")
        if arguments and not isinstance(policy, str):
            raise TypeError(f"unexpected arguments: {', '.join(arguments)}")
        self.policy = load_policy(policy, **arguments) if arguments else as_policy(policy)
        if isinstance(self.policy, BestOfN):
            raise TypeError("Best-of-N of Best-of-N is Best-of-(N times N): give the plain policy")
        self.n_samples = n
        inner = str(getattr(self.policy, "name", type(self.policy).__name__))
        self.name = f"best-of-{n} ({inner})"
        self.reveal = tuple(getattr(self.policy, "reveal", ()))
        self.provenance = {
            "best_of_n": n,
            "chosen_by": "final reward",
            **getattr(self.policy, "provenance", {}),
        }
        if n > 1 and _is_greedy(self.provenance):
            warnings.warn(
                f"{self.name}: all samples of a task will be the same at temperature 0; "
                "give the policy temperature=0.7 or so",
                stacklevel=2,
            )
        if hasattr(self.policy, "n_envs"):
            self.n_envs: int = self.policy.n_envs

    def limit_time(self, seconds: float | None) -> None:
        """Bound the wrapped policy's time to answer."""
        self.policy = with_time_limit(self.policy, seconds)

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin samples."""
        self.policy.reset(slots, tasks, seeds)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Decide as the wrapped policy does."""
        return self.policy.act(slots, observations, infos)

    def conversation(self, slot: int) -> list[Message]:
        """The wrapped policy's."""
        return conversation_of(self.policy, slot)


def _is_greedy(provenance: Mapping[str, Any]) -> bool:
    sampling = provenance.get("sampling")
    return isinstance(sampling, Mapping) and sampling.get("temperature") == 0


def best(samples: Sequence[Trajectory]) -> Trajectory:
    """The sample with the highest final score; of equal ones the first.

    A sample that did not end by the task or its limit is chosen only where none did.

    Raises:
        ValueError: there is none.
    """
    ordered = sorted(samples, key=lambda t: t.sample)
    return max(ordered, key=lambda t: (t.status in PLAYED, t.score))


def pass_at_k(n: int, n_successes: int, k: int) -> float:
    """Chance that of `k` samples drawn from `n` without return at least one succeeds.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1).

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= n_successes <= n.
    """
    if not 1 <= k <= n or not 0 <= n_successes <= n:
        raise ValueError(f"no pass@{k} of {n_successes} successes in {n} samples")
    return 1.0 - math.comb(n - n_successes, k) / math.comb(n, k)


def best_at_k(scores: Sequence[float], k: int) -> float:
    """Mean of the highest score over all ways to draw `k` of the samples without return.

    For scores of 0 and 1 it is `pass_at_k`.

    Raises:
        ValueError: not 1 <= k <= len(scores).
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"no best of {k} among {n} scores")
    # In rising order the i-th (from 0) is the highest of comb(i, k - 1) draws.
    weighted = (score * math.comb(i, k - 1) for i, score in enumerate(sorted(scores)))
    return math.fsum(weighted) / math.comb(n, k)


def outcome(trajectory: Trajectory) -> Hashable:
    """What the agent brought about, told without the score.

    What the world says of it, as WebShop of what was bought; elsewhere, or where it says nothing,
    the sequence of actions that the world accepted.
    """
    stated = find_world(trajectory.world).outcome(trajectory)
    if stated is not None:
        return stated
    return tuple(step.action for step in trajectory.steps if step.is_valid)


def majority(samples: Sequence[Trajectory]) -> Trajectory:
    """The first sample of the most frequent `outcome`; of equally frequent ones the earliest.

    Raises:
        ValueError: there is none.
    """
    groups: dict[Hashable, list[Trajectory]] = {}
    for sample in sorted(samples, key=lambda t: t.sample):
        groups.setdefault(outcome(sample), []).append(sample)
    return max(groups.values(), key=len)[0]
