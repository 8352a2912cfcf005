"""Files of entries: one JSON list, or one JSON object a line; and the ways to write a chat.

The from/value form (FastChat, ETO, LLaMA-Factory's sharegpt) has texts; in LLaMA-Factory a tool
call is a turn of its own, and its result another. The role/content form of Hugging Face and TRL has
all that a chat has. Errors name the file and the entry or line, counted from 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from eto_agents.react.tools import ACT, uses_tools
from eto_agents.strict_json import json_text
from eto_agents.trajectory import SCHEMA_VERSION, Message, as_message, check_schema, with_objects
from eto_envs.errors import CorruptDataError, DataError
from eto_envs.files import parse_json, read_text, write_whole

SPEAKERS: Final[Mapping[str, str]] = {"system": "system", "user": "human", "assistant": "gpt"}
"""Roles and how the from/value form calls them."""

_ROLES: Final = {speaker: role for role, speaker in SPEAKERS.items()} | {
    role: role for role in (*SPEAKERS, "tool")
}
_CALL, _RESULT = "function_call", "observation"  # LLaMA-Factory's speakers


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


def turns_of(
    messages: Sequence[Message], others: str, has_tools: bool = False
) -> list[dict[str, str]]:
    """A chat in ETO's from/value form, which has no place for tool calls.

    Args:
        messages: the chat.
        others: the names of formats that have one, for the error message.
        has_tools: whether the agent could call tools, even if it did not.

    Raises:
        DataError: the chat has tool calls, or the agent could make some.
    """
    if has_tools or uses_tools(messages):
        raise DataError(f"this format has no place for tool calls: choose {others}")
    return [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in messages]


def turns_with_calls(messages: Sequence[Message], others: str) -> list[dict[str, str]]:
    """A chat in LLaMA-Factory's from/value form, in which a call is a turn without a text.

    Args:
        messages: as in `turns_of`.
        others: as in `turns_of`.

    Raises:
        DataError: the chat has a text beside a call, several calls in a message, arguments that are
            no JSON object, or a message of the user's after a result.
    """
    turns = []
    for before, message in zip([None, *messages], messages, strict=False):
        role, content = message["role"], message["content"]
        functions = [call["function"] for call in with_objects(message).get("tool_calls", ())]
        problems = {
            "a text beside a tool call": functions and content.strip(),
            "several tool calls in a message": len(functions) > 1,
            "arguments that are no JSON object": not all(
                isinstance(function["arguments"], dict) for function in functions
            ),
            "a user who goes on after a result": before is not None
            and (before["role"], role) == ("tool", "user"),
        }
        for problem in [name for name, is_there in problems.items() if is_there]:
            raise DataError(f"this format has no place for {problem}: choose {others}")
        if functions:
            turns.append({"from": _CALL, "value": json_text(functions[0])})
        else:
            speaker = _RESULT if role == "tool" else SPEAKERS[role]
            turns.append({"from": speaker, "value": content})
    return turns


def tools_column(has_tools: bool) -> dict[str, Any]:
    """The column with an agent's tools, as TRL takes it; none for an agent without."""
    return {"tools": [ACT]} if has_tools else {}


def had_tools(entry: Entry, messages: Sequence[Message]) -> bool:
    """Whether the agent of an entry could call tools, by its column or its messages."""
    return entry.record.get("tools") not in _NOTHING or uses_tools(messages)


def messages_of(entry: Entry, key: str) -> list[Message]:
    """The chat under a key, in the from/value or the role/content form.

    Calls and results may lack ids; see `number_calls`.

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


_NO_PLACE: Final = ("images", "videos", "audios", "kto_tag")


def check_columns(entry: Entry) -> None:
    """Check that an entry has nothing that its format knows and an episode has no place for.

    Raises:
        CorruptDataError: it has.
    """
    for name in _NO_PLACE:
        if entry.record.get(name) not in _NOTHING:
            value = entry.record[name]
            raise entry.bad(f"{name!r} is {value!r:.60}: episodes of text have no place for it")
    tools = entry.record.get("tools")
    if tools not in _NOTHING and _tool_names(tools) != [ACT["function"]["name"]]:
        raise entry.bad(f"'tools' is {tools!r:.60}: the agents of these worlds have one, 'act'")


def _tool_names(tools: Any) -> list[Any]:
    """The names of the tools in a column, which may be a text; none if it is something else."""
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        return [tool.get("function", tool)["name"] for tool in tools]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return []


_NOTHING: Final[tuple[object, ...]] = (None, "", [], {}, "[]", "{}")


def _message(entry: Entry, key: str, turn: Any) -> Message:
    """A turn of either form as a message; the ids of calls and results may be empty."""
    if not isinstance(turn, Mapping):
        raise entry.bad(f"{key!r} has {turn!r:.60}, which is no message")
    has_speaker = "from" in turn
    known = ["from", "value"] if has_speaker else ["role", "content", "tool_calls", "tool_call_id"]
    if turn.get("role") == "tool":
        known.append("name")  # the tool's, as in OpenAI's form
    if any(value not in _NOTHING for name, value in turn.items() if name not in known):
        unknown = sorted({*turn} - {*known})
        raise entry.bad(f"{key!r} has a message with {unknown[0]!r}, which would be lost")
    speaker, text = (turn.get(name) for name in known[:2])
    try:
        if has_speaker and speaker == _CALL:
            return _calling(text)
        if has_speaker and speaker == _RESULT:
            speaker = "tool"
        role = _ROLES[str(speaker)]
        calls = [] if has_speaker else turn.get("tool_calls") or []
        if not isinstance(text, str) and not (text is None and calls):
            raise TypeError("no text")
        message = as_message({**turn, "role": role, "content": text})
        for call, theirs in zip(message.get("tool_calls", ()), calls, strict=True):
            call["id"] = str(theirs.get("id") or "")
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise entry.bad(f"{key!r} has {dict(turn)!r:.60}, which is no message") from error
    return message


def _calling(text: Any) -> Message:
    """The message of LLaMA-Factory's ``function_call``: a call as JSON, or a list of them."""
    calls = json.loads(text)
    calls = [calls] if isinstance(calls, dict) else calls
    message = as_message({"role": "assistant", "content": "", "tool_calls": calls})
    for call in message["tool_calls"]:
        call["id"] = ""
    return message


def number_calls(messages: list[Message]) -> list[Message]:
    """Give ids, in place, to the calls and results of a chat that have none, in their order."""
    n_calls = 0
    waiting: list[str] = []
    for message in messages:
        for call in message.get("tool_calls", ()):
            n_calls += 1
            call["id"] = call["id"] or f"call-{n_calls}"
            waiting.append(call["id"])
        if message["role"] == "tool":
            first = waiting.pop(0) if waiting else ""
            message.setdefault("tool_call_id", first)
    return messages


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
