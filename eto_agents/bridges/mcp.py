"""MCP: the tasks of a split behind the tools `reset` and `act`, for any client of the protocol.

    eto serve mcp --env ETO-WebShop-v0 --dataset mini --http 8000

The episodes are those of a run, as `eto eval` plays it: they are stored in its folder, each task is
played once for each seed, and an interrupted run resumes. Clients never see a score. An episode
belongs to whoever knows its id, because a client's connection may not outlive a request. What the
client's agent reads besides is not known, so that a trajectory has no conversation.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import uvicorn
from anyio import to_thread
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field
from typing_extensions import TypedDict

from eto_agents.chat_episode import ChatEpisode
from eto_agents.episodes import split_jobs
from eto_agents.live_episode import MAX_ACTION_BYTES, Job
from eto_agents.react.protocols import OVER, call_of
from eto_agents.react.tools import ACT
from eto_agents.rollout import jobs_of
from eto_agents.runs import episodes_folder
from eto_agents.store import TrajectoryStore
from eto_envs.errors import BackendError, UnknownNameError
from eto_envs.registration import task_set

logger = logging.getLogger(__name__)

MAX_ACTION_CHARS: Final = MAX_ACTION_BYTES // 4
"""Maximum length of an action in characters, which have at most four bytes each."""

_INSTRUCTIONS: Final = (
    "Call `reset` to begin an episode; read its instruction and its task. Then call `act` with the "
    "episode's id and one command at a time, until it is over."
)

EpisodeId = Annotated[str, Field(max_length=100, description="The episode's id, from `reset`.")]
TaskId = Annotated[
    str | None,
    Field(max_length=1000, description="The id of a task; by default the next one is played."),
]
Action = Annotated[
    str,
    Field(
        max_length=MAX_ACTION_CHARS,
        description=ACT["function"]["parameters"]["properties"]["action"]["description"],
    ),
]


class Begun(TypedDict):
    """The result of the tool `reset`."""

    episode: Annotated[str, Field(description="The episode's id, for `act`.")]
    task: Annotated[str, Field(description="The task's id.")]
    instruction: Annotated[str, Field(description="What can be done in the world, and how.")]
    observation: Annotated[str, Field(description="The task.")]


class Acted(TypedDict):
    """The result of the tool `act`."""

    observation: Annotated[str, Field(description="What happens or what you see.")]
    over: Annotated[bool, Field(description="Whether the episode is over.")]


@contextlib.contextmanager
def open_episodes(
    env_id: str,
    *,
    out: Path,
    split: str = "seen",
    n_tasks: int | None = None,
    seeds: Sequence[int] = (0,),
    prompts: str = "own",
    agent: str = "mcp",
    max_episodes: int = 256,
    **env_args: Any,
) -> Iterator[Episodes]:
    """Open a run's folder, and cancel at the end what is then being played.

    Args:
        env_id: the Gymnasium id.
        out: the run's folder; repeating the call resumes the run.
        split: the split.
        n_tasks: only the first `n_tasks` tasks of the split.
        seeds: every task is played once under each seed.
        prompts: ``"own"``, ``"brief"``, or the path of a TOML file; its instruction is used.
        agent: the agent's name in the trajectories and in reports.
        max_episodes: the most episodes that are played at once.
        **env_args: further keyword arguments for the environment.

    Raises:
        UnknownNameError: there is no such split, dataset or prompt.
        SettingsError: the prompts are for actions as text.
        DataError: `out` holds another run, or another process is using it.
    """
    tasks = task_set(env_id, split, **env_args)
    jobs = jobs_of(tasks[:n_tasks], seeds)

    def begin(job: Job) -> ChatEpisode:
        return ChatEpisode(
            env_id,
            job.task,
            protocol="tool",
            prompts=prompts,
            with_example=False,
            seed=job.seed,
            policy=agent,
            split=split,
            **env_args,
        )

    for job in jobs[:1]:  # what cannot be played is to be noticed before a client comes
        begin(job).close()
    folder = episodes_folder(
        out,
        env_id=env_id,
        env_args=env_args,
        policy=agent,
        policy_provenance={"prompts": prompts},
        task_sets={split: tasks.sha256},
    )
    with folder as run, TrajectoryStore(run.episodes) as store:
        run.state(n_planned=run.record.facts.get("n_planned", {}) | {split: len(jobs)})
        _, waiting = split_jobs(split, jobs, store.latest())
        episodes = Episodes(begin, jobs, waiting, store, max_episodes=max_episodes)
        try:
            yield episodes
        finally:
            episodes.close()


def serve(
    name: str, episodes: Episodes, *, idle_s: float, listener: socket.socket | None = None
) -> None:
    """Serve episodes until a signal comes, or until the client of the standard streams goes.

    Args:
        name: the server's name.
        episodes: what is played.
        idle_s: seconds after which an episode without an action is cancelled; it can be played
            again.
        listener: a listening socket to serve HTTP on; None uses standard input and output.
    """
    anyio.run(_serve, make_server(name, episodes), episodes, idle_s, listener)


async def _serve(
    server: MCPServer, episodes: Episodes, idle_s: float, listener: socket.socket | None
) -> None:
    async with anyio.create_task_group() as group:

        async def run() -> None:
            if listener is None:
                await server.run_stdio_async()
            else:
                await _serve_http(server, listener)
            group.cancel_scope.cancel()

        if listener is None:
            group.start_soon(_cancel_at_signal, group.cancel_scope, _closable_stdin())
        group.start_soon(episodes.cancel_idle, idle_s)
        group.start_soon(run)


async def _serve_http(server: MCPServer, listener: socket.socket) -> None:
    # Without sessions: episodes have ids of their own, and nothing is left of a client.
    app = server.streamable_http_app(stateless_http=True, json_response=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):  # which it raises again when it has stopped
        await uvicorn.Server(config).serve(sockets=[listener])


async def _cancel_at_signal(scope: anyio.CancelScope, close_stdin: Callable[[], None]) -> None:
    try:
        if os.name != "posix":  # where there is only Ctrl-C, which cancels all tasks
            await anyio.sleep_forever()
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()
    finally:
        close_stdin()


def _closable_stdin() -> Callable[[], None]:
    """Put a pipe in the place of standard input, for the rest of the process.

    The server reads in a thread that cannot be interrupted and is waited for. So a signal would end
    the process only when the client sends something.

    Returns:
        A function that closes the pipe.
    """
    stdin = os.dup(0)
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(reader)
    close = functools.cache(functools.partial(os.close, writer))

    def copy() -> None:
        with contextlib.suppress(OSError):  # the pipe is closed
            while block := os.read(stdin, 2**16):
                os.write(writer, block)
        close()

    threading.Thread(target=copy, daemon=True).start()
    return close


def make_server(name: str, episodes: Episodes) -> MCPServer:
    """Make the server with its two tools.

    Args:
        name: the server's name.
        episodes: what is played.
    """
    server = MCPServer(
        name,
        instructions=_INSTRUCTIONS,
        version=metadata.version("eto-gym"),
        log_level="WARNING",
    )

    @server.tool(description="Begin the episode of a task, and get its instruction and its task.")
    async def reset(task: TaskId = None) -> Begun:
        return await episodes.begin(task)

    @server.tool(description=ACT["function"]["description"])
    async def act(episode: EpisodeId, action: Action) -> Acted:
        return await episodes.act(episode, action)

    return server


@dataclass
class _Live:
    """An episode that is being played."""

    episode: ChatEpisode
    job: Job
    lock: anyio.Lock = field(default_factory=anyio.Lock)  # for one action at a time
    used_s: float = field(default_factory=time.monotonic)


class Episodes:
    """The episodes of a run: those that wait, those that are being played, those that have ended.

    Its methods belong to one event loop; what takes time, they do in threads. They are shielded
    from being cancelled, so that an episode is recorded whenever its client goes.
    """

    def __init__(
        self,
        begin: Callable[[Job], ChatEpisode],
        jobs: Iterable[Job],
        waiting: Iterable[Job],
        store: TrajectoryStore,
        *,
        max_episodes: int,
    ) -> None:
        """Play nothing yet.

        Args:
            begin: begins the episode of a job.
            jobs: all episodes of the run.
            waiting: those that are still to be played, in this order.
            store: where episodes are stored when they end.
            max_episodes: the most episodes that are played at once.
        """
        self._begin = begin
        self._task_ids = list(dict.fromkeys(job.task.id for job in jobs))
        self._waiting = list(waiting)
        self._store = store
        self._max_episodes = max_episodes
        self._n_beginning = 0
        self._live: dict[str, _Live] = {}
        self._ended: set[str] = set()

    async def begin(self, task_id: str | None) -> Begun:
        """Begin an episode.

        Args:
            task_id: the task's id; None for the next one that waits.

        Raises:
            ToolError: the task does not wait, too many episodes are being played, or the
                environment failed.
        """
        if len(self._live) + self._n_beginning >= self._max_episodes:
            raise ToolError(
                f"{self._max_episodes} episodes are being played, which is the limit "
                "(--max-episodes): end one of them first."
            )
        job = self._take(task_id)
        self._n_beginning += 1
        try:
            with anyio.CancelScope(shield=True):
                episode = await to_thread.run_sync(self._begin, job)
        except Exception as error:
            self._waiting.append(job)
            logger.warning("task %s: cannot begin: %s", job.task.id, error)
            raise ToolError(
                "The world failed: this episode has not begun. Call `reset`."
            ) from error
        finally:
            self._n_beginning -= 1
        episode_id = secrets.token_hex(8)
        self._live[episode_id] = _Live(episode, job)
        return {
            "episode": episode_id,
            "task": job.task.id,
            "instruction": episode.messages[0]["content"],
            "observation": episode.messages[-1]["content"],
        }

    async def act(self, episode_id: str, action: str) -> Acted:
        """Take an action; the last observation of an episode, which may state the score, is hidden.

        Args:
            episode_id: from `begin`.
            action: the command.

        Raises:
            ToolError: there is no such episode, it is over, or the environment failed.
        """
        live = self._find(episode_id)
        async with live.lock:
            self._find(episode_id)  # another action may have ended it
            reply = {"tool_calls": [call_of(action, f"call-{live.episode.info['n_steps'] + 1}")]}
            try:
                with anyio.CancelScope(shield=True):
                    turn = await to_thread.run_sync(live.episode.reply, reply)
            except BackendError as error:
                logger.warning("task %s: %s", live.job.task.id, error)
                raise ToolError(
                    "The world failed: this episode is over, and does not count. Call `reset`."
                ) from error
            finally:
                live.used_s = time.monotonic()
                if live.episode.over:
                    self._end(episode_id)
        observation = OVER if turn.over else turn.messages[0]["content"]
        return {"observation": observation, "over": turn.over}

    async def cancel_idle(self, idle_s: float) -> None:
        """Cancel, for as long as the task runs, the episodes without an action for `idle_s`."""
        while True:
            oldest_s = time.monotonic() - idle_s
            for episode_id, live in list(self._live.items()):
                if live.used_s <= oldest_s and not live.lock.locked():
                    self._end(episode_id)
            first_s = min((live.used_s for live in self._live.values()), default=time.monotonic())
            await anyio.sleep(max(first_s - oldest_s, 0.1))

    def close(self) -> None:
        """Cancel the episodes that are being played."""
        for episode_id in list(self._live):
            self._end(episode_id)

    def _take(self, task_id: str | None) -> Job:
        """Take the first job of a task from those that wait."""
        for position, job in enumerate(self._waiting):
            if task_id in (None, job.task.id):
                return self._waiting.pop(position)
        if task_id is None:
            raise ToolError("No task is left: all are being played, or have been.")
        if task_id not in self._task_ids:
            raise ToolError(str(UnknownNameError("task", task_id, self._task_ids)))
        raise ToolError(f"Task {task_id!r} is being played, or has been.")

    def _find(self, episode_id: str) -> _Live:
        if episode_id in self._ended:
            raise ToolError(OVER)
        if episode_id not in self._live:
            raise ToolError(f"There is no episode {episode_id!r}: call `reset`.")
        return self._live[episode_id]

    def _end(self, episode_id: str) -> None:
        """Store an episode; one that is not over is cancelled, and waits to be played again."""
        live = self._live[episode_id]
        live.episode.close()
        trajectory = live.episode.trajectory
        self._store.append(replace(trajectory, messages=[]))
        del self._live[episode_id]
        self._ended.add(episode_id)
        if trajectory.status == "cancelled":
            self._waiting.append(live.job)
