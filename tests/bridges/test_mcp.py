"""The MCP server: the scores of `evaluate` over both transports, many clients, and bad input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import gymnasium as gym
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from eto_agents.bridges.mcp import MAX_ACTION_CHARS, Episodes, make_server, open_episodes
from eto_agents.chat_episode import ChatEpisode
from eto_agents.cli import main
from eto_agents.evaluation.runs import read_run
from eto_agents.react.protocols import OVER
from eto_agents.react.tools import ACT
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory
from eto_envs import task_sets
from eto_envs.errors import DataError, UnknownNameError
from tests.agents import scientist, shopper
from tests.test_docs import ROOT, examples
from tests.toy import BROKEN, CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
COMMAND = "serve mcp --env ETO-WebShop-v0 --dataset mini --split seen --prompts brief"
TIMEOUT_S = 60.0
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Refused(Exception):
    """The result of a call is an error."""


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise Refused(result.content[0].text)  # type: ignore[union-attr]
    assert result.structured_content is not None
    return result.structured_content


async def shop(client: Client, task: str | None = None) -> str:
    """Play an episode; returns its task."""
    begun = await call(client, "reset", **({} if task is None else {"task": task}))
    page, over = begun["observation"], False
    while not over:
        acted = await call(client, "act", episode=begun["episode"], action=shopper.command(page))
        page, over = acted["observation"], acted["over"]
    assert page == OVER
    return str(begun["task"])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def eto(*words: str) -> list[str]:
    code = "import tests.toy; from eto_agents.__main__ import main; main()"
    return [sys.executable, "-c", code, *words]


def over_stdio(out: Path, *more: str) -> Any:
    command, *arguments = eto(*COMMAND.split(), "--out", str(out), *more)
    return stdio_client(
        StdioServerParameters(command=command, args=arguments, env=environment(), cwd=ROOT)
    )


@contextlib.contextmanager
def http_server(out: Path, *more: str, command: str = COMMAND) -> Iterator[tuple[str, Any]]:
    """A server in a process of its own: its address, and the process."""
    words = [*command.split(), "--out", str(out), "--http", "0", *more]
    process = subprocess.Popen(
        eto(*words),
        env=environment(),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        address = re.match(r"http://127\.0\.0\.1:\d+/mcp", process.stdout.readline())
        assert address is not None, process.communicate()
        yield address[0], process
    finally:
        process.send_signal(signal.SIGTERM)
        out_text, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
        assert errors == ""
        assert "rerun the command to resume" in out_text


@contextlib.asynccontextmanager
async def in_process(
    env_id: str, out: Path, *, idle_s: float | None = None, **options: Any
) -> AsyncIterator[tuple[Client, Episodes]]:
    with open_episodes(env_id, out=out, **options) as episodes:
        async with Client(make_server("test", episodes)) as client, anyio.create_task_group() as g:
            if idle_s is not None:
                g.start_soon(episodes.cancel_idle, idle_s)
            yield client, episodes
            g.cancel_scope.cancel()


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, Any]:
    """Arguments for episodes in the corridor: it has no prompt of its own."""
    file = tmp_path / "corridor.toml"
    file.write_text('world = "corridor"\ninstruction = "Go east."\n')
    return {"prompts": str(file)}


MINI: dict[str, Any] = {"dataset": "mini", "split": "seen", "prompts": "brief"}


def stored(out: Path) -> list[Trajectory]:
    return list(TrajectoryStore(out / "episodes.jsonl").read())


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(TIMEOUT_S):
        while not condition():
            await anyio.sleep(0.02)


def check_scores(out: Path) -> None:
    [split] = read_run(out).splits
    assert split.is_complete
    assert split.n_planned == len(split.episodes) == 20
    assert split.summary.reward.mean == pytest.approx(shopper.SCORES[20], abs=5e-6)
    assert {episode.policy for episode in split.episodes} == {"mcp"}


async def test_the_scores_over_standard_streams(tmp_path: Path) -> None:
    async with Client(over_stdio(tmp_path / "run", "--n-tasks", "20")) as client:
        tasks = [await shop(client) for _ in range(20)]
        with pytest.raises(Refused, match="No task is left"):
            await shop(client)
    assert tasks == list(task_sets(WEBSHOP, "mini")["seen"].ids[:20])
    check_scores(tmp_path / "run")


async def test_the_scores_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with http_server(run, "--n-tasks", "20") as (url, _):
        async with Client(url) as client:
            for _ in range(12):
                await shop(client)
    with http_server(run, "--n-tasks", "20") as (url, _):  # resumes
        async with Client(url) as client:
            for _ in range(8):
                await shop(client)
            with pytest.raises(Refused, match="No task is left"):
                await shop(client)
    check_scores(run)
    await anyio.to_thread.run_sync(main, ["report", str(run), "--out", str(tmp_path / "report")])
    assert "32.0" in (tmp_path / "report" / "report.md").read_text()


async def test_the_expert_scores_1(tmp_path: Path) -> None:
    options = {"dataset": "mini", "split": "seen", "n_tasks": 5}
    env = gym.make("ETO-ALFWorld-v0", dataset="mini", split="seen", reveal=("expert_action",))
    async with in_process("ETO-ALFWorld-v0", tmp_path, **options) as (client, _):
        for _ in range(5):
            begun = await call(client, "reset")
            _, info = env.reset(options={"task": begun["task"]})
            over = False
            while not over:
                action = info["expert_action"]
                acted = await call(client, "act", episode=begun["episode"], action=action)
                _, _, terminated, truncated, info = env.step(action)
                over = acted["over"]
                assert over == (terminated or truncated)
    assert [episode.score for episode in stored(tmp_path)] == [1.0] * 5


@pytest.mark.java
async def test_the_scores_in_scienceworld(tmp_path: Path) -> None:
    async with in_process(scientist.SCIENCEWORLD, tmp_path, **scientist.SEEN) as (client, _):
        for task in scientist.TASKS:
            begun = await call(client, "reset", task=task)
            agent, over = scientist.agent_of(task), False
            while not over:
                episode, action = begun["episode"], agent("")
                over = (await call(client, "act", episode=episode, action=action))["over"]
    scores = {episode.task_id: episode.score for episode in stored(tmp_path)}
    assert scores == pytest.approx({task: scientist.score_of(task) for task in scientist.TASKS})


async def test_the_tools_say_what_they_are(tmp_path: Path) -> None:
    async with in_process(WEBSHOP, tmp_path, **MINI) as (client, _):
        assert "reset" in str(client.instructions)
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        begun = await call(client, "reset")
    assert set(tools) == {"reset", "act"}
    act = tools["act"]
    assert act.description == ACT["function"]["description"]
    assert act.input_schema["required"] == ["episode", "action"]
    action = act.input_schema["properties"]["action"]
    expected = ACT["function"]["parameters"]["properties"]["action"]["description"]
    assert (action["type"], action["description"]) == ("string", expected)
    assert set(tools["reset"].input_schema["properties"]) == {"task"}
    assert "required" not in tools["reset"].input_schema
    assert set(act.output_schema["properties"]) == {"observation", "over"}  # type: ignore[index]
    episode = ChatEpisode(WEBSHOP, 0, protocol="tool", with_example=False, **MINI)
    assert begun["instruction"] == episode.messages[0]["content"]
    assert begun["observation"] == episode.messages[-1]["content"]


async def test_no_score_is_shown(tmp_path: Path) -> None:
    texts = []
    async with in_process(WEBSHOP, tmp_path, n_tasks=1, **MINI) as (client, _):
        begun = await call(client, "reset")
        texts.append(json.dumps(begun))
        page, over = begun["observation"], False
        while not over:
            action = shopper.command(page)
            acted = await call(client, "act", episode=begun["episode"], action=action)
            page, over = acted["observation"], acted["over"]
            texts.append(json.dumps(acted))
    [episode] = stored(tmp_path)
    assert "Your score" in episode.steps[-1].observation  # which is why the client does not get it
    assert not any("score" in text or "Reward" in text for text in texts)
    assert episode.messages == []


async def test_200_episodes_of_8_clients_at_once(tmp_path: Path) -> None:
    """Every client plays 25 episodes at once, step by step; each gets the page of its own task."""
    tasks = task_sets(WEBSHOP, "mini")["seen"].ids
    assert len(tasks) == 200
    expected = {}
    for task in tasks:
        episode = ChatEpisode(WEBSHOP, task, **MINI)
        while not episode.over:
            episode.reply(shopper.reply(episode.messages))
        expected[task] = ([step.action for step in episode.trajectory.steps], episode.score)
    n_begun = 0
    all_begun = anyio.Event()

    async def play(client: Client, task: str) -> None:
        nonlocal n_begun
        begun = await call(client, "reset", task=task)
        n_begun += 1
        if n_begun == 200:
            all_begun.set()
        await all_begun.wait()
        page, over = begun["observation"], False
        while not over:
            action = shopper.command(page)
            acted = await call(client, "act", episode=begun["episode"], action=action)
            page, over = acted["observation"], acted["over"]

    async def session(url: str, own: list[str]) -> None:
        async with Client(url) as client, anyio.create_task_group() as group:
            for task in own:
                group.start_soon(play, client, task)

    with http_server(tmp_path) as (url, _):
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(session, url, list(tasks[number::8]))
    episodes = {e.task_id: ([s.action for s in e.steps], e.score) for e in stored(tmp_path)}
    assert episodes == expected


async def test_more_episodes_than_allowed_are_refused(tmp_path: Path) -> None:
    async with in_process(WEBSHOP, tmp_path, max_episodes=3, **MINI) as (client, _):
        begun = [await call(client, "reset") for _ in range(3)]
        for _ in range(20):
            with pytest.raises(Refused, match=r"3 episodes are being played.*--max-episodes"):
                await call(client, "reset")
        over = False
        while not over:
            acted = await call(client, "act", episode=begun[0]["episode"], action="click[Buy Now]")
            over = acted["over"]
        await call(client, "reset")
        with pytest.raises(Refused, match="3 episodes"):
            await call(client, "reset")
    statuses = [episode.status for episode in stored(tmp_path)]
    assert statuses == ["truncated", "cancelled", "cancelled", "cancelled"]


async def test_what_an_agent_does_wrong(tmp_path: Path, toy: dict[str, Any]) -> None:
    async with in_process(CORRIDOR, tmp_path, split="seen", **toy) as (client, _):
        with pytest.raises(Refused, match="There is no episode 'x': call `reset`"):
            await call(client, "act", episode="x", action="east")
        with pytest.raises(Refused, match="no task 'room99'"):
            await call(client, "reset", task="room99")
        begun = await call(client, "reset", task="room2")
        with pytest.raises(Refused, match="Task 'room2' is being played, or has been"):
            await call(client, "reset", task="room2")
        play = {"episode": begun["episode"]}
        for wrong in ({}, {"action": 3}, {"action": None}, {"action": ["east"]}):
            with pytest.raises(Refused, match="action"):
                await call(client, "act", **play, **wrong)
        for text in ("x" * 10_000_000, "é" * (MAX_ACTION_CHARS + 1)):
            with pytest.raises(Refused, match="at most 16384 characters") as caught:
                await call(client, "act", **play, action=text)
            assert len(str(caught.value)) < 1000
        with pytest.raises(Refused, match="at most 100 characters"):
            await call(client, "act", episode="x" * 10_000_000, action="east")
        acted = await call(client, "act", **play, action="é" * MAX_ACTION_CHARS)
        assert acted == {"observation": "Nothing happens.", "over": False}
        assert not (await call(client, "act", **play, action="east"))["over"]
        assert (await call(client, "act", **play, action="east"))["over"]
        for _ in range(2):
            with pytest.raises(Refused, match=re.escape(OVER)):
                await call(client, "act", **play, action="east")
        with pytest.raises(Refused, match="is being played, or has been"):
            await call(client, "reset", task="room2")
    [episode] = stored(tmp_path)
    assert [step.is_valid for step in episode.steps] == [False, True, True]
    assert episode.status == "completed"


async def test_10_mb_over_http_are_refused(tmp_path: Path) -> None:
    with http_server(tmp_path) as (url, _):
        async with Client(url) as client:
            begun = await call(client, "reset")
            with pytest.raises(MCPError, match="error response"):  # of status 413
                await call(client, "act", episode=begun["episode"], action="x" * 10_000_000)
        async with Client(url) as client:
            acted = await call(client, "act", episode=begun["episode"], action="search[lamp]")
            assert not acted["over"]


async def test_two_actions_at_once_are_taken_one_after_the_other(
    tmp_path: Path, toy: dict[str, Any]
) -> None:
    answers = []
    async with in_process(CORRIDOR, tmp_path, split="seen", **toy) as (client, _):
        begun = await call(client, "reset", task="room6")

        async def go() -> None:
            arguments = {"episode": begun["episode"], "action": "east"}
            result = await client.call_tool("act", arguments)
            answers.append(result.structured_content or result.content[0].text)  # type: ignore[union-attr]

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(go)
    acted = [answer for answer in answers if not isinstance(answer, str)]
    rooms = [*(f"You are in room {n}." for n in range(1, 6)), OVER]
    assert sorted(answer["observation"] for answer in acted) == sorted(rooms)
    assert answers.count(f"Error executing tool act: {OVER}") == 2
    [episode] = stored(tmp_path)
    assert len(episode.steps) == 6


async def test_idle_episodes_are_cancelled_and_can_be_played_again(
    tmp_path: Path, toy: dict[str, Any]
) -> None:
    async with in_process(CORRIDOR, tmp_path, idle_s=0.2, n_tasks=1, **toy) as (client, _):
        begun = await call(client, "reset")
        await until(lambda: len(stored(tmp_path)) == 1)
        with pytest.raises(Refused, match=re.escape(OVER)):
            await call(client, "act", episode=begun["episode"], action="east")
        again = await call(client, "reset")
        assert again["task"] == begun["task"]
        assert again["episode"] != begun["episode"]
    assert [episode.status for episode in stored(tmp_path)] == ["cancelled", "cancelled"]


async def test_a_client_that_disconnects(tmp_path: Path) -> None:
    with http_server(tmp_path, "--n-tasks", "2", "--idle-minutes", "0.01") as (url, _):
        async with Client(url) as client:
            first = await call(client, "reset")
            await call(client, "act", episode=first["episode"], action="search[lamp]")
        await until(lambda: len(stored(tmp_path)) == 1)
        async with Client(url) as client:
            for _ in range(2):
                await shop(client)
    cancelled, *played = stored(tmp_path)
    assert (cancelled.status, cancelled.task_id) == ("cancelled", first["task"])
    assert {episode.task_id for episode in played} == set(
        task_sets(WEBSHOP, "mini")["seen"].ids[:2]
    )
    assert all(episode.status in ("completed", "truncated") for episode in played)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_open_episodes_are_cancelled_at_shutdown(
    number: signal.Signals, transport: str, tmp_path: Path
) -> None:
    words = [*COMMAND.split(), "--out", str(tmp_path)]
    words += ["--http", "0"] if transport == "http" else []
    process = subprocess.Popen(
        eto(*words),
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if transport == "http":
        url = process.stdout.readline().split()[0]
        async with Client(url) as client:
            await call(client, "reset")
    else:
        for message in HANDSHAKE:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            if "id" in message:
                assert json.loads(process.stdout.readline())["id"] == message["id"]
    process.send_signal(number)  # standard input is still open
    await anyio.to_thread.run_sync(lambda: process.wait(TIMEOUT_S))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors == ""
    assert [episode.status for episode in stored(tmp_path)] == ["cancelled"]
    with open_episodes(WEBSHOP, out=tmp_path, **MINI):  # no lock is left
        pass


HANDSHAKE: list[dict[str, Any]] = [
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "0"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "reset", "arguments": {}},
    },
]


async def test_a_world_that_fails(tmp_path: Path, toy: dict[str, Any]) -> None:
    async with in_process(BROKEN, tmp_path, **toy) as (client, _):
        begun = await call(client, "reset", task="room2")
        with pytest.raises(Refused, match="does not count"):
            await call(client, "act", episode=begun["episode"], action="east")
        with pytest.raises(Refused, match=re.escape(OVER)):
            await call(client, "act", episode=begun["episode"], action="east")
        for _ in range(3):
            with pytest.raises(Refused, match="has not begun"):
                await call(client, "reset", task="room6")
        await call(client, "reset", task="room3")
    assert [(e.task_id, e.status) for e in stored(tmp_path)] == [
        ("room2", "env_error"),
        ("room3", "cancelled"),
    ]
    with open_episodes(BROKEN, out=tmp_path, **toy) as episodes:  # both can be played again
        assert [job.task.id for job in episodes._waiting] == [f"room{n}" for n in range(2, 7)]


async def test_seeds_are_played_one_after_the_other(tmp_path: Path, toy: dict[str, Any]) -> None:
    async with in_process(CORRIDOR, tmp_path, n_tasks=2, seeds=(0, 7), **toy) as (client, _):
        tasks = [(await call(client, "reset"))["task"] for _ in range(3)]
        assert tasks == ["room2", "room3", "room2"]
        await call(client, "reset", task="room3")
        with pytest.raises(Refused, match="No task is left"):
            await call(client, "reset")
    assert {(e.task_id, e.seed) for e in stored(tmp_path)} == {
        (task, seed) for task in ("room2", "room3") for seed in (0, 7)
    }


def test_what_the_user_does_wrong(tmp_path: Path) -> None:
    for options, error, message in (
        ({"split": "nowhere"}, UnknownNameError, "nowhere"),
        ({"dataset": "nowhere"}, Exception, "nowhere"),
        ({"prompts": "nowhere.toml"}, Exception, "nowhere.toml"),
    ):
        with (
            pytest.raises(error, match=message),
            open_episodes(WEBSHOP, out=tmp_path / "run", **{**MINI, **options}),  # type: ignore[arg-type]
        ):
            pass
        assert not (tmp_path / "run").exists()
    with (
        open_episodes(WEBSHOP, out=tmp_path / "run", **MINI),
        pytest.raises(DataError, match="another process"),
        open_episodes(WEBSHOP, out=tmp_path / "run", **MINI),
    ):
        pass
    with (
        pytest.raises(DataError, match="policy 'mcp'"),
        open_episodes(WEBSHOP, out=tmp_path / "run", agent="other", **MINI),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--split nowhere", 2, "no split 'nowhere'"),
        ("--max-episodes 0", 1, "--max-episodes must be at least 1"),
        ("--idle-minutes 0", 1, "--idle-minutes must be more than 0"),
        ("--http 99999", 1, "cannot listen on 127.0.0.1, port 99999"),
    ],
)
def test_wrong_flags(
    words: str,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warnings.showwarning", None)  # `main` replaces it
    with pytest.raises(SystemExit) as stopped:
        main([*COMMAND.split(), "--out", str(tmp_path / "run"), *words.split()])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    folder = Path(sys.executable).parent  # of the command `eto`
    done = subprocess.run(
        [sys.executable, "-c", examples(ROOT / "docs" / "bridges" / "mcp.md")],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Your task is to" in done.stdout
    assert "'over': False" in done.stdout
    [episode] = stored(tmp_path / "runs" / "alfworld-mcp")
    assert ([step.action for step in episode.steps], episode.status) == (["look"], "cancelled")
