"""Files of preference pairs: ETO's, TRL's, and LLaMA-Factory's ranking.

ETO (``construct_preference.py``) and TRL take whole conversations as chosen and rejected; ETO in
the from/value form and one JSON list, TRL as messages, here one pair a line. LLaMA-Factory compares
two single answers to one conversation: the turn at which a pair's two episodes part. What follows
it is kept in a column of text that LLaMA-Factory passes over, so that a pair can be read back.
Tool calls are in the latter two formats only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from eto_agents.formats.files import (
    Entry,
    check_columns,
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
from eto_agents.formats.sft import describe_dataset
from eto_agents.preference import PreferencePair
from eto_agents.react.tools import uses_tools
from eto_agents.strict_json import json_text
from eto_agents.trajectory import Message, with_objects
from eto_envs.files import parse_json

_TEXTS: Final = (
    "env_id",
    "dataset",
    "split",
    "tasks_sha256",
    "chosen_policy",
    "rejected_policy",
)
_COLUMNS: Final = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}


def write_eto_preference(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write ETO's file of ``{"id", "prompt", "chosen", "rejected"}``; the number of pairs.

    Scores and what else is known of a pair are further keys, which ETO's trainer does not read.

    Raises:
        DataError: a pair has tool calls.
    """
    others = "trl or llama-factory-ranking"
    return write_list(
        path,
        (
            {
                "id": pair.task_id,
                "prompt": turns_of(pair.prompt, others),
                "chosen": turns_of(pair.chosen, others),
                "rejected": turns_of(pair.rejected, others),
                **_facts(pair),
            }
            for pair in pairs
        ),
    )


def write_trl(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write TRL's conversational preference form, one pair a line; the number of pairs."""
    return write_lines(
        path,
        (
            {
                "prompt": [with_objects(message) for message in pair.prompt],
                "chosen": [with_objects(message) for message in pair.chosen],
                "rejected": [with_objects(message) for message in pair.rejected],
                "task_id": pair.task_id,
                **_facts(pair),
                **_tools_column(pair),
            }
            for pair in pairs
        ),
    )


def write_llama_factory_ranking(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write LLaMA-Factory's ranking form and its entry in ``dataset_info.json``.

    Returns:
        The number of pairs written. Left out are pairs whose episodes never part by what the agent
        says: one is the beginning of the other, or the world answered differently.

    Raises:
        DataError: a pair has a text beside a call, or several calls in a message.
    """
    records = [record for pair in pairs if (record := _ranking(pair)) is not None]
    n_written = write_list(path, records)
    columns = {"tools": "tools"} if any("tools" in record for record in records) else {}
    describe_dataset(path, _COLUMNS | columns, ranking=True)
    return n_written


def _ranking(pair: PreferencePair) -> dict[str, Any] | None:
    both = list(zip(pair.chosen, pair.rejected, strict=False))
    n_shared = next((i for i, (one, other) in enumerate(both) if one != other), len(both))
    if n_shared == len(both) or pair.chosen[n_shared]["role"] != "assistant":
        return None
    chosen, rejected = pair.chosen[n_shared:], pair.rejected[n_shared:]
    parts = {
        "conversations": [*pair.prompt, *pair.chosen[:n_shared]],
        "chosen": chosen[:1],
        "rejected": rejected[:1],
        "after_chosen": chosen[1:],
        "after_rejected": rejected[1:],
    }
    turns = {name: turns_with_calls(part, "trl") for name, part in parts.items()}
    rest = {
        "n_prompt": len(pair.prompt),
        "chosen": turns["after_chosen"],
        "rejected": turns["after_rejected"],
    }
    return {
        "conversations": turns["conversations"],
        "chosen": turns["chosen"][0],
        "rejected": turns["rejected"][0],
        "id": pair.task_id,
        **_facts(pair),
        **{name: json_text(value) for name, value in _tools_column(pair).items()},
        "rest": json.dumps(rest),
    }


def _tools_column(pair: PreferencePair) -> dict[str, Any]:
    return tools_column(uses_tools([*pair.prompt, *pair.chosen, *pair.rejected]))


def _facts(pair: PreferencePair) -> dict[str, Any]:
    scores = {"chosen_score": pair.chosen_score, "rejected_score": pair.rejected_score}
    return scores | {name: getattr(pair, name) for name in _TEXTS}


def read_eto_preference(path: Path) -> list[PreferencePair]:
    """Read ETO's preference file; scores are None where it has none.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: an entry is malformed; names it.
    """
    return [_pair(entry, "id") for entry in read_entries(path)]


def read_trl(path: Path) -> list[PreferencePair]:
    """Read TRL's conversational preference form (a list or lines); errors as above."""
    return [_pair(entry, "task_id") for entry in read_entries(path)]


def read_llama_factory_ranking(path: Path) -> list[PreferencePair]:
    """Read LLaMA-Factory's ranking form; whole pairs if `write_llama_factory_ranking` wrote it."""
    return [_whole_pair(entry) for entry in read_entries(path)]


def _whole_pair(entry: Entry) -> PreferencePair:
    check_columns(entry)
    conversation = messages_of(entry, "conversations")
    chosen, rejected = _answer(entry, "chosen"), _answer(entry, "rejected")
    text = entry.record.get("rest", "{}")
    rest = parse_json(text, f"{entry.place}: 'rest'") if isinstance(text, str) else None
    n_prompt = rest.get("n_prompt", len(conversation)) if isinstance(rest, dict) else None
    if not isinstance(rest, dict) or type(n_prompt) is not int:
        raise entry.bad(f"'rest' is not what this library wrote: {text!r:.60}")
    after = Entry(entry.place, rest)
    shared = conversation[n_prompt:]
    record = {
        **entry.record,
        "prompt": conversation[:n_prompt],
        "chosen": [*shared, chosen, *(messages_of(after, "chosen") if rest.get("chosen") else [])],
        "rejected": [
            *shared,
            rejected,
            *(messages_of(after, "rejected") if rest.get("rejected") else []),
        ],
    }
    return _pair(Entry(entry.place, record), "id")


def _answer(entry: Entry, key: str) -> Message:
    return messages_of(Entry(entry.place, {key: [entry.record.get(key)]}), key)[0]


def _pair(entry: Entry, id_key: str) -> PreferencePair:
    check_columns(entry)
    texts: dict[str, Any] = {name: entry.record.get(name) or "" for name in _TEXTS}
    task_id = entry.record.get(id_key, "")
    if type(task_id) not in (str, int):
        raise entry.bad(f"{id_key!r} is {task_id!r:.60}, not a text or a number")
    for name, text in texts.items():
        if not isinstance(text, str):
            raise entry.bad(f"{name!r} is {text!r:.60}, not a text")
    prompt, chosen, rejected = (messages_of(entry, key) for key in ("prompt", "chosen", "rejected"))
    prompt = [*system_of(entry, prompt), *prompt]
    for side in (chosen, rejected):  # each goes on where the prompt ends
        number_calls([*prompt, *side])
    try:
        return PreferencePair(
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            chosen_score=_score(entry, "chosen"),
            rejected_score=_score(entry, "rejected"),
            task_id=str(task_id),
            **texts,
        )
    except ValueError as error:
        raise entry.bad(error) from error


def _score(entry: Entry, side: str) -> float | None:
    """The score of a side, by our name or by TRL's."""
    name = f"{side}_score"
    return number_of(entry, name if name in entry.record else f"score_{side}")
