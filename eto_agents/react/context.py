"""The conversation of one episode, and the part of it that fits a model's context.

If a conversation is too long, turns (a reply of the agent and what follows it) are dropped, the
oldest first; when only the last turn is left, the worked example is dropped. The instruction, the
task and the last turn are never dropped. What was dropped stays dropped, so that between two drops
the model's input only grows at its end. The number of dropped turns is in every decision's usage.
ETO's harness ends the episode instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from eto_agents.react.parse import Parsed
from eto_agents.react.prompts import Prompt
from eto_agents.react.protocols import find_protocol
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, Step, Tool
from eto_envs.errors import EtoError

Counter = Callable[[Sequence[Message]], int]
"""A function that counts the tokens of a chat."""


class ContextOverflowError(EtoError):
    """Even the instruction, the task and the last turn alone do not fit into the context."""


def estimate_tokens(messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
    """Estimate the tokens of a chat without a tokenizer: a third of its bytes, and 8 per message.

    English has at least four bytes per token, so the estimate is on the safe side.
    """
    texts = [message["content"] for message in messages] + [json_text(tool) for tool in tools]
    for message in messages:
        for call in message.get("tool_calls", ()):
            texts += call["function"].values()  # type: ignore[arg-type]
    return sum(8 + -(-len(text.encode("utf-8", "surrogatepass")) // 3) for text in texts)


class Conversation:
    """The conversation between an agent and an environment in one episode.

    Attributes:
        tools: the tools that the agent may call.
        n_dropped: number of turns that were dropped from the model's context.
        has_example: whether the worked example is still in the model's context.
    """

    def __init__(
        self,
        prompt: Prompt,
        observation: str,
        *,
        protocol: str = "thought",
        with_example: bool = True,
        strip_reasoning: bool = True,
    ) -> None:
        """Begin with the prompt and the task; see `find_protocol` for the other arguments.

        Raises:
            UnknownNameError: there is no such protocol.
            SettingsError: the prompt does not go with it.
        """
        self._protocol = find_protocol(protocol, prompt, strip_reasoning=strip_reasoning)
        self.tools = self._protocol.tools
        self._observation = observation
        self._turns: list[list[Message]] = []
        self._reply: tuple[Message, Parsed] | None = None  # without a following observation so far
        self.n_dropped = 0
        self._started_with_example = self.has_example = with_example and bool(prompt.example)

    @property
    def n_turns(self) -> int:
        """Number of complete turns, including dropped ones."""
        return len(self._turns)

    def add_reply(self, reply: str | Message) -> Parsed:
        """Add the agent's reply, a text or an assistant's message, and parse its action."""
        if isinstance(reply, str):
            reply = {"role": "assistant", "content": reply}
        self._reply = reply, self._protocol.parse(reply)
        return self._reply[1]

    def add_observation(self, observation: str) -> list[Message]:
        """Add the next observation; after a reply without an action, an error message instead.

        Returns:
            The messages that follow the reply.

        Raises:
            RuntimeError: there is no reply that this observation could follow.
        """
        if self._reply is None:
            raise RuntimeError("add_observation() must follow add_reply()")
        reply, parsed = self._reply
        answers = self._protocol.answers(observation, reply, parsed)
        self._turns.append([reply, *answers])
        self._reply = None
        return answers

    def messages(self) -> list[Message]:
        """The model's next input, without what was dropped."""
        return self._chat(self._turns[self.n_dropped :], with_example=self.has_example)

    def whole(self) -> list[Message]:
        """The whole conversation, including dropped turns and the agent's last reply."""
        chat = self._chat(self._turns, with_example=self._started_with_example)
        return chat if self._reply is None else [*chat, self._reply[0]]

    def _chat(self, turns: Sequence[Sequence[Message]], *, with_example: bool) -> list[Message]:
        chat = self._protocol.head(with_example=with_example)
        chat.append(self._protocol.task(self._observation, with_example=with_example))
        for turn in turns:
            chat.extend(turn)
        return chat

    def fit(self, max_tokens: int, count: Counter = estimate_tokens) -> list[Message]:
        """Drop turns, and then the worked example, until the model's input fits.

        Args:
            max_tokens: maximum number of tokens of the input, not including the model's reply.
            count: counts the tokens of a chat, as the model does.

        Returns:
            The model's next input.

        Raises:
            ContextOverflowError: it does not fit even after everything possible was dropped.
        """
        while (n_tokens := count(chat := self.messages())) > max_tokens:
            if self.n_dropped < len(self._turns) - 1:
                self.n_dropped += 1
            elif self.has_example:
                self.has_example = False
            else:
                raise ContextOverflowError(
                    f"the instruction, the task and the last turn have {n_tokens} tokens, but "
                    f"there is room for {max_tokens} only: use a model with a longer context"
                )
        return chat


def transcript(
    prompt: Prompt,
    observation: str,
    steps: Iterable[Step],
    *,
    with_example: bool = True,
    replies: Sequence[Message] | None = None,
) -> list[Message]:
    """Reconstruct the whole chat of a recorded episode, including its last observation.

    For an episode that a `ReActPolicy` played with the same prompt, it is `Trajectory.messages`
    followed by the last observation. Observations have the world's prefix, and a reply without an
    action is followed by the error message rather than by the observation of the trajectory.

    Args:
        prompt: the agent's prompt.
        observation: the initial observation.
        steps: the episode's steps; if a step has no text, its reply is the action alone.
        with_example: whether the prompt contains the worked example.
        replies: the agent's message of each step, if it called a tool (the protocol ``"tool"``).

    Raises:
        SettingsError: the prompt does not go with tool calls.
    """
    steps = list(steps)
    if replies is not None:
        conversation = Conversation(prompt, observation, protocol="tool", with_example=with_example)
        for step, reply in zip(steps, replies, strict=True):
            conversation.add_reply(reply)
            conversation.add_observation(step.observation)
        return conversation.messages()
    # What was recorded says which rule the agent followed.
    strip_reasoning = all(
        not step.text or prompt.format.parse(step.text).action == step.action for step in steps
    )
    conversation = Conversation(
        prompt, observation, with_example=with_example, strip_reasoning=strip_reasoning
    )
    for step in steps:
        conversation.add_reply(step.text or (f"Action: {step.action}" if step.action else ""))
        conversation.add_observation(step.observation)
    return conversation.messages()
