"""Who is where in the shop: `Trip`, one way through one task, and `Trips`, all that are open.

A trip is known by an unguessable id, which is all that gives access to it: there are no cookies.
What an action leads to is the engine's affair; here are step limits, the order of a trip's pages,
and the journal from which open trips come back after a restart. Not here: HTTP (`app`), pages
(`views`) and the records that are kept of finished trips, which `on_end` makes.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eto_envs.errors import CorruptDataError, EpisodeEndedError, EtoError
from eto_envs.files import write_whole
from eto_envs.tasks import Task, TaskSet
from eto_envs.webshop.engine.engine import Session, WebShopEngine

ID_BYTES = 16
MAX_TRIPS = 10_000

End = Literal["", "bought", "out of steps"]


class StalePageError(EtoError):
    """A page was used that is not the trip's present one."""


class TripStep(NamedTuple):
    """One action of a trip.

    Attributes:
        action: ``"search[…]"`` or ``"click[…]"``.
        observation: the page it led to, in mode ``text``.
        reward: of a purchase, in [0, 1]; otherwise 0.
        is_valid: whether the shop acted on it.
        time_s: when, in seconds since 1970.
    """

    action: str
    observation: str
    reward: float
    is_valid: bool
    time_s: float


@dataclass(frozen=True, slots=True)
class Trip:
    """One way through one task; immutable and picklable.

    Attributes:
        id: unguessable; names the trip in urls.
        task: what is to be bought.
        number: how many trips of the same task were begun before it.
        session: where it stands in the shop.
        turn: number of actions so far; names its present page.
        steps: the actions, oldest first; empty where nobody keeps them.
        end: how it ended, or ``""``.
        reward_info: the terms of the purchase's reward.
        started_s: when it began, in seconds since 1970.
    """

    id: str
    task: Task
    number: int
    session: Session
    turn: int = 0
    is_valid: bool = True
    steps: tuple[TripStep, ...] = ()
    end: End = ""
    reward_info: Mapping[str, Any] | None = None
    started_s: float = 0.0


