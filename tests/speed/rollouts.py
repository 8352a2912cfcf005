"""How fast models behind a server play: `python tests/speed/rollouts.py [--crowd 1000]`.

A server in another process speaks OpenAI's protocol and takes a random time for every reply
(exponential, as the lengths of replies vary). Both sides play the same episodes of WebShop mini:
one with all live episodes in step, as a local model has to, so that each turn lasts as long as its
slowest reply, the other with each episode going on as soon as its own reply is there. Compare the
ratio. Then a crowd of episodes plays at once in this process, to show what each costs in memory and
processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from eto_agents.models.openai import OpenAIModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.rollout import Rollouts, jobs_of, make_batch
from eto_agents.trajectory import Trajectory

WEBSHOP = "ETO-WebShop-v0"
MINI = {"dataset": "mini", "split": "seen"}


def shop(chat: list[dict[str, Any]]) -> str:
    """Search, open the first product, and buy it."""
    page = chat[-1]["content"]
    if "Buy Now" in page:
        return "Thought: I buy it.\nAction: click[Buy Now]"
    if "Page 1" in page:
        return f"Thought: I open the first one.\nAction: click[{page.split(' [SEP] ')[5]}]"
    return "Thought: I search.\nAction: search[desk lamp]"


class Server:
    """Replies after a random time, over as many connections as are made."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._rng = random.Random(0)

    async def serve(self, address: Connection) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=4096)
        address.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            length = 0
            while head.strip():
                name, _, value = head.decode().partition(":")
                if name.lower() == "content-length":
                    length = int(value)
                head = await reader.readline()
            chat = json.loads(await reader.readexactly(length))["messages"]
            await asyncio.sleep(self._rng.expovariate(1 / self._latency_s))
            writer.write(_response(shop(chat)))
            await writer.drain()


def _response(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    record = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    body = json.dumps(record | {"choices": [choice | {"finish_reason": "stop"}]}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _serve(latency_s: float, address: Connection) -> None:
    asyncio.run(Server(latency_s).serve(address))


@contextmanager
def server(latency_s: float) -> Iterator[str]:
    """A server in another process; its address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(latency_s, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def play(url: str, n_episodes: int, n_slots: int, *, concurrent: bool) -> list[Trajectory]:
    """The first episodes of WebShop mini, each task under as many seeds as it takes."""
    policy = ReActPolicy(OpenAIModel("m", base_url=url), prompts="brief")
    policy.concurrent = concurrent
    env = make_batch(WEBSHOP, policy, n_slots, MINI)
    tasks = env.envs[0].tasks
    jobs = jobs_of(tasks, range(-(-n_episodes // len(tasks))))[:n_episodes]
    try:
        return list(Rollouts(policy, env, jobs))
    finally:
        env.close()


def timed(function: Callable[[], list[Trajectory]]) -> tuple[float, float, list[Trajectory]]:
    """Seconds by the clock and of this process's processor time, and the result."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - started_s, time.process_time() - cpu_s, result


def memory_mib() -> float:
    """The most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--crowd", type=int, default=1000, help="episodes of the crowd at once")
    parser.add_argument("--latency", type=float, default=0.25, help="mean seconds of a reply")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; replies take {options.latency} s in the mean (exponential)")
    with server(options.latency) as url:
        sides = {}
        for name, concurrent in (("in step", False), ("free-running", True)):
            wall_s, _, episodes = timed(
                lambda concurrent=concurrent: play(  # type: ignore[misc]
                    url, options.episodes, options.slots, concurrent=concurrent
                )
            )
            n_turns = sum(len(episode.steps) for episode in episodes)
            sides[name] = wall_s
            print(
                f"{name}: {len(episodes)} episodes, {options.slots} at once, {wall_s:.1f} s, "
                f"{n_turns / wall_s:.0f} replies/s, "
                f"mean score {sum(e.score for e in episodes) / len(episodes):.4f}"
            )
        print(f"free-running is {sides['in step'] / sides['free-running']:.1f} times as fast")
    with server(10 * options.latency) as url:
        before_mib = memory_mib()
        n = options.crowd
        wall_s, cpu_s, episodes = timed(lambda: play(url, 2 * n, n, concurrent=True))
        n_failed = sum(episode.status != "completed" for episode in episodes)
        print(
            f"crowd: {len(episodes)} episodes, {n} at once, {n_failed} failed, {wall_s:.1f} s, "
            f"{len(episodes) / wall_s:.0f} episodes/s, {1000 * cpu_s / len(episodes):.1f} ms of "
            f"processor time and {1024 * (memory_mib() - before_mib) / n:.0f} KiB an episode"
        )


if __name__ == "__main__":
    main()
