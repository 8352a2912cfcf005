"""The Thought/Action format: an agent's text to an action, and a world's answer to a message.

The rules are those of `parse_action` and `step` in ETO's harness (`eval_agent/envs/*_env.py` of
Yifan-Song793/ETO at commit a2fc5da): the action is all that follows the first ``Action:``, line
breaks included; a text without one costs a step, changes nothing in the world, and the agent reads
an error message instead of an observation. What a text without an action does in an episode is
said in `eto_agents.policies.react`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

NO_ACTION: Final = ""
"""What is given to the world for a text without an action: no world accepts the empty command."""

_THOUGHT = re.compile(r"\s*Thought:\s*")


class Parsed(NamedTuple):
    """What an agent's text says.

    Attributes:
        action: the command, `NO_ACTION` if there is none.
        thought: what comes before it, without the word ``Thought:``.
        error: what the agent is to read instead of an observation; empty if there is an action.
    """

    action: str
    thought: str
    error: str


@dataclass(frozen=True, slots=True)
class Format:
    """How one world's harness reads agents and writes to them.

    Attributes:
        pattern: finds the action as its first group; searched in the text without surrounding
            white space.
        error: the message for a text in which `pattern` finds nothing.
        prefix: what every observation but the first begins with.
    """

    pattern: re.Pattern[str]
    error: str
    prefix: str

    def parse(self, text: str) -> Parsed:
        """Thought and action of a text, or the error message."""
        text = text.strip()
        found = self.pattern.search(text)
        before = text if found is None else text[: found.start()]
        thought = _THOUGHT.sub("", before, count=1).strip()
        if found is None:
            return Parsed(NO_ACTION, thought, self.error)
        return Parsed(found[1], thought, "")

    def reply(self, observation: str, said: Parsed) -> str:
        """The message that follows what the agent said.

        Args:
            observation: the world's answer.
            said: the agent's last text, parsed.
        """
        return said.error or self.prefix + observation


STRICT: Final = re.compile(r"Action: (.*)", re.DOTALL)
LENIENT: Final = re.compile(r"Action:\s?(.*)", re.DOTALL)
INVALID: Final = "Observation: Invalid format. The input must contains 'Action: '"
"""ETO's message for a text without an action, to the byte."""

DEFAULT_FORMAT: Final = Format(LENIENT, INVALID, "Observation: ")
"""For worlds that ETO does not have; those it has are in `eto_agents.worlds`."""
