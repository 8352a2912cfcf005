"""How an agent says what it does: as text after "Action:", or by calling a tool.

A protocol turns a prompt into messages, a reply into an action, and the world's response into the
messages that follow the reply. ``"thought"`` is ETO's: the reply is "Thought: … Action: …", and an
observation is the next message of the user. With ``"tool"``, which is not ETO's, the agent calls
the tool `act` (`eto_agents.react.tools`), may write its thought beside the call, and an observation
is the tool's result. In both, a reply without an action costs a step and gets an error message.
Not here: the course of a conversation (`eto_agents.react.context`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, cast, get_args

from eto_agents.react.parse import NO_ACTION, Parsed, without_reasoning
from eto_agents.react.prompts import Prompt
from eto_agents.react.tools import ACT
from eto_agents.settings import ProtocolName, SettingsError
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, Tool, ToolCall, arguments_of
from eto_envs.errors import UnknownNameError

PROTOCOLS: Final[tuple[str, ...]] = get_args(ProtocolName)

OVER: Final = "The episode is over."
"""What an agent reads that continues after the end of its episode."""

_TOOL_FORMAT: Final = (
    "Answer every message with one call of the tool `act`, whose argument `action` is one command. "
    "You may write what you think before the call."
)
_NO_CALL: Final = "Call the tool `act`: its argument `action` is your next command."
_OTHER_TOOL: Final = "There is no tool {name!r}. " + _NO_CALL
_BAD_ARGUMENTS: Final = "The arguments must be a JSON object whose `action` is a text. " + _NO_CALL
_ONE_AT_A_TIME: Final = "Not carried out: only the first call of a message is."


class ReplyProtocol(Protocol):
    """What a conversation needs to know of a protocol."""

    tools: Sequence[Tool]

    def head(self, *, with_example: bool) -> list[Message]:
        """The messages before the task."""

    def task(self, observation: str, *, with_example: bool) -> Message:
        """The message with the task: the initial observation."""

    def parse(self, reply: Message) -> Parsed:
        """The thought and the action of a reply, or the error message that follows it."""

    def answers(self, observation: str, reply: Message, parsed: Parsed) -> list[Message]:
        """The messages that follow a reply, given the world's response to its action."""


def find_protocol(name: str, prompt: Prompt, *, strip_reasoning: bool = True) -> ReplyProtocol:
    """The protocol of a name, for the conversations of a prompt.

    Args:
        name: one of `PROTOCOLS`.
        prompt: the agent's prompt.
        strip_reasoning: do not look for thought and action in what a reasoning model writes between
            ``<think>`` and ``</think>``.

    Raises:
        UnknownNameError: there is no such protocol.
        SettingsError: the prompt asks for actions as text, and the protocol is ``"tool"``.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    kind = _Thought if name == "thought" else _Tool
    return kind(prompt, strip_reasoning)


def choose_protocol(requested: ProtocolName | None, trained: str | None) -> ProtocolName:
    """The protocol in which a model acts.

    Args:
        requested: what the user asks for; None leaves it to the model.
        trained: what the model was trained with; None if that is not known.

    Returns:
        One of the two, or ``"thought"`` if there is neither.

    Raises:
        UnknownNameError: there is no such protocol.
        SettingsError: they contradict each other.
    """
    for name in (requested, trained):
        if name is not None and name not in PROTOCOLS:
            raise UnknownNameError("protocol", name, PROTOCOLS)
    if None not in (requested, trained) and requested != trained:
        raise SettingsError(
            f"the model was trained with the protocol {trained!r}, and cannot act with "
            f"{requested!r}: leave the protocol out, or train the model with the other one"
        )
    return cast(ProtocolName, requested or trained or "thought")


class _Thought:
    """ETO's protocol."""

    tools: Sequence[Tool] = ()

    def __init__(self, prompt: Prompt, strip_reasoning: bool) -> None:
        self._prompt = prompt
        self._strip_reasoning = strip_reasoning
        self.head = prompt.head
        self.task = prompt.task

    def parse(self, reply: Message) -> Parsed:
        return self._prompt.format.parse(reply["content"], strip_reasoning=self._strip_reasoning)

    def answers(self, observation: str, reply: Message, parsed: Parsed) -> list[Message]:
        return [{"role": "user", "content": self._prompt.format.message(observation, parsed)}]


