"""Compares the native engine with the original: games, admissible commands and responses.

Games from a folder of official files are played on both engines side by side, and recorded
transcripts of the original are replayed. The texts are compared as the games give them, before
ETO's changes. No difference is expected.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from eto_envs.alfworld.data.datasets import Dataset, open_dataset
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.alfworld.experts.planner import shortest_plan
from eto_envs.alfworld.stock import StockEngine, open_stock
from eto_envs.comparison import Comparison, Difference, not_a_recording, read_recordings

N_WALK_STEPS = 20
N_STEPS_AFTER_WINNING = 3


class View(NamedTuple):
    """The output of an engine after a command, or at the start."""

    observation: str
    admissible_commands: list[str]
    won: bool


def audit(
    dataset: str,
    n_games: int = 20,
    seed: int = 0,
    *,
    transcripts: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare the native engine with the original.

    An episode is a random walk of 20 commands, a third of which are corrupted, followed by a
    shortest solution and three more commands. It takes about two seconds with TextWorld.

    Args:
        dataset: a folder of official files; for transcripts alone, any dataset of their release.
        n_games: the number of games to play on both engines; 0 does not require TextWorld.
        seed: seeds the choice of games and the walks.
        transcripts: a JSON-lines file of recorded episodes to replay, optionally gzipped:
            ``{"game": path of the game file, "init": view, "steps": [view and "action", …]}``,
            where a view is ``{"observation", "admissible_commands", "won"}``.
        progress: called with the number of games played and their total number.

    Raises:
        DataNotFoundError: there is no such dataset or file, or TextWorld cannot play the dataset.
        CorruptDataError: a line of `transcripts` is not a recorded episode.
        MissingExtraError: TextWorld is not installed.
    """
    stock = open_stock(dataset) if n_games else None
    opened = open_dataset(dataset)
    report = Comparison("ALFWorld", opened.name)
    if stock is not None:
        ids = [task_id for part in opened.pack.splits.values() for task_id in part]
        drawn = random.Random(seed).sample(ids, min(n_games, len(ids)))
        for n_done, task_id in enumerate(drawn, start=1):
            native = _Native(opened, task_id)
            commands = _commands(native, random.Random(f"{seed} {task_id}"))
            _compare(report, task_id, commands, native, _Original(stock, task_id))
            if progress is not None:
                progress(n_done, len(drawn))
    if transcripts is not None:
        for recording in _read_transcripts(transcripts):
            if recording.task_id in opened.pack:
                native = _Native(opened, recording.task_id)
                _compare(report, recording.task_id, recording.commands, native, recording)
            else:
                report.n_skipped += 1
    return report


class _Player(Protocol):
    def start(self) -> View: ...

    def after(self, command: str) -> View: ...


def _compare(
    report: Comparison, task_id: str, commands: Iterable[str], native: _Player, original: _Player
) -> None:
    """Play one episode on both and record the differences."""

    def look(n_steps: int, command: str, ours: View, theirs: View) -> None:
        for what, mine, other in zip(View._fields, ours, theirs, strict=True):
            if mine != other:
                report.add(Difference(task_id, n_steps, command, what, mine, other))

    look(0, "", native.start(), original.start())
    for n_steps, command in enumerate(commands, start=1):
        look(n_steps, command, native.after(command), original.after(command))
        report.n_steps += 1
    report.n_episodes += 1


class _Native:
    """A game on the native engine, with its current state."""

    def __init__(self, dataset: Dataset, task_id: str) -> None:
        self.game = Game(dataset.pack.problem(task_id), dataset.grammar)
        self.state = self.game.start

    def start(self) -> View:
        self.state = self.game.start
        won = self.game.is_won(self.state)
        return View(introduction(self.game), admissible_commands(self.game, self.state), won)

    def after(self, command: str) -> View:
        self.state, answer, won = step(self.game, self.state, command)
        return View(answer, admissible_commands(self.game, self.state), won)


class _Original:
    """The same game on TextWorld."""

    def __init__(self, stock: StockEngine, task_id: str) -> None:
        self._stock = stock
        self._task_id = task_id

    def start(self) -> View:
        introduced = self._stock.start(self._task_id)
        return View(introduced, self._stock.admissible_commands(), won=False)

    def after(self, command: str) -> View:
        answer, won = self._stock.step(command)
        return View(answer, self._stock.admissible_commands(), won)


class _Recording:
    """A recorded episode of the original."""

    def __init__(self, record: Any) -> None:
        """Parse a record; KeyError, TypeError or ValueError if it is not an episode."""
        *_, task, trial, _file = record["game"].split("/")
        self.task_id = f"{task}/{trial}"
        self.commands = [str(turn["action"]) for turn in record["steps"]]
        self._views = [
            View(**{name: turn[name] for name in View._fields})
            for turn in (record["init"], *record["steps"])
        ]
        self._n_shown = 0

    def start(self) -> View:
        self._n_shown = 1
        return self._views[0]

    def after(self, command: str) -> View:
        self._n_shown += 1
        return self._views[self._n_shown - 1]


def _commands(native: _Native, rng: random.Random) -> Iterator[str]:
    """The commands of an episode, each chosen in the state after the previous one."""
    for _ in range(N_WALK_STEPS):
        yield _random_command(native, rng)
    yield from shortest_plan(native.game, native.state) or ()
    for _ in range(N_STEPS_AFTER_WINNING):
        yield _random_command(native, rng)


def _random_command(native: _Native, rng: random.Random) -> str:
    """A random admissible command, all verbs being equally likely; one in three is corrupted."""
    by_verb: dict[str, list[str]] = {}
    for command in admissible_commands(native.game, native.state):
        by_verb.setdefault(command.partition(" ")[0], []).append(command)
    command = rng.choice(by_verb[rng.choice(sorted(by_verb))])
    return command if rng.random() < 2 / 3 else _corrupt(native.game, command, rng)


def _corrupt(game: Game, command: str, rng: random.Random) -> str:
    """A command that resembles another; some of these are still admissible."""
    names = (*game.problem.receptacles, *game.problem.objects)
    first, second = rng.choice(names), rng.choice(names)
    return rng.choice(
        (
            f" {command}\t\n",
            command.upper(),
            command.replace(" ", "  ", 1),
            command.rpartition(" ")[0],
            f"go to {first}",
            f"examine {first}",
            f"use {first}",
            f"take {first} from {second}",
            f"put {first} in/on {second}",
            f"move {first} to {second}",
            f"clean {first} with {second}",
            f"slice {first} with {second}",
            "help",
            "",
        )
    )


def _read_transcripts(path: Path) -> Iterator[_Recording]:
    for number, record in read_recordings(path):
        try:
            yield _Recording(record)
        except (ValueError, LookupError, TypeError) as error:
            raise not_a_recording(path, number, error) from None
