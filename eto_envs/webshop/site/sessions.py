"""The sessions of the site: `Visit` is one attempt at a task, `Visits` are all of them.

In the user interface a visit is called a session; here that is the name of the engine's state.
A visit is identified by an unguessable id, which is all that is required to access it: there are no
cookies. This module handles step limits, the order of a visit's pages, and the journal from which
open visits are restored after a restart: an action that could not be written was not carried out.
Not here: the effects of actions (`engine`), HTTP (`app`),
pages (`views`) and the records of finished visits, which `on_end` writes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eto_envs.errors import CorruptDataError, EpisodeEndedError, EtoError
from eto_envs.files import append_whole, parse_json, write_whole
from eto_envs.tasks import Task, TaskSet
from eto_envs.webshop.engine.engine import Session, WebShopEngine

logger = logging.getLogger(__name__)

ID_BYTES = 16
MAX_VISITS = 10_000
IDLE_S = 86_400.0
"""An open visit without an action for this long may be discarded."""

End = Literal["", "bought", "out of steps"]


class StalePageError(EtoError):
    """An action was taken on a page that is not the current page of the visit."""


class TooManyVisitsError(EtoError):
    """As many visits are open as the site can hold."""


class VisitStep(NamedTuple):
    """One action of a visit.

    Attributes:
        action: ``"search[…]"`` or ``"click[…]"``.
        observation: the resulting page, in mode ``text``.
        reward: the reward of a purchase, in [0, 1]; otherwise 0.
        is_valid: whether the shop accepted it.
        time_s: its time, in seconds since 1970; never before that of the previous action.
    """

    action: str
    observation: str
    reward: float
    is_valid: bool
    time_s: float


@dataclass(frozen=True, slots=True)
class Visit:
    """One attempt at a task; immutable and picklable.

    Attributes:
        id: an unguessable id, used in URLs.
        task: the task.
        number: the number of earlier visits with the same task.
        session: the state of the shop.
        turn: the number of actions so far; identifies the current page.
        is_valid: whether the shop accepted the last action.
        steps: the actions, oldest first.
        end: how it ended; ``""`` if it has not.
        reward_info: the terms of the reward of the purchase.
        started_s: the time of its start, in seconds since 1970.
    """

    id: str
    task: Task
    number: int
    session: Session
    turn: int = 0
    is_valid: bool = True
    steps: tuple[VisitStep, ...] = ()
    end: End = ""
    reward_info: Mapping[str, Any] | None = None
    started_s: float = 0.0


class Visits:
    """The visits of one site; thread-safe.

    There are at most `MAX_VISITS`. To make room, those that have ended are discarded first, then
    open ones that nobody has used for `IDLE_S`, then those without an action yet, of the client
    that began most of them. All others stay, however many new ones somebody begins.

    Attributes:
        engine: the rules of the shop.
        tasks: the task set.
        max_steps: the step limit; None for each task's own, 0 for no limit.
        finished: the number of finished visits by task id.
    """

    def __init__(
        self,
        engine: WebShopEngine,
        tasks: TaskSet,
        *,
        max_steps: int | None = None,
        on_end: Callable[[Visit], None] | None = None,
        journal: Path | None = None,
        finished: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Open the shop.

        Args:
            engine: the rules of the shop.
            tasks: the task set.
            max_steps: the step limit; None for each task's own, 0 for no limit.
            on_end: called with a visit when it ends, before its last page is shown. If it raises an
                exception, the visit has not ended, and its last action can be repeated.
            journal: a file from which open visits are restored and to which they are written.
            finished: the task id and number of all visits that ended before. `on_end` is not called
                for them again, even if their end is missing from the journal.

        Raises:
            CorruptDataError: the journal is damaged.
        """
        self.engine = engine
        self.tasks = tasks
        self.max_steps = max_steps
        self._on_end = on_end
        self._visits: OrderedDict[str, Visit] = OrderedDict()  # the one used last is the last one
        self._clients: dict[str, str] = {}
        self._finished = set(finished)
        self.finished: Counter[str] = Counter(task_id for task_id, _ in self._finished)
        self._numbers: Counter[str] = Counter()  # the number of the next visit, by task id
        for task_id, number in self._finished:
            self._numbers[task_id] = max(self._numbers[task_id], number + 1)
        self._lock = threading.RLock()
        self._journal = None if journal is None else _Journal(journal)
        if self._journal is not None:
            self._restore(self._journal)

    def __len__(self) -> int:
        """The number of visits, including those that have ended and not been discarded."""
        return len(self._visits)

    def open(self, task_id: str, client: str = "") -> Visit:
        """Begin a visit with a task of the task set; see `begin`.

        Raises:
            UnknownNameError: there is no such task in the task set.
            TooManyVisitsError: all visits that are kept are in use.
        """
        return self.begin(self.tasks.find(task_id), client)

    def begin(self, task: Task, client: str = "") -> Visit:
        """Begin a visit with any task of the shop, whether it is in the task set or not.

        Args:
            task: the task.
            client: who begins it, such as an address.

        Raises:
            TooManyVisitsError: all visits that are kept are in use.
        """
        with self._lock:
            self._make_room()
            visit = Visit(
                id=secrets.token_urlsafe(ID_BYTES),
                task=task,
                number=self._numbers[task.id],
                session=self.engine.start(int(task.id)),
                started_s=time.time(),
            )
            self._write({"open": _opening(visit)})
            self._numbers[task.id] += 1
            self._clients[visit.id] = client
            self._remember(visit)
        return visit

    def open_next(self, client: str = "") -> Visit:
        """Begin a visit with the next task: the first of those that were begun least often."""
        with self._lock:
            fewest = min(self._numbers[task_id] for task_id in self.tasks.ids)
            return self.open(next(i for i in self.tasks.ids if self._numbers[i] == fewest), client)

    def adopt(self, visit: Visit) -> Visit:
        """Continue a visit of another site with the same dataset, under a new id."""
        adopted = replace(visit, id=secrets.token_urlsafe(ID_BYTES))
        with self._lock:
            self._make_room()
            self._remember(adopted)
        return adopted

    def discard(self, visit_id: str) -> None:
        """Forget a visit, if there is one of this id."""
        with self._lock:
            visit = self._visits.pop(visit_id, None)
            self._clients.pop(visit_id, None)
            if visit is not None and not visit.end:
                self._write_end(visit)

    def get(self, visit_id: str) -> Visit:
        """The visit with an id.

        Raises:
            KeyError: there is no visit of this id.
        """
        with self._lock:
            return self._visits[visit_id]

    def act(self, visit_id: str, turn: int, action: str) -> Visit:
        """Carry out an action on the current page of a visit.

        Args:
            visit_id: the id of the visit.
            turn: the page on which the action was taken.
            action: the action.

        Returns:
            The visit after the action.

        Raises:
            KeyError: there is no visit of this id.
            EpisodeEndedError: the visit has ended.
            StalePageError: the page is not the current one.
            OSError: the action cannot be written; it has not been carried out.
        """
        with self._lock:
            visit = self._visits[visit_id]
            if visit.end:
                raise EpisodeEndedError("this session is over")
            if turn != visit.turn:
                raise StalePageError(f"the session is at page {visit.turn}, not at {turn}")
            after = self._after(visit, action, time.time())
            record = {"visit": visit.id, "action": action, "time_s": after.steps[-1].time_s}
            with self._kept_on_success(record):
                self._remember(self._ended(after))
            if after.end:
                self._write_end(after)
            return after

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()

    def limit(self, task: Task) -> int:
        """The step limit of a task; 0 for no limit."""
        return task.max_steps if self.max_steps is None else self.max_steps

    def _after(self, visit: Visit, action: str, time_s: float) -> Visit:
        # The machine's clock may have been set back.
        time_s = max(time_s, visit.steps[-1].time_s if visit.steps else visit.started_s)
        outcome = self.engine.step(visit.session, action)
        text = self.engine.text(outcome.session)
        step = VisitStep(action, text, float(outcome.reward), outcome.is_valid, time_s)
        turn = visit.turn + 1
        end: End = "bought" if outcome.done else ""
        if not end and turn == self.limit(visit.task):
            end = "out of steps"
        return replace(
            visit,
            session=outcome.session,
            turn=turn,
            is_valid=outcome.is_valid,
            steps=(*visit.steps, step),
            end=end,
            reward_info=outcome.reward_info,
        )

    def _ended(self, visit: Visit) -> Visit:
        key = visit.task.id, visit.number
        if visit.end and key not in self._finished:
            if self._on_end is not None:
                self._on_end(visit)
            self._finished.add(key)
            self.finished[visit.task.id] += 1
        return visit

    def _remember(self, visit: Visit) -> None:
        self._visits[visit.id] = visit
        self._visits.move_to_end(visit.id)

    def _make_room(self) -> None:
        while len(self._visits) >= MAX_VISITS:
            self.discard(self._least_needed().id)

    def _least_needed(self) -> Visit:
        """The visit to discard first; see the class."""
        for visit in self._visits.values():
            if visit.end:
                return visit
        oldest = next(iter(self._visits.values()))
        used_s = oldest.steps[-1].time_s if oldest.steps else oldest.started_s
        if used_s < time.time() - IDLE_S:
            return oldest
        unused = [visit for visit in self._visits.values() if not visit.turn]
        if not unused:
            raise TooManyVisitsError(f"{len(self._visits)} sessions are open: finish one first")
        n_unused = Counter(self._clients.get(visit.id, "") for visit in unused)
        busiest = n_unused.most_common(1)[0][0]
        return next(visit for visit in unused if self._clients.get(visit.id, "") == busiest)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(record)

    def _write_end(self, visit: Visit) -> None:
        try:
            self._write({"end": visit.id})
        except OSError as error:  # `_restore` ends it again, without a second record
            logger.warning("the end of session %s is not in the journal: %s", visit.id, error)

    @contextlib.contextmanager
    def _kept_on_success(self, record: Mapping[str, Any]) -> Iterator[None]:
        """Write a record of what is done in the body, which must not stay if that fails."""
        if self._journal is None:
            yield
            return
        size = self._journal.write(record)
        try:
            yield
        except BaseException:
            self._journal.cut(size)
            raise

    def _restore(self, journal: _Journal) -> None:
        """Replay the open visits, and end those whose end was not recorded before a crash."""
        for opening, actions in journal.read():
            if opening["task"] not in self.tasks:
                continue  # from another task set, which `eto serve` prevents
            task = self.tasks.find(opening["task"])
            visit = Visit(
                id=opening["id"],
                task=task,
                number=opening["number"],
                session=self.engine.start(int(task.id)),
                started_s=opening["started_s"],
            )
            self._numbers[task.id] = max(self._numbers[task.id], visit.number + 1)
            for action, time_s in actions:
                if not visit.end:
                    visit = self._after(visit, action, time_s)
            self._remember(self._ended(visit))
        journal.begin([visit for visit in self._visits.values() if not visit.end])


