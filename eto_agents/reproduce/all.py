"""All runs of a recipe, possibly in parallel, then the table, the reports and the replay pages.

`eto reproduce` and the scripts of the paper's tables and figures (`baselines/`) use it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eto_agents.console import Display, Report, clock, log
from eto_agents.report.full_report import write_report
from eto_agents.report.replay import write_replay
from eto_agents.reproduce import run as run_module
from eto_agents.reproduce import tables
from eto_agents.reproduce.options import Options
from eto_agents.reproduce.outcome import Outcome, run_folder
from eto_agents.reproduce.recipe import METHODS, Recipe
from eto_agents.reproduce.run import WorldRun
from eto_agents.reproduce.steps import Event
from eto_agents.strict_json import write_json
from eto_envs.errors import EtoError, MissingExtraError, require
from eto_envs.files import write_whole


def run_all(recipe: Recipe, out: Path, *, quiet: bool = False) -> list[Outcome]:
    """Run every world under every seed, in parallel if the recipe says so.

    Calling it again resumes.
    """
    require("trl", extra="train")
    jobs = [(world, seed) for world in recipe.worlds for seed in recipe.seeds]
    with Display(quiet) as display:
        log(f"recipe {recipe.name}: {_listed(recipe)}; results in {out}")
        show = _EventDisplay(display)
        if min(recipe.n_processes, len(jobs)) > 1:
            return _run_in_parallel(recipe, jobs, out, show)
        return [_run_one(recipe, *job, out, show) for job in jobs]


def _listed(recipe: Recipe) -> str:
    """The worlds, seeds and methods of a recipe."""
    seeds = "seed" if len(recipe.seeds) == 1 else "seeds"
    seeds += f" {', '.join(map(str, recipe.seeds))}"
    return f"{', '.join(recipe.worlds)}; {seeds}; {', '.join(recipe.steps[1:])}"


def open_runs(options: Options) -> Iterator[WorldRun]:
    """A recipe's runs, prepared, one after another, for a script that has steps of its own."""
    require("trl", extra="train")
    recipe = options.load()
    with Display(options.quiet), _prepared(recipe.n_threads):
        for world, settings in recipe.worlds.items():
            for seed in recipe.seeds:
                world_run = WorldRun(settings, seed, run_folder(options.out, world, seed))
                world_run.prepare()
                yield world_run


def conclude(recipe: Recipe, outcomes: list[Outcome], out: Path) -> str:
    """Write the table, the reports and the replay pages.

    Returns:
        The table in Markdown, and where the files are.
    """
    labels = {method: METHODS[method] for method in recipe.methods}
    table = tables.table_of(outcomes, labels)
    seeds = "seed " if len(recipe.seeds) == 1 else "the mean over seeds "
    seeds += ", ".join(map(str, recipe.seeds))
    text = f"Average reward × 100 with 95 % intervals over tasks, recipe {recipe.name}, {seeds}."
    text += f"\n\n{tables.markdown(table)}"
    differences = table.differences("ETO", "SFT-more")
    if differences:
        text += f"\n\n{tables.markdown_differences(differences, 'ETO', 'SFT-more')}"
    write_whole(out / "table.md", (text + "\n").encode())
    write_json(out / "table.json", tables.to_json(table, differences))
    written = write_pages(outcomes, labels, out)
    return f"{text}\n\nwritten to {out}: table.md, table.json, {', '.join(written)}"


def write_pages(outcomes: list[Outcome], labels: dict[str, str], out: Path) -> list[str]:
    """Write a report and a replay page for each world and seed; returns their names."""
    written = []
    for outcome in outcomes:
        runs: dict[Path, str] = {}
        for method, label in labels.items():
            folder = outcome.run(method)
            if folder is not None:  # ETO's run is SFT's if no iteration was better
                runs.setdefault(folder, label)
        name = f"{outcome.world}-seed-{outcome.seed}"
        if not runs:
            continue
        named = [f"{label}={folder}" for folder, label in runs.items()]
        # The comparison of the table, if the run has it.
        reference = next(label for label in ("SFT-more", *runs.values()) if label in runs.values())
        log(f"writing the report and the replay page of {name}")
        try:
            write_report(named, out / "report" / name, against=reference)
            written.append(f"report/{name}/report.html")
        except MissingExtraError as error:
            log(f"no report: {error}")
        write_replay(named, out / "replay" / f"{name}.html")
        written.append(f"replay/{name}.html")
    return written


class _EventDisplay:
    """Shows events: a progress row per run, and a permanent line per method that has ended."""

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
    recipe: Recipe, world: str, seed: int, out: Path, on_event: Callable[[Event], None]
) -> Outcome:
    with _prepared(recipe.n_threads):
        return run_module.run(recipe, world, seed, out, on_event)


def _run_in_parallel(
    recipe: Recipe, jobs: list[tuple[str, int]], out: Path, show: _EventDisplay
) -> list[Outcome]:
    """Run each world and seed in a process of its own, whose events arrive through a queue."""
    import multiprocessing
    import queue
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _environment(recipe.n_threads):
        events: Any = manager.Queue()
        with ProcessPoolExecutor(recipe.n_processes, mp_context=context) as pool:
            futures = [pool.submit(_run_in_process, recipe, *job, out, events.put) for job in jobs]
            try:
                while not (all(future.done() for future in futures) and events.empty()):
                    with contextlib.suppress(queue.Empty):
                        show(events.get(timeout=0.2))
            except KeyboardInterrupt as interrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                if type(interrupt) is not KeyboardInterrupt:
                    # A signal to this process alone; Ctrl-C reaches the others from the terminal.
                    for process in multiprocessing.active_children():
                        if process.pid is not None:
                            os.kill(process.pid, signal.SIGINT)
                raise
            # Every job has ended: the first that failed raises its error here.
            return [future.result() for future in futures]


def _run_in_process(
    recipe: Recipe, world: str, seed: int, out: Path, on_event: Callable[[Event], None]
) -> Outcome:
    """`_run_one` in another process.

    An error is replaced by a plain `EtoError`: those with arguments of their own cannot be pickled.
    """
    try:
        return _run_one(recipe, world, seed, out, on_event)
    except EtoError as error:
        raise EtoError(f"{world} seed {seed}: {error}") from None


@contextlib.contextmanager
def _prepared(n_threads: int) -> Iterator[None]:
    """Set the number of threads, and silence libraries that would disturb the progress display."""
    import torch

    from eto_agents.training.trl import quiet_libraries

    if n_threads:
        torch.set_num_threads(n_threads)
    with quiet_libraries():
        yield


@contextlib.contextmanager
def _environment(n_threads: int) -> Iterator[None]:
    """Set OMP_NUM_THREADS for processes started inside; torch reads it when it is imported."""
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