class _Tool:
    """One call of the tool `act` a turn."""

    tools: Sequence[Tool] = (ACT,)

    def __init__(self, prompt: Prompt, strip_reasoning: bool) -> None:
        if prompt.format.pattern.search(prompt.instruction):
            raise SettingsError(
                f"this prompt for {prompt.world} tells the agent to write its action as text, so "
                "that it cannot be used with the protocol 'tool': take the prompts 'own' or "
                "'brief', or a file that has this part as its reply_format"
            )
        self._prompt = prompt
        self._strip_reasoning = strip_reasoning

    def head(self, *, with_example: bool) -> list[Message]:
        system = f"{self._prompt.instruction}\n\n{_TOOL_FORMAT}"
        messages: list[Message] = [{"role": "system", "content": system}]
        if with_example:
            messages += self._example()
        return messages

    def task(self, observation: str, *, with_example: bool) -> Message:
        return self._prompt.task(observation, with_example=with_example)

    def parse(self, reply: Message) -> Parsed:
        thought = reply["content"]
        thought = (without_reasoning(thought) if self._strip_reasoning else thought).strip()
        calls = reply.get("tool_calls", [])
        if not calls:
            return Parsed(NO_ACTION, thought, _NO_CALL)
        function = calls[0]["function"]
        if function["name"] != ACT["function"]["name"]:
            return Parsed(NO_ACTION, thought, _OTHER_TOOL.format(name=function["name"][:40]))
        arguments = arguments_of(function)
        action = arguments.get("action") if isinstance(arguments, dict) else None
        if not isinstance(action, str):
            return Parsed(NO_ACTION, thought, _BAD_ARGUMENTS)
        return Parsed(action, thought, "")

    def answers(self, observation: str, reply: Message, parsed: Parsed) -> list[Message]:
        return _answers(reply, parsed.error or observation, _ONE_AT_A_TIME)

    def _example(self) -> list[Message]:
        """The worked example as calls and results; the last call ends its episode."""
        rules = self._prompt.format
        if not self._prompt.example:
            return []
        intro, *rest = self._prompt.head(with_example=True)[2:]
        messages = [intro]
        for number, message in enumerate(rest):
            if message["role"] == "assistant":
                parsed = rules.parse(message["content"])
                call = call_of(parsed.action, f"example-{number // 2 + 1}")
                messages.append(
                    {"role": "assistant", "content": parsed.thought, "tool_calls": [call]}
                )
            else:
                observation = message["content"].removeprefix(rules.prefix)
                messages += self.answers(observation, messages[-1], Parsed("", "", ""))
        return messages + self.answers(OVER, messages[-1], Parsed("", "", ""))


def call_of(action: str, call_id: str) -> ToolCall:
    """The call with which an agent takes an action."""
    arguments = json_text({"action": action})
    function = {"name": str(ACT["function"]["name"]), "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}  # type: ignore[typeddict-item]


def over_messages(reply: Message) -> list[Message]:
    """The messages that follow a reply after the end of the episode."""
    return _answers(reply, OVER, OVER)


def _answers(reply: Message, first: str, others: str) -> list[Message]:
    """A result for each call of a reply, or a message of the user's if it has none."""
    answers: list[Message] = []
    for call in reply.get("tool_calls", ()):
        text = others if answers else first
        answers.append({"role": "tool", "content": text, "tool_call_id": call["id"]})
    return answers or [{"role": "user", "content": first}]
