"""`eto reproduce`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from eto_agents.cli.evaluation import KeyValues, key_values
from eto_agents.console import Display, Report, clock

if TYPE_CHECKING:
    from eto_agents.reproduce.runs import Event, Outcome
    from eto_agents.reproduce.tiers import Tier
    from eto_agents.reproduce.tracks import Track


@dataclass(frozen=True)
class TierFlags:
    """Which tier is run, and what of it; shared by the command and the table scripts.

    Attributes:
        tier: cpu (a quarter of an hour on two cores), cpu-full, 1gpu, paper, smoke, or a TOML file.
        out: the reproduction's folder; the same command goes on in it.
        worlds: only these of the tier's.
        methods: only these rows: base, sft, sft-more, best-of-n, rft, ppo, eto.
        seeds: in place of the tier's.
        set: other settings, such as sft.epochs=3 or alfworld.dpo.beta=0.5, values as JSON or text.
        quiet: no progress.
    """

    tier: str = "cpu"
    out: Path = Path("runs/reproduce")
    worlds: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    set: Annotated[KeyValues, arg(name="set")] = ()
    quiet: bool = False

    def smoked(self) -> TierFlags:
        """The same for a test of all parts: the tier smoke, in a folder of its own."""
        return replace(self, tier="smoke", out=self.out / "smoke")

    def load(self) -> Tier:
        """The tier with what the flags change.

        Raises:
            EtoError: as `read_tier`, or the narrowing of it.
        """
        from eto_agents.reproduce.tiers import read_tier

        tier = read_tier(self.tier, key_values(self.set))
        return tier.narrowed(self.worlds, self.methods, self.seeds)


def run(flags: Annotated[TierFlags, OmitArgPrefixes], dry_run: bool = False) -> None:
    """Reproduce the paper's table: train and evaluate every method in every world.

    Args:
        flags: which tier, and what of it.
        dry_run: print every stage, what it reads, estimated tokens and time, and do nothing.
    """
    tier = flags.load()
    if dry_run:
        from eto_agents.reproduce import plans

        _print(plans.markdown(tier, flags.out))
        return
    try:
        with _timed("in all", flags.quiet):
            outcomes = run_tier(tier, flags.out, quiet=flags.quiet)
            text = conclude(tier, outcomes, flags.out, quiet=flags.quiet)
    except KeyboardInterrupt:
        _write_line(f"\nstopped; the same command goes on ({flags.out})")
        raise
    _print(text)


def run_tier(tier: Tier, out: Path, *, quiet: bool = False) -> list[Outcome]:
    """Run all tracks, some at once if the tier says so; the same call goes on after a kill."""
    from eto_envs.errors import require

    require("trl", extra="train")
    jobs = [(world, seed) for world in tier.recipes for seed in tier.seeds]
    with Display(quiet) as display:
        follow = _Follow(display)
        if min(tier.n_processes, len(jobs)) > 1:
            return _run_at_once(tier, jobs, out, follow)
        return [_run_one(tier, *job, out, follow) for job in jobs]


def open_tracks(flags: TierFlags) -> list[Track]:
    """A tier's tracks for a script that runs stages of its own, one after another."""
    from eto_agents.reproduce.runs import track_folder
    from eto_agents.reproduce.tracks import Track
    from eto_envs.errors import require

    require("trl", extra="train")
    tier = flags.load()
    _prepare(tier.n_threads)

    return [
        Track(recipe, seed, track_folder(flags.out, world, seed))
        for world, recipe in tier.recipes.items()
        for seed in tier.seeds
    ]


def conclude(tier: Tier, outcomes: list[Outcome], out: Path, *, quiet: bool = False) -> str:
    """Write table, report and replay page; the table as Markdown."""
    from eto_agents.config import write_json
    from eto_agents.reproduce import tables
    from eto_agents.reproduce.tiers import METHODS
    from eto_envs.files import write_whole

    labels = {method: METHODS[method] for method in tier.methods}
    table = tables.table_of(outcomes, labels)
    text = f"Average reward × 100 and 95 % intervals over tasks, tier {tier.name}, seeds "
    text += f"{', '.join(map(str, tier.seeds))}.\n\n{tables.markdown(table)}"
    found = table.differences("ETO", "SFT-more")
    if found:
        text += f"\n\n{tables.markdown_differences(found, 'ETO', 'SFT-more')}"
    write_whole(out / "table.md", (text + "\n").encode())
    write_json(out / "table.json", tables.record(table, found))
    with _timed("report and replay page", quiet):
        written = write_pages(outcomes, labels, out)
    return f"{text}\n\nwritten to {out}: table.md, table.json, {', '.join(written)}"


