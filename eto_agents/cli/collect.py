"""`eto collect`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from eto_agents.cli.evaluation import AgentFlags, KeyValues, at_least_one, given
from eto_agents.settings import key_values

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

    Args:
        agent: which agent plays; by default the world's expert.
        env: environment id, such as ETO-WebShop-v0.
        splits: the task sets to play.
        out: folder of the collection; default runs/collected-ENV-POLICY.
        thoughts: write "Thought: … Action: …" in place of "Action: …".
        thought_style: full sentences, or brief, for tiny models; implies --thoughts.
        min_score: what scores less is not trained on or exported; it stays in the log.
        seeds: every task is played once for each.
        n_envs: episodes that run at once.
        n_tasks: only the first this many tasks of each split.
        dataset: mini, an official name, or a folder; by default the official data, else mini.
        max_steps: override the protocol's step limit.
        env_args: further arguments for the environment, values as JSON or plain text.
        quiet: no progress, only the counts.
    """
    from eto_agents.collect import collect
    from eto_agents.console import Display

    at_least_one(n_envs=n_envs, n_tasks=n_tasks)
    if agent.policy is None and agent.model is None:
        agent = dataclasses.replace(agent, policy="expert")
    folder = out or Path("runs") / f"collected-{env}-{agent.folder_name()}"
    style = thought_style or ("full" if thoughts else "none")
    arguments = key_values(env_args) | given(dataset=dataset, max_steps=max_steps)
    with _resumable(folder), Display(quiet):
        collection = collect(
            agent.load(),
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
    _print([*describe(collection), f"written to {folder}"])


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say on Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped; rerun the command to resume ({folder})\n")
        raise


def describe(collection: Collection) -> list[str]:
    """How many episodes are kept, why not the others, and how the scores spread."""
    kept, scores, dropped, min_score = collection
    n_episodes = len(kept) + sum(dropped.values())
    lines = [f"{len(kept)} of {n_episodes} episodes kept (score at least {min_score:g})"]
    lines += [f"  {n} left out: {reason}" for reason, n in sorted(dropped.items())]
    tenths = Counter(min(10, int(score * 10 + 1e-9)) for score in scores)
    for tenth in sorted(tenths, reverse=True):
        label = "1.0" if tenth == 10 else f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"
        lines.append(f"  score {label:10} {tenths[tenth]:6} episodes")
    return lines


def _print(lines: list[str]) -> None:
    from rich.console import Console

    Console().print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)
