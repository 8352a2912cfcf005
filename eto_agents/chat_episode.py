"""`ChatEpisode`: one episode as a conversation, messages in and messages out.

It is the way into the worlds for whatever already holds conversations: a trainer, an evaluation
harness, a server. Prompts, parsing, errors and the record are those of `ReActPolicy` and of
`eto_agents.rollout`, so that the same agent gets the same score here as from `evaluate`.

    episode = ChatEpisode("ETO-WebShop-v0", "12", split="seen", dataset="mini")
    while not episode.over:
        episode.reply(my_model(episode.messages))
    print(episode.score)

Not here: which model replies, what it can read at once (`Conversation.fit`), and playing many
episodes at a time (`eto_agents.rollout`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym

from eto_agents.live_episode import Job, LiveEpisode, checked_decision
from eto_agents.models.base import Completion
from eto_agents.policy import Decision, failure
from eto_agents.react.context import Conversation
from eto_agents.react.prompts import SOURCES, Prompt, find_prompt, load_prompts, prompt_key
from eto_agents.react.protocols import over_messages
from eto_agents.settings import ProtocolName
from eto_agents.trajectory import Message, Status, Tool, Trajectory, as_message
from eto_envs.core import TextEnv
from eto_envs.errors import BackendError
from eto_envs.shaping import Info
from eto_envs.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self


class Turn(NamedTuple):
    """What follows a reply.

    Attributes:
        messages: the messages to append after the reply: an observation or an error, for tool calls
            one result for each call.
        reward: the reward of the step, shaping included; an episode's rewards sum to its score
            unless they are shaped.
        over: whether the episode has ended.
        info: the environment's info.
    """

    messages: list[Message]
    reward: float
    over: bool
    info: Info


class ChatEpisode:
    """One episode of one task.

    Attributes:
        task: the task that is played.
        tools: the tools that the agent may call, as JSON schemas; none for the protocol
            ``"thought"``.
        observation: the environment's last observation, without what the protocol adds to it.
        info: the environment's info at the last observation.
        over: whether the episode has ended.
    """

    def __init__(  # noqa: PLR0913 (each is a separate choice of the user)
        self,
        env_id: str,
        task: Task | str | int,
        *,
        protocol: ProtocolName = "thought",
        prompts: str = "own",
        with_example: bool = True,
        world: str | None = None,
        strip_reasoning: bool = True,
        seed: int = 0,
        sample: int = 0,
        policy: str = "chat",
        **env_args: Any,
    ) -> None:
        """Begin an episode.

        Args:
            env_id: the Gymnasium id, such as ``"ETO-WebShop-v0"``.
            task: a task of the split, its id, or its index.
            protocol: ``"thought"`` for replies "Thought: … Action: …", ``"tool"`` for calls of the
                tool `act`.
            prompts: ``"own"``, ``"brief"``, ``"published"``, or the path of a TOML file.
            with_example: whether the prompt has the worked example, if there is one.
            world: the world whose prompt is used; by default the environment's.
            strip_reasoning: do not look for the action in a reasoning model's ``<think>…</think>``.
            seed: the run's seed, as in `evaluate`.
            sample: the number of the episode among those of the same task and seed.
            policy: the agent's name in the trajectory.
            **env_args: keyword arguments for the environment, such as `split` and `dataset`.

        Raises:
            UnknownNameError: there is no such environment, task, prompt or protocol.
            SettingsError: the prompts do not go with the protocol.
            BackendError: the environment failed.
            TypeError: the environment is not a `TextEnv`.
        """
        env = gym.make(env_id, **env_args).unwrapped
        if not isinstance(env, TextEnv):
            raise TypeError(f"{env_id} is not a TextEnv")
        self._env = env
        name = env_id if env.spec is None else env.spec.id
        found = task if isinstance(task, Task) else env.tasks.find(task)
        self._live = LiveEpisode(env, Job(found, seed, sample), env_id=name, policy=policy)
        self._live.begin()
        prompt = find_prompt(_prompts(prompts), world or prompt_key(self._live.info))
        self._conversation = Conversation(
            prompt,
            self._live.observation,
            protocol=protocol,
            with_example=with_example,
            strip_reasoning=strip_reasoning,
        )
        self.task = found
        self.tools: list[Tool] = list(self._conversation.tools)
        self._live.tools = self.tools
        self._recorded: list[Message] = []
        self._trajectory: Trajectory | None = None
        self._turned_s = time.perf_counter()

    @property
    def messages(self) -> list[Message]:
        """The conversation so far: prompt, task, and then replies and what followed them."""
        return self._conversation.whole()

    @property
    def observation(self) -> str:
        """The environment's last observation, without what the protocol adds to it."""
        return self._live.observation

    @property
    def info(self) -> Info:
        """The environment's info at the last observation."""
        return self._live.info

    @property
    def over(self) -> bool:
        """Whether the episode has ended: by the task, its step limit, or a failure."""
        return self._trajectory is not None

    @property
    def score(self) -> float:
        """The score so far, in [0, 1]."""
        return float(self._live.info["score"])

    @property
    def trajectory(self) -> Trajectory:
        """The record of the episode; `cancelled` if it is not over.

        Its messages end with the agent's last reply, so that they can be trained on.
        """
        return self._trajectory or self._live.end(self._recorded, "cancelled")

    def reply(self, reply: str | Mapping[str, Any] | Completion) -> Turn:
        """Take the agent's reply, and act.

        Args:
            reply: a text, the assistant's message in OpenAI's form (a mapping, or the object of
                OpenAI's client), or a completion, whose token ids and usage are then recorded, too.

        Returns:
            What follows. After the end that is always "The episode is over.", with reward 0.

        Raises:
            BackendError: the environment failed; the episode is over, and has no valid score.
            TypeError: the reply is none of these.
        """
        completion = _completion(reply)
        if self.over:
            return Turn(over_messages(completion.message), 0.0, True, self.info)
        now_s = time.perf_counter()
        decision = decision_of(self._conversation, completion, latency_s=now_s - self._turned_s)
        self._recorded = self.messages
        n_steps = len(self._live.steps)
        try:
            self._live.advance(checked_decision(decision))
        except Exception as error:
            self._end("env_error", failure(error))
            if isinstance(error, BackendError):
                raise
            raise BackendError(f"the environment failed: {error}") from error
        if len(self._live.steps) == n_steps:  # the agent failed: there was no step
            self._end()
            return Turn(over_messages(completion.message), 0.0, True, self.info)
        answers = self._conversation.add_observation(self._live.observation)
        if self._live.status is not None:
            self._end()
        self._turned_s = time.perf_counter()
        return Turn(answers, self._live.steps[-1].reward, self.over, self.info)

    def fail(self, error: str) -> None:
        """End the episode as `agent_error`: there will be no reply, for the reason given."""
        if not self.over:
            self._live.fail(error)
            self._end()

    def close(self) -> None:
        """Release the environment; an episode that is not over is `cancelled`."""
        if not self.over:
            self._end("cancelled")

    def __enter__(self) -> Self:
        """Return the episode."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _end(self, status: Status | None = None, error: str = "") -> None:
        self._trajectory = self._live.end(self._recorded, status, error)
        self._env.close()


def decision_of(
    conversation: Conversation, completion: Completion, latency_s: float = 0.0
) -> Decision:
    """Add a completion to a conversation as the agent's reply, and read the decision in it.

    Args:
        conversation: ends with an observation.
        completion: one with an error is no reply; its decision has the error.
        latency_s: seconds that the agent took.
    """
    if completion.error:
        return Decision(
            "",
            usage=completion.usage,
            error=completion.error,
            is_permanent=completion.is_permanent,
        )
    parsed = conversation.add_reply(completion.message)
    usage = {**completion.usage, "dropped_turns": float(conversation.n_dropped)}
    if parsed.error:
        usage["format_errors"] = 1.0
    if completion.finish_reason == "length":
        usage["cut_off"] = 1.0
    return Decision(
        parsed.action,
        text=completion.text,
        thought=parsed.thought,
        token_ids=completion.token_ids,
        log_probs=completion.log_probs,
        usage=usage,
        latency_s=latency_s,
    )


def _completion(reply: str | Mapping[str, Any] | Completion) -> Completion:
    """A reply of any form as a completion.

    Raises:
        TypeError: it is no reply.
    """
    if isinstance(reply, Completion):
        return reply
    if isinstance(reply, str):
        return Completion.of(reply)
    dump = getattr(reply, "model_dump", None)  # of the message objects of OpenAI's client
    fields = reply if dump is None else dump()
    return Completion.of(as_message({"role": "assistant", "content": None, **fields}))


def _prompts(source: str) -> Mapping[str, Prompt]:
    """`load_prompts`, which reads the library's own only once."""
    return _own_prompts(source) if source in SOURCES else load_prompts(source)


_own_prompts = functools.cache(load_prompts)
