"""All runs of a recipe, some at once, then table, report and replay pages.

`eto reproduce` and the baselines' table and figure scripts share it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eto_agents.console import Display, Report, clock, log
from eto_agents.report.full_report import write_report
from eto_agents.report.replay import write_replay
from eto_agents.reproduce import run as run_module
from eto_agents.reproduce import tables
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.recipe import METHODS, Recipe
from eto_agents.reproduce.run import Event, Outcome, WorldRun, run_folder
from eto_agents.settings import write_json
from eto_envs.errors import EtoError, MissingExtraError, require
from eto_envs.files import write_whole


def run_all(recipe: Recipe, out: Path, *, quiet: bool = False) -> list[Outcome]:
    """Every world under every seed, some at once if the recipe says so; the same call resumes."""
    require("trl", extra="train")
    jobs = [(world, seed) for world in recipe.worlds for seed in recipe.seeds]
    with Display(quiet) as display:
        follow = _Follow(display)
        if min(recipe.n_processes, len(jobs)) > 1:
            return _run_at_once(recipe, jobs, out, follow)
        return [_run_one(recipe, *job, out, follow) for job in jobs]


def open_runs(options: Options) -> Iterator[WorldRun]:
    """A recipe's runs for a script with steps of its own, one after another."""
    require("trl", extra="train")
    recipe = options.load()
    with Display(options.quiet), _prepared(recipe.n_threads):
        for world, settings in recipe.worlds.items():
            for seed in recipe.seeds:
                yield WorldRun(settings, seed, run_folder(options.out, world, seed))


def conclude(recipe: Recipe, outcomes: list[Outcome], out: Path) -> str:
    """Write table, report and replay pages; the table as Markdown."""
    labels = {method: METHODS[method] for method in recipe.methods}
    table = tables.table_of(outcomes, labels)
    text = f"Average reward × 100 and 95 % intervals over tasks, recipe {recipe.name}, seeds "
    text += f"{', '.join(map(str, recipe.seeds))}.\n\n{tables.markdown(table)}"
    found = table.differences("ETO", "SFT-more")
    if found:
        text += f"\n\n{tables.markdown_differences(found, 'ETO', 'SFT-more')}"
    write_whole(out / "table.md", (text + "\n").encode())
    write_json(out / "table.json", tables.record(table, found))
    written = write_pages(outcomes, labels, out)
    return f"{text}\n\nwritten to {out}: table.md, table.json, {', '.join(written)}"


def write_pages(outcomes: list[Outcome], labels: dict[str, str], out: Path) -> list[str]:
    """`eto report` and `eto replay` over each world and seed; the pages' names."""
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
            log(f"no report: {error}")
        write_replay(runs, out / "replay" / f"{name}.html")
        written.append(f"replay/{name}.html")
    return written


class _Follow:
    """Shows events: a row for every run, and a line that stays for every method that ended."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def __call__(self, event: Event) -> None:
        if event.wall_s is not None:
            line = f"{event.run}  {event.method}: {event.wall_s:.0f} s  {event.text}"
            self._display.receive(Report(text=line.rstrip()))
        figures = {}
        if event.wall_s is None:
            figures[""] = f"{event.method}  {event.text}".rstrip()
        if event.left_s:
            figures["about"] = f"{clock(event.left_s)} left"
        self._display.receive(
            Report(event.run, event.n_done, event.n_planned, "methods", figures, is_even=False)
        )


def _run_one(
    recipe: Recipe, world: str, seed: int, out: Path, watch: Callable[[Event], None]
) -> Outcome:
    with _prepared(recipe.n_threads):
        return run_module.run(recipe, world, seed, out, watch)


def _run_at_once(
    recipe: Recipe, jobs: list[tuple[str, int]], out: Path, follow: _Follow
) -> list[Outcome]:
    """Each world and seed in a process of its own; their events come through a queue."""
    import multiprocessing
    import queue
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _environment(recipe.n_threads):
        events: Any = manager.Queue()
        with ProcessPoolExecutor(recipe.n_processes, mp_context=context) as pool:
            futures = [pool.submit(_run_apart, recipe, *job, out, events.put) for job in jobs]
            try:
                while not (all(future.done() for future in futures) and events.empty()):
                    with contextlib.suppress(queue.Empty):
                        follow(events.get(timeout=0.2))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]  # the first failure, after all ended


def _run_apart(
    recipe: Recipe, world: str, seed: int, out: Path, watch: Callable[[Event], None]
) -> Outcome:
    """`_run_one` in another process; its errors must travel, which those with fields do not."""
    try:
        return _run_one(recipe, world, seed, out, watch)
    except EtoError as error:
        raise EtoError(f"{world} seed {seed}: {error}") from None


@contextlib.contextmanager
def _prepared(n_threads: int) -> Iterator[None]:
    """Set the threads, and keep the libraries quiet, whose bars would run through ours."""
    import torch

    from eto_agents.training.trl import quiet_libraries

    if n_threads:
        torch.set_num_threads(n_threads)
    with quiet_libraries():
        yield


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