def write_pages(outcomes: list[Outcome], labels: dict[str, str], out: Path) -> list[str]:
    """`eto report` and `eto replay` over the runs of each track; the pages' names."""
    from eto_agents.evaluation.full_report import write_report
    from eto_agents.evaluation.replay import write_replay
    from eto_envs.errors import MissingExtraError

    written = []
    for outcome in outcomes:
        runs, seen = [], set()
        for method, label in labels.items():
            folder = outcome.run(method)
            if folder is not None and folder not in seen:  # ETO may have kept SFT
                seen.add(folder)
                runs.append(f"{label}={folder}")
        name = f"{outcome.world}-seed-{outcome.seed}"
        if not runs:
            continue
        try:
            write_report(runs, out / "report" / name, against=runs[0].partition("=")[0])
            written.append(f"report/{name}/report.html")
        except MissingExtraError as error:
            _write_line(f"no report: {error}")
        write_replay(runs, out / "replay" / f"{name}.html")
        written.append(f"replay/{name}.html")
    return written


class _Follow:
    """Shows events: a row for every track, and a line that stays for every stage that ended."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._left_s: dict[str, float | None] = {}

    def __call__(self, event: Event) -> None:
        if event.wall_s is not None:
            line = f"{event.track}  {event.stage}: {event.wall_s:.0f} s  {event.text}"
            self._display.receive(Report(text=line.rstrip()))
        self._left_s[event.track] = event.left_s
        figures = {}
        if event.wall_s is None:
            figures[""] = f"{event.stage}  {event.text}".rstrip()
        if event.left_s:
            figures["about"] = f"{clock(event.left_s)} left"
        self._display.receive(
            Report(event.track, event.n_done, event.n_planned, "stages", figures, is_even=False)
        )


def _run_one(
    tier: Tier, world: str, seed: int, out: Path, watch: Callable[[Event], None]
) -> Outcome:
    from eto_agents.reproduce.runs import run_track

    _prepare(tier.n_threads)
    return run_track(tier, world, seed, out, watch)


def _run_at_once(
    tier: Tier, jobs: list[tuple[str, int]], out: Path, follow: _Follow
) -> list[Outcome]:
    """Each track in a process of its own; their events come through a queue."""
    import multiprocessing
    import queue
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _environment(tier.n_threads):
        events: Any = manager.Queue()
        with ProcessPoolExecutor(tier.n_processes, mp_context=context) as pool:
            futures = [pool.submit(_run_apart, tier, *job, out, events.put) for job in jobs]
            try:
                while not (all(future.done() for future in futures) and events.empty()):
                    with contextlib.suppress(queue.Empty):
                        follow(events.get(timeout=0.2))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]  # the first failure, after all ended


def _run_apart(
    tier: Tier, world: str, seed: int, out: Path, watch: Callable[[Event], None]
) -> Outcome:
    """`_run_one` in another process; its errors must travel, which those with fields do not."""
    from eto_envs.errors import EtoError

    try:
        return _run_one(tier, world, seed, out, watch)
    except EtoError as error:
        raise EtoError(f"{world} seed {seed}: {error}") from None


def _prepare(n_threads: int) -> None:
    """Threads, and silence of libraries whose bars would run through ours."""
    import warnings

    import torch
    from transformers.utils import logging

    if n_threads:
        torch.set_num_threads(n_threads)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*gradient_checkpointing` is deprecated", FutureWarning)


@contextlib.contextmanager
def _environment(n_threads: int) -> Iterator[None]:
    """OMP_NUM_THREADS for processes that are started here; torch reads it once."""
    before = os.environ.get("OMP_NUM_THREADS")
    if n_threads:
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
    try:
        yield
    finally:
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
        elif n_threads:
            del os.environ["OMP_NUM_THREADS"]


@contextlib.contextmanager
def _timed(what: str, quiet: bool) -> Iterator[None]:
    import time

    started_s = time.monotonic()
    yield
    if not quiet:
        _write_line(f"{what}: {time.monotonic() - started_s:.0f} s")


def _write_line(text: str) -> None:
    sys.stderr.write(text + "\n")


def _print(text: str) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(text)
