"""OpenEnv: any environment behind OpenEnv's server, and its client.

    eto serve openenv --env ETO-WebShop-v0 --dataset mini

A session is a WebSocket (``/ws``), as `WorldEnvClient` opens it, and has an environment of its own.
OpenEnv's HTTP routes ``/reset`` and ``/step`` make a new environment for each request, so that no
episode can be played through them; its task routes list the splits and tasks. Not here: prompts and
replies. An action is a command of the world, and the observation is the world's own.
"""

from __future__ import annotations

import functools
import inspect
import socket
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

import gymnasium as gym
from gymnasium.error import ResetNeeded

import eto_envs
from eto_agents.live_episode import MAX_ACTION_BYTES
from eto_envs.errors import (
    BackendError,
    EpisodeEndedError,
    EtoError,
    UnknownNameError,
    require,
)
from eto_envs.registration import find_env, task_sets
from eto_envs.tasks import TaskSet, find_task_set

require("openenv", extra="openenv")

import uvicorn  # noqa: E402
from fastapi import FastAPI, Request  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from openenv.core import EnvClient  # noqa: E402
from openenv.core.client_types import StepResult  # noqa: E402
from openenv.core.env_server.http_server import create_app  # noqa: E402
from openenv.core.env_server.interfaces import Environment  # noqa: E402
from openenv.core.env_server.types import (  # noqa: E402
    Action,
    ConcurrencyConfig,
    EnvironmentMetadata,
    Observation,
    State,
)
from pydantic import Field  # noqa: E402

_STATUS: Final[Mapping[type[Exception], int]] = {
    ResetNeeded: 409,
    BackendError: 502,
    EtoError: 400,
}
"""The HTTP status of errors, by class."""


class WorldAction(Action):
    """What an agent does."""

    command: str = Field(description="One command of the world")


class WorldObservation(Observation):
    """What an agent reads, and what it does not: `reward`, `done` and `info`.

    The rewards of an episode sum to ``info["score"]``, unless they are shaped.
    """

    text: str = Field(default="", description="What the agent reads")
    truncated: bool = Field(default=False, description="Whether the step limit ended the episode")
    info: dict[str, Any] = Field(default_factory=dict, description="The environment's info")


class WorldState(State):
    """Where a session is."""

    task_id: str = Field(default="", description="The task's id; empty before the first reset")
    split: str = Field(default="", description="The task's split")
    score: float = Field(default=0.0, description="The score so far, in [0, 1]")


