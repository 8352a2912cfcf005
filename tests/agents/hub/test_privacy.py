"""Paths of the machine are rewritten, credentials are found, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.hub.privacy import credential_in, without_path, without_paths, without_paths_of
from eto_agents.trajectory import Message
from tests.agents.test_trajectory import episode


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a project of someone's whose home has a space in its name."""
    (tmp_path / "home/a b/project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home/a b"))
    monkeypatch.chdir(tmp_path / "home/a b/project")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/scratch/me/models/sft", "sft"),
        ("hf:/scratch/me/models/sft", "hf:sft"),
        ("best-of-3 (react (hf:/scratch/me/sft))", "best-of-3 (react (hf:sft))"),
        ("'/tmp/a.json' and \"/tmp/b.json\"", "'a.json' and \"b.json\""),
        ("scripted:/tmp/script.json", "scripted:script.json"),
        ("C:\\Users\\me\\sft", "sft"),
        ("hf:D:/models/me/sft/", "hf:sft"),
        # What is none of this machine's:
        ("hf:runs/sft/checkpoint", "hf:runs/sft/checkpoint"),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct", "hf:Qwen/Qwen2.5-0.5B-Instruct"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("and/or, 4/5/10, </s>, / and /help", "and/or, 4/5/10, </s>, / and /help"),
        ("\nObservation:", "\nObservation:"),
        ("../runs/sft/checkpoint", "../runs/sft/checkpoint"),
    ],
)
def test_paths_in_texts(text: str, shown: str) -> None:
    assert without_path(text) == shown


def test_paths_below_known_folders_keep_their_end() -> None:
    assert without_path(f"hf:{Path.cwd()}/runs/sft") == "hf:runs/sft"
    assert without_path(f"({Path.home()}/models/sft)") == "(~/models/sft)"


def test_all_texts_of_a_record() -> None:
    record: Any = {"a": [1, None, {"b": "/data/me/x"}], "c": True, "d": ("/data/me/y",)}
    assert without_paths(record) == {"a": [1, None, {"b": "x"}], "c": True, "d": ["y"]}


def test_what_an_episode_says_is_left_as_it_is() -> None:
    said: list[Message] = [{"role": "user", "content": "cat /etc/me/hosts"}]
    played = replace(
        episode(),
        policy="react (hf:/scratch/me/sft)",
        dataset="/data/me/big.pack",
        error='ValueError: no /data/me/x\nTraceback …\n  File "/home/me/agent.py", line 3',
        goal="read /etc/me/hosts",
        messages=said,
    )
    clean = without_paths_of(played)
    assert (clean.policy, clean.dataset) == ("react (hf:sft)", "big.pack")
    assert clean.error == "ValueError: no x"
    assert (clean.goal, clean.messages, clean.steps) == (played.goal, said, played.steps)


def test_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        credential_in(b"sk-ii-facial-treatment-essence, desk-organizer-with-many-drawers") is None
    )
    assert credential_in(b'"hf_' + b"a1" * 17 + b'"') == "a key that begins with 'hf_a1a'"
    assert credential_in(b"key: sk-proj-" + b"a" * 40) == "a key that begins with 'sk-pro'"
    monkeypatch.setenv("SHOP_API_KEY", "correct horse battery")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    assert credential_in(b"short: correct horse battery") == "the value of $SHOP_API_KEY"
