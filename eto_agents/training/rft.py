"""Rejection-sampling fine-tuning (RFT; Yuan et al. 2023), a baseline of the paper's section 4.1.

    explored <- play(SFT policy), several episodes of every training task
    policy   <- SFT(base model, experts and the explored episodes that succeeded)

Each way of doing a task counts once. Differs from the reference: the paper adds "success
trajectories" and names no least score. Here an episode counts that scores at least `min_score`, by
default 1; so in WebShop and ScienceWorld, too, whose scores have values between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eto_agents.runs import RunFolder, once
from eto_agents.settings import RFT
from eto_agents.training.exploration import explore
from eto_agents.training.rows import EmptyDataError
from eto_agents.training.sft import fit
from eto_agents.training.task_splits import draw, split_dev, tasks_of
from eto_agents.training.trl import Trained
from eto_agents.trajectory import PLAYED, Trajectory


def rft(
    model: str | Path,
    experts: Sequence[Trajectory],
    settings: RFT,
    *,
    explorer: str | Path,
    out: Path,
) -> Trained:
    """Explore, then fine-tune on the expert's trajectories and the agent's successes.

    Args:
        model: what is fine-tuned, as for `eto_agents.training.sft.sft`.
        experts: the expert's trajectories.
        settings: how.
        explorer: the checkpoint that plays, such as SFT's.
        out: the folder of the run; the same call on it resumes.

    Raises:
        DataNotFoundError: no such model.
        EmptyDataError: there are no expert trajectories.
        RunMismatchError: the folder holds another run.
    """
    if not experts:
        raise EmptyDataError("no trajectories to train on: none were given")

    def make(run: RunFolder) -> dict[str, Any]:
        tasks = tasks_of(settings.env, settings.split, settings.env_args)[: settings.n_tasks]
        tasks = split_dev(tasks, settings.dev_tasks, settings.dev_seed).train
        tasks = draw(tasks, settings.max_tasks, f"explore/{settings.seed}")
        explored = explore(
            explorer, tasks, settings, out / "explored", seeds=range(settings.n_samples)
        )
        imitated = list(experts)
        if settings.max_tasks is not None:
            drawn = {task.id for task in tasks}
            imitated = [expert for expert in experts if expert.task_id in drawn]
        added = successes(explored, imitated, settings.min_score)
        counts = _counts(explored, imitated, added, settings.min_score)
        return fit(model, [*imitated, *added], settings, run) | counts

    run = once(
        out,
        make,
        kind="rft",
        settings=settings,
        everywhere=True,
        experts=experts,
        model=str(model),
        explorer=str(explorer),
    )
    return Trained.of(run)


def _counts(
    explored: Sequence[Trajectory],
    experts: Sequence[Trajectory],
    added: Sequence[Trajectory],
    min_score: float,
) -> dict[str, Any]:
    scores = [episode.score for episode in _played(explored)]
    return {
        "n_expert": len(experts),
        "n_explored": len(explored),
        "n_successes": sum(score >= min_score for score in scores),
        "n_added": len(added),
        "explored_score": sum(scores) / len(scores) if scores else None,
    }


def successes(
    explored: Iterable[Trajectory], expert: Sequence[Trajectory], min_score: float = 1.0
) -> list[Trajectory]:
    """Episodes that score enough, of those with the same actions in the same task the first.

    Args:
        explored: the episodes, in the order in which the first of several alike counts.
        expert: what is learnt from anyway; what does the same as one of these is left out, too.
        min_score: the least final score.
    """
    seen = {_actions(episode) for episode in expert}
    kept = []
    for episode in _played(explored):
        if episode.score >= min_score and episode.steps and _actions(episode) not in seen:
            seen.add(_actions(episode))
            kept.append(episode)
    return kept


def _actions(episode: Trajectory) -> tuple[str, ...]:
    # As the worlds read them: WebShop does not mind upper case, nor any world spaces at the ends.
    return episode.task_id, *(step.action.strip().lower() for step in episode.steps)


def _played(episodes: Iterable[Trajectory]) -> list[Trajectory]:
    return [episode for episode in episodes if episode.status in PLAYED]
