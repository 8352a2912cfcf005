"""Files of entries: one JSON list, or one JSON object a line; and the two ways to write a chat.

Errors name the file and the entry or line, counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from eto_agents.strict_json import json_text
from eto_agents.trajectory import SCHEMA_VERSION, Message, check_schema
from eto_envs.errors import CorruptDataError
from eto_envs.files import parse_json, read_text, write_whole

SPEAKERS: Final[Mapping[str, str]] = {"system": "system", "user": "human", "assistant": "gpt"}
"""Roles and how the from/value form (FastChat, ETO, LLaMA-Factory's sharegpt) calls them."""

_ROLES: Final = {speaker: role for role, speaker in SPEAKERS.items()} | {r: r for r in SPEAKERS}


class Entry(NamedTuple):
    """A record of a file.

    Attributes:
        place: the file and where in it, for error messages.
        record: what is there.
    """

    place: str
    record: dict[str, Any]

    def bad(self, why: object) -> CorruptDataError:
        """The error that something is wrong here."""
        return CorruptDataError(f"{self.place}: {why}")


def read_entries(path: Path) -> Iterator[Entry]:
    """The records of a JSON list, or of a file with one JSON object a line.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is neither, or has no entries; names the entry or line.
        DataError: it cannot be read.
    """
    text = read_text(path)
    found = _of_list(path, text) if text.lstrip().startswith("[") else _of_lines(path, text)
    n_entries = 0
    for entry in found:
        n_entries += 1
        if not isinstance(entry.record, dict):
            raise entry.bad(f"not a JSON object but {entry.record!r:.80}")
        if "panel_sha256" in entry.record:  # the name of `tasks_sha256` in schema 1
            check_schema(entry.place, 1, SCHEMA_VERSION)
        yield entry
    if not n_entries:
        raise CorruptDataError(f"{path} has no entries")


def _of_list(path: Path, text: str) -> Iterator[Entry]:
    for number, record in enumerate(parse_json(text, path), start=1):
        yield Entry(f"{path}, entry {number}", record)


def _of_lines(path: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield Entry(place, parse_json(line, place))


def write_list(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON list, whole or not at all; the number of records."""
    rows = list(records)
    write_whole(path, (json_text(rows, indent=2) + "\n").encode())
    return len(rows)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, whole or not at all; the number of records."""
    lines = [json_text(record) + "\n" for record in records]
    write_whole(path, "".join(lines).encode())
    return len(lines)


def turns_of(messages: Iterable[Message]) -> list[dict[str, str]]:
    """A chat in the from/value form."""
    return [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in messages]


def messages_of(entry: Entry, key: str) -> list[Message]:
    """The chat under a key, in the from/value or the role/content form.

    Raises:
        CorruptDataError: there is none, or it is empty or of another form.
    """
    turns = entry.record.get(key)
    if not isinstance(turns, list) or not turns:
        raise entry.bad(f"{key!r} is no list of messages")
    return [_message(entry, key, turn) for turn in turns]


def system_of(entry: Entry, messages: Sequence[Message]) -> list[Message]:
    """The message in the column ``system``, which precedes a chat; empty if there is none.

    Raises:
        CorruptDataError: it is not a text, or the chat begins with another system message.
    """
    text = entry.record.get("system")
    if text is None or text == "":
        return []
    if not isinstance(text, str):
        raise entry.bad(f"'system' is {text!r:.60}, not a text")
    if messages[0]["role"] == "system":
        raise entry.bad("there is a column 'system', and a system message in the chat")
    return [{"role": "system", "content": text}]


_NO_PLACE: Final = ("tools", "images", "videos", "audios", "kto_tag")


def check_columns(entry: Entry) -> None:
    """Check that an entry has nothing that its format knows and an episode has no place for.

    Raises:
        CorruptDataError: it has.
    """
    for name in _NO_PLACE:
        if entry.record.get(name) not in _NOTHING:
            value = entry.record[name]
            raise entry.bad(f"{name!r} is {value!r:.60}: episodes of text have no place for it")


_NOTHING: Final[tuple[object, ...]] = (None, "", [], {}, "[]", "{}")


def _message(entry: Entry, key: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise entry.bad(f"{key!r} has {turn!r:.60}, which is no message")
    known = ("from", "value") if "from" in turn else ("role", "content")
    speaker, text = (turn.get(name) for name in known)
    if any(value not in _NOTHING for name, value in turn.items() if name not in known):
        unknown = sorted({*turn} - {*known})
        raise entry.bad(f"{key!r} has a message with {unknown[0]!r}, which would be lost")
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None or not isinstance(text, str):
        raise entry.bad(f"{key!r} has {dict(turn)!r:.60}, which is no message")
    return {"role": role, "content": text}


def number_of(entry: Entry, key: str) -> float | None:
    """A score under a key; None if there is none.

    Raises:
        CorruptDataError: it is no number in [0, 1].
    """
    value = entry.record.get(key)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise entry.bad(f"{key!r} is {value!r}, not a score from 0 to 1")
    return float(value)
