"""`eto envs` and `eto play`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from eto_agents.cli.evaluation import env_arguments
from eto_agents.console import rule, show, table


def envs() -> None:
    """List the environments and the task sets that can be played on this machine.

    For example:
        eto envs
    """
    import warnings

    import gymnasium as gym

    import eto_envs
    from eto_envs.errors import EtoError
    from eto_envs.tasks import SPLITS

    rows = []
    for env_id in eto_envs.IDS:
        for split in SPLITS:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the table shows which dataset is used
                    env = gym.make(env_id, split=split)
            except EtoError:
                continue  # this dataset has no such split
            tasks = env.unwrapped.tasks  # type: ignore[attr-defined]
            rows.append((env_id, tasks.dataset, split, str(len(tasks)), tasks.ids[0]))
            env.close()
    show(table(("environment", "dataset", "split", "tasks", "first task"), rows))


def play(
    env: Positional[str],
    split: str = "train",
    task: str | None = None,
    dataset: str | None = None,
    env_args: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE …")] = (),
    out: Path | None = None,
) -> None:
    """Play one task yourself in the terminal.

    For example:
        eto play ETO-WebShop-v0 --dataset mini --split seen

    Args:
        env: Environment id, such as ETO-WebShop-v0.
        split: Split of the task.
        task: Task id; by default a random task.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        env_args: Further arguments for the environment; values are JSON or plain text.
        out: File to which the finished episode is appended.
    """
    import gymnasium as gym
    import numpy as np

    import eto_envs  # noqa: F401 (registers the ids)
    from eto_agents.policies.human import HumanPolicy
    from eto_agents.rollout import run_episode
    from eto_agents.store import TrajectoryStore

    arguments = env_arguments(env, env_args, split=split, dataset=dataset)
    if task is None:
        single = gym.make(env, **arguments)
        tasks = single.unwrapped.tasks  # type: ignore[attr-defined]
        task = tasks.ids[int(np.random.default_rng().integers(len(tasks)))]
        single.close()
    trajectory = run_episode(HumanPolicy(), env, task, **arguments)
    last = [step.observation.replace(" [SEP] ", "\n") for step in trajectory.steps[-1:]]
    show("", *last, rule(f"{trajectory.status}: score {trajectory.score:.3f}"))
    if out is not None:
        with TrajectoryStore(out) as store:
            store.append(trajectory)
        show(f"written to {out}")
