"""`collect`: expert trajectories to learn from, in a resumable folder.

It is an evaluation (`eto_agents.evaluation.harness`) of a policy whose decisions get words
(`eto_agents.policies.narrated`), and a least score for what training is to keep. The paper's
experts (Section 4.1) are people, GPT-4 and search, and what scored too low was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eto_agents.collection import Collection, check_min_score, read_collection
from eto_agents.console import Progress
from eto_agents.evaluation.harness import evaluate
from eto_agents.policies.narrated import NarratedPolicy
from eto_agents.worlds.narrator import Style

MIN_SCORE = 0.7  # below it the paper leaves WebShop's demonstrations out


def collect(  # noqa: PLR0913 (each is one thing that a user decides)
    policy: Any,
    env_id: str,
    splits: Sequence[str] = ("train",),
    *,
    out: str | Path,
    thoughts: Style = "none",
    min_score: float = MIN_SCORE,
    seeds: Sequence[int] = (0,),
    n_envs: int = 32,
    n_tasks: int | None = None,
    env_args: Mapping[str, Any] | None = None,
    action_timeout_s: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Collection:
    """Play every task of the splits and say what is worth learning from.

    Args:
        policy: anything `as_policy` takes.
        env_id: the Gymnasium id.
        splits: the task sets to play.
        out: the folder; the same call on it goes on where it was stopped.
        thoughts: ``"full"``, ``"brief"``, or ``"none"`` for "Action: …" alone.
        min_score: the least final score that is kept on reading; stated in ``run.json``.
        seeds: every task is played once for each.
        n_envs: how many episodes run at once.
        n_tasks: only the first so many tasks of each split.
        env_args: keyword arguments for the environment.
        action_timeout_s: an agent that takes longer to answer has failed.
        progress: see `evaluate`.

    Returns:
        What `read_collection` reads.

    Raises:
        UnknownNameError: an unknown split, policy, style or argument, or an impossible `min_score`.
        DataError: `out` holds another run.
    """
    check_min_score(min_score)
    evaluate(
        NarratedPolicy(policy, style=thoughts),
        env_id,
        splits,
        seeds=seeds,
        out=out,
        n_envs=n_envs,
        n_tasks=n_tasks,
        env_args=env_args,
        action_timeout_s=action_timeout_s,
        facts={"min_score": min_score},
        progress=progress,
    )
    return read_collection(out)
