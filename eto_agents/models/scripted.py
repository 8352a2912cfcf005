"""`ScriptedModel`: replies from a script, for tests and demonstrations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from eto_agents.models.base import Completion, Sampling
from eto_agents.trajectory import Message, Tool, is_message
from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import read_json

Reply = str | Message | Completion
Script = Sequence[Reply] | Callable[[Sequence[Message]], Reply] | str | Path


class ScriptedModel:
    """A chat model whose replies come from a script.

    Attributes:
        name: ``"scripted"``.
        provenance: SHA-256 of a script that is a list.
        requests: all conversations that it continued, in order.
    """

    name = "scripted"

    def __init__(self, script: Script) -> None:
        """Take the script.

        Args:
            script: replies in the order of the requests: texts, or messages with tool calls; or a
                function from a conversation to its reply; or the path of a JSON file with a list of
                texts and messages.

        Raises:
            DataNotFoundError: there is no such file.
            CorruptDataError: it is not such a list.
        """
        if isinstance(script, str | Path):
            script = _read(Path(script))
        self._reply = script if callable(script) else None
        self._left: list[Reply] = [] if callable(script) else list(script)[::-1]
        self.provenance: dict[str, str] = {}
        if not callable(script):
            text = json.dumps([r.text if isinstance(r, Completion) else r for r in script])
            self.provenance = {"script_sha256": hashlib.sha256(text.encode()).hexdigest()}
        self.requests: list[list[Message]] = []

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        *,
        tools: Sequence[Tool] = (),
    ) -> list[Completion]:
        """The next reply for each conversation; an error where the script has ended."""
        return [self._one(list(conversation)) for conversation in conversations]

    def _one(self, conversation: list[Message]) -> Completion:
        self.requests.append(conversation)
        if self._reply is not None:
            reply = self._reply(conversation)
        elif self._left:
            reply = self._left.pop()
        else:
            return Completion(error=f"the script ended before request {len(self.requests)}")
        return reply if isinstance(reply, Completion) else Completion.of(reply)


def _read(path: Path) -> list[Reply]:
    if not path.is_file():
        raise DataNotFoundError(f"no script at {path}")
    replies = read_json(path)
    if not isinstance(replies, list) or not all(
        isinstance(reply, str) or is_message(reply) for reply in replies
    ):
        raise CorruptDataError(f"{path} is not a JSON list of texts and messages")
    return replies
