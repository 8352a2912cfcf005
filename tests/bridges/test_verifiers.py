"""verifiers' plug-in: the scores of `evaluate` with a scripted server, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import verifiers.v1 as vf
from verifiers.v1.utils.loaders import load_environment

from eto_agents.bridges.verifiers import WorldEnv, WorldEnvConfig, WorldTaskset
from eto_envs import task_sets
from tests import test_docs
from tests.agents import shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
MINI: dict[str, Any] = {"env_id": WEBSHOP, "split": "seen", "dataset": "mini", "prompts": "brief"}
OF_TOYS: dict[str, Any] = {"prompts": "brief", "world": "webshop"}


class Server:
    """An OpenAI-compatible server whose model is a function of the chat."""

    def __init__(self, agent: Callable[[Any], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert body["stream"]
                message = {"role": "assistant", "content": agent(body["messages"])}
                usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
                head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                chunks: list[dict[str, Any]] = [
                    {"choices": [{"index": 0, "delta": message, "finish_reason": None}]},
                    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                    {"choices": [], "usage": usage},
                ]
                lines = [json.dumps(head | chunk) for chunk in chunks]
                data = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture(params=[shopper.reply])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    server = Server(request.param)
    yield server.url
    server.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def play(url: str, n: int, limits: Any = None, **taskset: Any) -> list[vf.Episode]:
    """The first tasks, as `vf-eval` plays them."""
    config = {"taskset": {"id": "eto-verifiers", **taskset}, "player": limits or {}}
    env = load_environment(WorldEnvConfig.model_validate(config))
    assert isinstance(env, WorldEnv)
    client = vf.EvalClientConfig(base_url=url, api_key_var="OPENAI_API_KEY")
    context = vf.ModelContext(client=client, model="m", sampling=vf.SamplingConfig())

    async def run() -> list[vf.Episode]:
        async with env.serving():
            tasks = list(env.taskset.take(n))
            return await asyncio.gather(*(env.run_episode(task, context) for task in tasks))

    return asyncio.run(run())


def test_the_scores_are_those_of_evaluate(url: str) -> None:
    episodes = play(url, 5, **MINI)
    assert all(episode.ok for episode in episodes)
    traces = [episode.traces[0] for episode in episodes]
    scores = [trace.rewards["score"].score for trace in traces]
    assert statistics.fmean(scores) == pytest.approx(shopper.SCORES[5], abs=5e-6)
    for trace, score in zip(traces, scores, strict=True):
        assert trace.metrics["success"] == (score == 1.0)
        assert trace.metrics["n_steps"] == trace.num_turns
        assert trace.task.key.startswith(f"{WEBSHOP}/")


def test_the_tasks_are_those_of_the_split() -> None:
    config = WorldEnvConfig.model_validate({"taskset": {"id": "eto-verifiers", **MINI}})
    taskset = load_environment(config).taskset
    assert isinstance(taskset, WorldTaskset)
    tasks = list(taskset)
    ids = task_sets(WEBSHOP, "mini")["seen"].ids
    assert [task.data.id for task in tasks] == list(ids)
    assert len({task.key for task in tasks}) == len(ids)
    assert config.player.harness is not None
    assert (config.player.harness.id, config.player.runtime.type) == ("null", "subprocess")


@pytest.mark.parametrize("url", [lambda _: "Action: east"], indirect=True)
def test_a_limit_leaves_the_score_so_far(url: str) -> None:
    [episode] = play(url, 1, {"max_turns": 1}, env_id=CORRIDOR, **OF_TOYS)
    [trace] = episode.traces
    assert trace.rewards["score"].score == 0.5
    assert trace.metrics["n_steps"] == 1.0


@pytest.mark.parametrize("url", [lambda _: "Action: go"], indirect=True)
def test_a_world_that_fails_is_an_error(url: str) -> None:
    [episode] = play(url, 1, env_id=BROKEN, **OF_TOYS)
    assert not episode.ok
    assert "the world ended" in episode.errors[-1].message
    assert all("score" not in trace.rewards for trace in episode.traces)


def test_the_page_s_command(url: str, tmp_path: Path) -> None:
    page = test_docs.ROOT / "docs/bridges/verifiers.md"
    [command] = re.findall(r"^\$ (vf-eval .*?[^\\])\n", page.read_text(), re.MULTILINE | re.DOTALL)
    words = shlex.split(command.replace("\\\n", " ").replace("http://127.0.0.1:8000/v1", url))
    options = ["--env.taskset.prompts", "brief", "--no-rich", "-o", str(tmp_path)]
    done = subprocess.run([*words, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.rglob("traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    scores = [episode["traces"][0]["rewards"]["score"]["score"] for episode in episodes]
    assert len(scores) == 2
    env = gym.make(WEBSHOP, split="seen", dataset="mini")
    assert sorted(scores) == sorted(score_of_the_shopper(env, index) for index in range(2))


def score_of_the_shopper(env: Any, index: int) -> float:
    page, info = env.reset(options={"task": index})
    over = False
    while not over:
        page, _, terminated, truncated, info = env.step(shopper.command(page))
        over = terminated or truncated
    return float(info["score"])
