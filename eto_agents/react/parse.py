"""The Thought/Action format: parsing the agent's replies, and formatting observations.

The rules are those of `parse_action` and `step` in ETO's harness (`eval_agent/envs/*_env.py` of
Yifan-Song793/ETO at commit a2fc5da): the action is everything after the first ``Action:``,
including line breaks; a reply without an action costs a step, has no effect in the world, and the
agent reads an error message instead of an observation. See `eto_agents.policies.react` for what
happens to such a reply in an episode.

Differs from the reference: a reasoning model's ``<think>…</think>`` is not parsed, because an
action that it considers is not one that it takes. ``strip_reasoning=False`` parses the whole reply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

NO_ACTION: Final = ""
"""The command for a reply without an action: the empty command, which no world accepts."""

_THOUGHT: Final = re.compile(r"\A\s*Thought:\s*")

_REASONING: Final = re.compile(
    r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)", re.DOTALL
)
"""What reasoning models write before their answer; the end is missing where a reply was cut off."""

_END_OF_REASONING: Final = re.compile(r"\A.*(?:</think(?:ing)?>|\[/THINK\])", re.DOTALL)
"""The chat templates of some models begin the block, so that replies only have its end."""


def without_reasoning(text: str, replacement: str = "") -> str:
    """Remove a reasoning model's thinking from a reply.

    Args:
        text: the reply.
        replacement: is put in place of each removed character.
    """

    def replace(match: re.Match[str]) -> str:
        return replacement * len(match[0])

    return _END_OF_REASONING.sub(replace, _REASONING.sub(replace, text))


class Parsed(NamedTuple):
    """A parsed reply.

    Attributes:
        action: the command; `NO_ACTION` if there is none.
        thought: the text before the action, without the label ``Thought:``.
        error: the message that the agent reads instead of an observation; empty if there is an
            action.
    """

    action: str
    thought: str
    error: str


@dataclass(frozen=True, slots=True)
class Format:
    """How one world's harness parses replies and formats observations.

    Attributes:
        pattern: matches the action as its first group; it is searched in the reply after
            surrounding white space is removed.
        error: the message that follows a reply in which `pattern` does not match.
        prefix: the text before every observation except the first.
    """

    pattern: re.Pattern[str]
    error: str
    prefix: str

    def parse(self, text: str, *, strip_reasoning: bool = True) -> Parsed:
        """Parse a reply into thought and action, or an error message.

        Args:
            text: the reply.
            strip_reasoning: leave out what a reasoning model writes between ``<think>`` and
                ``</think>``.
        """
        text = (without_reasoning(text) if strip_reasoning else text).strip()
        match = self.pattern.search(text)
        before = text if match is None else text[: match.start()]
        thought = _THOUGHT.sub("", before).strip()
        if match is None:
            return Parsed(NO_ACTION, thought, self.error)
        return Parsed(match[1], thought, "")

    def message(self, observation: str, reply: Parsed) -> str:
        """The message that follows a reply: the observation, or an error.

        Args:
            observation: the environment's response to the action.
            reply: the agent's reply.
        """
        return reply.error or self.prefix + observation


STRICT: Final = re.compile(r"Action: (.*)", re.DOTALL)
LENIENT: Final = re.compile(r"Action:\s?(.*)", re.DOTALL)
INVALID: Final = "Observation: Invalid format. The input must contains 'Action: '"
"""ETO's message after a reply without an action, byte for byte."""

DEFAULT_FORMAT: Final = Format(LENIENT, INVALID, "Observation: ")
"""The format of worlds other than ETO's, whose formats are in `eto_agents.worlds`."""
