"""SkyRL: an episode as a `BaseTextEnv` of SkyRL-gym, which SkyRL's generator plays in.

    skyrl_gym.register("eto", entry_point="eto_agents.bridges.skyrl:WorldTextEnv")

The rows of the data set name the episodes (`eto_agents.bridges.rows`). Not here: the generator's
setting `max_turns`, which is ignored. An episode ends as in `evaluate`: with its task, or at the
world's step limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eto_agents.bridges.rows import episode_of, figures_of
from eto_envs.errors import require

require("skyrl_gym", extra="skyrl")

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput  # noqa: E402


class WorldTextEnv(BaseTextEnv):
    """One episode, in which the agent writes "Thought: … Action: …"."""

    def __init__(
        self, env_config: Mapping[str, Any] | None = None, extras: Mapping[str, Any] | None = None
    ) -> None:
        """Begin the episode.

        Args:
            env_config: SkyRL's configuration of the environment; values here are the defaults of
                all rows.
            extras: the row, without its prompt.

        Raises:
            KeyError: `env_id` or `task` is missing.
            EtoError: as `ChatEpisode` raises it.
        """
        super().__init__()
        self._episode = episode_of({**(env_config or {}), **(extras or {})}, policy="skyrl")

    def init(self, prompt: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The conversation up to the task, instead of the row's `prompt`, and the info."""
        return [dict(message) for message in self._episode.messages], self._episode.info

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Take the agent's reply.

        Returns:
            ``observations``, the messages that follow (none at the end); ``reward``, which sums to
            the score over the episode unless it is shaped; ``done``; and the info as ``metadata``.

        Raises:
            BackendError: the environment failed.
        """
        self.turns += 1
        turn = self._episode.reply(action)
        return BaseTextEnvStepOutput(
            observations=[] if turn.over else [dict(message) for message in turn.messages],
            reward=turn.reward,
            done=turn.over,
            metadata=turn.info,
        )

    def get_metrics(self) -> dict[str, float]:
        """Score, success (0 or 1) and number of steps, of which SkyRL logs the means."""
        return figures_of(self._episode)

    def close(self) -> None:
        """Release the environment."""
        self._episode.close()
