"""Tool calls go into the formats that have a place for them, and come back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eto_agents.cli import main
from eto_agents.formats.chats import Chat, chats_of, trajectory_of
from eto_agents.formats.folder import write_folder
from eto_agents.formats.preference import (
    read_llama_factory_ranking,
    read_trl,
    write_eto_preference,
    write_llama_factory_ranking,
    write_trl,
)
from eto_agents.formats.sft import (
    read_eto_sft,
    read_messages,
    world_of_chat,
    write_eto_sft,
    write_llama_factory_sft,
    write_messages,
)
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.preference import PreferencePair
from eto_agents.react.prompts import load_prompts
from eto_agents.react.protocols import call_of
from eto_agents.react.tools import ACT
from eto_agents.rollout import run_episode
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Message, Trajectory
from eto_envs.errors import CorruptDataError, DataError, EtoError


def saying(action: str, number: int, content: str = "") -> Message:
    call = call_of(action, f"call-{number}")
    return {"role": "assistant", "content": content, "tool_calls": [call]}


CALLS = [saying("look", 1), {"role": "assistant", "content": "Hm."}, saying("open é", 2)]
THOUGHTS = [saying("look", 1, "I look."), *CALLS[1:]]


def played(replies: Sequence[Message], *, with_example: bool = False) -> Trajectory:
    policy = ReActPolicy(ScriptedModel(replies), protocol="tool", with_example=with_example)
    return run_episode(
        policy, "ETO-ALFWorld-v0", 0, split="seen", dataset="mini", max_steps=len(replies)
    )


def chats(*trajectories: Trajectory, **arguments: Any) -> list[Chat]:
    return list(chats_of(trajectories, load_prompts(), **arguments))


def test_messages_come_back_whole(tmp_path: Path) -> None:
    for with_example in (False, True):
        trajectory = played(THOUGHTS, with_example=with_example)
        [chat] = chats(trajectory, with_example=with_example)
        assert chat.messages == trajectory.messages
        path = tmp_path / f"{with_example}.jsonl"
        write_messages(path, [chat])
        assert read_messages(path) == [chat]
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["tools"] == [ACT]
        first = record["messages"][chat.n_prompt + 1]["tool_calls"][0]
        assert first["function"] == {"name": "act", "arguments": {"action": "look"}}
        back = trajectory_of(chat, world_of_chat(chat))
        assert [s.action for s in back.steps] == [s.action for s in trajectory.steps]
        assert [s.thought for s in back.steps] == [s.thought for s in trajectory.steps]
        assert back.steps[0].observation == trajectory.steps[0].observation
        assert [s.is_valid for s in back.steps][:2] == [True, False]
        assert (back.initial_observation, back.messages) == (
            trajectory.initial_observation,
            trajectory.messages,
        )


def test_llama_factorys_turns(tmp_path: Path) -> None:
    trajectory = played(CALLS, with_example=True)
    written = chats(trajectory)  # the worked example is left out
    path = tmp_path / "x.json"
    write_llama_factory_sft(path, written)
    [record] = json.loads(path.read_text(encoding="utf-8"))
    turns = record["conversations"]
    assert [turn["from"] for turn in turns] == [
        "system",
        "human",
        "function_call",
        "observation",
        "gpt",
        "human",
        "function_call",
    ]
    assert json.loads(turns[2]["value"]) == {"name": "act", "arguments": {"action": "look"}}
    assert json.loads(record["tools"]) == [ACT]
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["x"]["columns"] == {"messages": "conversations", "tools": "tools"}
    [chat] = read_eto_sft(path)
    assert (chat.messages, chat.n_prompt) == (written[0].messages, 1)
    [episode] = write_folder(tmp_path / "run", path, [chat])
    assert [step.action for step in episode.steps] == ["look", "", "open é"]
    [stored] = TrajectoryStore(tmp_path / "run" / "episodes.jsonl").read()
    assert stored.messages == written[0].messages


TWO = [{**CALLS[0], "tool_calls": [call_of("look", "a"), call_of("look", "b")]}]
BROKEN = [
    {
        **CALLS[0],
        "tool_calls": [{**call_of("look", "a"), "function": {"name": "act", "arguments": "look"}}],
    }
]


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        (THOUGHTS, "a text beside a tool call"),
        (TWO, "several tool calls in a message"),
        (BROKEN, "arguments that are no JSON object"),
    ],
)
def test_what_llama_factory_has_no_place_for(
    replies: list[Any], problem: str, tmp_path: Path
) -> None:
    written = chats(played(replies))
    with pytest.raises(DataError, match=f"no place for {problem}: choose messages"):
        write_llama_factory_sft(tmp_path / "x.json", written)
    write_messages(tmp_path / "x.jsonl", written)
    assert read_messages(tmp_path / "x.jsonl") == written


def test_etos_files_have_no_place_for_calls(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calls: choose messages or llama-factory-sft"):
        write_eto_sft(tmp_path / "x.json", chats(played(CALLS)))
    with pytest.raises(DataError, match="calls: choose trl or llama-factory-ranking"):
        write_eto_preference(tmp_path / "x.json", [PAIR])
    assert not (tmp_path / "x.json").exists()


USER: Message = {"role": "user", "content": "Go."}
RESULT: Message = {"role": "tool", "content": "A page.", "tool_call_id": "call-1"}
PAIR = PreferencePair(
    prompt=[{"role": "system", "content": "Act."}, USER],
    chosen=[saying("look", 1), RESULT, saying("open é", 2)],
    rejected=[saying("look", 1), RESULT, {"role": "assistant", "content": "Hm."}],
    chosen_score=1.0,
    rejected_score=0.0,
    task_id="7",
)


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_trl, read_trl), (write_llama_factory_ranking, read_llama_factory_ranking)],
)
def test_pairs_come_back(
    write: Callable[..., int], read: Callable[[Path], list[PreferencePair]], tmp_path: Path
) -> None:
    path = tmp_path / "pairs.json"
    assert write(path, [PAIR]) == 1
    assert read(path) == [PAIR]


def test_llama_factorys_ranking(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    write_llama_factory_ranking(path, [PAIR])
    [record] = json.loads(path.read_text(encoding="utf-8"))
    assert [turn["from"] for turn in record["conversations"]] == [
        "system",
        "human",
        "function_call",
        "observation",
    ]
    assert (record["chosen"]["from"], record["rejected"]["from"]) == ("function_call", "gpt")
    assert json.loads(record["tools"]) == [ACT]
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["pairs"]["columns"]["tools"] == "tools"
    after = dataclasses.replace(PAIR, prompt=[*PAIR.prompt, saying("x", 0), RESULT, USER])
    with pytest.raises(DataError, match="no place for a user who goes on after a result"):
        write_llama_factory_ranking(path, [after])


TURNS = [
    {"from": "human", "value": "A room."},
    {"from": "function_call", "value": '[{"name": "act", "arguments": "{\\"action\\": \\"a\\"}"}]'},
    {"from": "observation", "value": "You see."},
    {"from": "function_call", "value": '{"name": "act", "arguments": {"action": "b"}}'},
]
OPENAI = [
    {"role": "user", "content": "A room."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "act", "arguments": {"action": "a"}}}],
    },
    {"role": "tool", "name": "act", "content": "You see."},
    {"role": "assistant", "content": None, "tool_calls": [call_of("b", "x")]},
]


@pytest.mark.parametrize(("turns", "last"), [(TURNS, "call-2"), (OPENAI, "x")])
def test_calls_of_other_programs(turns: list[Any], last: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"id": 7, "conversations": turns, "tools": json.dumps([ACT])}]))
    [chat] = read_eto_sft(path, world="webshop")
    calls = [call for message in chat.messages for call in message.get("tool_calls", ())]
    assert [call["id"] for call in calls] == ["call-1", last]
    assert [call["function"]["arguments"] for call in calls] == [
        '{"action": "a"}',
        '{"action": "b"}',
    ]
    assert chat.messages[2]["tool_call_id"] == "call-1"
    assert [step.action for step in trajectory_of(chat, "webshop").steps] == ["a", "b"]


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "function_call", "value": "look"},
        {"from": "function_call", "value": "3"},
        {"from": "function_call", "value": '{"name": "act"}'},
        {"from": "function_call", "value": "[" * 100_000},
        {"from": "function_call", "value": None},
        {"role": "assistant", "content": "", "tool_calls": 3},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": None},
    ],
)
def test_odd_calls_are_named(turn: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"id": 7, "conversations": [TURNS[0], turn]}]))
    with pytest.raises(CorruptDataError, match=r"entry 1: 'conversations' has .*no message"):
        read_eto_sft(path, world="webshop")


def test_a_call_without_a_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"id": 7, "conversations": [*TURNS[:2], TURNS[3]]}]))
    with pytest.raises(CorruptDataError, match=r"entry 1: .*a tool's result for each tool call"):
        write_folder(tmp_path / "run", path, read_eto_sft(path, world="webshop"), world="webshop")


@pytest.mark.parametrize("tools", ['[{"name": "search"}]', [{"name": "act"}, {"name": "x"}], 3])
def test_other_tools_are_refused(tools: object, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"id": 7, "conversations": TURNS, "tools": tools}]))
    with pytest.raises(CorruptDataError, match=r"'tools' is .*have one, 'act'"):
        read_eto_sft(path, world="webshop")


def test_the_command_line_says_which_format_has_a_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TrajectoryStore(tmp_path / "episodes.jsonl") as store:
        store.append(played(CALLS))
    source = str(tmp_path / "episodes.jsonl")
    arguments = ["--min-score", "0"]
    with pytest.raises(SystemExit):
        main(["export", "eto-sft", source, str(tmp_path / "x.json"), *arguments])
    assert "choose messages or llama-factory-sft" in capsys.readouterr().err
    main(["export", "messages", source, str(tmp_path / "x.jsonl"), *arguments])
    main(["import", "messages", str(tmp_path / "x.jsonl"), str(tmp_path / "back")])
    [back] = TrajectoryStore(tmp_path / "back" / "episodes.jsonl").read()
    assert [step.action for step in back.steps] == ["look", "", "open é"]


def test_prompts_for_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompt.toml").write_text(
        'world = "alfworld-2.1.1"\ninstruction = "Write it as in: Action: look"\n'
    )
    with pytest.raises(EtoError, match="tells the agent to write its action as text"):
        list(chats_of([played(CALLS)], load_prompts(str(tmp_path / "prompt.toml"))))


@pytest.mark.torch
@pytest.mark.slow
def test_trl_takes_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    from eto_agents.models.tiny import train_tokenizer
    from eto_agents.react.chat import encode, find_template

    tokenizer = train_tokenizer(["Go. A page."], vocab_size=300, template="qwen2.5")
    tokenizer.chat_template = find_template("qwen2.5").source
    [chat] = chats(played(THOUGHTS))
    write_messages(tmp_path / "x.jsonl", [chat])
    write_trl(tmp_path / "pairs.jsonl", [PAIR])
    whole = {
        "x": [("messages", chat.messages)],
        "pairs": [("chosen", [*PAIR.prompt, *PAIR.chosen])],
    }
    for name, columns in whole.items():
        data = str(tmp_path / f"{name}.jsonl")
        cache = str(tmp_path / "cache")
        [row] = load_dataset("json", data_files=data, split="train", cache_dir=cache)
        for column, messages in columns:
            read = row[column] if column == "messages" else row["prompt"] + row[column]
            ids = tokenizer.apply_chat_template(read, tools=row["tools"], return_dict=False)
            assert ids == encode(messages, tokenizer, "qwen2.5", tools=[ACT]).ids
