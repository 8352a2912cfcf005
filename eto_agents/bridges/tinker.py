"""Tinker: an episode as a `MessageEnv` of the Tinker cookbook, and groups of episodes of a task.

`WorldGroupBuilder` is what a data set of the cookbook consists of. Not here: tokens. The cookbook's
`EnvFromMessageEnv` renders the messages and parses the replies, and rewards what no environment
sees in its own way: a reply that is cut off ends the episode with -0.1, one that cannot be parsed
with -1, unless `env_options` say otherwise.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eto_agents.chat_episode import ChatEpisode
from eto_envs.errors import require

require("tinker_cookbook", extra="tinker")

from tinker_cookbook.renderers import Message, Renderer, get_text_content  # noqa: E402
from tinker_cookbook.rl.message_env import (  # noqa: E402
    EnvFromMessageEnv,
    MessageEnv,
    MessageStepResult,
)
from tinker_cookbook.rl.types import EnvGroupBuilder  # noqa: E402


class WorldMessageEnv(MessageEnv):
    """One episode, in which the agent writes "Thought: … Action: …"."""

    def __init__(self, env_id: str, task: str | int, **options: Any) -> None:
        """Set the episode, which begins with `initial_observation`.

        Args:
            env_id: the Gymnasium id.
            task: the task's id, or its index in the split.
            **options: further arguments of `ChatEpisode`, those of the environment included.
        """
        self.example_id = str(task)  # the cookbook stores it with the trajectory
        self._begin = functools.partial(ChatEpisode, env_id, task, policy="tinker", **options)
        self._episode: ChatEpisode | None = None
        self._messages: list[Message] = []

    async def initial_observation(self) -> list[Message]:
        """Begin the episode, and return the conversation up to the task.

        Raises:
            EtoError: as `ChatEpisode` raises it.
        """
        self._episode = await asyncio.to_thread(self._begin)
        self._messages = list(self._episode.messages)
        return list(self._messages)

    async def step(self, message: Message) -> MessageStepResult:
        """Take the agent's reply.

        Returns:
            The reward, which sums to the score over the episode unless it is shaped, and the whole
            conversation, with the replies as they were parsed.

        Raises:
            BackendError: the environment failed.
            RuntimeError: `initial_observation` has not been called.
        """
        if self._episode is None:
            raise RuntimeError("call initial_observation() before step()")
        # In a thread, since some worlds wait for a simulator.
        turn = await asyncio.to_thread(self._episode.reply, get_text_content(message))
        self._messages += [message, *turn.messages]
        info = turn.info
        return MessageStepResult(
            reward=turn.reward,
            episode_done=turn.over,
            next_messages=list(self._messages),
            metrics={
                "score": info["score"],
                "success": float(info["success"]),
                "invalid": float(not info["is_valid_action"]),
            },
        )

    def close(self) -> None:
        """Release the environment."""
        if self._episode is not None:
            self._episode.close()


@dataclass
class WorldGroupBuilder(EnvGroupBuilder):
    """Episodes of one task, whose rewards the cookbook compares; can be pickled.

    Attributes:
        env_id: the Gymnasium id.
        task: the task's id, or its index in the split.
        renderer: made by the cookbook's `get_renderer`.
        group_size: number of episodes.
        options: further arguments of `ChatEpisode`, such as ``{"dataset": "mini"}``.
        env_options: arguments of `EnvFromMessageEnv`, such as ``{"max_trajectory_tokens": 8192}``.
    """

    env_id: str
    task: str | int
    renderer: Renderer
    group_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    env_options: Mapping[str, Any] = field(default_factory=dict)
    _envs: list[WorldMessageEnv] = field(default_factory=list, init=False, repr=False)

    async def make_envs(self) -> Sequence[EnvFromMessageEnv]:
        """The group's environments, which `cleanup` releases."""
        envs = [
            WorldMessageEnv(self.env_id, self.task, **self.options) for _ in range(self.group_size)
        ]
        self._envs += envs
        return [EnvFromMessageEnv(self.renderer, env, **self.env_options) for env in envs]

    async def cleanup(self) -> None:
        """Release the environments; the cookbook calls it after each group."""
        while self._envs:
            self._envs.pop().close()

    def logging_tags(self) -> list[str]:
        """The environment's id, by which the cookbook groups metrics."""
        return [self.env_id]
