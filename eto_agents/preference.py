"""`PreferencePair`: a prompt with a chosen and a rejected continuation, and its JSON line.

The unit of trajectory-wise preference learning (the paper's section 3.3): the prompt contains the
task, and each continuation is the rest of an episode. Pairs are built from episodes in
`eto_agents.training.pairs`; other programs' file formats are in `eto_agents.formats`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, check_schema, is_message, next_roles
from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import parse_json, read_text, write_whole

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt and two continuations.

    Attributes:
        prompt: what both continuations share: the instruction, the example if any, the task, and
            earlier turns of the episode; the last message is the user's or a tool's.
        chosen: the better continuation; its first and last messages are the agent's.
        rejected: the worse continuation, in the same form.
        chosen_score: final score of the chosen episode in [0, 1]; None if unknown.
        rejected_score: final score of the rejected episode in [0, 1]; None if unknown.
        task_id: the task's id.
        env_id: the Gymnasium id, if known.
        dataset: the dataset's name, if known.
        split: the split's name, if known.
        tasks_sha256: the task set's hash, if known.
        chosen_policy: name of the policy that played the chosen episode, if known.
        rejected_policy: name of the policy that played the rejected episode, if known.
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
        """Check the roles and the types.

        Raises:
            ValueError: roles are out of order, a part begins or ends with the wrong role, or a
                field has the wrong type.
        """
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.type == "str" and not isinstance(value, str):
                raise ValueError(f"{each.name} is {value!r:.60}, not a text")
            if each.type == "float | None" and type(value) not in (int, float, type(None)):
                raise ValueError(f"{each.name} is {value!r:.60}, not a number")
        _check_messages("prompt", self.prompt)
        if not self.prompt or "assistant" not in next_roles(self.prompt):
            raise ValueError("prompt does not end where the agent replies")
        for name in ("chosen", "rejected"):
            messages: list[Message] = getattr(self, name)
            _check_messages(name, messages)
            roles = [message["role"] for message in messages]
            if [*roles[:1], *roles[-1:]] != ["assistant", "assistant"]:
                raise ValueError(f"{name} does not begin and end with the agent's message: {roles}")
            next_roles([*self.prompt, *messages])

    @property
    def fault(self) -> str:
        """Why nothing can be learned from the pair; empty if it is a good one."""
        if self.chosen == self.rejected:
            return "both sides are the same"
        scores = (self.chosen_score, self.rejected_score)
        if None not in scores and scores[0] < scores[1]:  # type: ignore[operator]
            return "the rejected side has the higher score"
        return ""

    def to_json(self) -> str:
        """The record as one line of JSON, without the newline; always encodable as UTF-8."""
        return json_text(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> PreferencePair:
        """Read what `to_json` wrote.

        Raises:
            CorruptDataError: the line is not such a record, or has another schema version.
        """
        record = parse_json(line, "a preference pair")
        try:
            check_schema("the pair", record["schema"], SCHEMA_VERSION)
            return cls(**record)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"not a preference pair ({error!r}): {line[:80]!r}") from error


def read_pairs(path: Path) -> Iterator[PreferencePair]:
    """Read the pairs of a file, in order.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line is not a pair, or not one to learn from; names the line.
    """
    if not path.is_file():
        raise DataNotFoundError(f"no preference pairs at {path}")
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), start=1):
        try:
            pair = PreferencePair.from_json(line)
        except CorruptDataError as error:
            raise CorruptDataError(f"{path}, line {number}: {error}") from error
        if pair.fault:
            raise CorruptDataError(f"{path}, line {number}: {pair.fault}")
        yield pair


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write pairs to a file atomically, one per line, and return their number."""
    lines = [pair.to_json() + "\n" for pair in pairs]
    write_whole(path, "".join(lines).encode())
    return len(lines)


def _check_messages(name: str, messages: list[Message]) -> None:
    for message in messages:
        if not is_message(message):
            raise ValueError(f"{name} has {message!r:.60}, which is no message")
