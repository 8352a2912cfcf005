"""Playing on several machines: Ray actors play, and this process alone writes the file.

An actor is a process with an agent and a batch of environments of its own, on a core or a GPU of a
Ray cluster; it plays as one process does (`eto_agents.rollout`) and sends each finished episode as
its line in the file, so that one writer can keep up with many actors. Episodes do not depend on who
plays them, so a run can be continued with more actors, fewer, or without Ray.

The episodes of an actor that dies are played again by the one that replaces it. After Ctrl-C the
live episodes are lost, not recorded as `cancelled`; they are played again, too.

Not here: training on several machines, which is for `accelerate`.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eto_agents.live_episode import Job
from eto_agents.policy import Policy, as_policy, name_of
from eto_agents.rollout import Rollouts, make_batch
from eto_agents.settings import SettingsError
from eto_agents.trajectory import EpisodeKey, EpisodeSummary
from eto_envs.errors import BackendError, DataError, EtoError, require

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_SEND_EVERY_S: Final = 0.5
"""How long an actor collects lines before it sends them: a message costs more than a line."""

_MAX_DEATHS: Final = 3
"""The most actors that may die in a row without any episode having ended."""


class Work(NamedTuple):
    """What all actors of a run have in common.

    Attributes:
        env_id: the Gymnasium id.
        env_args: keyword arguments of the environment, with the split.
        tasks_sha256: the hash of the task set, which must be the same on all machines.
        n_envs: number of episodes that an actor plays at once.
        action_timeout_s: seconds an agent may take to decide; None sets no limit.
    """

    env_id: str
    env_args: Mapping[str, Any]
    tasks_sha256: str
    n_envs: int
    action_timeout_s: float | None


class About(NamedTuple):
    """What an agent is.

    Attributes:
        name: its name.
        provenance: what its episodes depend on.
        n_samples: number of episodes per task and seed, as of `eto_agents.best_of_n.BestOfN`.
        n_envs: the most episodes it can serve at once; None if there is no limit.
    """

    name: str
    provenance: dict[str, Any]
    n_samples: int
    n_envs: int | None


JobKey = tuple[str, int, int]
"""The task's id, the run's seed and the number of the sample."""


class Block(NamedTuple):
    """Some finished episodes.

    Attributes:
        summaries: an entry for each.
        lines: their lines for the file, in the same order.
    """

    summaries: list[EpisodeSummary]
    lines: bytes


class Cluster:
    """An agent that plays on the actors of a Ray cluster, in place of a `Policy`.

    Nothing is started before it is needed. It is a context manager that ends what it started.

    Args:
        make_policy: makes the agent: anything `as_policy` takes. It is sent to the actors, each of
            which makes its own.
        address: ``"local"`` for a cluster on this machine that ends with this process, or the
            address of a running one, such as ``"auto"`` or ``"ray://head:10001"``.
        n_actors: the number of actors; by default one for each core of the cluster, or each GPU.
        on_gpus: give each actor a GPU if the cluster has any; for agents with a local model.
    """

    def __init__(
        self,
        make_policy: Callable[[], Any],
        address: str = "local",
        *,
        n_actors: int | None = None,
        on_gpus: bool = False,
    ) -> None:
        """Take the arguments; see the class.

        Raises:
            SettingsError: `n_actors` is less than 1.
        """
        if n_actors is not None and n_actors < 1:
            raise SettingsError(f"n_actors must be at least 1, got {n_actors}")
        self._make_policy = make_policy
        self._address = address
        self._n_actors = n_actors
        self._on_gpus = on_gpus
        self._actors: list[Any] = []
        self._ray: Any = None
        self._is_ours = False

    @functools.cached_property
    def about(self) -> About:
        """What the agent is; connects to the cluster and starts the actors.

        Raises:
            MissingExtraError: Ray is not installed.
            BackendError: there is no cluster at the address, or an actor dies at its start.
            EtoError: an actor cannot make the agent.
        """
        self._ray = require("ray", extra="ray")
        self._connect()
        resources = self._ray.cluster_resources()
        n_gpus = int(resources.get("GPU", 0)) if self._on_gpus else 0
        n_actors = self._n_actors or n_gpus or max(1, int(resources.get("CPU", 1)))
        self._options = {"num_cpus": 1, "num_gpus": int(n_gpus > 0)}
        self._actors = [self._start() for _ in range(n_actors)]
        try:
            about: About = self._result(self._actors[0].about.remote())
        except _Died as error:
            raise BackendError(f"an actor died at its start: {error}") from None
        return about

    def wrapped(self, wrap: Callable[[Any], Any]) -> Cluster:
        """The same for an agent that is wrapped on the actors; this one must not be in use yet."""
        return Cluster(
            functools.partial(_wrapped, wrap, self._make_policy),
            self._address,
            n_actors=self._n_actors,
            on_gpus=self._on_gpus,
        )

    def play(self, work: Work, jobs: Sequence[Job]) -> Iterator[Block]:
        """Play jobs, and yield their episodes soon after they have ended.

        Args:
            work: the environment.
            jobs: the episodes to play.

        Raises:
            EtoError: the errors of `about`; an actor's environment cannot be made, its tasks are
                others, or too many actors died.
        """
        n_envs = min(work.n_envs, self.about.n_envs or work.n_envs)
        work = work._replace(n_envs=n_envs)
        waiting = deque(_chunks([_key(job) for job in jobs], len(self._actors), n_envs))
        idle = list(self._actors)
        running: dict[Any, tuple[Any, set[JobKey]]] = {}
        n_deaths = 0
        while waiting or running:
            while waiting and idle:
                actor, chunk = idle.pop(), waiting.popleft()
                lines = actor.play.options(num_returns="streaming").remote(work, chunk)
                running[lines] = actor, set(chunk)
            ready, _ = self._ray.wait(list(running), num_returns=1, timeout=1.0)
            for lines in ready:
                actor, left = running[lines]
                try:
                    rows, content = self._result(next(lines))
                except StopIteration:
                    del running[lines]
                    idle.append(actor)
                    continue
                except _Died as error:
                    del running[lines]
                    n_deaths += 1
                    if n_deaths > _MAX_DEATHS:
                        raise BackendError(f"{n_deaths} actors died in a row: {error}") from None
                    logger.warning("%s; its %d episodes are played again", error, len(left))
                    self._actors.remove(actor)
                    self._actors.append(self._start())
                    idle.append(self._actors[-1])
                    waiting.appendleft(sorted(left))
                    continue
                n_deaths = 0
                block = Block([_summary(row) for row in rows], content)
                left.difference_update(summary.key[1:] for summary in block.summaries)
                yield block

    def close(self) -> None:
        """End the actors, and a local cluster with them."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self.__dict__.pop("about", None)
        if self._is_ours:
            self._ray.shutdown()
            self._is_ours = False

    def __enter__(self) -> Self:
        """Return the cluster."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        address = self._address
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home
        place = {"include_dashboard": False} if address == "local" else {}
        try:
            self._ray.init(
                address=address,
                log_to_driver=False,
                configure_logging=False,
                **place,
            )
            self._is_ours = True
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise BackendError(f"no Ray cluster at {address!r}: {error}") from error

    def _start(self) -> Any:
        actor = self._ray.remote(**self._options)(_Player)
        return actor.remote(self._make_policy)

    def _result(self, reference: Any) -> Any:
        """What an actor returned.

        Raises:
            _Died: the actor did.
            EtoError: what it raised.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            cause = getattr(error, "cause", None)
            raise _Died(" ".join(str(cause or error).split())[:500]) from error
        except self._ray.exceptions.RayTaskError as error:
            # Errors with arguments of their own cannot be unpickled: the message is what counts.
            raise EtoError(str(error.cause or error)) from error


