"""Which of two trajectories is the better one: pairs for trajectory DPO, from records alone.

ETO section 3.2: the agent plays each training task once; of its trajectory and the expert's, the
one with the higher final reward is the chosen. Also its section 4.4's other ways to make pairs
(step-wise, mixture) and the one without experts (its Table 5). What is dropped is counted. Here are
no models and no files: `eto_agents.training.dpo` encodes pairs and trains on them.

Where paper and repository (Yifan-Song793/ETO, ``construct_preference.py``) disagree: the
repository's general builder cuts the agent's rejected trajectory to the length of the expert's plus
five rounds, and never the expert's; its builder for ALFWorld cuts nothing; the paper does not speak
of it. `Cut` has all three.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from eto_agents.trajectory import PLAYED, Step, Trajectory
from eto_envs.errors import DataError, UnknownNameError

Cut = Literal["rejected", "agent", "none"]
"""What is cut to the chosen's length plus some rounds: every rejected trajectory, only the agent's
(ETO's general builder), or nothing (its ALFWorld builder)."""

EXTRA_ROUNDS = 5  # `len(golden_trajs[key]) + 5*2` messages in ETO's builder


class NoPairsError(DataError):
    """Nothing to prefer is left."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trajectories of one task, both ending with a step of the agent's.

    Attributes:
        chosen: the better one.
        rejected: the worse one, cut if it was too long; its score is that of the whole.
        n_shared: steps at the beginning that both have and that are not trained on.
    """

    chosen: Trajectory
    rejected: Trajectory
    n_shared: int = 0

    @property
    def task_id(self) -> str:
        """The task of both."""
        return self.chosen.task_id


class Pairs(NamedTuple):
    """Pairs, and what became of every episode.

    Attributes:
        pairs: in the order of the episodes they come from.
        counts: how many episodes won, tied, lost against the expert (``win``, ``tie``, ``lose``),
            and how many were dropped and why (``no_expert``, ``not_played``, ``no_steps``,
            ``same_actions``); ``both_succeeded`` says how many of the ties were successes, and
            ``pairs`` is the number of pairs.
    """

    pairs: list[Pair]
    counts: dict[str, int]

    def check(self) -> Pairs:
        """Itself, if there is a pair.

        Raises:
            NoPairsError: there is none; says why.
        """
        if self.pairs:
            return self
        reasons = ", ".join(f"{name} {n}" for name, n in self.counts.items() if n)
        raise NoPairsError(
            f"no pair is left to train on ({reasons or 'no episode was given'}): explore more "
            "tasks, at a higher temperature or several times each, or stop at this iteration"
        )

    def __add__(self, other: object) -> Pairs:
        """The mixture of two kinds of pairs (ETO's Table 4)."""
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
    """ETO's pairs: the agent's episodes against the expert's of the same tasks.

    Args:
        experts: expert trajectories; of several of one task the best counts, the first of equals.
        explored: the agent's episodes, any number a task.
        cut: which trajectories may be too long.
        extra_rounds: how many rounds longer than the chosen one a rejected one may be.

    Raises:
        UnknownNameError: no such `cut`.
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
            # Differs from the reference: it leaves the expert's whole; cut="agent" does so, too.
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
    """Pairs without an expert: the agent's best episode of a task against its worse ones.

    Args:
        explored: several episodes a task.
        success_against_failure: the chosen must have succeeded (score 1), the rejected not.
        max_per_task: the most pairs of a task, the widest gap first; None takes all.
        cut: as in `trajectory_pairs`; every trajectory here is the agent's.
        extra_rounds: as in `trajectory_pairs`.

    Returns:
        Pairs in the order in which the tasks come; ``win`` counts the pairs, ``tie`` tasks whose
        episodes all have one score.
    """
    _check_cut(cut, extra_rounds)
    counts: Counter[str] = Counter(win=0, tie=0, lose=0)
    groups: dict[tuple[str, str, str], list[Trajectory]] = {}
    for episode in explored:
        fault = _fault(episode)
        if fault:
            counts[fault] += 1
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
    """Step-wise pairs: after the same steps of the expert's, its next step against the agent's.

    A step is the expert's to prefer wherever the agent does something else: what it would have
    been worth is not known, and not asked (ETO, section 4.4).

    Args:
        experts: expert trajectories, at most one a task.
        own: by task id, what the agent did after each prefix of the expert's; entry t is in the
            place of the expert's step t, None where the agent did not answer.

    Raises:
        DataError: the agent's steps are not as many as the expert's.
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
                f"task {expert.task_id!r}: {len(steps)} steps of the agent's for an expert's "
                f"{len(expert.steps)}: there must be one for each prefix"
            )
        for t, (right, wrong) in enumerate(zip(expert.steps, steps, strict=True)):
            if wrong is None:
                counts["not_played"] += 1
            elif wrong.action == right.action:
                counts["same_actions"] += 1
            else:
                before = expert.steps[:t]
                pair = Pair(
                    with_steps(expert, [*before, right]), with_steps(expert, [*before, wrong]), t
                )
                pairs.append(pair)
    return Pairs(pairs, dict(counts) | {"step_pairs": len(pairs), "pairs": len(pairs)})


def with_steps(trajectory: Trajectory, steps: Sequence[Step]) -> Trajectory:
    """The trajectory with other steps; its score and status stay those of the whole.

    Its messages are those of the steps, if these are its first; else there are none.
    """
    shown = list(steps)
    is_start = shown == trajectory.steps[: len(shown)]
    n_unsaid = 2 * (len(trajectory.steps) - len(shown))
    messages = trajectory.messages[: len(trajectory.messages) - n_unsaid] if is_start else []
    return replace(trajectory, steps=shown, messages=messages)


def _outcome(expert: Trajectory | None, episode: Trajectory) -> str:
    """``win``, ``tie`` or ``lose`` for the agent, or why the episode is dropped."""
    fault = _fault(episode)
    if fault:
        return fault
    if expert is None or _fault(expert):
        return "no_expert"
    if expert.success and episode.success:
        return "both_succeeded"
    if _is_equal(expert.score, episode.score):
        return "tie"
    if [s.action for s in expert.steps] == [s.action for s in episode.steps]:
        return "same_actions"  # the world is random: neither was better
    return "win" if episode.score > expert.score else "lose"


def _fault(episode: Trajectory) -> str:
    if episode.status not in PLAYED:
        return "not_played"
    return "" if episode.steps else "no_steps"


def _best_by_task(experts: Iterable[Trajectory]) -> dict[tuple[str, str, str], Trajectory]:
    best: dict[tuple[str, str, str], Trajectory] = {}
    for expert in experts:
        key = _task_of(expert)
        if not _fault(expert) and (key not in best or expert.score > best[key].score):
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
