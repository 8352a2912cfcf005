"""Sampling's ranges, models by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_agents.models import ChatModel, Completion, Sampling, load_model
from eto_agents.models.base import complete
from eto_agents.models.scripted import ScriptedModel
from eto_agents.react.tools import ACT
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"temperature": float("inf")},
        {"stop": ("\n", "")},
        {"stop": (3,)},
    ],
)
def test_sampling_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Sampling(**arguments)


def test_sampling_is_recorded() -> None:
    sampling = Sampling(temperature=0.5, stop=["\n"])  # type: ignore[arg-type]
    assert sampling.stop == ("\n",)
    assert json.loads(json.dumps(sampling.record())) == sampling.record()
    assert sampling.record()["temperature"] == 0.5
    with pytest.raises(TypeError, match="stop"):
        Sampling(stop="\n")  # type: ignore[arg-type]


def test_a_script_by_name(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text('["one", "two"]', encoding="utf-8")
    model = load_model(f"scripted:{path}")
    assert isinstance(model, ChatModel)
    chat = [{"role": "user", "content": "x"}]
    first = model.generate([chat, chat], Sampling())  # type: ignore[list-item]
    assert [completion.text for completion in first] == ["one", "two"]
    [last] = model.generate([chat], Sampling())  # type: ignore[list-item]
    assert last.error == "the script ended before request 3"
    assert load_model(f"scripted:{path}").provenance == model.provenance  # type: ignore[attr-defined]


def test_bad_scripts(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        load_model(f"scripted:{tmp_path / 'none.json'}")
    for text in ("{", "{}", "[1]", '[{"role": "assistant"}]'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CorruptDataError):
            ScriptedModel(tmp_path / "bad.json")


def test_a_function_is_a_script() -> None:
    model = ScriptedModel(lambda chat: Completion(chat[-1]["content"][::-1], finish_reason="x"))
    [completion] = model.generate([[{"role": "user", "content": "abc"}]], Sampling())
    assert (completion.text, completion.finish_reason) == ("cba", "x")
    assert model.requests == [[{"role": "user", "content": "abc"}]]


CALL = {"id": "1", "type": "function", "function": {"name": "act", "arguments": "{}"}}


def test_a_scripted_reply_may_be_a_message_with_calls(tmp_path: Path) -> None:
    script = [{"role": "assistant", "content": "I look.", "tool_calls": [CALL]}, "Action: look"]
    (tmp_path / "script.json").write_text(json.dumps(script))
    chat: Any = [{"role": "user", "content": "x"}]
    for model in (ScriptedModel(script), load_model(f"scripted:{tmp_path / 'script.json'}")):  # type: ignore[arg-type]
        first, second = complete(model, [chat, chat], Sampling(), tools=[ACT])
        assert first == Completion("I look.", finish_reason="tool_calls", tool_calls=[CALL])  # type: ignore[list-item]
        assert second == Completion("Action: look")


def test_a_model_without_tools_is_given_none() -> None:
    class Plain:
        name = "plain"

        def generate(self, conversations: Any, sampling: Any, seeds: Any = None) -> Any:
            return [Completion("hello") for _ in conversations]

    [completion] = complete(Plain(), [[]], Sampling())
    assert completion.text == "hello"
    with pytest.raises(TypeError, match="tools"):
        complete(Plain(), [[]], Sampling(), tools=[ACT])


def test_a_model_by_its_class() -> None:
    model = load_model("eto_agents.models.scripted:ScriptedModel", script=["hello"])
    assert model.name == "scripted"


@pytest.mark.parametrize("name", ["gpt", "openai:", "opnai:gpt", "eto_agents.models.base:Nothing"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError):
        load_model(name)