class WorldEnvironment(Environment[WorldAction, WorldObservation, WorldState]):
    """The environment of one session; also OpenEnv's `TaskProvider`."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(
        self, env_id: str, task_sets: Mapping[str, TaskSet], env_args: Mapping[str, Any]
    ) -> None:
        """Set what is played; the environment itself is made by the first `reset`.

        Args:
            env_id: the Gymnasium id.
            task_sets: the task sets by split, from `eto_envs.task_sets`.
            env_args: keyword arguments for the environment.
        """
        super().__init__()
        self._env_id, self._task_sets, self._env_args = env_id, task_sets, env_args
        self._env: Any = None
        self._state = WorldState()
        self._is_closed = False

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        *,
        split: str | None = None,
        index: int | None = None,
        task: str | None = None,
        **unknown: Any,
    ) -> WorldObservation:
        """Begin an episode.

        Args:
            seed: seeds the generator that draws the task, if neither `index` nor `task` is given.
            episode_id: a name for the state; by default a new one.
            split: the task's split; by default the environment's.
            index: the task's position in the split.
            task: the task's id.
            **unknown: refused.

        Raises:
            UnknownNameError: there is no such split, task or argument.
            BackendError: the environment failed.
        """
        self._check_open()
        for name in unknown:
            raise UnknownNameError("reset argument", name, ("seed", "split", "index", "task"))
        for name, value in {"seed": seed, "index": index}.items():
            if value is not None and (type(value) is not int or value < 0):
                raise UnknownNameError(name, value, (), "Give a whole number from 0.")
        if None not in (index, task):
            raise UnknownNameError("task", task, (), f"The index {index} already says which.")
        options = {"split": split, "task": task if index is None else index}
        text, info = self._call("reset", seed=seed, options=options)
        self._state = WorldState(
            episode_id=episode_id or str(uuid4()), task_id=info["task_id"], split=info["split"]
        )
        return WorldObservation(text=text, info=info)

    def step(
        self, action: WorldAction, timeout_s: float | None = None, **_: Any
    ) -> WorldObservation:
        """Carry out a command.

        Args:
            action: the command.
            timeout_s: ignored, as by OpenEnv's WebSocket.
            **_: ignored, too.

        Raises:
            EpisodeEndedError: the episode is over.
            gymnasium.error.ResetNeeded: there is no episode.
            EtoError: the command is too long, or no text that UTF-8 can encode.
            BackendError: the environment failed; the episode is lost.
        """
        self._check_open()
        if not self._state.task_id:
            raise ResetNeeded(
                "there is no episode: call reset first, in the same WebSocket (/ws), since an HTTP "
                "request has an environment of its own"
            )
        _check_command(action.command)
        text, reward, terminated, truncated, info = self._call("step", action.command)
        self._state.step_count, self._state.score = info["n_steps"], info["score"]
        return WorldObservation(
            text=text, reward=reward, done=terminated or truncated, truncated=truncated, info=info
        )

    @property
    def state(self) -> WorldState:
        """The episode's state."""
        return self._state

    def close(self) -> None:
        """End the session; OpenEnv does so when a client goes or has been idle for too long."""
        self._is_closed = True
        self._discard()

    def get_metadata(self) -> EnvironmentMetadata:
        """Name, description and version, for OpenEnv's route ``/metadata``."""
        spec, kind = find_env(self._env_id)
        return EnvironmentMetadata(
            name=self._env_id,
            description=(inspect.getdoc(kind) or spec.id).partition("\n\n")[0],
            version=eto_envs.__version__,
        )

    def list_splits(self) -> list[dict[str, str]]:
        """The splits, with OpenEnv's types ``"train"`` and ``"test"``."""
        return [
            {"name": name, "type": "train" if name.startswith("train") else "test"}
            for name in self._task_sets
        ]

    def num_tasks(self, split: str) -> int:
        """Number of tasks of a split; raises UnknownNameError, as the next three."""
        return len(find_task_set(self._task_sets, split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """A task of a split; raises IndexError if there is no such index."""
        tasks = find_task_set(self._task_sets, split)
        if not 0 <= index < len(tasks):
            raise IndexError(f"there are {len(tasks)} tasks in split {split!r}, not {index + 1}")
        task = tasks[index]
        return {
            "id": task.id,
            "split": split,
            "index": index,
            "goal": task.goal,
            "kind": task.kind,
            "max_steps": task.max_steps,
        }

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        """The tasks of a slice of a split."""
        indices = range(*slice(start, stop).indices(self.num_tasks(split)))
        return [self.get_task(split, index) for index in indices]

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """All tasks of a split."""
        return self.get_task_range(split)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EtoError("the session has ended, after being idle for too long: connect again")

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the environment's `reset` or `step`; after a failure it is made again."""
        try:
            if self._env is None:
                self._env = gym.make(self._env_id, **self._env_args).unwrapped
            return getattr(self._env, method)(*args, **kwargs)
        except (EpisodeEndedError, UnknownNameError):  # nothing has happened
            raise
        except Exception as error:
            self._discard()
            if isinstance(error, BackendError):
                raise
            raise BackendError(f"the environment failed: {error}") from error

    def _discard(self) -> None:
        env, self._env, self._state = self._env, None, WorldState()
        if env is not None:
            env.close()


def _check_command(command: str) -> None:
    """Refuse what no environment should get.

    Raises:
        EtoError: the command is too long, or cannot be encoded.
    """
    try:
        n_bytes = len(command.encode())
    except UnicodeEncodeError as error:
        raise EtoError(f"the command is no Unicode text: {error}") from error
    if n_bytes > MAX_ACTION_BYTES:
        raise EtoError(f"the command has {n_bytes:,} bytes, more than {MAX_ACTION_BYTES:,}")


def create_server(
    env_id: str, *, max_sessions: int = 64, idle_minutes: float = 30.0, **env_args: Any
) -> FastAPI:
    """OpenEnv's application for an environment, to be served by uvicorn.

    Args:
        env_id: the Gymnasium id.
        max_sessions: the most sessions at once; further clients are refused.
        idle_minutes: a session ends when nothing was asked of it for this long.
        **env_args: keyword arguments for the environment, such as `dataset`.

    Raises:
        gymnasium.error.Error: there is no such environment.
        EtoError: the environment cannot be made, as its constructor and `reset` raise it.
        ValueError: `max_sessions` or `idle_minutes` is not positive.
    """
    make = functools.partial(WorldEnvironment, env_id, task_sets(env_id, **env_args), env_args)
    first = make()
    first.reset(seed=0)  # what cannot be played is to be noticed before a client comes
    first.close()
    app = create_app(
        make,
        WorldAction,
        WorldObservation,
        env_name=env_id,
        state_cls=WorldState,
        concurrency_config=ConcurrencyConfig(
            max_concurrent_envs=max_sessions, session_timeout=60.0 * idle_minutes
        ),
    )
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, functools.partial(_answer, status))
    return app


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve the application until SIGINT or SIGTERM; sessions are ended."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


async def _answer(status: int, _: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status)


class WorldEnvClient(EnvClient[WorldAction, WorldObservation, WorldState]):
    """A session with the server; `reset` takes `seed`, `split`, `index` or `task`.

    Errors of the server are `RuntimeError`s, also those of an environment that fails.
    """

    def _step_payload(self, action: WorldAction) -> dict[str, Any]:
        return {"command": action.command}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[WorldObservation]:
        outcome = {"reward": payload["reward"], "done": payload["done"]}
        observation = WorldObservation(**payload["observation"], **outcome)
        return StepResult(observation=observation, **outcome)

    def _parse_state(self, payload: dict[str, Any]) -> WorldState:
        return WorldState(**payload)
