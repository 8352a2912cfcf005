"""`eto collect`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from eto_agents.cli.evaluation import (
    AgentFlags,
    KeyValues,
    at_least_one,
    env_arguments,
    resumable,
)

if TYPE_CHECKING:
    from eto_agents.collection import Collection


def run(  # noqa: PLR0913 (the flags of the command)
    agent: Annotated[AgentFlags, arg(name="")],
    env: str,
    splits: tuple[str, ...] = ("train",),
    out: Path | None = None,
    thoughts: bool = False,
    thought_style: Literal["full", "brief"] | None = None,
    min_score: float = 0.7,
    seeds: tuple[int, ...] = (0,),
    n_envs: int = 32,
    n_tasks: int | None = None,
    dataset: str | None = None,
    max_steps: int | None = None,
    env_args: KeyValues = (),
    quiet: bool = False,
) -> None:
    """Collect trajectories to train on. Rerun the command to resume.

    By default the world's expert plays; with --thoughts, a narrator gives reasons for its actions.

    For example:
        eto collect --env ETO-WebShop-v0 --dataset mini --thoughts --out runs/experts

    Args:
        agent: The agent that plays; by default the world's expert.
        env: Environment id, such as ETO-WebShop-v0.
        splits: Splits to play.
        out: Folder of the collection; by default runs/collected-ENV-POLICY.
        thoughts: Write "Thought: … Action: …" instead of "Action: …".
        thought_style: Style of the thoughts: full sentences, or brief ones for tiny models. Implies
            --thoughts.
        min_score: Minimum final score of an episode to train on or to export, in [0, 1]. Episodes
            that score less are stored as well.
        seeds: Seeds; every task is played once for each.
        n_envs: Number of episodes played at once.
        n_tasks: Play only the first N tasks of each split. By default all.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        max_steps: Step limit of an episode; by default the protocol's.
        env_args: Further arguments for the environment; values are JSON or plain text.
        quiet: Show no progress, only the counts.
    """
    from eto_agents.collect import collect
    from eto_agents.console import Display, show

    at_least_one(n_envs=n_envs, n_tasks=n_tasks)
    if agent.policy is None and agent.model is None:
        agent = dataclasses.replace(agent, policy="expert")
    folder = out or Path("runs") / f"collected-{env}-{agent.folder_name()}"
    style = thought_style or ("full" if thoughts else "none")
    arguments = env_arguments(env, env_args, dataset=dataset, max_steps=max_steps)
    with resumable(folder), Display(quiet), agent.player() as player:
        collection = collect(
            player,
            env,
            splits,
            out=folder,
            thoughts=style,
            min_score=min_score,
            seeds=seeds,
            n_envs=n_envs,
            n_tasks=n_tasks,
            env_args=arguments,
            action_timeout_s=agent.action_timeout,
        )
    show(*describe(collection), f"written to {folder}")


def describe(collection: Collection) -> list[str]:
    """How many episodes are selected, why others are left out, and a histogram of the scores."""
    selected, scores, dropped, min_score = collection
    n_episodes = len(selected) + sum(dropped.values())
    lines = [f"{len(selected)} of {n_episodes} episodes selected (score at least {min_score:g})"]
    lines += [f"  {n} left out: {reason}" for reason, n in sorted(dropped.items())]
    tenths = Counter(min(10, int(score * 10 + 1e-9)) for score in scores)
    for tenth in sorted(tenths, reverse=True):
        label = "1.0" if tenth == 10 else f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"
        lines.append(f"  score {label:10} {tenths[tenth]:6} episodes")
    return lines
