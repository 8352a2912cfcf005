"""The tool with which an agent acts where it calls tools instead of writing "Action: …"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from eto_agents.trajectory import Message, Tool, Trajectory

ACT: Final[Tool] = {
    "type": "function",
    "function": {
        "name": "act",
        "description": "Do one thing in the world, and get what happens or what you see.",
        "parameters": {
            "type": "object",
            "properties": {
                "action": {
                    "type": "string",
                    "description": "One command, in the form that the instruction describes.",
                }
            },
            "required": ["action"],
        },
    },
}


def uses_tools(messages: Iterable[Message]) -> bool:
    """Whether a conversation has tool calls or results."""
    return any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def had_tools(episode: Trajectory) -> bool:
    """Whether the agent of an episode could call tools; an older record tells if it called any."""
    return bool(episode.tools) or uses_tools(episode.messages)


def with_calls(message: Message) -> str:
    """A message as a person reads it: the text, and then a line for each tool call."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [f"{function['name']}({function['arguments']})" for function in functions]
    return "\n".join(filter(None, [message["content"], *calls]))
