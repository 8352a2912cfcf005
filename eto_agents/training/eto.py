"""ETO: exploration-based trajectory optimisation, the paper's Algorithm 1.

    policy <- SFT on the experts' trajectories                 (`eto_agents.training.sft`)
    repeat: explored <- play(policy) on the training tasks
            pairs    <- explored and expert trajectories of a task, where their rewards differ;
                        the higher one is chosen
            policy   <- trajectory DPO(policy, pairs), the reference being the policy itself

Each step has a folder that records its settings, the hashes of its inputs and whether it is
complete. Repeating the call resumes in the step, and at the update, at which it was interrupted.

    out/iteration-0/dev/  out/iteration-1/{explore,pairs,dpo,dev}/  …  out/iterations.json

Differs from the reference: (1) Only tasks with an expert trajectory are explored, since no other
task can become a pair. (2) With `keep_best` the result is the best iteration on development tasks
held out of train; the paper reports the number of iterations that is best on its test sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eto_agents.console import log
from eto_agents.models.base import Sampling
from eto_agents.preference import write_pairs
from eto_agents.processes import is_main_process
from eto_agents.runs import RunFolder, once
from eto_agents.settings import ETO, record_of
from eto_agents.strict_json import write_json
from eto_agents.tracking import Trackers, require_trackers
from eto_agents.training.dpo import dpo
from eto_agents.training.exploration import explore, open_checkpoint
from eto_agents.training.pairs import Pairs, self_pairs, step_pairs, trajectory_pairs
from eto_agents.training.preference_rows import as_preference
from eto_agents.training.task_splits import SplitTasks, draw, mean_score, playing_tasks
from eto_agents.training.teacher_forcing import own_steps
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task


class Iteration(NamedTuple):
    """One iteration's policy and figures (the paper's Figure 4); iteration 0 is the initial policy.

    Attributes:
        number: the iteration's number.
        model: the policy: a checkpoint's folder, or for iteration 0 possibly a name.
        explored: mean score of the exploration, in [0, 1]; None for iteration 0.
        n_explored: number of episodes of the exploration.
        counts: the counts of `eto_agents.training.pairs.Pairs`; empty for iteration 0.
        dev: mean score on the development tasks, in [0, 1]; None if there are none.
        learning: the result of DPO; empty for iteration 0.
    """

    number: int
    model: str
    explored: float | None
    n_explored: int
    counts: dict[str, int]
    dev: float | None
    learning: dict[str, Any]


def eto(
    model: str | Path, experts: Sequence[Trajectory], settings: ETO, *, out: Path
) -> Iterator[Iteration]:
    """Explore, pair and learn, `settings.iterations` times.

    Args:
        model: the initial policy, such as SFT's: a checkpoint's folder or name.
        experts: the experts' trajectories.
        settings: the settings of the loop.
        out: the folder of the run. Repeating the call resumes an interrupted run.

    Yields:
        Iteration 0, which is the initial policy, then each iteration when it has learned.

    Raises:
        DataError: no expert trajectory belongs to a task that can be explored.
        NoPairsError: an exploration yields no pairs; says why.
        RunMismatchError: a step's folder holds a run with different settings or inputs.
        DivergedError: the loss is not finite; the batch was saved.
    """
    require_trackers(settings.report_to)  # now, and not after the first exploration
    tasks, experts = _tasks_and_experts(settings, experts)
    done = [_iteration(0, model, tasks, settings, out)]
    _report(done[0], settings, out)
    yield done[0]
    for number in range(1, settings.iterations + 1):
        folder = out / f"iteration-{number}"
        drawn = draw(tasks.train, settings.max_tasks, f"explore/{settings.seed}/{number}")
        explored = _explore(model, drawn, settings, folder / "explore", number)
        pairs = _pair(model, experts, explored, drawn, settings, folder / "pairs", number)
        _log_unless_complete(folder / "dpo", f"iteration {number}: DPO on {len(pairs.pairs)} pairs")
        trained = dpo(model, pairs.pairs, dpo_settings(settings, number), out=folder / "dpo")
        model = trained.checkpoint
        done.append(
            _iteration(number, model, tasks, settings, out)._replace(
                explored=mean_score(explored) if explored else None,
                n_explored=len(explored),
                counts=pairs.counts,
                learning=trained.result,
            )
        )
        if is_main_process():
            write_json(out / "iterations.json", {"iterations": [i._asdict() for i in done]})
        _report(done[-1], settings, out)
        yield done[-1]


def best_of(iterations: Sequence[Iteration], settings: ETO) -> Iteration:
    """The result: with `keep_best` the best iteration on the development tasks, else the last."""
    if settings.keep_best:
        return max(iterations, key=lambda iteration: iteration.dev or 0.0)
    return iterations[-1]


def _tasks_and_experts(
    settings: ETO, experts: Sequence[Trajectory]
) -> tuple[SplitTasks, list[Trajectory]]:
    """The tasks to explore, the development tasks, and the experts' trajectories to pair with."""
    train, dev = playing_tasks(settings)
    ids = {task.id for task in train}
    usable = [expert for expert in experts if expert.task_id in ids]
    if settings.pairs in ("self", "success"):  # pairs of the agent's episodes need no expert
        return SplitTasks(train, dev), usable
    if not usable:
        raise DataError(
            f"none of {len(experts)} expert trajectories belongs to a task of the split "
            f"{settings.split!r}: collect them on the split that is explored"
        )
    with_expert = {expert.task_id for expert in usable}
    return SplitTasks([task for task in train if task.id in with_expert], dev), usable


