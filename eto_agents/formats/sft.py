"""Files of single trajectories: ETO's SFT files, LLaMA-Factory's sharegpt, Hugging Face messages.

ETO (`webshop_sft.json` and its like in the Hugging Face dataset agent-eto/eto-sft-trajectory): a
list of ``{"id", "conversations", "reward", "game_file"}``, the chat in the from/value form, the
first two turns the instruction and "OK", no worked example. The reward is in WebShop's file alone;
``game_file`` in ALFWorld's. ETO itself counts the other two worlds' experts as 1
(``construct_preference.py`` at commit 1a4c84c). Tool calls are in the other two formats only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eto_agents.formats.chats import FACTS, Chat
from eto_agents.formats.files import (
    Entry,
    check_columns,
    had_tools,
    messages_of,
    number_calls,
    number_of,
    read_entries,
    system_of,
    tools_column,
    turns_of,
    turns_with_calls,
    write_lines,
    write_list,
)
from eto_agents.strict_json import json_text, write_json
from eto_agents.trajectory import Message, with_objects
from eto_agents.worlds import find_world
from eto_agents.worlds.base import known_world
from eto_envs.alfworld.data.games import FOLDERS
from eto_envs.errors import UnknownNameError
from eto_envs.files import read_json_object

N_ETO_PROMPT: Final = 2  # instruction and "OK"

SCIENCEWORLD_NUMBERS: Final = (
    "boil",
    "change-the-state-of-matter-of",
    "freeze",
    "melt",
    "measure-melting-point-known-substance",
    "",  # ETO has no task type 5
    "use-thermometer",
    "power-component",
    "power-component-renewable-vs-nonrenewable-energy",
    "test-conductivity",
    "test-conductivity-of-unknown-substances",
    "find-animal",
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "grow-fruit",
    "grow-plant",
    "chemistry-mix",
    "chemistry-mix-paint-secondary-color",
    "chemistry-mix-paint-tertiary-color",
    "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived",
    "identify-life-stages-1",
    "identify-life-stages-2",
    "inclined-plane-determine-angle",
    "inclined-plane-friction-named-surfaces",
    "inclined-plane-friction-unnamed-surfaces",
    "mendelian-genetics-known-plant",
    "mendelian-genetics-unknown-plant",
)
"""ETO's numbers of task types (`eval_agent/data/sciworld/taskname2id.json`): a task of ours
``boil/3`` is ``0_3`` there."""

_SPLITS: Final = {folder: split for split, folder in FOLDERS.items()}
_WORLDS: Final = {"alfworld-2.1.1": "2.1.1", "alfworld-2.1.2": "2.1.2"}
_RELEASES: Final = [f"json_{release}" for release in _WORLDS.values()]
# Dataset, folder of the split, task and trial: of an official release anywhere, of another dataset
# as written below.
_GAME = re.compile(
    r"(?:(?:.*/)?(?=json_)|data/)([^/]+)/([^/]+)/([^/]+/[^/]+?)(?:/game\.tw-pddl|/traj_data\.json)?"
)


def eto_id(task_id: str) -> str | int:
    """A task's id as ETO writes it: WebShop's as a number, ScienceWorld's as two."""
    if task_id.isdecimal():
        return int(task_id)
    name, _, variation = task_id.rpartition("/")
    if name in SCIENCEWORLD_NUMBERS and name and variation.isdecimal():
        return f"{SCIENCEWORLD_NUMBERS.index(name)}_{variation}"
    return task_id


def our_id(eto: str | int, world: str) -> str:
    """What `eto_id` was made from."""
    text = str(eto)
    number, _, variation = text.partition("_")
    if world == "scienceworld" and number.isdecimal() and variation.isdecimal():
        names = dict(enumerate(SCIENCEWORLD_NUMBERS))
        return f"{names.get(int(number)) or number}/{variation}"
    return text


def eto_records(chats: Iterable[Chat]) -> list[dict[str, Any]]:
    """Chats as ETO's records.

    Raises:
        ValueError: a chat has a worked example, which would be taken for the agent's own.
        DataError: a chat has tool calls.
    """
    others = "messages or llama-factory-sft"
    return [_record(chat, turns_of(chat.messages, others, chat.has_tools)) for chat in chats]


def _record(chat: Chat, turns: list[dict[str, str]]) -> dict[str, Any]:
    # With tools, a system message is the whole instruction.
    if chat.n_prompt != (1 if chat.has_tools else N_ETO_PROMPT):
        raise ValueError("this format has no room for a worked example: leave it out")
    record: dict[str, Any] = {"id": eto_id(chat.task_id), "conversations": turns}
    if chat.score is not None:
        record["reward"] = chat.score
    if "world" in chat.facts:
        record["world"] = chat.facts["world"]
    if record.get("world") == "alfworld":
        split, dataset = str(chat.facts.get("split")), str(chat.facts.get("dataset"))
        folder = f"json_{dataset}" if f"json_{dataset}" in _RELEASES else dataset
        record["game_file"] = f"data/{folder}/{FOLDERS.get(split, split)}/{chat.task_id}"
    return record


