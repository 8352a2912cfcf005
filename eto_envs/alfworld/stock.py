"""The original engine, TextWorld with its PDDL planner, as a reference for the native one.

`engine="textworld"` plays official game files on it, and `audit` compares the native engine with
it. It requires the extra ``alfworld`` and takes about a second for a reset and 40 ms for a step.
The names of things follow `AlfredDemangler` of alfworld 0.4.2
(`alfworld/agents/environment/alfred_tw_env.py`), which itself is not required. How ETO changes the
texts is in `env`.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.alfworld.data.games import find_games
from eto_envs.alfworld.engine.game import State
from eto_envs.errors import (
    BackendError,
    DataNotFoundError,
    SnapshotError,
    UnknownNameError,
    require,
)
from eto_envs.files import read_json_object

_EXTRA = "alfworld"
_PYTHON = sys.version_info[:2]


class StockState(NamedTuple):
    """The state of a game played on the original engine.

    Attributes:
        commands: the commands so far.
        native: the state of the native engine after the same commands.
    """

    commands: tuple[str, ...]
    native: State


class StockEngine:
    """Plays the official games of a folder on TextWorld, one at a time.

    TextWorld's state cannot be copied, so `restore` replays the commands from the start.

    Attributes:
        commands: the commands since `start`.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Start TextWorld.

        Args:
            paths: the path of the game file of each task id.

        Raises:
            MissingExtraError: TextWorld or its planner is not installed.
            BackendError: TextWorld does not work on this Python.
        """
        textworld = require("textworld.core", extra=_EXTRA)
        require("fast_downward", extra=_EXTRA)
        pddl = require("textworld.envs.pddl", extra=_EXTRA)
        if _PYTHON >= (3, 13):
            raise BackendError("TextWorld's PDDL games require Python 3.12 or older")
        self._paths = paths
        # One for all games: each instance loads its own copy of the planner's library for good.
        self._env: Any = pddl.PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True))
        self._task_id: str | None = None
        self._now: Any = None
        self.commands: tuple[str, ...] = ()

    def start(self, task_id: str) -> str:
        """Begin a game.

        Returns:
            Its first text: welcome, room and task.

        Raises:
            UnknownNameError: the folder has no such game.
        """
        if task_id != self._task_id:
            self._load(task_id)
        self._now = self._env.reset()
        self.commands = ()
        return str(self._now["feedback"])

    def step(self, command: str) -> tuple[str, bool]:
        """Carry out a command.

        Returns:
            The response, and whether the goal holds now.
        """
        self._now, _score, _done = self._env.step(command)
        self.commands += (command,)
        return str(self._now["feedback"]), bool(self._now["won"])

    def admissible_commands(self) -> list[str]:
        """The admissible commands, sorted."""
        return list(self._now["admissible_commands"])

    def restore(self, task_id: str, state: object) -> State:
        """Restore a state by replaying its commands, or only those not yet carried out.

        Returns:
            The state of the native engine.

        Raises:
            SnapshotError: the state is of the native engine, which does not record commands.
        """
        if not isinstance(state, StockState):
            raise SnapshotError(
                "a snapshot of engine='native' does not contain what TextWorld needs; "
                "take it with engine='textworld'"
            )
        n_done = len(self.commands)
        if task_id != self._task_id or state.commands[:n_done] != self.commands:
            self.start(task_id)
        for command in state.commands[len(self.commands) :]:
            self.step(command)
        return state.native

    def _load(self, task_id: str) -> None:
        if task_id not in self._paths:
            raise UnknownNameError("ALFWorld game", task_id, self._paths)
        self._task_id = None  # in case loading fails
        _forget_propositions()
        self._env.load(read_json_object(self._paths[task_id]))
        entities = self._env._entity_infos
        for entity, name in names_of(entities).items():
            entities[entity].name = name
        self._task_id = task_id


def open_stock(dataset: str) -> StockEngine:
    """The original engine for a dataset.

    Raises:
        DataNotFoundError: `dataset` is not a folder of official game files.
        MissingExtraError: TextWorld is not installed.
        BackendError: TextWorld does not work on this Python.
    """
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        raise DataNotFoundError(
            "engine='textworld' plays official game files: pass dataset= the folder into which "
            f"json_2.1.1 was unpacked, not {dataset!r}"
        )
    return StockEngine(_paths_in(folder.resolve()))


@functools.lru_cache(maxsize=4)
def _paths_in(folder: Path) -> Mapping[str, Path]:
    return {game.task_id: game.path for game in find_games(folder)}


def names_of(entities: Iterable[str]) -> dict[str, str]:
    """The names of entities: type and number; the first id of a type has the highest number."""
    ids = sorted(entities)
    types = {i: i.partition("_bar_")[0] + ("basin" if "basin" in i else "") for i in ids}
    left = Counter(types.values())  # numbers still to be assigned, by type
    names = {}
    for entity, kind in types.items():
        is_numbered = "_bar_" in entity
        names[entity] = f"{kind} {left[kind]}" if is_numbered else f"{entity} "
        left[kind] -= is_numbered
    return names


def _forget_propositions() -> None:
    # TextWorld never frees its propositions (microsoft/TextWorld#367), which take at least a third
    # of a megabyte per game. It compares them by value, so clearing the cache is safe.
    memory = require("mementos.core", extra=_EXTRA)
    memory._memento_cache.clear()
