"""verl: an episode as an agent loop, which keeps the token ids that the server sampled.

A row of the data set names an episode (`eto_agents.bridges.rows`) and has the ``agent_name``
``"eto"``. verl's workers find the loop by the YAML file that their setting
``actor_rollout_ref.rollout.agent.agent_loop_config_path`` names:

    - name: eto
      _target_: eto_agents.bridges.verl.WorldAgentLoop

Not here: tool calls, and verl's limits on the number of turns. An episode ends as in `evaluate`, or
when its tokens fill `response_length`; its reward is then the score so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from eto_agents.bridges.rows import episode_of, figures_of
from eto_agents.chat_episode import ChatEpisode
from eto_agents.trajectory import Message
from eto_envs.errors import require

require("verl", extra="verl")

from verl.experimental.agent_loop.agent_loop import (  # noqa: E402
    AgentLoopBase,
    AgentLoopOutput,
    register,
)
from verl.utils.profiler import simple_timer  # noqa: E402


@register("eto")
class WorldAgentLoop(AgentLoopBase):
    """Plays an episode for each row; the agent writes "Thought: … Action: …"."""

    async def run(
        self, sampling_params: Mapping[str, Any], priority: int = 0, **row: Any
    ) -> AgentLoopOutput:
        """Play the episode of a row.

        Args:
            sampling_params: for the server.
            priority: the number of the sample; it names the request if verl is deterministic.
            **row: the row's columns.

        Returns:
            Ids of the prompt; ids of the replies and of what follows them, with mask 1 on the
            sampled ones, and with their log-probabilities (0 where the mask is 0) if the server
            returns any; the score as the reward, and score, success and number of steps for verl's
            validation metrics.

        Raises:
            KeyError: the row has no `env_id` or no `task`.
            EtoError: as `ChatEpisode` raises it; `BackendError` if the environment failed.
        """
        if getattr(self.rollout_config, "full_determinism", False):
            request_id = f"det-{priority}"
        else:
            request_id = uuid4().hex
        episode = await asyncio.to_thread(episode_of, row, policy="verl")
        with episode:
            tokens = _Tokens(self, await self.ct_build_initial_tokens(episode.messages))
            rewards = await self._play(episode, tokens, request_id, dict(sampling_params))
        return tokens.output(episode, rewards)

    async def _play(
        self, episode: ChatEpisode, tokens: _Tokens, request_id: str, sampling: dict[str, Any]
    ) -> list[float]:
        """Play to the end, or until there is no room; the steps' rewards."""
        rewards = []
        has_room = True
        while has_room and not episode.over:
            with simple_timer("generate_sequences", tokens.metrics):
                reply = await self.server_manager.generate(
                    # One id for the episode, so that the server finds the prefix in its cache.
                    request_id=request_id,
                    prompt_ids=tokens.ids,
                    sampling_params=sampling,
                )
            has_room = await tokens.add_reply(reply)
            if has_room:  # else the reply is cut off
                text = self.tokenizer.decode(reply.token_ids, skip_special_tokens=True)
                with simple_timer("tool_calls", tokens.metrics):
                    turn = await asyncio.to_thread(episode.reply, text)
                rewards.append(turn.reward)
                if not turn.over:
                    has_room = await tokens.add_context(episode.messages, len(turn.messages))
        return rewards


class _Tokens:
    """The token ids of an episode, and what belongs to them.

    Attributes:
        ids: of the prompt and the response so far.
        metrics: verl's, times in seconds.
    """

    def __init__(self, loop: WorldAgentLoop, prompt_ids: list[int]) -> None:
        self.ids = prompt_ids
        self.metrics: dict[str, Any] = {}
        self._loop = loop
        # Of the response: as long as it is.
        self._mask: list[int] = []
        self._log_probs: list[float] | None = None
        self._n_replies = 0
        self._routed_experts: Any = None
        self._fields: dict[str, Any] = {}

    @property
    def _max_length(self) -> int:
        return int(self._loop.rollout_config.response_length)

    async def add_reply(self, reply: Any) -> bool:
        """Add what the server sampled; whether there is room for more."""
        log_probs = reply.log_probs or None
        if log_probs is not None and self._log_probs is None:
            self._log_probs = [0.0] * len(self._mask)
        merged, self._mask, self._log_probs = await self._loop.ct_merge_assistant_token(
            self.ids, reply.token_ids, self._mask, self._log_probs, assistant_logprobs=log_probs
        )
        self.ids = merged.token_ids
        self._n_replies += 1
        n_preempted = reply.num_preempted
        if n_preempted is not None:
            self.metrics["num_preempted"] = self.metrics.get("num_preempted", 0) + n_preempted
        if reply.routed_experts is not None:  # of all tokens so far
            self._routed_experts = reply.routed_experts
        # The versions of the weights: the earliest and the latest that sampled.
        latest = reply.extra_fields.get("max_global_steps")
        self._fields = {**reply.extra_fields, **self._fields}
        if latest is not None:
            self._fields["max_global_steps"] = latest
        return len(self._mask) < self._max_length

    async def add_context(self, messages: list[Message], n_new: int) -> bool:
        """Add the last `n_new` messages, unless there is no room for a reply; whether there is."""
        merged, mask, log_probs = await self._loop.ct_merge_context_msg(
            messages[:-n_new], messages, self.ids, self._mask, self._log_probs
        )
        has_room = len(mask) < self._max_length
        if has_room:
            self.ids, self._mask, self._log_probs = merged.token_ids, mask, log_probs
        return has_room

    def output(self, episode: ChatEpisode, rewards: list[float]) -> AgentLoopOutput:
        """What verl trains on."""
        n = self._max_length
        n_prompt = len(self.ids) - len(self._mask)
        routed = self._routed_experts
        return AgentLoopOutput(
            prompt_ids=self.ids[:n_prompt],
            response_ids=self.ids[n_prompt:][:n],
            response_mask=self._mask[:n],
            response_logprobs=None if self._log_probs is None else self._log_probs[:n],
            routed_experts=None if routed is None else routed[: n_prompt + n],
            reward_score=episode.score,
            num_turns=2 * self._n_replies,
            metrics=self.metrics,
            extra_fields={
                **self._fields,
                "turn_scores": rewards,
                "tool_rewards": [],
                "reward_extra_info": figures_of(episode),
            },
        )
