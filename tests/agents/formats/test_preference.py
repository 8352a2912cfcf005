"""Preference pairs go into other programs' files and come back as they were."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from eto_agents.formats.preference import (
    read_eto_preference,
    read_llama_factory_ranking,
    read_trl,
    write_eto_preference,
    write_llama_factory_ranking,
    write_trl,
)
from eto_agents.preference import PreferencePair
from eto_agents.trajectory import Message
from eto_envs.errors import CorruptDataError

Writer = Callable[[Path, Iterable[PreferencePair]], int]
Reader = Callable[[Path], list[PreferencePair]]


def chat(first: str, *texts: str) -> list[Message]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


PROMPT = chat("user", "Walk.", "OK", "room 0, é \u2028")
WHOLE = PreferencePair(
    prompt=PROMPT,
    chosen=chat("assistant", "Action: east", "room 1", "Action: east"),
    rejected=chat("assistant", "Action: west", "Nothing happens.", "Action: west"),
    chosen_score=1.0,
    rejected_score=0.25,
    task_id="7",
    env_id="ETO-WebShop-v0",
    dataset="mini",
    split="train",
    tasks_sha256="ab" * 32,
    chosen_policy="expert",
    rejected_policy="react (x)",
)
PAIRS = [
    WHOLE,
    dataclasses.replace(  # they part at the second turn, and a score is not known
        WHOLE,
        rejected=chat("assistant", "Action: east", "room 1", "Action: west"),
        chosen_score=None,
    ),
    dataclasses.replace(WHOLE, chosen=chat("assistant", "a"), rejected=chat("assistant", "b")),
]


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (write_eto_preference, read_eto_preference),
        (write_trl, read_trl),
        (write_llama_factory_ranking, read_llama_factory_ranking),
    ],
)
def test_pairs_come_back(write: Writer, read: Reader, tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    assert write(path, iter(PAIRS)) == 3
    assert read(path) == PAIRS


def test_etos_form(tmp_path: Path) -> None:
    path = tmp_path / "pm.json"
    write_eto_preference(path, PAIRS)
    record = json.loads(path.read_text(encoding="utf-8"))[0]
    assert record["id"] == "7"
    assert record["prompt"][0] == {"from": "human", "value": "Walk."}
    assert record["chosen"][-1] == {"from": "gpt", "value": "Action: east"}
    theirs = {key: record[key] for key in ("id", "prompt", "chosen", "rejected")}
    path.write_text(json.dumps([theirs]))
    (pair,) = read_eto_preference(path)
    assert (pair.chosen, pair.rejected) == (WHOLE.chosen, WHOLE.rejected)
    assert (pair.chosen_score, pair.rejected_score, pair.env_id) == (None, None, "")


def test_llama_factory_compares_the_turns_at_which_two_part(tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    same = dataclasses.replace(WHOLE, rejected=WHOLE.chosen[:1])
    chance = dataclasses.replace(  # the world answered otherwise
        WHOLE, rejected=chat("assistant", "Action: east", "room 9", "Action: east")
    )
    assert write_llama_factory_ranking(path, [*PAIRS, same, chance]) == 3
    first, second, _ = json.loads(path.read_text(encoding="utf-8"))
    assert len(first["conversations"]) == 3
    assert first["chosen"] == {"from": "gpt", "value": "Action: east"}
    assert first["rejected"] == {"from": "gpt", "value": "Action: west"}
    assert [t["value"] for t in second["conversations"][3:]] == ["Action: east", "room 1"]
    assert (second["chosen"]["value"], second["rejected"]["value"]) == (
        "Action: east",
        "Action: west",
    )
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info == {
        "ranking": {
            "file_name": "ranking.json",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        }
    }
    foreign = {key: second[key] for key in ("conversations", "chosen", "rejected")}
    path.write_text(json.dumps([foreign]))
    (pair,) = read_llama_factory_ranking(path)
    assert (len(pair.prompt), len(pair.chosen), pair.task_id) == (5, 1, "")


@pytest.mark.torch
@pytest.mark.slow
def test_trl_takes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    path = tmp_path / "pairs.jsonl"
    write_trl(path, PAIRS)
    rows = load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [len(row["chosen"]) for row in rows] == [3, 3, 1]
    assert rows[0]["prompt"] == PROMPT
    assert all(is_conversational(row) for row in rows)


def record(**changes: Any) -> dict[str, Any]:
    return {
        "id": "7",
        "prompt": PROMPT,
        "chosen": WHOLE.chosen,
        "rejected": WHOLE.rejected,
        **changes,
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": []}, "'prompt' is no list of messages"),
        ({"chosen": WHOLE.chosen[:2]}, "chosen does not begin and end with the"),
        ({"rejected": [{"from": "gpt"}]}, "'rejected' has .*no message"),
        ({"chosen_score": 3}, "'chosen_score' is 3"),
        ({"id": [1]}, "'id' is"),
        ({"split": 4}, "'split' is 4, not a text"),
        ({"panel_sha256": "00"}, "has schema 1"),
    ],
)
def test_malformed_entries_are_named(bad: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([record(), record(**bad)]))
    with pytest.raises(CorruptDataError, match=rf"bad\.json, entry 2:? {message}"):
        read_eto_preference(path)


@pytest.mark.parametrize("rest", ["{", "[]", 3, '{"n_prompt": "x"}'])
def test_a_damaged_rest_is_named(rest: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    write_llama_factory_ranking(path, PAIRS)
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[1]["rest"] = rest
    path.write_text(json.dumps(entries))
    with pytest.raises(CorruptDataError, match=r"entry 2: 'rest'(: not JSON| is not what)"):
        read_llama_factory_ranking(path)