def _opening(visit: Visit) -> dict[str, Any]:
    return {
        "id": visit.id,
        "task": visit.task.id,
        "number": visit.number,
        "started_s": visit.started_s,
    }


_OPENING = {"id": str, "task": str, "number": int, "started_s": float}


class _Journal:
    """JSON lines: the ``open`` record of a visit, then its actions, then its ``end``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None

    def read(self) -> Iterator[tuple[dict[str, Any], list[tuple[str, float]]]]:
        """The opening and actions of all open visits; an incomplete last line is ignored."""
        openings: dict[str, dict[str, Any]] = {}
        actions: dict[str, list[tuple[str, float]]] = {}
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        for number, line in enumerate(lines, start=1):
            record = parse_json(line, f"{self._path}, line {number}")
            try:
                if "open" in record:
                    opening = {key: _typed(record["open"][key], _OPENING[key]) for key in _OPENING}
                    openings[opening["id"]] = opening
                    actions[opening["id"]] = []
                elif "end" in record:
                    openings.pop(record["end"], None)
                elif record["visit"] in actions:
                    action = _typed(record["action"], str), _typed(record["time_s"], float)
                    actions[record["visit"]].append(action)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise CorruptDataError(f"{self._path}, line {number}: {error!r}") from error
        for visit_id, opening in openings.items():
            yield opening, actions[visit_id]

    def begin(self, visits: list[Visit]) -> None:
        """Replace the file by one with only the open visits, to which `write` then appends."""
        records: list[dict[str, Any]] = []
        for visit in visits:
            records.append({"open": _opening(visit)})
            records += [
                {"visit": visit.id, "action": s.action, "time_s": s.time_s} for s in visit.steps
            ]
        write_whole(self._path, "".join(json.dumps(r) + "\n" for r in records).encode())
        self._file = self._path.open("ab", buffering=0)

    def write(self, record: Mapping[str, Any]) -> int:
        """Append a record, completely or not at all; returns the size of the file before."""
        if self._file is None:
            raise ValueError("the journal is not open")
        size = os.fstat(self._file.fileno()).st_size
        append_whole(self._file, (json.dumps(record) + "\n").encode())
        return size

    def cut(self, size: int) -> None:
        """Remove what was written since the file had a size."""
        if self._file is not None:
            self._file.truncate(size)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _typed(value: Any, kind: type) -> Any:
    """Check the type of a value, and that a number is finite."""
    kinds = (int, float) if kind is float else (kind,)
    if type(value) not in kinds or (kind is not str and not math.isfinite(value)):
        raise TypeError(f"not a {kind.__name__}: {value!r:.80}")
    return value
