"""Rejection-sampling fine-tuning (RFT; Yuan et al. 2023), a baseline of the paper's section 4.1.

    explored <- play(SFT policy), several episodes of every training task
    policy   <- SFT(base model, experts and the explored episodes that succeeded)

Duplicate episodes of a task are removed. Differs from the reference: the paper adds "success
trajectories" without naming a minimum score. Here an episode is a success if it scores at least
`min_score`, by default 1, also in WebShop and ScienceWorld, where scores lie between 0 and 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eto_agents.runs import RunFolder, once
from eto_agents.settings import RFT
from eto_agents.training.exploration import explore
from eto_agents.training.rows import EmptyDataError, protocol_of
from eto_agents.training.sft import fit
from eto_agents.training.task_splits import draw, playing_tasks
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
        model: the model to fine-tune, as for `eto_agents.training.sft.sft`.
        experts: the expert's trajectories.
        settings: the settings of the exploration and of the training.
        explorer: the checkpoint that plays, such as SFT's.
        out: the folder of the run. Repeating the call resumes an interrupted run, and returns at
            once if the run is complete.

    Raises:
        DataNotFoundError: there is no such model.
        EmptyDataError: there are no expert trajectories.
        RunMismatchError: the folder holds a run with different settings, trajectories or models.
    """
    if not experts:
        raise EmptyDataError("no trajectories to train on: none were given")

    def make(run: RunFolder) -> dict[str, Any]:
        tasks = playing_tasks(settings).train
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
        # The experts' trajectories, which hold no conversation, do not tell the protocol.
        protocol = settings.protocol or protocol_of(explored)
        playing = dataclasses.replace(settings, protocol=protocol)
        return fit(model, [*imitated, *added], playing, run) | counts

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
    """Select the successful episodes, without duplicates and those identical to an expert's.

    Two episodes are duplicates if they have the same actions in the same task; the first is kept.

    Args:
        explored: the agent's episodes.
        expert: the expert's trajectories.
        min_score: minimum final score of a success, in [0, 1].
    """
    seen = {_actions(episode) for episode in expert}
    selected = []
    for episode in _played(explored):
        if episode.score >= min_score and episode.steps and _actions(episode) not in seen:
            seen.add(_actions(episode))
            selected.append(episode)
    return selected


def _actions(episode: Trajectory) -> tuple[str, ...]:
    # Normalised as the worlds do: WebShop ignores case, all worlds ignore surrounding spaces.
    return episode.task_id, *(step.action.strip().lower() for step in episode.steps)


def _played(episodes: Iterable[Trajectory]) -> list[Trajectory]:
    return [episode for episode in episodes if episode.status in PLAYED]
