"""Preference pairs are checked, and survive being written to a file and read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eto_agents.preference import PreferencePair, read_pairs, write_pairs
from eto_agents.trajectory import Message, ToolCall
from eto_envs.errors import CorruptDataError, DataNotFoundError


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def agent(text: str) -> Message:
    return {"role": "assistant", "content": text}


CALL: ToolCall = {
    "id": "1",
    "type": "function",
    "function": {"name": "act", "arguments": '{"action": "east"}'},
}
CALLING: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: Message = {"role": "tool", "content": "room 1", "tool_call_id": "1"}

PAIR = PreferencePair(
    prompt=[user("Walk."), agent("OK"), user("room 0 \u2028 é")],
    chosen=[agent("Action: east")],
    rejected=[agent("Action: west"), user("Nothing happens."), agent("Action: west")],
    chosen_score=1.0,
    rejected_score=0.25,
    task_id="room2",
    env_id="eto-test/Corridor-v0",
    split="train",
    chosen_policy="expert",
    rejected_policy="random",
)


def test_pairs_survive_a_round_trip(tmp_path: Path) -> None:
    lone = dataclasses.replace(PAIR, task_id="room3", chosen=[agent("\ud83d")], chosen_score=None)
    calls = dataclasses.replace(
        PAIR, prompt=[*PAIR.prompt, CALLING, RESULT], chosen=[CALLING], rejected=[agent("Hm.")]
    )
    path = tmp_path / "pairs.jsonl"
    assert write_pairs(path, iter([PAIR, lone, calls])) == 3
    assert list(read_pairs(path)) == [PAIR, lone, calls]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "prompt does not end where the agent replies"),
        ({"prompt": [user("a"), agent("b")]}, "prompt does not end where the agent replies"),
        ({"prompt": [user("a"), CALLING]}, "prompt does not end where the agent replies"),
        ({"prompt": [user("a"), user("b")]}, "the roles must be user and assistant in turn"),
        ({"chosen": []}, "chosen does not begin and end with the agent's"),
        ({"chosen": [agent("a"), user("b")]}, "chosen does not begin and end with the agent's"),
        ({"rejected": [user("a"), agent("b")]}, "rejected does not begin and end"),
        ({"rejected": [agent("a"), agent("b")]}, "the roles must be user and assistant in turn"),
        ({"rejected": [CALLING, user("b"), agent("c")]}, "a tool's result for each tool call"),
        ({"chosen": [{"role": "tool", "content": "x"}]}, "chosen does not begin and end"),
        ({"chosen": [{"role": "assistant", "content": 3}]}, "'content': 3}, which is no message"),
        ({"chosen": [{**agent("x"), "tool_calls": [1]}]}, "which is no message"),
    ],
)
def test_roles_and_contents_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PAIR, **changes)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"schema": 2}', PAIR.to_json().replace('"schema": 2', '"schema": 7')]
)
def test_errors_name_the_bad_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{PAIR.to_json()}\n{line}\n", encoding="utf-8")
    with pytest.raises(CorruptDataError, match=r"pairs\.jsonl, line 2: "):
        list(read_pairs(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no preference pairs"):
        list(read_pairs(tmp_path / "pairs.jsonl"))
