"""`PreferencePair`: two continuations of one chat, one better than the other, and their JSON line.

The unit of trajectory-wise preference learning (the paper's Section 3.3): a prompt with the task,
a chosen and a rejected rest of the episode. Which episodes become a pair is not decided here, nor
how other programs write pairs (`eto_agents.formats`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from eto_agents.trajectory import Message, check_schema, json_text
from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import write_whole

SCHEMA_VERSION = 2

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt and two continuations.

    Attributes:
        prompt: what both have in common: instruction, example if any, task, and whatever turns of
            the episode came before; its last message is the user's.
        chosen: the better continuation; begins and ends with the agent's message.
        rejected: the worse one, of the same form.
        chosen_score: final score of the chosen episode in [0, 1]; None if it is not known.
        rejected_score: that of the rejected one.
        task_id: the task's id.
        env_id: the Gymnasium id, if known.
        dataset: the dataset's name, if known.
        split: the split's name, if known.
        tasks_sha256: the task set's hash, if known.
        chosen_policy: who played the chosen episode, if known.
        rejected_policy: who played the rejected one, if known.
        schema: version of this record.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    chosen_score: float | None
    rejected_score: float | None
    task_id: str
    env_id: str = ""
    dataset: str = ""
    split: str = ""
    tasks_sha256: str = ""
    chosen_policy: str = ""
    rejected_policy: str = ""
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Check the form.

        Raises:
            ValueError: roles are not in turn, or a part begins or ends with the wrong one.
        """
        _check("prompt", self.prompt, "user")
        for name in ("chosen", "rejected"):
            messages: list[Message] = getattr(self, name)
            _check(name, messages, "assistant")
            if messages[0]["role"] != "assistant":
                raise ValueError(f"{name} begins with the {messages[0]['role']}'s message")

    def to_json(self) -> str:
        """The record as one line of JSON, without the newline; always encodable as UTF-8."""
        return json_text(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> PreferencePair:
        """Read what `to_json` wrote.

        Raises:
            CorruptDataError: the line is no such record, or of a schema this version cannot read.
        """
        try:
            record: dict[str, Any] = json.loads(line)
            check_schema("the pair", record["schema"], SCHEMA_VERSION)
            return cls(**record)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"not a preference pair ({error!r}): {line[:80]!r}") from error


def read_pairs(path: Path) -> Iterator[PreferencePair]:
    """The pairs of a file, in order.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line is not a pair; names the line.
    """
    if not path.is_file():
        raise DataNotFoundError(f"no preference pairs at {path}")
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield PreferencePair.from_json(line)
            except CorruptDataError as error:
                raise CorruptDataError(f"{path}, line {number}: {error}") from error


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write a file of pairs, one a line, whole or not at all; the number of pairs."""
    lines = [pair.to_json() + "\n" for pair in pairs]
    write_whole(path, "".join(lines).encode())
    return len(lines)


def _check(name: str, messages: list[Message], last: str) -> None:
    """Every message has role and content, user and assistant take turns, the last one is `last`."""
    roles = [message["role"] for message in messages]
    if not all(isinstance(message["content"], str) for message in messages):
        raise ValueError(f"{name} has a message whose content is no text")
    if unknown := [role for role in roles if role not in _ROLES]:
        raise ValueError(f"{name} has a message of role {unknown[0]!r}")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns[-1] != last:
        raise ValueError(f"{name} does not end with the {last}'s message")
    if any(one == other for one, other in pairwise(turns)):
        raise ValueError(f"user and assistant do not take turns in {name}")
