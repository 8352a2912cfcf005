"""Exploration: the agent plays training tasks, and RFT and ETO learn from its episodes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_agents.distributed import Cluster
from eto_agents.models.checkpoint import Checkpoint, acting, load_checkpoint
from eto_agents.runs import RunFolder, once
from eto_agents.settings import ETO, RFT, PlayingOnServer, key_values
from eto_agents.training.task_splits import mean_score, play

if TYPE_CHECKING:
    from eto_agents.models.served import ServedCheckpoint
    from eto_agents.policies.react import ReActPolicy
    from eto_agents.policy import Policy
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task


def explore(
    model: str | Path,
    tasks: Sequence[Task],
    settings: ETO | RFT,
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    temperature: float | None = None,
) -> list[Trajectory]:
    """Play tasks, storing the episodes in a folder.

    Repeating the call resumes an interrupted exploration, and reads a complete one.

    Args:
        model: the agent: a checkpoint's folder or name. It is loaded only if there is something
            to play.
        tasks: the tasks to play.
        settings: the settings of playing.
        folder: the folder for the episodes.
        seeds: every task is played once for each seed.
        temperature: sampling temperature of the replies; by default the one of the settings.

    Returns:
        The episodes in the order of seeds and tasks.

    Raises:
        RunMismatchError: the folder holds an exploration with different settings, model or tasks.
    """
    if temperature is None:
        temperature = settings.temperature
    identity = {
        "env": settings.env,
        "env_args": settings.env_args,
        "split": settings.split,
        "seeds": list(seeds),
        "temperature": temperature,
        "max_new_tokens": settings.max_new_tokens,
        "protocol": settings.protocol,
    }

    def agent() -> Policy | Cluster:
        make = functools.partial(_agent, str(model), settings, temperature)
        if settings.ray is None:
            return make()
        return Cluster(make, settings.ray, n_actors=settings.ray_actors, on_gpus=True)

    play_all = functools.partial(
        play,
        agent,
        settings.env,
        tasks,
        folder / "episodes.jsonl",
        split=settings.split,
        seeds=seeds,
        n_envs=settings.n_envs,
        env_args=settings.env_args,
    )

    def make(_: RunFolder) -> dict[str, Any]:
        episodes = play_all()
        return {"n_episodes": len(episodes), "score": mean_score(episodes)}

    ids = [task.id for task in tasks]
    once(folder, make, kind="exploration", settings=identity, model=str(model), tasks=ids)
    return play_all()  # all episodes are on file now, so this only reads them


def _agent(model: str, settings: ETO | RFT, temperature: float) -> Policy:
    if settings.explore_with is None:
        return open_checkpoint(model, settings).policy(settings, temperature=temperature)
    served = serving(model, settings.explore_with, settings)
    return served_policy(served, settings, temperature)


def serving(model: str | Path, server: str, settings: PlayingOnServer) -> ServedCheckpoint:
    """A checkpoint behind a server.

    Args:
        model: the checkpoint, which the server has to have loaded.
        server: the server, ``"openai:<model>"``.
        settings: have further arguments for it.

    Raises:
        SettingsError: `server` names no model behind a server.
        BackendError: the server does not answer, or has another model.
    """
    from eto_agents.models.served import ServedCheckpoint

    return ServedCheckpoint(model, server, **key_values(settings.explore_args))


def served_policy(
    served: ServedCheckpoint, settings: PlayingOnServer, temperature: float
) -> ReActPolicy:
    """The agent of a checkpoint behind a server, as `Checkpoint.policy` is that of a local one."""
    from eto_agents.policies.react import ReActPolicy

    return ReActPolicy(
        served,
        protocol=settings.protocol,
        world=settings.world,
        temperature=temperature,
        max_tokens=settings.max_new_tokens,
    )


def open_checkpoint(model: str | Path, settings: ETO | RFT) -> Checkpoint:
    """Load the checkpoint that explores."""
    prompting: dict[str, Any] = {}
    if isinstance(settings, RFT):
        prompting = {n: getattr(settings, n) for n in ("template", "prompts", "with_example")}
    training = settings.dpo if isinstance(settings, ETO) else settings
    checkpoint = load_checkpoint(
        str(model), dtype=training.dtype, device=training.device, **prompting
    )
    return acting(checkpoint, settings.protocol)
