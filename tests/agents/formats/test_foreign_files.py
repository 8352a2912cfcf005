"""What files of other programs contain is used or refused, never dropped without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_agents.formats.folder import prompt_toml, write_folder
from eto_agents.formats.preference import (
    read_eto_preference,
    read_llama_factory_ranking,
    read_trl,
)
from eto_agents.formats.sft import read_eto_sft, read_messages
from eto_agents.react.prompts import parse_prompt
from eto_envs.errors import CorruptDataError, EtoError

TASK = {"from": "human", "value": "WebShop [SEP] Instruction: [SEP] i need a lamp [SEP] x"}
PAGE = {"from": "human", "value": "Observation:\nInstruction: [SEP] page"}
SEARCH = {"from": "gpt", "value": "Thought: I look.\nAction: search[lamp]"}
BUY = {"from": "gpt", "value": "Thought: It fits.\nAction: click[Buy Now]"}
HEAD = [{"from": "human", "value": "You are web shopping."}, {"from": "gpt", "value": "OK"}]
TURNS = [TASK, SEARCH, PAGE, BUY]
SYSTEM = {"from": "system", "value": "You are web shopping."}


def write(path: Path, *records: Any) -> Path:
    path.write_text(json.dumps(list(records)))
    return path


@pytest.mark.parametrize(
    ("record", "n_prompt"),
    [
        ({"system": SYSTEM["value"], "conversations": TURNS}, 1),
        ({"conversations": [SYSTEM, *TURNS]}, 1),
        ({"system": SYSTEM["value"], "conversations": HEAD + TURNS}, 3),
        ({"system": "", "tools": "[]", "images": [], "conversations": HEAD + TURNS}, 2),
        ({"conversations": TURNS}, 0),
        ({"conversations": HEAD + TURNS}, 2),
    ],
)
def test_a_system_message_is_the_instruction(
    record: dict[str, Any], n_prompt: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.json", record | {"id": 7})
    (chat,) = read_eto_sft(path)
    assert chat.n_prompt == n_prompt
    if n_prompt in (1, 3):
        assert chat.messages[0] == {"role": "system", "content": SYSTEM["value"]}
    (episode,) = write_folder(tmp_path / "run", path, [chat])
    assert [step.action for step in episode.steps] == ["search[lamp]", "click[Buy Now]"]
    assert episode.goal == "i need a lamp"
    assert len(episode.messages) == n_prompt + 4
    assert (tmp_path / "run/prompt.toml").exists() == (n_prompt == 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"system": 3}, "'system' is 3, not a text"),
        ({"system": "x", "conversations": [SYSTEM, *TURNS]}, "and a system message in the chat"),
        ({"tools": '[{"name": "search"}]'}, "'tools' is"),
        ({"images": ["a.png"]}, "'images' is"),
        ({"conversations": [TASK, SEARCH | {"tool_calls": [{"id": 1}]}]}, "'tool_calls'"),
        ({"conversations": [TASK, SEARCH | {"weight": 0}]}, "'weight'"),
        ({"world": "scienceworld"}, "'world' is 'scienceworld', but world='webshop'"),
    ],
)
def test_what_has_no_place_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"id": 7, "conversations": TURNS} | more)
    with pytest.raises(CorruptDataError, match=rf"x\.json, entry 1: .*{message}"):
        read_eto_sft(path, world="webshop")


GAME = "pick_and_place_simple-Mug-None-Desk-301/trial_T1"
ROOM = {"from": "human", "value": "A room.\nYour task is to: put a mug in desk."}
LOOK = {"from": "gpt", "value": "Thought: t\nAction: look"}


@pytest.mark.parametrize(
    ("game_file", "expected"),
    [
        (f"data/json_2.1.1/train/{GAME}", ("2.1.1", "train")),
        (f"data/json_2.1.1/valid_seen/{GAME}/", ("2.1.1", "seen")),
        (f"/x/y/json_2.1.2/valid_unseen/{GAME}/game.tw-pddl", ("2.1.2", "unseen")),
        (f"json_2.1.1/valid_unseen/{GAME}/traj_data.json", ("2.1.1", "unseen")),
        (f"C:\\data\\json_2.1.1\\valid_seen\\{GAME}\\game.tw-pddl".replace("/", "\\"),
         ("2.1.1", "seen")),
        (f"data/mini/valid_seen/{GAME}", ("mini", "seen")),
        (f"data/json_2.1.3/valid_seen/{GAME}", None),
        (f"data/json_2.1.1/tests_seen/{GAME}", None),
        ("data/json_2.1.1/valid_seen/trial_T1", None),
        ("games/7.json", None),
        ("", None),
        (7, None),
    ],
)  # fmt: skip
def test_a_game_file_is_understood_or_refused(
    game_file: object, expected: tuple[str, str] | None, tmp_path: Path
) -> None:
    record = {"id": 3, "game_file": game_file, "conversations": [*HEAD, ROOM, LOOK]}
    path = write(tmp_path / "x.json", record)
    world = None if isinstance(game_file, str) else "alfworld-2.1.1"
    if expected is None:
        with pytest.raises(CorruptDataError, match="entry 1: 'game_file' is"):
            read_eto_sft(path, world=world)
        return
    (chat,) = read_eto_sft(path)
    assert (chat.task_id, chat.facts["kind"]) == (GAME, "pick_and_place_simple")
    assert (chat.facts["dataset"], chat.facts["split"]) == expected


def test_a_game_must_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"id": 3, "conversations": [*HEAD, ROOM, LOOK]})
    with pytest.raises(CorruptDataError, match="no 'game_file'"):
        read_eto_sft(path, world="alfworld-2.1.1")
    path = write(path, {"id": 3, "game_file": f"json_2.1.1/train/{GAME}", "conversations": TURNS})
    with pytest.raises(CorruptDataError, match=r"of release 2\.1\.1, but world='alfworld-2\.1\.2'"):
        read_eto_sft(path, world="alfworld-2.1.2")


def test_a_requested_world_must_be_the_stated_one(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Action: y"}]
    record = {"messages": chat, "n_prompt": 0, "task_id": "1", "world": "webshop"}
    path = write(tmp_path / "x.json", record)
    with pytest.raises(CorruptDataError, match="entry 1: its world is 'webshop'"):
        write_folder(tmp_path / "run", path, read_messages(path), world="scienceworld")
    with pytest.raises(EtoError, match="no world 'maze'"):
        write_folder(tmp_path / "run", path, read_messages(path), world="maze")
    assert not (tmp_path / "run").exists()


PAIR = {
    "prompt": [{"role": "user", "content": "task"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "assistant", "content": "b"}],
}


def test_columns_of_preference_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    (pair,) = read_trl(write(path, PAIR | {"score_chosen": 0.75, "score_rejected": 0.5}))
    assert (pair.chosen_score, pair.rejected_score) == (0.75, 0.5)
    for read in (read_trl, read_eto_preference):
        (pair,) = read(write(path, PAIR | {"system": "Be brief."}))
        assert pair.prompt[0] == {"role": "system", "content": "Be brief."}
        with pytest.raises(CorruptDataError, match="'tools' is"):
            read(write(path, PAIR | {"tools": [{"name": "search"}]}))
    ranking = {
        "system": "Be brief.",
        "conversations": [{"from": "human", "value": "task"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    (pair,) = read_llama_factory_ranking(write(path, ranking))
    assert [message["role"] for message in pair.prompt] == ["system", "user"]


READERS = [read_eto_sft, read_messages, read_trl, read_eto_preference, read_llama_factory_ranking]


@pytest.mark.parametrize("read", READERS)
def test_every_reader_takes_a_byte_order_mark_and_names_what_is_wrong(
    read: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    record = {"id": 7, "conversations": HEAD + TURNS, "task_id": "7", "n_prompt": 0, **PAIR}
    record |= {"messages": PAIR["prompt"]}
    if read is read_llama_factory_ranking:
        record |= {"chosen": BUY, "rejected": SEARCH, "conversations": [TASK]}
    lines = json.dumps(record)
    for text in (f"[{lines}]", f"{lines}\n{lines}\n"):
        path.write_text(text, encoding="utf-8")
        expected = read(path)
        path.write_text(text, encoding="utf-8-sig")
        assert read(path) == expected
    for text, message in (
        ("version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ('{"a":' * 100_000, "nested more than 100 levels deep"),
        ('[{"a":' + "[" * 200 + "]" * 200 + "}]", "nested more than 100 levels deep"),
        ('{"a": ' + "1" * 5_000 + "}", "not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(CorruptDataError, match=rf"x\.json.*{message}"):
            read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(EtoError, match=r"cannot read .*x\.json: Is a directory"):
        read(path)


def test_a_prompt_with_half_a_surrogate_pair_is_written_as_readable_toml() -> None:
    head = [{"role": "user", "content": "Buy \ud800\x7f."}, {"role": "assistant", "content": "OK"}]
    prompt = parse_prompt(prompt_toml("webshop", head), "prompt.toml")  # type: ignore[arg-type]
    assert prompt.instruction == "Buy \N{REPLACEMENT CHARACTER}\x7f."
