"""The Thought/Action format: parsing the agent's replies, and formatting observations.

The rules are those of `parse_action` and `step` in ETO's harness (`eval_agent/envs/*_env.py` of
Yifan-Song793/ETO at commit a2fc5da): the action is everything after the first ``Action:``,
including line breaks; a reply without an action costs a step, has no effect in the world, and the
agent reads an error message instead of an observation. See `eto_agents.policies.react` for what
happens to such a reply in an episode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

NO_ACTION: Final = ""
"""The command for a reply without an action: the empty command, which no world accepts."""

_THOUGHT = re.compile(r"\s*Thought:\s*")


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

    def parse(self, text: str) -> Parsed:
        """Parse a reply into thought and action, or an error message."""
        text = text.strip()
        match = self.pattern.search(text)
        before = text if match is None else text[: match.start()]
        thought = _THOUGHT.sub("", before, count=1).strip()
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
