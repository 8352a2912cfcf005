"""All methods of a track in order, and how far they are: what `eto reproduce` does once a world.

The order is the one in which they need each other: SFT-more comes after ETO, for it makes as many
updates. What a track came to is in its ``track.json``: which run is which row of the table, and
what is missing and why. Several tracks at once, and how progress looks, are the command's part.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eto_agents.config import read_json, write_json
from eto_agents.console import Report, relayed
from eto_agents.reproduce.tiers import METHODS, Tier
from eto_agents.reproduce.tracks import Learned, Track
from eto_agents.training.dpo import DivergedError
from eto_agents.training.ppo import SamplingMismatchError
from eto_agents.training.stage import StageMismatchError
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError

FILE = "track.json"


class Event(NamedTuple):
    """Something that a track reports.

    Attributes:
        track: such as ``"webshop seed 0"``.
        stage: the stage that is running or has ended.
        n_done: stages that have ended.
        n_planned: stages there are.
        text: where the stage is, or what it came to.
        wall_s: seconds it took, None while it runs.
        left_s: seconds that the whole track will still take, None if the recipe has no measured
            durations to tell it from.
    """

    track: str
    stage: str
    n_done: int
    n_planned: int
    text: str = ""
    wall_s: float | None = None
    left_s: float | None = None


Watch = Callable[[Event], None]


@dataclass
class Outcome:
    """What a track came to.

    Attributes:
        world: its name.
        seed: its seed.
        folder: its folder.
        rows: run folder's name by method; a method without one has a note.
        notes: what a reader must know, by method.
        stages: what every stage said, with the seconds that all calls have spent on it.
    """

    world: str
    seed: int
    folder: Path
    rows: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, method: str) -> Path | None:
        """The run that fills a method's row."""
        name = self.rows.get(method)
        return None if name is None else self.folder / "runs" / name

    def save(self) -> None:
        """Write ``track.json``."""
        record = {"world": self.world, "seed": self.seed, "rows": self.rows}
        write_json(self.folder / FILE, record | {"notes": self.notes, "stages": self.stages})

    @classmethod
    def load(cls, folder: Path) -> Outcome:
        """Read ``track.json``.

        Raises:
            DataNotFoundError: there is none.
            CorruptDataError: it is damaged.
        """
        if not (folder / FILE).is_file():
            raise DataNotFoundError(f"{folder} has no {FILE}: run `eto reproduce` first")
        record = read_json(folder / FILE)
        return cls(
            record["world"],
            record["seed"],
            folder,
            record["rows"],
            record["notes"],
            record["stages"],
        )


def track_folder(out: Path, world: str, seed: int) -> Path:
    """Where a track is, below the reproduction's folder."""
    return out / world / f"seed-{seed}"


def run_track(tier: Tier, world: str, seed: int, out: Path, watch: Watch) -> Outcome:
    """Train and evaluate a tier's methods in one world under one seed; goes on after a kill.

    Args:
        tier: what and how.
        world: one of its recipes.
        seed: one seed.
        out: the reproduction's folder.
        watch: called as it goes on.
    """
    return _Run(tier, world, seed, out, watch).all()


