"""Making pairs for trajectory DPO: which of two trajectories is the better one.

ETO section 3.2: the agent plays each training task once; of its trajectory and the expert's, the
one with the higher final reward is the chosen one. Also the other ways to make pairs of section 4.4
(step-wise, mixture) and the one without experts (Table 5). Episodes that are left out are counted.
This module works on trajectories alone; `eto_agents.training.dpo` encodes pairs and trains on them.

Where the paper and its repository (Yifan-Song793/ETO, ``construct_preference.py``) disagree: the
repository's general builder shortens the agent's rejected trajectory to the length of the expert's
plus five rounds, and never the expert's; its builder for ALFWorld shortens nothing; the paper does
not mention it. `Cut` offers all of these.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from eto_agents.trajectory import PLAYED, Step, Trajectory, reply_indices
from eto_envs.errors import DataError, UnknownNameError

Cut = Literal["rejected", "agent", "none"]
"""Which rejected trajectories are shortened to the length of the chosen one plus some rounds: all,
only the agent's (ETO's general builder), or none (its ALFWorld builder)."""

EXTRA_ROUNDS = 5  # `len(golden_trajs[key]) + 5*2` messages in ETO's builder


class NoPairsError(DataError):
    """There are no pairs to train on."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trajectories of one task, the first better than the second.

    Attributes:
        chosen: the better one.
        rejected: the worse one, possibly shortened; its score is that of the whole episode.
        n_shared: number of steps that both have in common at the beginning, which are not trained
            on.
    """

    chosen: Trajectory
    rejected: Trajectory
    n_shared: int = 0

    @property
    def task_id(self) -> str:
        """The task of both."""
        return self.chosen.task_id


class Pairs(NamedTuple):
    """Pairs, and the outcome of every episode.

    Attributes:
        pairs: the pairs, in the order of the episodes they come from.
        counts: the number of episodes that won, tied or lost against the expert (``win``, ``tie``,
            ``lose``) and that were left out, by reason (``no_expert``, ``not_played``,
            ``no_steps``, ``same_actions``). ``both_succeeded`` is the number of ties in which both
            succeeded, ``pairs`` the number of pairs.
    """

    pairs: list[Pair]
    counts: dict[str, int]

    def check(self) -> Pairs:
        """Return itself, if there is at least one pair.

        Raises:
            NoPairsError: there are no pairs; says why.
        """
        if self.pairs:
            return self
        reasons = ", ".join(f"{name} {n}" for name, n in self.counts.items() if n)
        raise NoPairsError(
            f"no pairs to train on ({reasons or 'no episodes were given'}): explore more tasks, at "
            "a higher temperature or several times each, or stop at this iteration"
        )

    def __add__(self, other: object) -> Pairs:
        """Mix two kinds of pairs (ETO's Table 4)."""
        if not isinstance(other, Pairs):
            return NotImplemented
        counts = Counter(self.counts)
        counts.update(other.counts)
        return Pairs(self.pairs + other.pairs, dict(counts))


def trajectory_pairs(
    experts: Iterable[Trajectory],
    explored: Iterable[Trajectory],
    *,
    cut: Cut = "rejected",
    extra_rounds: int = EXTRA_ROUNDS,
) -> Pairs:
    """ETO's pairs: each of the agent's episodes against the expert's of the same task.

    Args:
        experts: expert trajectories; of several of one task the best one counts, ties go to the
            first.
        explored: the agent's episodes, any number per task.
        cut: which rejected trajectories are shortened.
        extra_rounds: rounds by which a rejected trajectory may exceed the chosen one before it is
            shortened, at least 0.

    Raises:
        UnknownNameError: `cut` is not one of `Cut`.
        ValueError: `extra_rounds` is negative.
    """
    _check_cut(cut, extra_rounds)
    best = _best_by_task(experts)
    counts: Counter[str] = Counter(win=0, tie=0, lose=0)
    pairs: list[Pair] = []
    for episode in explored:
        expert = best.get(_task_of(episode))
        outcome = _outcome(expert, episode)
        counts[outcome] += 1
        counts["tie"] += outcome == "both_succeeded"
        if expert is not None and outcome == "win":
            # Differs from the reference, which never shortens the expert's (as cut="agent").
            rounds = extra_rounds if cut == "rejected" else None
            pairs.append(Pair(episode, _shorten(expert, episode, rounds)))
        elif expert is not None and outcome == "lose":
            rounds = None if cut == "none" else extra_rounds
            pairs.append(Pair(expert, _shorten(episode, expert, rounds)))
    return Pairs(pairs, dict(counts) | {"pairs": len(pairs)})


def self_pairs(
    explored: Iterable[Trajectory],
    *,
    success_against_failure: bool = False,
    max_per_task: int | None = 1,
    cut: Cut = "rejected",
    extra_rounds: int = EXTRA_ROUNDS,
) -> Pairs:
    """Pairs without an expert: the agent's best episode of a task against worse ones.

    Args:
        explored: the agent's episodes, several per task.
        success_against_failure: whether only successes (score 1) are paired with failures.
        max_per_task: maximum number of pairs per task, those with the largest difference in score
            first; None sets no limit.
        cut: as in `trajectory_pairs`; here every trajectory is the agent's.
        extra_rounds: as in `trajectory_pairs`.

    Returns:
        Pairs in the order of the tasks; ``win`` counts the pairs, and ``tie`` the tasks whose
        episodes all have the same score.
    """
    _check_cut(cut, extra_rounds)
    counts: Counter[str] = Counter(win=0, tie=0, lose=0)
    groups: dict[tuple[str, str, str], list[Trajectory]] = {}
    for episode in explored:
        reason = _reason_to_leave_out(episode)
        if reason:
            counts[reason] += 1
        else:
            groups.setdefault(_task_of(episode), []).append(episode)
    pairs: list[Pair] = []
    rounds = None if cut == "none" else extra_rounds
    for group in groups.values():
        ranked = sorted(group, key=lambda e: e.score, reverse=True)
        chosen = ranked[0]
        worse = [e for e in reversed(ranked) if not _is_equal(e.score, chosen.score)]
        if not worse:
            counts["tie"] += 1
            counts["both_succeeded"] += chosen.success
            continue
        if success_against_failure:
            worse = [e for e in worse if not e.success] if chosen.success else []
            counts["no_success"] += not chosen.success
        for rejected in worse[:max_per_task]:
            pairs.append(Pair(chosen, _shorten(rejected, chosen, rounds)))
            counts["win"] += 1
    return Pairs(pairs, dict(counts) | {"pairs": len(pairs)})


def step_pairs(experts: Iterable[Trajectory], own: Mapping[str, Sequence[Step | None]]) -> Pairs:
    """Step-wise pairs: after a common prefix, the expert's next step against the agent's.

    The expert's step is preferred wherever the agent's differs; what the agent's step would have
    been worth is unknown (ETO, section 4.4).

    Args:
        experts: expert trajectories, at most one per task.
        own: the agent's steps by task id. Entry t is the agent's step after the first t steps of
            the expert, in place of the expert's step t; None where the agent failed to reply.

    Raises:
        DataError: the agent has more or fewer steps than the expert.
    """
    counts: Counter[str] = Counter()
    pairs: list[Pair] = []
    for expert in experts:
        steps = own.get(expert.task_id)
        if steps is None:
            counts["not_played"] += 1
            continue
        if len(steps) != len(expert.steps):
            raise DataError(
                f"task {expert.task_id!r}: the agent has {len(steps)} steps and the expert "
                f"{len(expert.steps)}, but there must be one for each of the expert's"
            )
        for t, (expert_step, own_step) in enumerate(zip(expert.steps, steps, strict=True)):
            if own_step is None:
                counts["not_played"] += 1
            elif own_step.action == expert_step.action:
                counts["same_actions"] += 1
            else:
                prefix = expert.steps[:t]
                chosen = with_steps(expert, [*prefix, expert_step])
                rejected = with_steps(expert, [*prefix, own_step])
                pairs.append(Pair(chosen, rejected, n_shared=t))
    return Pairs(pairs, dict(counts) | {"step_pairs": len(pairs), "pairs": len(pairs)})


def with_steps(trajectory: Trajectory, steps: Sequence[Step]) -> Trajectory:
    """Replace the steps of a trajectory; its score and status remain those of the whole episode.

    If `steps` are the trajectory's first ones, its messages are shortened accordingly; otherwise
    they are removed.
    """
    steps = list(steps)
    is_prefix = steps == trajectory.steps[: len(steps)]
    replies = reply_indices(trajectory.messages, len(trajectory.steps)) if is_prefix else []
    end = replies[len(steps) - 1] + 1 if 0 < len(steps) <= len(replies) else 0
    return replace(trajectory, steps=steps, messages=trajectory.messages[:end])


def _outcome(expert: Trajectory | None, episode: Trajectory) -> str:
    """``win``, ``tie`` or ``lose`` for the agent, or the reason to leave the episode out."""
    reason = _reason_to_leave_out(episode)
    if reason:
        return reason
    if expert is None or _reason_to_leave_out(expert):
        return "no_expert"
    if expert.success and episode.success:
        return "both_succeeded"
    if _is_equal(expert.score, episode.score):
        return "tie"
    if [s.action for s in expert.steps] == [s.action for s in episode.steps]:
        return "same_actions"  # the scores differ by chance only
    return "win" if episode.score > expert.score else "lose"


def _reason_to_leave_out(episode: Trajectory) -> str:
    if episode.status not in PLAYED:
        return "not_played"
    return "" if episode.steps else "no_steps"


def _best_by_task(experts: Iterable[Trajectory]) -> dict[tuple[str, str, str], Trajectory]:
    best: dict[tuple[str, str, str], Trajectory] = {}
    for expert in experts:
        key = _task_of(expert)
        if _reason_to_leave_out(expert):
            continue
        if key not in best or expert.score > best[key].score:
            best[key] = expert
    return best


def _task_of(trajectory: Trajectory) -> tuple[str, str, str]:
    return trajectory.env_id, trajectory.dataset, trajectory.task_id


def _is_equal(score: float, other: float) -> bool:
    return math.isclose(score, other, rel_tol=0.0, abs_tol=1e-9)


def _shorten(rejected: Trajectory, chosen: Trajectory, extra_rounds: int | None) -> Trajectory:
    if extra_rounds is None or len(rejected.steps) <= len(chosen.steps) + extra_rounds:
        return rejected
    return with_steps(rejected, rejected.steps[: len(chosen.steps) + extra_rounds])


def _check_cut(cut: str, extra_rounds: int) -> None:
    if cut not in get_args(Cut):
        raise UnknownNameError("cut", cut, get_args(Cut))
    if extra_rounds < 0:
        raise ValueError(f"extra_rounds must be at least 0, got {extra_rounds}")
