"""Trajectories survive a JSON round trip; the store survives a killed writer."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Message, Step, ToolCall, Trajectory, next_roles, with_objects
from eto_envs.errors import CorruptDataError, DataError


def episode(task_id: str = "room2", text: str = "east", seed: int = 0) -> Trajectory:
    step = Step(
        action=text,
        observation=f"after {text}",
        reward=0.5,
        task_reward=0.5,
        reward_terms={"cost": -0.1},
        score=0.5,
        is_valid=True,
        token_ids=[1, 2],
        log_probs=[-0.5, -0.25],
        usage={"prompt_tokens": 3},
    )
    return Trajectory(
        env_id="E-v0",
        world="corridor",
        dataset="toy",
        split="seen",
        tasks_sha256="00",
        task_id=task_id,
        kind="",
        goal="walk",
        seed=seed,
        policy="p",
        initial_observation="start",
        messages=[
            {"role": "user", "content": "start"},
            {"role": "assistant", "content": "go"},
        ],
        steps=[step],
        status="truncated",
        score=0.5,
        success=False,
    )


@given(st.text(), st.text())
def test_json_round_trip(task_id: str, text: str) -> None:
    trajectory = episode(task_id, text)
    line = trajectory.to_json()
    assert "\n" not in line
    assert Trajectory.from_json(line) == trajectory


def test_half_a_surrogate_pair_is_preserved(tmp_path: Path) -> None:
    trajectory = episode("a", "say \ud83d é")
    with TrajectoryStore(tmp_path / "episodes.jsonl") as store:
        store.append(trajectory)
    assert list(store.read()) == [trajectory]


def test_an_episode_that_could_not_be_written_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        """It takes half of what it should, and then nothing."""

        def __init__(self, file: Any) -> None:
            self.file, self.n_writes = file, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, content: Any) -> int:
            self.n_writes += 1
            if self.n_writes == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(content[: len(content) // 2]))

    with TrajectoryStore(tmp_path / "episodes.jsonl") as store:
        store.append(episode("a"))
        with monkeypatch.context() as patch:
            patch.setattr(store, "_file", FullDisk(store._file))
            with pytest.raises(OSError, match=r"No space.*episodes\.jsonl"):
                store.append(episode("b"))
        store.append(episode("c"))
    assert [trajectory.task_id for trajectory in store.read()] == ["a", "c"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"status": "fine"}, "unknown status"),
        ({"steps": [{"action": "x"}]}, "not a trajectory"),
        ({"extra": 1}, "not a trajectory"),
    ],
)
def test_lines_that_are_not_trajectories(change: dict[str, object], message: str) -> None:
    record = dataclasses.asdict(episode()) | change
    with pytest.raises(CorruptDataError, match=message):
        Trajectory.from_json(json.dumps(record))


def test_an_incomplete_line_is_removed_and_the_others_stay(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "run" / "episodes.jsonl")
    assert list(store.read()) == []
    with store:
        store.append(episode("a"))
        store.append(episode("b"))
    whole = store.path.read_bytes()
    for cut in range(1, len(whole) // 2):
        store.path.write_bytes(whole[:-cut])
        assert [t.task_id for t in store.read()] == ["a"]
        with store:
            store.append(episode("c"))
        assert [t.task_id for t in store.read()] == ["a", "c"]


def test_the_last_record_of_an_episode_counts(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "episodes.jsonl")
    with store:
        for text in ("first", "second"):
            store.append(episode("a", text))
        store.append(episode("a", "other seed", seed=1))
    latest = store.latest()
    assert {key: t.steps[0].action for key, t in latest.items()} == {
        ("seen", "a", 0, 0): "second",
        ("seen", "a", 1, 0): "other seed",
    }


def test_the_error_names_the_corrupt_line(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "episodes.jsonl")
    with store:
        store.append(episode())
    store.path.write_text(store.path.read_text() + '{"half":\n' + episode("b").to_json() + "\n")
    with pytest.raises(CorruptDataError, match="line 2"):
        list(store.read())


def _try_to_open(path: Path, queue: multiprocessing.Queue[str]) -> None:
    try:
        with TrajectoryStore(path):
            queue.put("opened")
    except DataError as error:
        queue.put(str(error))


def test_two_processes_cannot_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with TrajectoryStore(path):
        process = context.Process(target=_try_to_open, args=(path, queue))
        process.start()
        assert "another process" in queue.get(timeout=60)
        process.join()


def test_the_replies_of_an_episode() -> None:
    example: list[Message] = [user("Go."), agent("OK"), user("Again.")]
    whole = dataclasses.replace(episode(), messages=[*example, agent("east")])
    assert whole.replies == [agent("east")]
    failed = [*example, agent("east"), user("after east"), agent("west")]
    assert dataclasses.replace(whole, messages=failed, status="env_error").replies == [
        agent("east")
    ]
    assert dataclasses.replace(whole, messages=[]).replies == []
    assert dataclasses.replace(whole, steps=[]).replies == []


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def agent(content: str) -> Message:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize("arguments", ['{"action": "x"}', "{broken", "[" * 100_000, "3"])
def test_arguments_as_objects(arguments: str) -> None:
    call: ToolCall = {
        "id": "1",
        "type": "function",
        "function": {"name": "act", "arguments": arguments},
    }
    message: Message = {**agent("x"), "tool_calls": [call]}
    [shown] = with_objects(message)["tool_calls"]
    expected = {'{"action": "x"}': {"action": "x"}, "3": 3}.get(arguments, arguments)
    assert shown["function"] == {"name": "act", "arguments": expected}
    assert message["tool_calls"] == [call]  # unchanged
    assert with_objects(agent("x")) == agent("x")


def test_the_order_of_roles() -> None:
    call: ToolCall = {"id": "1", "type": "function", "function": {"name": "act", "arguments": ""}}
    calling: Message = {**agent(""), "tool_calls": [call, call]}
    result: Message = {"role": "tool", "content": "x"}
    chat = [user("u"), calling, result, result]
    expected = [("user",), ("assistant",), ("tool",), ("tool",), ("assistant", "user")]
    assert [next_roles(chat[:n]) for n in range(5)] == expected
    assert next_roles([{"role": "system", "content": ""}]) == ("user",)
    for wrong in ([agent("x")], [*chat[:3], agent("x")], [*chat, result], [user("u"), result]):
        with pytest.raises(ValueError, match="a tool's result for each tool call"):
            next_roles(wrong)
