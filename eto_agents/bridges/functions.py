"""The tool `act` of an episode as a function, of which agent frameworks make a tool of their own.

smolagents, LangGraph and others take a documented function for a tool. Not here: the agent, which
has its own loop and its own prompt; `ChatEpisode.messages` says what belongs into it.
"""

from __future__ import annotations

from collections.abc import Callable

from eto_agents.chat_episode import ChatEpisode
from eto_agents.react.protocols import OVER, call_of


def act_in(episode: ChatEpisode) -> Callable[[str], str]:
    """The function `act(action: str) -> str`, which acts in an episode.

    Args:
        episode: one with the protocol ``"tool"``.

    Returns:
        The function. It returns the observation, and from the end of the episode on a sentence that
        says so: the last observation may state the score. It raises `BackendError` if the
        environment fails.

    Raises:
        ValueError: the episode has another protocol.
    """
    if not episode.tools:
        raise ValueError('act_in() requires a ChatEpisode with protocol="tool"')

    def act(action: str) -> str:
        """Do one thing in the world, and get what happens or what you see.

        Args:
            action: One command, in the form that the instruction describes.
        """
        turn = episode.reply({"tool_calls": [call_of(action, "call")]})
        return OVER if turn.over else turn.messages[0]["content"]

    return act