def _explore(
    model: str | Path, tasks: Sequence[Task], settings: ETO, folder: Path, number: int
) -> list[Trajectory]:
    if settings.pairs == "step":
        return []
    _log_unless_complete(folder, f"iteration {number}: exploring {len(tasks)} tasks")
    first = (settings.seed * 1000 + number) * settings.n_samples
    return explore(model, tasks, settings, folder, seeds=range(first, first + settings.n_samples))


def _log_unless_complete(folder: Path, text: str) -> None:
    if not (folder / "result.json").is_file():
        log(text)


def _iteration(
    number: int, model: str | Path, tasks: SplitTasks, settings: ETO, out: Path
) -> Iteration:
    """Score an iteration's policy on the development tasks with greedy decoding."""
    dev = None
    if tasks.dev:
        folder = out / f"iteration-{number}" / "dev"
        dev = mean_score(explore(model, tasks.dev, settings, folder, temperature=0.0))
    return Iteration(number, str(model), None, 0, {}, dev, {})


def _report(iteration: Iteration, settings: ETO, out: Path) -> None:
    """Send an iteration's figures to the experiment trackers."""
    figures = {"explored": iteration.explored, "dev": iteration.dev, **iteration.counts}
    learning = {f"dpo/{name}": value for name, value in iteration.learning.items()}
    with Trackers(settings.report_to, out, {"kind": "eto", **record_of(settings)}) as trackers:
        trackers.log({"step": iteration.number, **figures, **learning})


def dpo_settings(settings: ETO, number: int) -> Any:
    """DPO's settings in an iteration: some differ from the second one on."""
    later = {"beta": settings.later_beta, "learning_rate": settings.later_learning_rate}
    changes: dict[str, Any] = {"world": settings.world} | (later if number > 1 else {})
    changes["report_to"] = settings.report_to or None
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(settings.dpo, **given)


def _pair(
    model: str | Path,
    experts: Sequence[Trajectory],
    explored: Sequence[Trajectory],
    tasks: Sequence[Task],
    settings: ETO,
    folder: Path,
    number: int,
) -> Pairs:
    """Make the pairs of an iteration, and write them to a file as chats."""
    task_ids = {task.id for task in tasks}
    experts = [expert for expert in experts if expert.task_id in task_ids]
    names = ("pairs", "cut", "extra_rounds", "max_pairs_per_task")
    pairs = Pairs([], {})

    def make(run: RunFolder) -> dict[str, int]:
        nonlocal pairs
        pairs = _compare(model, experts, explored, settings, folder, number).check()
        log(f"iteration {number}: {pairs.counts}")
        checkpoint = open_checkpoint(model, settings)
        chats = (as_preference(p, checkpoint, world=settings.world) for p in pairs.pairs)
        write_pairs(run.folder / "pairs.jsonl", chats)
        return pairs.counts

    once(
        folder,
        make,
        kind="pairs",
        settings={name: getattr(settings, name) for name in names},
        experts=experts,
        explored=explored,
    )
    return pairs if pairs.pairs else _compare(model, experts, explored, settings, folder, number)


def _compare(
    model: str | Path,
    experts: Sequence[Trajectory],
    explored: Sequence[Trajectory],
    settings: ETO,
    folder: Path,
    number: int,
) -> Pairs:
    if settings.pairs in ("self", "success"):
        return self_pairs(
            explored,
            success_against_failure=settings.pairs == "success",
            max_per_task=settings.max_pairs_per_task,
            cut=settings.cut,
            extra_rounds=settings.extra_rounds,
        )
    pairs = Pairs([], {})
    if settings.pairs in ("trajectory", "mixture"):
        pairs = trajectory_pairs(
            experts, explored, cut=settings.cut, extra_rounds=settings.extra_rounds
        )
    if settings.pairs in ("step", "mixture"):
        checkpoint = open_checkpoint(model, settings)
        # The first trajectory of each task, in order.
        one_each = list({e.task_id: e for e in reversed(experts)}.values())[::-1]
        steps = own_steps(
            checkpoint.chat_model(settings.n_envs),
            checkpoint,
            one_each,
            Sampling(settings.temperature, max_tokens=settings.max_new_tokens),
            folder / "own_steps.jsonl",
            seed=settings.seed * 1000 + number,
            world=settings.world,
        )
        pairs = pairs + step_pairs(one_each, steps)
    return pairs
