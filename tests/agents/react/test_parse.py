"""The Thought/Action format, compared with ETO's harness rule by rule."""

from __future__ import annotations

import re

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_agents.react.parse import DEFAULT_FORMAT, NO_ACTION, Parsed
from eto_agents.worlds import all_worlds, find_world


@pytest.mark.parametrize("world", [world.name for world in all_worlds()])
@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("Thought: think.\nAction: click[a]", "think.", "click[a]"),
        ("Action: click[a]", "", "click[a]"),
        ("  Thought: x\n\nAction: click[a] \n", "x", "click[a]"),
        ("x Action: one\nAction: two", "x", "one\nAction: two"),
        ("Thought: a\nAction: search[b]\nand more", "a", "search[b]\nand more"),
        ("Thought: Thought: a\nAction: b", "Thought: a", "b"),
        ("Thought: a\nAction:  b", "a", " b"),
        ("My first Thought: go on.\nAction: b", "My first Thought: go on.", "b"),
        ("I wait.\nThought: a\nAction: b", "I wait.\nThought: a", "b"),
    ],
)
def test_the_action_is_everything_after_the_first_label(
    world: str, text: str, thought: str, action: str
) -> None:
    assert find_world(world).format.parse(text) == Parsed(action, thought, "")


@pytest.mark.parametrize("world", [world.name for world in all_worlds()])
@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("<think>Or Action: a?</think>Thought: x\nAction: b", "x", "b"),
        ("<think>\n\n</think>\n\nAction: b", "", "b"),
        ("  <think>Thought: a</think> Thought: x\nAction: b", "x", "b"),
        ("The prompt began it. Action: a</think>\nAction: b", "", "b"),
        ("Thought: x <think>Action: a</think>\nAction: b", "x", "b"),
        ("<think>1</think>Thought: x\n<think>2</think>Action: b<think>3", "x", "b"),
        ("<think>a<think>b</think>Action: c</think>Action: b", "", "b"),
        ("<thinking>Action: a</thinking>\nAction: b", "", "b"),
        ("[THINK]Action: a[/THINK]Action: b", "", "b"),
    ],
)
def test_what_a_model_thinks_is_not_its_action(
    world: str, text: str, thought: str, action: str
) -> None:
    rules = find_world(world).format
    assert rules.parse(text) == Parsed(action, thought, "")
    assert rules.parse(text, strip_reasoning=False) != rules.parse(text)  # ETO's letter


@pytest.mark.parametrize("text", ["<think>I could say Action: look", "<think>Action: look</think>"])
def test_a_reply_of_thinking_alone_has_no_action(text: str) -> None:
    rules = find_world("scienceworld").format
    assert rules.parse(text) == Parsed(NO_ACTION, "", rules.error)
    assert rules.parse(text, strip_reasoning=False).action.startswith("look")


@pytest.mark.parametrize("world", [world.name for world in all_worlds()])
@pytest.mark.parametrize(
    "text", ["", " ", "click[buy now]", "action: look", "Thought: Act", "Act:"]
)
def test_a_reply_without_the_label_is_an_error(world: str, text: str) -> None:
    parsed = find_world(world).format.parse(text)
    assert parsed.action == NO_ACTION
    assert parsed.error == find_world(world).format.error


def test_worlds_differ_as_in_the_harness() -> None:
    for text, action in (("Action:look", "look"), ("Action:\nlook", "look"), ("Action: ", "")):
        assert find_world("alfworld-2.1.2").format.parse(text) == Parsed(action, "", "")
        for world in ("webshop", "scienceworld"):
            assert find_world(world).format.parse(text).error
    assert find_world("alfworld-2.1.1") is find_world("alfworld")
    assert find_world("another").format is DEFAULT_FORMAT


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ("webshop", "Observation: Invalid format. The input must contains 'Action: '"),
        ("scienceworld", "Observation: Invalid format. The input must contains 'Action: '"),
        ("alfworld", "Observation: Error Input. Your input must contains 'Action: '"),
    ],
)
def test_messages(world: str, message: str) -> None:
    rules = find_world(world).format
    assert rules.message("a page", rules.parse("nothing")) == message
    between = "\n" if world == "webshop" else " "
    assert rules.message("a page", rules.parse("Action: x")) == f"Observation:{between}a page"


# `parse_action` of the harness: strip, then the first of `findall`.
REFERENCE = {
    "webshop": r"Action: (.*)",
    "scienceworld": r"Action: (.*)",
    "alfworld": r"Action:\s?(.*)",
}


@given(st.lists(st.sampled_from(["Action:", " ", "\n", "\t", "Thought:", "look", "a[b]"])))
def test_same_as_the_reference(pieces: list[str]) -> None:
    text = "".join(pieces)
    for world, pattern in REFERENCE.items():
        actions = re.findall(re.compile(pattern, re.DOTALL), text.strip())
        parsed = find_world(world).format.parse(text)
        assert bool(parsed.error) == (not actions)
        assert parsed.action == (actions[0] if actions else NO_ACTION)


def test_no_action_is_invalid_and_changes_nothing() -> None:
    env = gym.make("eto_envs:ETO-WebShop-v0", dataset="mini")
    before, _ = env.reset(seed=0)
    after, reward, terminated, _, info = env.step(NO_ACTION)
    assert (after, reward, terminated, info["is_valid_action"]) == (before, 0.0, False, False)