def write_eto_sft(path: Path, chats: Iterable[Chat]) -> int:
    """Write a file such as ETO's ``webshop_sft.json``; the number of entries.

    Raises:
        DataError: a chat has tool calls.
    """
    return write_list(path, eto_records(chats))


def write_llama_factory_sft(path: Path, chats: Iterable[Chat]) -> int:
    """Write LLaMA-Factory's sharegpt form, and name the file in ``dataset_info.json`` beside it.

    The records are those of `write_eto_sft`, tool calls included; LLaMA-Factory passes over the
    further columns.

    Raises:
        DataError: a chat has a text beside a call, or several calls in a message.
    """
    chats = list(chats)
    records = []
    for chat in chats:
        record = _record(chat, turns_with_calls(chat.messages, "messages"))
        tools = tools_column(chat.has_tools)
        records.append(record | {name: json_text(value) for name, value in tools.items()})
    n_entries = write_list(path, records)
    columns = {"tools": "tools"} if any("tools" in record for record in records) else {}
    describe_dataset(path, {"messages": "conversations"} | columns)
    return n_entries


def describe_dataset(path: Path, columns: Mapping[str, str], **more: Any) -> None:
    """Add a data file to the ``dataset_info.json`` of its folder, by the file's stem.

    Raises:
        CorruptDataError: there is such a file already and it is no JSON object.
    """
    info_path = path.with_name("dataset_info.json")
    info = read_json_object(info_path) if info_path.exists() else {}
    entry = {"file_name": path.name, "formatting": "sharegpt", **more, "columns": dict(columns)}
    write_json(info_path, info | {path.stem: entry})


def read_eto_sft(
    path: Path, *, world: str | None = None, dataset: str = "", split: str = "train"
) -> list[Chat]:
    """Read ETO's published SFT files and those of the two writers above.

    Args:
        path: the file.
        world: ``"webshop"``, ``"alfworld-2.1.1"`` and so on; by default what the entries state, or,
            as ETO's own state nothing, what they look like.
        dataset: the dataset they are from, where no game file says it; of the published files
            ``"full"`` for WebShop and ``"eto"`` for ScienceWorld.
        split: the split they are from, where no game file says it.

    Returns:
        The chats. Not in the files, and so not in the chats: the task set's hash, the task's kind
        in WebShop, the score where there is no ``reward``. An id that comes twice (as 4116 does in
        WebShop's published file) gets the seeds 0, 1, ….

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: an entry is malformed; names it.
        UnknownNameError: the world cannot be told, or is none of ours.
    """
    if world is not None:
        known_world(world)
    chats: list[Chat] = []
    n_seen: dict[str, int] = {}
    for entry in read_entries(path):
        check_columns(entry)
        messages = messages_of(entry, "conversations")
        messages = number_calls([*system_of(entry, messages), *messages])
        stated = _world_of(entry, messages, world)
        theirs = world or stated
        n_prompt = _n_prompt(messages, theirs, had_tools(entry, messages))
        if len(messages) <= n_prompt + 1 or messages[-1]["role"] != "assistant":
            raise entry.bad("no task after the instruction, or the last message is not the agent's")
        task_id, facts = _task_of(entry, theirs)
        facts = {
            "env_id": find_world(theirs).env_id,
            "world": theirs.partition("-")[0],
            "dataset": dataset,
            "split": split,
        } | facts
        facts["seed"] = n_seen[task_id] = n_seen.get(task_id, -1) + 1
        score = number_of(entry, "reward")
        facts |= {"policy": path.stem}
        chats.append(Chat(messages, n_prompt, task_id, score, facts, had_tools(entry, messages)))
    return chats


def _n_prompt(messages: Sequence[Message], world: str, has_tools: bool) -> int:
    """The number of messages before the task: a system message, instruction and acknowledgement.

    Files of other programs may lack the last two: the first reply is then an action.
    """
    start = int(messages[0]["role"] == "system")
    reply = messages[start + 1]["content"] if len(messages) > start + 1 else ""
    acts = has_tools or not find_world(world).format.parse(reply).error
    return start if acts else start + N_ETO_PROMPT


def world_of_chat(chat: Chat) -> str:
    """The world that a chat says it comes from, in ALFWorld with the wording of its games.

    Raises:
        UnknownNameError: it says none.
    """
    world, dataset = str(chat.facts.get("world", "")), str(chat.facts.get("dataset", ""))
    if not world:
        raise UnknownNameError("world stated for task", chat.task_id, (), "Give world=.")
    if world == "alfworld":
        return "alfworld-2.1.2" if dataset.endswith("2.1.2") else "alfworld-2.1.1"
    return world


