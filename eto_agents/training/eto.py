"""ETO: exploration-based trajectory optimisation, the paper's Algorithm 1.

    policy <- SFT on the experts' trajectories                 (`eto_agents.training.sft`)
    repeat: explored <- play(policy) on the training tasks
            pairs    <- explored and expert trajectories of a task, where their rewards differ;
                        the higher one is chosen
            policy   <- trajectory DPO(policy, pairs), the reference being the policy itself

Each step is a folder that knows its settings, the hashes of what it read and whether it is
complete: the same call on the same folder resumes, in the step and at the update it was in.

    out/iteration-0/dev/  out/iteration-1/{explore,pairs,dpo,dev}/  …  out/iterations.json

Differs from the reference: (1) exploration is on the tasks that have an expert trajectory, for only
they can become a pair. (2) With `keep_best` the result is the best iteration on tasks split off
train; the paper reports the number of iterations that was best on its test sets.
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
from eto_agents.settings import ETO, write_json
from eto_agents.training.dpo import dpo
from eto_agents.training.exploration import explore, open_checkpoint
from eto_agents.training.pairs import Pairs, self_pairs, step_pairs, trajectory_pairs
from eto_agents.training.preference_rows import as_preference
from eto_agents.training.task_splits import SplitTasks, draw, mean_score, split_dev, tasks_of
from eto_agents.training.teacher_forcing import own_steps
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task


class Iteration(NamedTuple):
    """A row of the table by iteration (the paper's Figure 4); iteration 0 is the start.

    Attributes:
        number: of the iteration.
        model: the policy: a checkpoint's folder, of iteration 0 a folder or a name.
        explored: mean score of the exploration it learned from; None for the start.
        counts: of pairs, as `eto_agents.training.pairs.Pairs` has them.
        dev: mean score on the dev tasks; None if there are none.
        learning: the result of its DPO.
    """

    number: int
    model: str
    explored: float | None
    counts: dict[str, int]
    dev: float | None
    learning: dict[str, Any]


def eto(
    model: str | Path, experts: Sequence[Trajectory], settings: ETO, *, out: Path
) -> Iterator[Iteration]:
    """Explore, pair and learn, `settings.iterations` times.

    Args:
        model: the policy to begin with, which SFT has made: a checkpoint's folder or name.
        experts: the experts' trajectories.
        settings: how.
        out: the folder of the run; the same call on it resumes.

    Yields:
        The start, then each iteration once it has learned.

    Raises:
        DataError: no expert trajectory is of a task that is explored.
        NoPairsError: nothing is left to prefer; says what became of the episodes.
        RunMismatchError: a step's folder was begun with other settings or other data.
        DivergedError: the loss is not finite; the batch was saved.
    """
    tasks, experts = _tasks_and_experts(settings, experts)
    done = [_iteration(0, model, tasks, settings, out)]
    yield done[0]
    for number in range(1, settings.iterations + 1):
        folder = out / f"iteration-{number}"
        drawn = draw(tasks.train, settings.max_tasks, f"explore/{settings.seed}/{number}")
        explored = _explore(model, drawn, settings, folder / "explore", number)
        pairs = _pair(model, experts, explored, drawn, settings, folder / "pairs", number)
        trained = dpo(model, pairs.pairs, _dpo_settings(settings, number), out=folder / "dpo")
        model = trained.checkpoint
        done.append(
            _iteration(number, model, tasks, settings, out)._replace(
                explored=mean_score(explored) if explored else None,
                counts=pairs.counts,
                learning=trained.result,
            )
        )
        if is_main_process():
            write_json(out / "iterations.json", {"iterations": [i._asdict() for i in done]})
        yield done[-1]


def best_of(iterations: Sequence[Iteration], settings: ETO) -> Iteration:
    """The iteration that counts: the best on the dev tasks with `keep_best`, else the last."""
    if settings.keep_best:
        return max(iterations, key=lambda iteration: iteration.dev or 0.0)
    return iterations[-1]


def _tasks_and_experts(
    settings: ETO, experts: Sequence[Trajectory]
) -> tuple[SplitTasks, list[Trajectory]]:
    """The tasks to explore and those to tune on, and the experts' trajectories of the former."""
    tasks = tasks_of(settings.env, settings.split, settings.env_args)[: settings.n_tasks]
    train, dev = split_dev(tasks, settings.dev_tasks, settings.dev_seed)
    ids = {task.id for task in train}
    known = [expert for expert in experts if expert.task_id in ids]
    if settings.pairs in ("self", "success"):  # the agent's own episodes need no expert
        return SplitTasks(train, dev), known
    if not known:
        raise DataError(
            f"none of {len(experts)} expert trajectories is of a task of {settings.split!r}: "
            "collect them on the split that is explored"
        )
    with_expert = {expert.task_id for expert in known}
    return SplitTasks([task for task in train if task.id in with_expert], dev), known


def _explore(
    model: str | Path, tasks: Sequence[Task], settings: ETO, folder: Path, number: int
) -> list[Trajectory]:
    if settings.pairs == "step":
        return []
    if not (folder / "result.json").is_file():
        log(f"iteration {number}: exploring {len(tasks)} tasks")
    first = (settings.seed * 1000 + number) * settings.n_samples
    return explore(model, tasks, settings, folder, seeds=range(first, first + settings.n_samples))


def _iteration(
    number: int, model: str | Path, tasks: SplitTasks, settings: ETO, out: Path
) -> Iteration:
    """An iteration's policy with its mean score of greedy episodes on the dev tasks."""
    dev = None
    if tasks.dev:
        folder = out / f"iteration-{number}" / "dev"
        dev = mean_score(explore(model, tasks.dev, settings, folder, temperature=0.0))
    return Iteration(number, str(model), explored=None, counts={}, dev=dev, learning={})


def _dpo_settings(settings: ETO, number: int) -> Any:
    """DPO's settings in an iteration: some differ from the second one on."""
    later = {"beta": settings.later_beta, "learning_rate": settings.later_learning_rate}
    changes: dict[str, Any] = {"world": settings.world} | (later if number > 1 else {})
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
    """The pairs of an iteration, written down as the chats that are compared."""
    drawn = {task.id for task in tasks}
    shown = [expert for expert in experts if expert.task_id in drawn]
    names = ("pairs", "cut", "extra_rounds", "max_pairs_per_task")
    pairs = Pairs([], {})

    def make(run: RunFolder) -> dict[str, int]:
        nonlocal pairs
        pairs = _compare(model, shown, explored, settings, folder, number).check()
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
        experts=shown,
        explored=explored,
    )
    return pairs if pairs.pairs else _compare(model, shown, explored, settings, folder, number)


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
        # One trajectory a task, the first.
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
