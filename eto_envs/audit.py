"""Tests whether an environment is deterministic, by replaying walks here and in another process.

`audit` plays random and expert walks, then replays their actions twice: in this process, with a new
environment and in a different order, and in a new Python process with another hash seed. Every
observation, score and info must be identical. Not here: the comparison with the original
(`comparison`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import gymnasium as gym

from eto_envs.core import TextEnv
from eto_envs.errors import BackendError
from eto_envs.shaping import Info

MAX_WALK_STEPS = 30

PARTS: Final = ("observation", "score", "info")
_KINDS: Final = {"random": "admissible_actions", "expert": "expert_action"}
_CODE = "import sys; sys.path[:] = {!r}; import eto_envs, eto_envs.audit as a; a.main()"
_HASH_SEED = "12345"  # sets are iterated in a different order than in this process

Progress = Callable[[int, int], None]


class Walk(NamedTuple):
    """An episode: its task, who played it (`"random"` or `"expert"`), and the actions."""

    task_id: str
    walker: str
    actions: list[str]


Digests = list[list[str]]
"""A digest of each of `PARTS`, at the start and after each action."""


@dataclass
class Agreement:
    """The agreement between walks and their replays.

    Attributes:
        n_walks: the number of walks; each is replayed in this process and in another.
        n_moments: the number of replayed steps, including the starts.
        n_same: for each of `PARTS`, the number of those at which it was identical.
    """

    n_walks: int = 0
    n_moments: int = 0
    n_same: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))

    def add(self, expected: Digests, *replays: Digests) -> None:
        """Count a walk and its replays."""
        self.n_walks += 1
        for replay in replays:
            self.n_moments += len(expected)
            for theirs, ours in zip(replay, expected, strict=False):
                for part, a, b in zip(PARTS, theirs, ours, strict=True):
                    self.n_same[part] += a == b

    @property
    def ok(self) -> bool:
        """Whether anything was replayed, and all of it was identical."""
        return self.n_moments > 0 and set(self.n_same.values()) == {self.n_moments}


@dataclass(frozen=True)
class Determinism:
    """The result of an audit, by task type.

    Attributes:
        env_id: the id of the environment.
        dataset: the name of the dataset.
        is_claimed: whether the environment is registered as deterministic.
        by_kind: the agreement for each task type.
    """

    env_id: str
    dataset: str
    is_claimed: bool
    by_kind: Mapping[str, Agreement]

    @property
    def total(self) -> Agreement:
        """The agreement over all task types."""
        total = Agreement()
        for agreement in self.by_kind.values():
            total.n_walks += agreement.n_walks
            total.n_moments += agreement.n_moments
            for part in PARTS:
                total.n_same[part] += agreement.n_same[part]
        return total

    @property
    def ok(self) -> bool:
        """Whether there was at least one task type, and all agreed."""
        return bool(self.by_kind) and all(a.ok for a in self.by_kind.values())


def audit(
    env_id: str,
    n_tasks: int = 5,
    seed: int = 0,
    *,
    env_args: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Determinism:
    """Replay walks of an environment.

    Args:
        env_id: a registered id, or ``"module:id"``.
        n_tasks: the maximum number of tasks of each type. Each is played twice: with random
            admissible actions, some of them corrupted, and by the expert.
        seed: seeds the choice of tasks and actions.
        env_args: keyword arguments of `gym.make`.
        progress: called with the number of episodes played and planned.

    Raises:
        ValueError: `n_tasks` is not positive.
        BackendError: the other process failed.
        EtoError: as raised by the environment's constructor.
    """
    if n_tasks < 1:
        raise ValueError(f"n_tasks must be at least 1, got {n_tasks}")
    env_args = dict(env_args or {})
    envs = {walker: _make(env_id, env_args, reveal) for walker, reveal in _KINDS.items()}
    try:
        kinds = _draw_tasks(envs["random"], n_tasks, random.Random(seed))
        counter = _Counter(2 * 2 * len(kinds), progress)
        first: list[tuple[Walk, Digests]] = []
        for walker, env in envs.items():
            first += counter.count(_walk(env, walker, task_id, seed) for task_id in kinds)
    finally:
        for env in envs.values():
            env.close()
    walks = [walk for walk, _ in first]
    again = list(counter.count(replay(env_id, env_args, walks[::-1])))[::-1]
    in_subprocess = _replay_in_subprocess(env_id, env_args, walks)
    by_kind: dict[str, Agreement] = {kind: Agreement() for kind in sorted(set(kinds.values()))}
    for (walk, expected), here, there in zip(first, again, in_subprocess, strict=True):
        by_kind[kinds[walk.task_id]].add(expected, here, there)
    spec = gym.spec(env_id)
    dataset = envs["random"].tasks.dataset
    return Determinism(env_id, dataset, not spec.nondeterministic, by_kind)


def replay(env_id: str, env_args: Mapping[str, Any], walks: Sequence[Walk]) -> Iterator[Digests]:
    """Replay walks in new environments."""
    envs = {walker: _make(env_id, env_args, reveal) for walker, reveal in _KINDS.items()}
    try:
        for walk in walks:
            env = envs[walk.walker]
            observation, info = env.reset(options={"task": walk.task_id})
            digests = [_digest(observation, info)]
            for action in walk.actions:
                observation, *_, info = env.step(action)
                digests.append(_digest(observation, info))
            yield digests
    finally:
        for env in envs.values():
            env.close()


class _Counter:
    """Counts episodes and reports the progress."""

    def __init__(self, n_planned: int, progress: Progress | None) -> None:
        self._n_done, self._n_planned, self._progress = 0, n_planned, progress

    def count(self, episodes: Iterable[Any]) -> Iterator[Any]:
        for episode in episodes:
            self._n_done += 1
            if self._progress is not None:
                self._progress(self._n_done, self._n_planned)
            yield episode


def _make(env_id: str, env_args: Mapping[str, Any], reveal: str) -> TextEnv:
    arguments = {**env_args, "reveal": (*env_args.get("reveal", ()), reveal)}
    env = gym.make(env_id, **arguments).unwrapped
    if not isinstance(env, TextEnv):
        raise TypeError(f"{env_id} is not a TextEnv")
    return env


def _draw_tasks(env: TextEnv, n_tasks: int, rng: random.Random) -> dict[str, str]:
    """Task type by task id, for `n_tasks` tasks of each type."""
    ids = list(dict.fromkeys(env.tasks.ids))
    rng.shuffle(ids)
    kinds: dict[str, str] = {}
    n_drawn: dict[str, int] = {}
    for task_id in ids:
        kind = env.tasks.find(task_id).kind
        if n_drawn.get(kind, 0) < n_tasks:
            n_drawn[kind] = n_drawn.get(kind, 0) + 1
            kinds[task_id] = kind
    return kinds


def _walk(env: TextEnv, walker: str, task_id: str, seed: int) -> tuple[Walk, Digests]:
    rng = random.Random(f"{seed} {walker} {task_id}")
    observation, info = env.reset(options={"task": task_id})
    walk, digests = Walk(task_id, walker, []), [_digest(observation, info)]
    ended = False
    while not ended and len(walk.actions) < MAX_WALK_STEPS:
        action = info["expert_action"] if walker == "expert" else _random_action(info, rng)
        observation, _, terminated, truncated, info = env.step(action)
        walk.actions.append(action)
        digests.append(_digest(observation, info))
        ended = terminated or truncated
    return walk, digests


def _random_action(info: Info, rng: random.Random) -> str:
    """A random admissible action; one in five is corrupted."""
    action = str(rng.choice(info["admissible_actions"] or [""]))
    action = action.replace("<keywords>", " ".join(rng.sample(info["goal"].split(), 2)))
    return action if rng.random() < 0.8 else rng.choice((action[1:], action.upper(), "", "0"))


def _digest(observation: str, info: Info) -> list[str]:
    texts = (observation, repr(info["score"]), json.dumps(info, sort_keys=True, default=repr))
    return [hashlib.sha256(t.encode("utf-8", "surrogatepass")).hexdigest()[:16] for t in texts]


def _replay_in_subprocess(
    env_id: str, env_args: Mapping[str, Any], walks: Sequence[Walk]
) -> list[Digests]:
    """`replay` in another process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CODE.format(sys.path)],
        input=json.dumps([env_id, env_args, walks]),
        env=os.environ | {"PYTHONHASHSEED": _HASH_SEED},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BackendError(f"replaying {env_id} in another process failed: {done.stderr[-2000:]}")
    digests: list[Digests] = json.loads(done.stdout)
    return digests


def main() -> None:
    """Run in the other process: read walks and write digests, as JSON."""
    env_id, env_args, walks = json.load(sys.stdin)
    digests = list(replay(env_id, env_args, [Walk(*walk) for walk in walks]))
    json.dump(digests, sys.stdout)