class _Died(Exception):
    """An actor's process ended."""


class _Player:
    """The actor."""

    def __init__(self, make_policy: Callable[[], Any]) -> None:
        # Made later: what a constructor raises reaches the caller as the actor's death.
        self._make_policy = make_policy

    @functools.cached_property
    def _policy(self) -> Policy:
        import eto_envs  # noqa: F401 (registers the ids)

        return as_policy(self._make_policy())

    def about(self) -> About:
        return about(self._policy)

    def play(self, work: Work, keys: list[JobKey]) -> Iterator[tuple[list[_Row], bytes]]:
        n_envs = min(work.n_envs, len(keys))
        env = make_batch(work.env_id, self._policy, n_envs, work.env_args)
        try:
            tasks = env.envs[0].tasks
            if tasks.sha256 != work.tasks_sha256:
                raise DataError(
                    f"the tasks on {platform.node()} ({tasks.sha256[:12]}) are not those of the "
                    f"machine that writes ({work.tasks_sha256[:12]}): give both the same data"
                )
            jobs = [Job(tasks.find(task_id), seed, sample) for task_id, seed, sample in keys]
            rows: list[_Row] = []
            lines: list[str] = []
            sent_s = time.monotonic()
            for episode in Rollouts(
                self._policy, env, jobs, action_timeout_s=work.action_timeout_s
            ):
                rows.append((*episode.key, *episode.summary[1:]))
                lines.append(episode.to_json() + "\n")
                if time.monotonic() - sent_s >= _SEND_EVERY_S:
                    yield rows, "".join(lines).encode()
                    rows, lines, sent_s = [], [], time.monotonic()
            if rows:
                yield rows, "".join(lines).encode()
        finally:
            env.close()


def about(policy: Policy | Cluster) -> About:
    """What an agent is, wherever it plays."""
    if isinstance(policy, Cluster):
        return policy.about
    return About(
        name_of(policy),
        dict(getattr(policy, "provenance", {})),
        int(getattr(policy, "n_samples", 1)),
        getattr(policy, "n_envs", None),
    )


def _wrapped(wrap: Callable[[Any], Any], make_policy: Callable[[], Any]) -> Any:
    return wrap(make_policy())


_Row = tuple[str, str, int, int, Any, float, float]
"""An `EpisodeSummary` of plain values, which take a fifth of the time to send."""


def _summary(row: _Row) -> EpisodeSummary:
    split, task_id, seed, sample, *rest = row
    return EpisodeSummary(EpisodeKey(split, task_id, seed, sample), *rest)


def _key(job: Job) -> JobKey:
    return job.task.id, job.seed, job.sample


def _chunks(keys: list[JobKey], n_actors: int, n_envs: int) -> Iterator[list[JobKey]]:
    """Cut jobs into parts for the actors.

    Parts must not be too small, because an actor plays the end of each with ever fewer episodes at
    once, nor too large, because all actors but one wait for the last.
    """
    size = max(1, min(-(-len(keys) // (4 * n_actors)), 16 * n_envs))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
