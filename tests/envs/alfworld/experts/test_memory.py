from __future__ import annotations

import pytest

from eto_envs.alfworld.experts.memory import Memory, kind_of, split_command

ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a desk 1, a drawer 2, "
    "and a drawer 1.\nYour task is to: put a pen in drawer."
)


@pytest.fixture
def memory() -> Memory:
    return Memory.of_room(ROOM)


def test_room(memory: Memory) -> None:
    assert memory.receptacles == ["desk 1", "drawer 2", "drawer 1"]


@pytest.mark.parametrize(
    "answer",
    [
        "On the desk 1, you see a pen 2, and a pen 1.",
        "You arrive at loc 3. On the desk 1, you see a pen 2, and a pen 1.",
        "You arrive at desk 1. On the desk 1, you see a pen 2, and a pen 1.",
    ],
)
def test_contents(memory: Memory, answer: str) -> None:
    memory.learn("go to desk 1", answer)
    assert memory.contents == {"desk 1": {"pen 1", "pen 2"}}
    assert memory.here == {"desk 1"}
    assert memory.find("pen") == [("pen 1", "desk 1"), ("pen 2", "desk 1")]
    assert memory.find("pencil") == []


def test_doors(memory: Memory) -> None:
    memory.learn("go to drawer 1", "The drawer 1 is closed.")
    assert memory.closed == {"drawer 1"}
    opened = "You open the drawer 1. The drawer 1 is open. In it, you see nothing."
    memory.learn("open drawer 1", opened)
    assert memory.closed == set()
    assert memory.contents == {"drawer 1": set()}


def test_hands(memory: Memory) -> None:
    memory.contents = {"desk 1": {"pen 1"}, "drawer 1": {"pen 1"}}
    memory.learn("take pen 1 from desk 1", "You pick up the pen 1 from the desk 1.")
    assert memory.held == "pen 1"
    assert memory.find("pen") == []
    memory.learn("clean pen 1 with sinkbasin 1", "You clean the pen 1 using the sinkbasin 1.")
    assert memory.treated == {"pen 1"}
    memory.learn("put pen 1 in/on drawer 2", "You put the pen 1 in/on the drawer 2.")
    assert memory.held == ""
    assert memory.find("pen") == [("pen 1", "drawer 2")]


def test_what_does_not_work(memory: Memory) -> None:
    memory.learn("go to drawer 1", "The drawer 1 is closed.")
    memory.learn("go to drawer 2", "Nothing happens.")
    assert memory.here == {"drawer 1", "drawer 2"}
    memory.learn("open drawer 2", "Nothing happens.")
    assert memory.doorless == {"drawer 2"}
    memory.contents["desk 1"] = {"pen 1"}
    memory.learn("take pen 1 from desk 1", "Nothing happens.")
    assert memory.find("pen") == []


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("look", ["look"]),
        ("go to desk 1", ["go to", "desk 1"]),
        ("take pen 1 from desk 1", ["take", "pen 1", "desk 1"]),
        ("put pen 1 in/on desk 1", ["put", "pen 1", "desk 1"]),
        ("move pen 1 to desk 1", ["move", "pen 1", "desk 1"]),
        ("cool egg 1 with fridge 1", ["cool", "egg 1", "fridge 1"]),
    ],
)
def test_commands_are_split(command: str, parts: list[str]) -> None:
    assert split_command(command) == parts


def test_kind() -> None:
    assert kind_of("sinkbasin 12") == "sinkbasin"
