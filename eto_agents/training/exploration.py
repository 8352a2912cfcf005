"""The agent plays training tasks, so that it can learn from what it did: RFT and ETO explore so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_agents.models.checkpoints import load_checkpoint
from eto_agents.policies.react import ReActPolicy
from eto_agents.training.stage import Stage
from eto_agents.training.task_splits import mean_score, play

if TYPE_CHECKING:
    from eto_agents.models.checkpoints import Checkpoint
    from eto_agents.policy import Policy
    from eto_agents.settings import SFT, Playing
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task


@dataclass(frozen=True)
class _Explored:
    """What decides the episodes."""

    env: str
    env_args: Mapping[str, Any]
    split: str
    seeds: tuple[int, ...]
    temperature: float
    max_new_tokens: int


def explore(
    make_policy: Callable[[], Policy],
    tasks: Sequence[Task],
    settings: Playing,
    seeds: Sequence[int],
    folder: Path,
    inputs: Mapping[str, str],
    temperature: float | None = None,
) -> list[Trajectory]:
    """Play tasks in a folder; the same call resumes, and reads what is complete.

    Args:
        make_policy: makes the agent; called only if there is something to play.
        tasks: what is played.
        settings: where and how.
        seeds: every task is played once for each.
        folder: of the episodes.
        inputs: SHA-256 of what the agent is made of.
        temperature: if it is not that of the settings.
    """
    if temperature is None:
        temperature = float(getattr(settings, "temperature", 1.0))
    decisive = _Explored(
        settings.env,
        settings.env_args,
        settings.split,
        tuple(seeds),
        temperature,
        settings.max_new_tokens,
    )
    ids = json.dumps([task.id for task in tasks])
    hashes = {**inputs, "tasks": hashlib.sha256(ids.encode()).hexdigest()}
    with Stage(folder, decisive, hashes) as stage:
        stage.wait()
        episodes = play(
            make_policy,
            settings.env,
            tasks,
            folder / "episodes.jsonl",
            split=settings.split,
            seeds=seeds,
            n_envs=settings.n_envs,
            env_args=settings.env_args,
        )
        if stage.result is None:
            stage.finish({"n_episodes": len(episodes), "score": mean_score(episodes)})
    return episodes


def policy_of(
    model: str | Path,
    settings: Any,
    temperature: float,
    *,
    prompts_of: SFT | None = None,
) -> ReActPolicy:
    """The agent of a checkpoint's folder or name.

    Args:
        model: the folder or name.
        settings: `n_envs`, `max_new_tokens` and `world` of a method that plays, with `dtype` and
            `device` or a `dpo` that has them.
        temperature: at which replies are sampled; 0 is greedy.
        prompts_of: settings whose template and prompts win over the checkpoint's.
    """
    from eto_agents.models.huggingface import HuggingFaceModel

    how = getattr(settings, "dpo", settings)
    template = None if prompts_of is None else prompts_of.template
    checkpoint = load_checkpoint(str(model), dtype=how.dtype, device=how.device, template=template)
    prompts, with_example = checkpoint.prompts, checkpoint.with_example
    if prompts_of is not None:
        prompts = prompts_of.prompts or prompts
        with_example = with_example if prompts_of.with_example is None else prompts_of.with_example
    return ReActPolicy(
        HuggingFaceModel.of(checkpoint, max_batch=settings.n_envs),
        prompts=prompts,
        with_example=with_example,
        world=settings.world,
        temperature=temperature,
        max_tokens=settings.max_new_tokens,
    )


def sampling_policy(checkpoint: Checkpoint, settings: Playing) -> ReActPolicy:
    """The agent of a checkpoint in memory at temperature 1, as policy gradients need it."""
    from eto_agents.models.huggingface import HuggingFaceModel

    return ReActPolicy(
        HuggingFaceModel.of(checkpoint, max_batch=settings.n_envs),
        prompts=checkpoint.prompts,
        with_example=checkpoint.with_example,
        world=settings.world,
        temperature=1.0,
        max_tokens=settings.max_new_tokens,
    )