class Estimate:
    """How long a track still takes, from how long its stages took when the recipe was measured.

    The machine's speed is what the stages done so far say of it; a stage that was done before (in
    an earlier call) says nothing.
    """

    def __init__(
        self,
        measured_s: Mapping[str, float],
        stages: Sequence[str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the measured seconds by stage, and the stages that are planned, in order."""
        self._measured_s = measured_s
        self._waiting = list(stages)
        self._now = now
        self._stage = ""
        self._spent_s = self._expected_s = 0.0

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._stage, self._started_s = stage, self._now()
        self._waiting.remove(stage)

    def end(self) -> None:
        """It has ended."""
        spent_s, expected_s = self._now() - self._started_s, self._measured_s.get(self._stage, 0.0)
        if spent_s > 0.05 * expected_s:  # else it was read from its folder
            self._spent_s += spent_s
            self._expected_s += expected_s
        self._stage = ""

    def seconds(self) -> float | None:
        """Seconds to the end of the last stage; None if some stage was never measured."""
        stages = [*self._waiting, *([self._stage] if self._stage else [])]
        if not all(stage in self._measured_s for stage in stages):
            return None
        slowness = self._spent_s / self._expected_s if self._expected_s else 1.0
        waiting_s = slowness * sum(self._measured_s[stage] for stage in self._waiting)
        if not self._stage:
            return waiting_s
        current_s = slowness * self._measured_s[self._stage] - (self._now() - self._started_s)
        return waiting_s + max(0.0, current_s)


class _Run:
    def __init__(self, tier: Tier, world: str, seed: int, out: Path, watch: Watch) -> None:
        self._tier = tier
        self._recipe = tier.recipes[world]
        self._title = f"{world} seed {seed}"
        self._watch = watch
        self._stage = ""
        folder = track_folder(out, world, seed)
        self._track = Track(self._recipe, seed, folder)
        self._outcome = Outcome(world, seed, folder)
        self._learned = Learned([], 0, "")
        known = (folder / FILE).is_file()
        self._earlier = Outcome.load(folder).stages if known else {}
        self._n_done = 0
        self._left = Estimate(self._recipe.measured, ["expert", *(m for m, _ in self._steps())])
        self._n_planned = len(self._steps()) + 1
        self._last_told_s = 0.0

    def all(self) -> Outcome:
        with relayed(self._tell):
            return self._all()

    def _all(self) -> Outcome:
        with self._step("expert", "expert") as said:
            result = self._finished(self._track.demonstrations())
            said |= result
        for method, step in self._steps():
            with self._step(method, METHODS[method]) as said:
                said |= step() if method in ("base", "sft") else self._try(method, step)
            self._outcome.save()
        return self._outcome

    def _try(self, method: str, step: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """A method that cannot learn from what it sees leaves its row empty, with the reason."""
        try:
            return step()
        except (StageMismatchError, DataNotFoundError, CorruptDataError):
            raise  # something is wrong with the folder, not with the method
        except (DataError, DivergedError, SamplingMismatchError) as error:
            self._outcome.notes[method] = f"no result: {error}"
            return {"failed": str(error)}

    def _steps(self) -> list[tuple[str, Callable[[], Mapping[str, Any]]]]:
        asked = set(self._tier.methods)
        if "sft-more" in asked:
            asked.add("eto")  # the control makes as many updates
        if asked - {"base"}:
            asked.add("sft")
        steps: dict[str, Callable[[], Mapping[str, Any]]] = {
            "base": self._base,
            "sft": self._sft,
            "best-of-n": self._best_of_n,
            "rft": self._rft,
            "ppo": self._ppo,
            "eto": self._eto,
            "sft-more": self._sft_more,
        }
        return [(method, step) for method, step in steps.items() if method in asked]

    def _base(self) -> Mapping[str, Any]:
        return self._score("base", self._track.base())

    def _sft(self) -> Mapping[str, Any]:
        result = self._track.sft()
        return _learning(result) | self._score("sft", self._track.sft_checkpoint)

    def _best_of_n(self) -> Mapping[str, Any]:
        told = self._recipe.best_of_n
        scores = self._track.evaluate("best-of-n", self._track.sft_checkpoint, told)
        self._outcome.rows["best-of-n"] = "best-of-n"
        self._outcome.notes["best-of-n"] = (
            f"N = {told.n} at temperature {told.temperature:g}, chosen by the true reward"
        )
        return scores

    def _rft(self) -> Mapping[str, Any]:
        result = self._track.rft()
        about = {name: result[name] for name in ("n_successes", "n_added")}
        checkpoint = str(self._track.folder / "rft" / "checkpoint")
        return about | _learning(result) | self._score("rft", checkpoint)

    def _ppo(self) -> Mapping[str, Any]:
        result = self._track.ppo()
        about = {name: result[name] for name in ("n_updates", "n_episodes", "kl")}
        return about | self._score("ppo", str(self._track.folder / "ppo" / "checkpoint"))

    def _eto(self) -> Mapping[str, Any]:
        learned = self._learned = self._track.eto()
        if learned.note:
            self._outcome.notes["eto"] = learned.note
        if len(learned.iterations) < 2:
            return {"n_updates": 0}
        name = "sft" if learned.best == 0 else f"eto-{learned.best}"
        self._outcome.rows["eto"] = name
        if learned.best == 0:
            self._outcome.notes["eto"] = "no iteration was better than SFT on the dev tasks"
        pairs = [i.counts.get("pairs", 0) for i in learned.iterations[1:]]
        about = {"pairs": pairs, "n_updates": learned.n_updates, "best": learned.best}
        return about | learned.iterations[learned.best].scores

    def _sft_more(self) -> Mapping[str, Any]:
        learned = self._learned
        if not learned.n_updates:
            self._outcome.notes["sft-more"] = "ETO made no update, so there is nothing to match"
            return {"n_updates": 0}
        result, checkpoint = self._track.sft_more(learned.n_updates)
        self._outcome.notes["sft-more"] = (
            f"{result['n_steps']} further updates on experts' trajectories "
            f"({result['n_seen_tokens']:,} tokens) for ETO's {learned.n_updates} on pairs "
            f"({self._dpo_tokens(learned):,} tokens)"
        )
        return _learning(result) | self._score("sft-more", checkpoint)

    def _dpo_tokens(self, learned: Learned) -> int:
        return round(learned.n_tokens * self._recipe.eto.dpo.n_epochs)

    def _score(self, method: str, checkpoint: str) -> dict[str, float]:
        self._outcome.rows[method] = method
        return self._track.evaluate(method, checkpoint)

    def _finished(self, folder: Path) -> dict[str, Any]:
        return read_json(folder / "result.json")

    def _tell(self, report: Report) -> None:
        """Pass on what a stage reports, at most once a second."""
        now_s = time.monotonic()
        if report.text or now_s - self._last_told_s >= 1.0:
            self._last_told_s = now_s
            self._say(report.text or report.line())

    def _say(self, text: str) -> None:
        left_s = self._left.seconds()
        self._watch(
            Event(self._title, self._stage, self._n_done, self._n_planned, text, None, left_s)
        )

    @contextlib.contextmanager
    def _step(self, key: str, stage: str) -> Iterator[dict[str, Any]]:
        self._stage = stage
        self._left.begin(key)
        self._say("")
        started_s = time.monotonic()
        said: dict[str, Any] = {}
        yield said
        wall_s = time.monotonic() - started_s
        self._left.end()
        self._n_done += 1
        spent_s = wall_s + self._earlier.get(stage, {}).get("wall_s", 0.0)
        self._outcome.stages[stage] = said | {"wall_s": round(spent_s, 1)}
        text = _told(said)
        self._watch(
            Event(
                self._title,
                stage,
                self._n_done,
                self._n_planned,
                text,
                wall_s,
                self._left.seconds(),
            )
        )


def _learning(result: Mapping[str, Any]) -> dict[str, Any]:
    names = ("n_trajectories", "n_tokens", "n_steps", "first_loss", "last_loss")
    return {name: result[name] for name in names}


def _told(said: Mapping[str, Any]) -> str:
    """Such as ``n_steps 300, last_loss 0.41, seen 45.0``; scores x 100."""
    shown = []
    for name, value in said.items():
        if isinstance(value, float):
            is_score = name in ("seen", "unseen", "score", "train")
            value = f"{100 * value:.1f}" if is_score else f"{value:.3g}"
        shown.append(f"{name} {value}")
    return ", ".join(shown)
