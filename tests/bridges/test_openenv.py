"""OpenEnv's server and client: scores, sessions, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import runpy
import signal
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import requests
import uvicorn
from openenv.cli._cli_utils import validate_env_structure
from openenv.cli._validation import validate_running_environment
from openenv.validation import Level, Verdict, run_validation
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from eto_agents.bridges.openenv import WorldAction, WorldEnvClient, WorldEnvironment, create_server
from eto_agents.cli import main
from eto_envs import task_sets
from eto_envs.errors import UnknownNameError
from eto_envs.webshop.site.server import listen
from tests import test_docs
from tests.agents import scientist, shopper
from tests.toy import BROKEN, CORRIDOR, CorridorEnv

WEBSHOP, ALFWORLD = "ETO-WebShop-v0", "ETO-ALFWorld-v0"
SLOW = "eto-test/SlowCorridor-v0"
EXPERT: dict[str, Any] = {"dataset": "mini", "reveal": ("expert_action",)}


class SlowEnv(CorridorEnv):
    """Acts when it is allowed to."""

    is_acting, may_go_on = threading.Event(), threading.Event()

    def _advance(self, action: str) -> Any:
        self.is_acting.set()
        assert self.may_go_on.wait(60)
        return super()._advance(action)


@pytest.fixture(autouse=True, scope="module")
def slow_corridor() -> Iterator[None]:
    gym.register(SLOW, entry_point=lambda **kwargs: SlowEnv(**kwargs))
    yield
    del gym.registry[SLOW]


@contextlib.contextmanager
def serving(*args: Any, **kwargs: Any) -> Iterator[str]:
    """The URL of a server, as `eto serve openenv` runs it."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_server(*args, **kwargs), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        while thread.is_alive() and not server.started:
            thread.join(0.01)
        assert server.started
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Sessions:
    """The environments that a server has open, and a way to wait for their end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._open: set[WorldEnvironment] = set()
        self._changed = threading.Condition()
        reset, close = WorldEnvironment.reset, WorldEnvironment.close

        @functools.wraps(reset)
        def counted_reset(env: WorldEnvironment, *args: Any, **kwargs: Any) -> Any:
            with self._changed:
                self._open.add(env)
            return reset(env, *args, **kwargs)

        @functools.wraps(close)
        def counted_close(env: WorldEnvironment) -> None:
            close(env)
            with self._changed:
                self._open.discard(env)
                self._changed.notify_all()

        patch.setattr(WorldEnvironment, "reset", counted_reset)
        patch.setattr(WorldEnvironment, "close", counted_close)

    @property
    def n_open(self) -> int:
        return len(self._open)

    def wait_until_closed(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, timeout=60)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions(monkeypatch)


def websocket(url: str) -> str:
    return f"{url.replace('http', 'ws')}/ws"


def play(client: Any, agent: Any, **task: Any) -> Any:
    result = client.reset(**task)
    total = 0.0
    while not result.done:
        result = client.step(WorldAction(command=agent(result.observation)))
        total += result.reward
    assert total == pytest.approx(result.observation.info["score"])
    return result


def test_the_scores_are_those_of_evaluate() -> None:
    with serving(WEBSHOP, dataset="mini") as url, WorldEnvClient(url).sync() as client:
        scores = []
        for index in range(50):
            last = play(client, lambda o: shopper.command(o.text), split="seen", index=index)
            scores.append(client.state().score)
            assert client.state().score == last.observation.info["score"]
    for n in (5, 20, 50):
        assert statistics.fmean(scores[:n]) == pytest.approx(shopper.SCORES[n], abs=5e-6)


@pytest.mark.java
def test_the_scores_in_scienceworld() -> None:
    options = {"dataset": scientist.SEEN["dataset"]}
    with serving(scientist.SCIENCEWORLD, **options) as url, WorldEnvClient(url).sync() as client:
        for task in scientist.TASKS:
            play(client, scientist.agent_of(task), split="seen", task=task)
            assert client.state().score == pytest.approx(scientist.score_of(task))


@pytest.mark.parametrize("env_id", [WEBSHOP, ALFWORLD])
def test_the_expert_scores_1(env_id: str) -> None:
    with serving(env_id, **EXPERT) as url, WorldEnvClient(url).sync() as client:
        for task in task_sets(env_id, "mini")["unseen"].ids[:3]:
            last = play(client, lambda o: o.info["expert_action"], split="unseen", task=task)
            state = client.state()
            assert (state.task_id, state.split, state.score) == (task, "unseen", 1.0)
            assert state.step_count == last.observation.info["n_steps"]
            assert last.observation.info["success"]
            assert not last.observation.truncated


def test_a_seed_draws_the_same_task() -> None:
    with serving(CORRIDOR, n=50) as url, WorldEnvClient(url).sync() as client:
        drawn = [client.reset(seed=seed).observation.info["task_id"] for seed in (1, 2, 1)]
        assert drawn[0] == drawn[2] != drawn[1]
        assert client.reset(episode_id="mine").observation.reward is None
        assert client.state().episode_id == "mine"
        assert client.reset(split="long", index=0).observation.info["task_id"] == "room10"
        assert not client.reset().done
        with WorldEnvClient(url).sync() as other:
            assert other.state().task_id == ""


def test_the_step_limit_truncates() -> None:
    with serving(CORRIDOR) as url, WorldEnvClient(url).sync() as client:
        last = play(client, lambda _: "west", index=0)
        assert last.observation.truncated
        assert last.observation.info["n_steps"] == 12


def test_the_tasks_can_be_listed() -> None:
    sets = task_sets(ALFWORLD, "mini")
    tasks = sets["unseen"]
    with serving(ALFWORLD, dataset="mini") as url:

        def post(route: str, **body: Any) -> Any:
            answer = requests.post(f"{url}/{ALFWORLD}/{route}", json=body, timeout=30)
            return answer.json() if answer.ok else (answer.status_code, answer.json()["detail"])

        splits = requests.get(f"{url}/{ALFWORLD}/splits", timeout=30).json()
        assert [split["name"] for split in splits] == list(sets)
        assert {split["type"] for split in splits} == {"train", "test"}
        assert post("num_tasks", split="unseen") == {"num_tasks": len(tasks)}
        task = post("task", split="unseen", index=3)["task"]
        assert (task["id"], task["goal"]) == (tasks[3].id, tasks[3].goal)
        listed = post("tasks", split="unseen")["tasks"]
        assert [task["id"] for task in listed] == list(tasks.ids)
        assert post("task_range", split="unseen", start=2, stop=4)["tasks"] == listed[2:4]
        assert post("task_range", split="unseen", start=-1)["tasks"] == listed[-1:]
        assert post("task", split="unseen", index=len(tasks)) == (400, "Invalid task index")
        status, detail = post("tasks", split="unsen")
        assert (status, "'unseen'" in detail) == (400, True)
        metadata = requests.get(f"{url}/metadata", timeout=30).json()
        assert (metadata["name"], "ALFWorld" in metadata["description"]) == (ALFWORLD, True)


def test_http_requests_have_an_environment_each() -> None:
    with serving(CORRIDOR) as url:
        begun = requests.post(f"{url}/reset", json={"seed": 0, "index": 1}, timeout=30)
        assert begun.json()["observation"]["info"]["task_id"] == "room3"
        answer = requests.post(f"{url}/step", json={"action": {"command": "east"}}, timeout=30)
        assert (answer.status_code, "/ws" in answer.json()["detail"]) == (409, True)
        answer = requests.post(f"{url}/reset", json={"split": "nowhere"}, timeout=30)
        assert (answer.status_code, "nowhere" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"split": "nowhere"}, "no split 'nowhere'"),
        ({"split": 3}, "no split 3"),
        ({"task": "room99"}, "no task 'room99'"),
        ({"index": 99}, "go from 0 to 4"),
        ({"index": -1}, "no index -1"),
        ({"index": "1"}, "no index '1'"),
        ({"index": 1, "task": "room2"}, "already says which"),
        ({"seed": -1}, "no seed -1"),
        ({"seed": "x"}, "no seed 'x'"),
        ({"spilt": "train"}, "did you mean 'split'"),
    ],
)
def test_a_reset_that_is_refused_changes_nothing(task: Any, message: str) -> None:
    with serving(CORRIDOR) as url, WorldEnvClient(url).sync() as client:
        with pytest.raises(RuntimeError, match="call reset first"):
            client.step(WorldAction(command="east"))
        client.reset(index=0)
        client.step(WorldAction(command="east"))
        with pytest.raises(RuntimeError, match=message):
            client.reset(**task)
        assert client.step(WorldAction(command="east")).done
        with pytest.raises(RuntimeError, match="is over"):
            client.step(WorldAction(command="east"))
        assert client.state().score == 1.0
        assert not client.reset(index=0).done


@pytest.mark.parametrize(
    ("command", "message"), [("x" * 10_000_000, "10,000,000 bytes"), ("\ud800", "Unicode")]
)
def test_a_command_that_is_refused_is_no_step(command: str, message: str) -> None:
    with serving(CORRIDOR) as url, WorldEnvClient(url).sync() as client:
        client.reset(index=0)
        with pytest.raises(RuntimeError, match=message):
            client.step(WorldAction.model_construct(command=command))
        assert client.step(WorldAction(command="east")).observation.info["n_steps"] == 1


def test_messages_that_are_none(sessions: Sessions) -> None:
    with serving(CORRIDOR, max_sessions=1) as url:
        with connect(websocket(url)) as client:

            def ask(message: str) -> Any:
                client.send(message)
                return json.loads(client.recv())["data"]

            assert ask("{")["code"] == "INVALID_JSON"
            assert ask('{"type": "jump"}')["code"] == "UNKNOWN_TYPE"
            assert ask('{"type": "step"}')["code"] == "VALIDATION_ERROR"
            assert ask('{"type": "reset", "data": {}}')["reward"] is None
            for data in ({}, {"command": 3}, {"command": "east", "more": 1}):
                answer = ask(json.dumps({"type": "step", "data": data}))
                assert answer["code"] == "VALIDATION_ERROR"
            assert ask('{"type": "step", "data": {"command": "east"}}')["observation"]
            assert ask("[]")["code"] == "SESSION_ERROR"
            with pytest.raises(ConnectionClosed):
                client.recv()
        with connect(websocket(url)) as client:
            client.send('{"type": "step", "data": {"command": "' + "x" * 20_000_000 + '"}}')
            with pytest.raises(ConnectionClosed, match="1009"):
                client.recv()
        with WorldEnvClient(url).sync() as client:  # the only session is free again
            assert client.reset(index=0).observation.text
    assert sessions.n_open == 0


def test_a_world_that_fails_is_an_error() -> None:
    with serving(BROKEN, n=4) as url, WorldEnvClient(url).sync() as client:
        for _ in range(2):
            client.reset(index=0)
            with pytest.raises(RuntimeError, match="the world ended"):
                client.step(WorldAction(command="east"))
            with pytest.raises(RuntimeError, match="call reset first"):
                client.step(WorldAction(command="east"))


@pytest.mark.parametrize("is_polite", [True, False])
def test_a_client_that_goes_in_the_middle_leaves_nothing(
    sessions: Sessions, is_polite: bool
) -> None:
    with serving(SLOW, max_sessions=1) as url:
        for _ in range(2):
            SlowEnv.is_acting.clear()
            SlowEnv.may_go_on.clear()
            with connect(websocket(url)) as client:
                client.send('{"type": "reset", "data": {}}')
                client.recv()
                with connect(websocket(url)) as other:
                    assert json.loads(other.recv())["data"]["code"] == "CAPACITY_REACHED"
                client.send('{"type": "step", "data": {"command": "east"}}')
                assert SlowEnv.is_acting.wait(60)
                if is_polite:
                    client.send('{"type": "close"}')
                else:
                    client.socket.shutdown(socket.SHUT_RDWR)
                SlowEnv.may_go_on.set()
            sessions.wait_until_closed()


def test_idle_sessions_end(sessions: Sessions) -> None:
    serving_one = serving(CORRIDOR, max_sessions=1, idle_minutes=0.001)
    with serving_one as url, WorldEnvClient(url).sync() as client:
        client.reset(index=0)
        sessions.wait_until_closed()
        with WorldEnvClient(url).sync() as other:  # there is room again
            other.reset(index=1)
        for call in (client.reset, lambda: client.step(WorldAction(command="east"))):
            with pytest.raises(RuntimeError, match="the session has ended"):
                call()


def test_200_sessions_do_not_mix() -> None:
    ids = task_sets(WEBSHOP, "mini")["seen"].ids
    env = gym.make(WEBSHOP, split="seen", dataset="mini")
    expected = []
    for task in ids:
        pages, info = [env.reset(options={"task": task})[0]], {}
        over = False
        while not over:
            page, _, terminated, truncated, info = env.step(shopper.command(pages[-1]))
            pages.append(page)
            over = terminated or truncated
        expected.append((pages, info["score"]))

    async def play_all(url: str) -> list[Any]:
        async def play(number: int) -> Any:
            async with WorldEnvClient(url, connect_timeout_s=60.0) as client:
                result = await client.reset(split="seen", task=ids[number % len(ids)])
                pages = [result.observation.text]
                while not result.done:
                    action = WorldAction(command=shopper.command(pages[-1]))
                    result = await client.step(action)
                    pages.append(result.observation.text)
                return pages, (await client.state()).score

        return await asyncio.gather(*map(play, range(200)))

    with serving(WEBSHOP, dataset="mini", max_sessions=200) as url:
        played = asyncio.run(play_all(url))
    assert played == [expected[number % len(ids)] for number in range(200)]


def test_1000_clients_at_once(sessions: Sessions) -> None:
    async def begin_all(url: str) -> list[str]:
        clients = [WorldEnvClient(url, connect_timeout_s=120.0) for _ in range(1000)]

        async def begin(client: WorldEnvClient) -> str:
            try:
                return str((await client.reset(index=1)).observation.text)
            except RuntimeError as error:
                return str(error)

        answers = await asyncio.gather(*map(begin, clients))
        assert sessions.n_open == 64
        await asyncio.gather(*(client.close() for client in clients))
        return answers

    with serving(CORRIDOR, max_sessions=64) as url:
        for _ in range(2):
            answers = asyncio.run(begin_all(url))
            sessions.wait_until_closed()
            refused = [answer for answer in answers if "64/64 sessions active" in answer]
            assert len(refused) == 1000 - 64
            assert set(answers) - set(refused) == {"walk 3 rooms. You are in room 0."}


@pytest.mark.parametrize("has_web_interface", [False, True])  # a Space has it
def test_the_command_serves_until_it_is_interrupted(has_web_interface: bool) -> None:
    words = ["serve", "openenv", "--env", CORRIDOR, "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import tests.toy, eto_agents.cli; eto_agents.cli.main({words})"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ENABLE_WEB_INTERFACE": str(has_web_interface)},
    )
    assert process.stdout is not None
    url = process.stdout.readline().partition("  ")[0]
    assert requests.get(f"{url}/web", timeout=60).ok == has_web_interface
    with WorldEnvClient(url).sync() as client:
        client.reset(index=0)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest, errors) == (0, "stopped\n", "")
        with pytest.raises((RuntimeError, OSError, ConnectionClosed)):
            client.step(WorldAction(command="east"))


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--max-sessions", "0"], 1, "--max-sessions must be at least 1, got 0"),
        (["--idle-minutes", "0"], 1, "--idle-minutes must be more than 0, got 0.0"),
        (["--dataset", "nowhere"], 2, "nowhere"),
        (["--port", "99999"], 1, "cannot listen on 127.0.0.1, port 99999"),
    ],
)
def test_flags_that_are_refused(
    flags: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["serve", "openenv", "--env", WEBSHOP, "--dataset", "mini", *flags])
    assert exit.value.code == code
    assert message in capsys.readouterr().err


def test_openenv_s_own_validation() -> None:
    folder = test_docs.ROOT / "deploy" / "openenv"
    validate_env_structure(folder)
    report = run_validation(folder, max_level=Level.STATIC, skip_build=True)
    assert (report.verdict, len(report.results)) == (Verdict.PASS, 1)
    with serving(CORRIDOR) as url:
        running = validate_running_environment(url)
    assert running["passed"], running


def test_the_page_s_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "example.py"
    page = test_docs.examples(test_docs.ROOT / "docs/bridges/openenv.md")
    with serving(ALFWORLD, dataset="mini") as url:
        script.write_text(page.replace("http://127.0.0.1:8000", url))
        runpy.run_path(str(script), {"my_agent": lambda _: "look"})
    assert capsys.readouterr().out == "0.0\n"


def test_what_cannot_be_served() -> None:
    with pytest.raises(UnknownNameError, match="nowhere"):
        create_server(WEBSHOP, dataset="nowhere")
    with pytest.raises(gym.error.Error, match="no-such"):
        create_server("no-such")
    for wrong in ({"max_sessions": 0}, {"idle_minutes": 0.0}):
        with pytest.raises(ValueError, match="greater than"):
            create_server(CORRIDOR, **wrong)