class Trips:
    """All open trips of one site, the oldest forgotten first; safe to use from several threads.

    Attributes:
        engine: the shop's rules.
        tasks: the task set that is played.
        max_steps: the step limit; None for each task's own, 0 for none.
        finished: how many trips of each task have ended, by task id.
    """

    def __init__(
        self,
        engine: WebShopEngine,
        tasks: TaskSet,
        *,
        max_steps: int | None = None,
        on_end: Callable[[Trip], None] | None = None,
        journal: Path | None = None,
        finished: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Open the shop.

        Args:
            engine: the shop's rules.
            tasks: the task set that is played.
            max_steps: the step limit; None for each task's own, 0 for none.
            on_end: gets a trip when it ends, before its last page is shown; where it raises, the
                trip has not ended and its last action can be taken again.
            journal: file from which open trips come back, and to which they are written.
            finished: task id and number of every trip that ended before; `on_end` gets none of
                them again, even if the journal has it without its end.

        Raises:
            CorruptDataError: the journal is damaged.
        """
        self.engine = engine
        self.tasks = tasks
        self.max_steps = max_steps
        self._on_end = on_end
        self._trips: OrderedDict[str, Trip] = OrderedDict()
        self._finished = set(finished)
        self.finished: Counter[str] = Counter(task_id for task_id, _ in self._finished)
        self._numbers: Counter[str] = Counter()  # of a task's next trip
        for task_id, number in self._finished:
            self._numbers[task_id] = max(self._numbers[task_id], number + 1)
        self._lock = threading.RLock()
        self._journal = None if journal is None else _Journal(journal)
        if self._journal is not None:
            self._bring_back(self._journal)

    def __len__(self) -> int:
        """Number of trips that are remembered, ended ones included."""
        return len(self._trips)

    def open(self, task_id: str) -> Trip:
        """Begin a trip.

        Raises:
            UnknownNameError: there is no such task in the task set.
        """
        return self.begin(self.tasks.find(task_id))

    def begin(self, task: Task) -> Trip:
        """Begin a trip of a task of the shop, in the task set or not."""
        with self._lock:
            trip = Trip(
                id=secrets.token_urlsafe(ID_BYTES),
                task=task,
                number=self._numbers[task.id],
                session=self.engine.start(int(task.id)),
                started_s=time.time(),
            )
            self._numbers[task.id] += 1
            self._write({"open": _opening(trip)})
            self._remember(trip)
        return trip

    def open_next(self) -> Trip:
        """Begin a trip of the next task: of those begun least often, the first."""
        with self._lock:
            fewest = min(self._numbers[task_id] for task_id in self.tasks.ids)
            return self.open(next(i for i in self.tasks.ids if self._numbers[i] == fewest))

    def adopt(self, trip: Trip) -> Trip:
        """Continue a trip of another site over the same data, under a new id."""
        adopted = replace(trip, id=secrets.token_urlsafe(ID_BYTES))
        with self._lock:
            self._remember(adopted)
        return adopted

    def get(self, trip_id: str) -> Trip:
        """A trip by its id.

        Raises:
            KeyError: there is none of this id.
        """
        with self._lock:
            return self._trips[trip_id]

    def act(self, trip_id: str, turn: int, action: str) -> Trip:
        """Take an action on a trip's present page.

        Args:
            trip_id: which trip.
            turn: the page that the action was taken on.
            action: the action.

        Returns:
            The trip after it.

        Raises:
            KeyError: there is no trip of this id.
            EpisodeEndedError: the trip has ended.
            StalePageError: the page is not the present one.
        """
        with self._lock:
            trip = self._trips[trip_id]
            if trip.end:
                raise EpisodeEndedError("this shopping trip is over")
            if turn != trip.turn:
                raise StalePageError(f"the trip is at page {trip.turn}, not at {turn}")
            after = self._after(trip, action, time.time())
            self._write({"trip": trip.id, "action": action, "time_s": after.steps[-1].time_s})
            self._remember(self._ended(after))
            if after.end:
                self._write({"end": trip.id})
            return after

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()

    def limit(self, task: Task) -> int:
        """The step limit of a task; 0 for none."""
        return task.max_steps if self.max_steps is None else self.max_steps

    def _after(self, trip: Trip, action: str, time_s: float) -> Trip:
        outcome = self.engine.step(trip.session, action)
        text = self.engine.text(outcome.session)
        step = TripStep(action, text, float(outcome.reward), outcome.is_valid, time_s)
        turn = trip.turn + 1
        end: End = "bought" if outcome.done else ""
        if not end and turn == self.limit(trip.task):
            end = "out of steps"
        return replace(
            trip,
            session=outcome.session,
            turn=turn,
            is_valid=outcome.is_valid,
            steps=(*trip.steps, step),
            end=end,
            reward_info=outcome.reward_info,
        )

    def _ended(self, trip: Trip) -> Trip:
        key = trip.task.id, trip.number
        if trip.end and key not in self._finished:
            if self._on_end is not None:
                self._on_end(trip)
            self._finished.add(key)
            self.finished[trip.task.id] += 1
        return trip

    def _remember(self, trip: Trip) -> None:
        self._trips[trip.id] = trip
        self._trips.move_to_end(trip.id)
        while len(self._trips) > MAX_TRIPS:
            self._trips.popitem(last=False)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(record)

    def _bring_back(self, journal: _Journal) -> None:
        """Replay the open trips, and end those that a kill left between action and record."""
        for opening, actions in journal.read():
            if opening["task"] not in self.tasks:
                continue  # the trip of another task set, which `eto serve` does not let happen
            task = self.tasks.find(opening["task"])
            trip = Trip(
                id=opening["id"],
                task=task,
                number=opening["number"],
                session=self.engine.start(int(task.id)),
                started_s=opening["started_s"],
            )
            self._numbers[task.id] = max(self._numbers[task.id], trip.number + 1)
            for action, time_s in actions:
                if not trip.end:
                    trip = self._after(trip, action, time_s)
            self._remember(self._ended(trip))
        journal.begin([trip for trip in self._trips.values() if not trip.end])


def _opening(trip: Trip) -> dict[str, Any]:
    return {
        "id": trip.id,
        "task": trip.task.id,
        "number": trip.number,
        "started_s": trip.started_s,
    }


class _Journal:
    """JSON lines: ``open``, then a trip's actions, then its ``end``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def read(self) -> Iterator[tuple[dict[str, Any], list[tuple[str, float]]]]:
        """Opening and actions of every trip without an end; an unfinished last line is ignored."""
        openings: dict[str, dict[str, Any]] = {}
        actions: dict[str, list[tuple[str, float]]] = {}
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if "open" in record:
                    openings[record["open"]["id"]] = record["open"]
                    actions[record["open"]["id"]] = []
                elif "end" in record:
                    openings.pop(record["end"], None)
                elif record["trip"] in actions:
                    actions[record["trip"]].append((record["action"], record["time_s"]))
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptDataError(f"{self._path}, line {number}: {error!r}") from error
        for trip_id, opening in openings.items():
            yield opening, actions[trip_id]

    def begin(self, trips: list[Trip]) -> None:
        """Write the open trips, and nothing else, to the file; `write` then adds to it."""
        records: list[dict[str, Any]] = []
        for trip in trips:
            records.append({"open": _opening(trip)})
            records += [
                {"trip": trip.id, "action": s.action, "time_s": s.time_s} for s in trip.steps
            ]
        write_whole(self._path, "".join(json.dumps(r) + "\n" for r in records).encode())
        self._file = self._path.open("a", encoding="ascii", newline="\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record; it is in the file when this returns."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
