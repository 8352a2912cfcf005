"""Rows of data sets that name episodes, for trainers that read their tasks from a file.

Such a trainer hands a row to the environment or agent loop that it makes, which plays the episode
that the row names. Not here: what an agent reads. The conversation begins with what `ChatEpisode`
says, and a row's ``prompt`` only says which task it is, because trainers want such a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eto_agents.chat_episode import ChatEpisode
from eto_envs.registration import task_set


def task_rows(
    env_id: str,
    *,
    split: str = "train",
    prompts: str = "own",
    with_example: bool = True,
    world: str | None = None,
    **env_args: Any,
) -> list[dict[str, Any]]:
    """A row for each task of a split, to be written as Parquet or JSON.

    Args:
        env_id: the Gymnasium id.
        split: the split.
        prompts: ``"own"``, ``"brief"``, ``"published"``, or the path of a TOML file.
        with_example: whether the prompt has the worked example, if there is one.
        world: the world whose prompt is used; by default the environment's.
        **env_args: further keyword arguments for the environment, such as `dataset`.

    Returns:
        Rows with `prompt` (one message with the goal), `env_id`, `task` (the id) and `options`
        (the other arguments of `ChatEpisode`).

    Raises:
        gymnasium.error.Error: there is no such environment.
        UnknownNameError: there is no such split or dataset.
    """
    tasks = task_set(env_id, split, **env_args)
    options = {"split": split, "prompts": prompts, "with_example": with_example, **env_args}
    if world is not None:
        options["world"] = world
    return [
        {
            "prompt": [{"role": "user", "content": task.goal}],
            "env_id": env_id,
            "task": task.id,
            "options": options,
        }
        for task in tasks
    ]


def figures_of(episode: ChatEpisode) -> dict[str, float]:
    """Score, success (0 or 1) and number of steps, of which trainers log the means."""
    info = episode.info
    return {
        "score": info["score"],
        "success": float(info["success"]),
        "n_steps": info["n_steps"],
    }


def episode_of(row: Mapping[str, Any], *, policy: str) -> ChatEpisode:
    """Begin the episode that a row names.

    Args:
        row: as `task_rows` makes them, but a `task` may be an index and `options` may be missing;
            other columns are ignored.
        policy: the agent's name in the trajectory.

    Raises:
        KeyError: the row has no `env_id` or no `task`.
        EtoError: as `ChatEpisode` raises it.
    """
    options = row.get("options") or {}
    return ChatEpisode(row["env_id"], row["task"], policy=policy, **options)
