"""verifiers: the tasks of a split as a taskset, and their world as the user of the conversation.

    vf-eval eto-verifiers --env.taskset.env-id ETO-WebShop-v0 --env.taskset.split seen …

verifiers, and prime-rl with it, finds both through the plug-in `eto_verifiers`, a module beside
this package, because an id names a top-level module. Not here: tool calls. verifiers runs the agent
in a harness of its own; the default here is the one that only chats, in a process of this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from eto_agents.chat_episode import ChatEpisode
from eto_envs.errors import require
from eto_envs.registration import task_set

require("verifiers.v1", extra="verifiers")

import verifiers.v1 as vf  # noqa: E402


class WorldTasksetConfig(vf.TasksetConfig):
    """Which tasks, and how the conversations begin."""

    env_id: str = "ETO-WebShop-v0"
    """Environment id."""
    split: str = "train"
    """Split whose tasks are played."""
    dataset: str | None = None
    """Dataset: mini, an official name such as full, or a folder. By default the environment's."""
    prompts: str = "own"
    """Prompts of the agent: own, published, brief, or a TOML file."""
    with_example: bool = True
    """Whether the prompt has the worked example."""
    world: str | None = None
    """World whose prompt is used; by default the environment's."""
    env_args: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Further arguments for the environment."""


class WorldTaskData(vf.TaskData):
    """What a trace records of the task.

    Attributes:
        env_id: the Gymnasium id.
        tasks_sha256: the task set's hash.
        options: further arguments of `ChatEpisode`.
    """

    env_id: str
    tasks_sha256: str
    options: dict[str, Any]


class WorldTask(vf.Task[WorldTaskData, vf.State, vf.TaskConfig]):
    """A task, which says nothing itself: its world opens the conversation."""

    @property
    def key(self) -> str:
        """Environment, task set and task: the same in every run."""
        return f"{self.data.env_id}/{self.data.tasks_sha256[:16]}/{self.data.id}"


class WorldTaskset(vf.Taskset[WorldTask, WorldTasksetConfig]):
    """The tasks of a split, in its order."""

    def load(self) -> Iterator[WorldTask]:
        """The tasks.

        Raises:
            gymnasium.error.Error: there is no such environment.
            UnknownNameError: there is no such split or dataset.
        """
        config = self.config
        env_args = dict(config.env_args)
        if config.dataset is not None:
            env_args["dataset"] = config.dataset
        tasks = task_set(config.env_id, config.split, **env_args)
        options = {
            "split": config.split,
            "prompts": config.prompts,
            "with_example": config.with_example,
            "world": config.world,
            **env_args,
        }
        for task in tasks:
            data = WorldTaskData(
                id=task.id,
                name=f"{config.env_id}/{config.split}/{task.id}",
                description=task.goal,
                env_id=config.env_id,
                tasks_sha256=tasks.sha256,
                options=options,
            )
            yield WorldTask(data, config.task)


class WorldEnvConfig(vf.EnvConfig):
    """The agent that plays, under ``--env.player``."""

    player: vf.AgentConfig = vf.AgentConfig(
        harness={"id": "null"},  # it only chats; the default one runs the agent's shell commands
        runtime=vf.SubprocessConfig(),  # where the harness runs, by default in Prime's cloud
    )


class WorldEnv(vf.Env[WorldEnvConfig]):
    """Plays an episode; the agent writes "Thought: … Action: …"."""

    async def run(self, task: WorldTask, agents: vf.Agents) -> None:
        """Play the episode of a task.

        The trace gets the reward ``score``, and the metrics ``success`` and ``n_steps``. If one of
        verifiers' limits ends the conversation, the score so far counts.

        Raises:
            EtoError: as `ChatEpisode` raises it, `BackendError` if the environment failed. The
                episode then has an error, and no reward.
        """
        data = task.data
        episode = await asyncio.to_thread(
            ChatEpisode, data.env_id, data.id, policy="verifiers", **data.options
        )
        with episode:
            async with agents.player.interaction(task) as interaction:
                segment = await interaction.turn(list(episode.messages))
                while not segment.terminated:
                    turn = await asyncio.to_thread(episode.reply, segment.last_reply)
                    if turn.over:
                        break
                    segment = await interaction.turn(turn.messages)
                # Before the interaction ends, because verifiers' log shows what it has then.
                interaction.trace.record_reward("score", episode.score)
                interaction.trace.record_metrics(
                    {"success": episode.info["success"], "n_steps": episode.info["n_steps"]}
                )