def _world_of(entry: Entry, messages: Sequence[Message], world: str | None) -> str:
    """The world that an entry states, else that of ETO's files which has such entries.

    Raises:
        CorruptDataError: it states another than `world`.
        UnknownNameError: it states none of ours, or none although `world` is None.
    """
    stated, game_file = entry.record.get("world"), entry.record.get("game_file")
    if stated is not None:
        family = known_world(str(stated), f"world of {entry.place}").name
        if world is not None and find_world(world).name != family:
            raise entry.bad(f"'world' is {stated!r}, but world={world!r} was requested")
    if world is not None:
        return world
    if stated is not None and stated != "alfworld":
        return str(stated)
    if isinstance(game_file, str):
        return "alfworld-2.1.2" if "2.1.2" in game_file else "alfworld-2.1.1"
    if any("[SEP]" in message["content"] for message in messages[: N_ETO_PROMPT + 2]):
        return "webshop"
    if re.fullmatch(r"\d+_\d+", str(entry.record.get("id"))):
        return "scienceworld"
    hint = "Give world=, such as webshop, alfworld-2.1.1 or scienceworld."
    raise UnknownNameError("known world in", entry.place, (), hint)


def _task_of(entry: Entry, world: str) -> tuple[str, dict[str, Any]]:
    """The task's id, and what else an entry says of where it comes from."""
    identity = entry.record.get("id")
    if not isinstance(identity, (str, int)) or isinstance(identity, bool):
        raise entry.bad(f"'id' is {identity!r}, not a text or a number")
    if world.startswith("alfworld"):
        return _game_of(entry, str(identity), world)
    task_id = our_id(identity, world)
    return task_id, {"kind": task_id.partition("/")[0]} if world == "scienceworld" else {}


def _game_of(entry: Entry, identity: str, world: str) -> tuple[str, dict[str, Any]]:
    game_file = entry.record.get("game_file")
    if game_file is None:
        if identity.count("/") != 1:
            raise entry.bad("there is no 'game_file', and 'id' does not name a game")
        return identity, {"kind": identity.partition("-")[0]}
    if not isinstance(game_file, str):
        raise entry.bad(f"'game_file' is {game_file!r:.60}, not a path")
    found = _GAME.fullmatch(game_file.replace("\\", "/").rstrip("/"))
    dataset, folder, task_id = found.groups() if found else ("", "", "")
    dataset = dataset.removeprefix("json_") if dataset in _RELEASES else dataset
    if folder not in _SPLITS or dataset.startswith("json_"):
        raise entry.bad(
            f"'game_file' is {game_file!r:.160}; expected data/json_2.1.1/SPLIT/TASK/TRIAL (or "
            f"json_2.1.2, or another dataset's name), where SPLIT is {', '.join(_SPLITS)}"
        )
    if world in _WORLDS and dataset in _WORLDS.values() and dataset != _WORLDS[world]:
        raise entry.bad(f"'game_file' is of release {dataset}, but world={world!r} was requested")
    facts = {"dataset": dataset, "split": _SPLITS[folder]}
    return task_id, {**facts, "kind": task_id.partition("-")[0]}


def write_messages(path: Path, chats: Iterable[Chat]) -> int:
    """Write Hugging Face's ``messages``, one chat a line; the number of lines.

    Beside ``messages`` a line has ``task_id``, ``score``, ``n_prompt`` (messages before the task)
    and the facts, so that `read_messages` gives the same chats; with tool calls also ``tools``.
    """
    return write_lines(path, (_messages_record(chat) for chat in chats))


def _messages_record(chat: Chat) -> dict[str, Any]:
    facts = {name: chat.facts[name] for name in FACTS if name in chat.facts}
    return {
        "messages": [with_objects(message) for message in chat.messages],
        "task_id": chat.task_id,
        "score": chat.score,
        "n_prompt": chat.n_prompt,
        **facts,
        **tools_column(chat.has_tools),
    }


def read_messages(path: Path) -> list[Chat]:
    """Read what `write_messages` wrote.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line is malformed; names it.
    """
    return [_chat_of(entry) for entry in read_entries(path)]


def _chat_of(entry: Entry) -> Chat:
    check_columns(entry)
    messages = number_calls(messages_of(entry, "messages"))
    n_prompt, task_id = entry.record.get("n_prompt"), entry.record.get("task_id")
    if type(n_prompt) is not int or not 0 <= n_prompt < len(messages):
        raise entry.bad(f"'n_prompt' is {n_prompt!r}: it tells where the task begins")
    if not isinstance(task_id, str):
        raise entry.bad(f"'task_id' is {task_id!r}, not a text")
    facts: dict[str, Any] = {n: entry.record[n] for n in FACTS if n in entry.record}
    for name, value in facts.items():
        if type(value) is not (int if name in ("seed", "sample") else str):
            raise entry.bad(f"{name!r} is {value!r:.60}")
    has_tools = had_tools(entry, messages)
    return Chat(messages, n_prompt, task_id, number_of(entry, "score"), facts, has_tools)
