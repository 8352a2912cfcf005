"""A scripted agent for WebShop, and its scores: the same through every way into the worlds.

It searches for what is asked for, opens the first product and buys it. It reads nothing but the
last message of the conversation, so that it can be asked through any interface.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eto_agents.react.protocols import call_of

SCORES: Final = {5: 0.42524, 20: 0.31964, 50: 0.37662, 96: 0.35717}
"""Mean score on the first tasks of WebShop mini `seen`, by their number."""

_REQUEST = re.compile(r"i want an? ([a-z ]+)|Instruction: \[SEP\] ([^,\[]+)", re.IGNORECASE)


def command(page: str) -> str:
    """The agent's command on a page."""
    if "Buy Now" in page:
        return "click[Buy Now]"
    if "Page 1" in page:
        parts = page.split(" [SEP] ")
        return f"click[{parts[5]}]" if len(parts) > 5 else "click[Back to Search]"
    requests = _REQUEST.findall(page)
    words = requests[-1][0] or requests[-1][1] if requests else "lamp"
    return f"search[{words.strip()}]"


def reply(chat: Sequence[Mapping[str, Any]]) -> str:
    """The agent's reply in the protocol "thought"."""
    return f"Thought: go on.\nAction: {command(chat[-1]['content'])}"


def call(chat: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The agent's reply in the protocol "tool"."""
    calls = [call_of(command(chat[-1]["content"]), f"call-{len(chat)}")]
    return {"role": "assistant", "content": "Go on.", "tool_calls": calls}
