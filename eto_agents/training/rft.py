"""Rejection-sampling fine-tuning (RFT; Yuan et al. 2023), a baseline of the paper's Section 4.1.

A model trained by SFT plays its training tasks several times; episodes that succeed are added to
the expert's, each way of doing a task once, and the base model is fine-tuned on both.

Differs from the reference: the paper adds "success trajectories" and names no least score. Here an
episode counts that scores at least `min_score`, by default 1; so in WebShop and ScienceWorld, too,
whose scores have values between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eto_agents.collection import read_collection
from eto_agents.config import SettingsError, record_of, write_json
from eto_agents.models.checkpoints import load_checkpoint
from eto_agents.store import RUN_SCHEMA_VERSION
from eto_agents.training.processes import wait_until
from eto_agents.training.rows import EmptyDataError
from eto_agents.training.sft import SFTSettings, as_told, train_on
from eto_agents.training.stage import Stage, hash_input
from eto_agents.training.task_splits import draw, play, tasks_of
from eto_agents.trajectory import Trajectory
from eto_envs.errors import require


@dataclass(frozen=True)
class RFTSettings(SFTSettings):
    """What `rft` is told: all of `SFTSettings`, and how episodes are sampled.

    Attributes:
        out: the stage's folder.
        explorer: the checkpoint that plays, such as the one of `eto train sft`.
        env: environment id.
        dataset: mini, an official name, or a folder with the official files.
        split: the split to play.
        n_samples: episodes of each task.
        n_tasks: only the first so many tasks.
        max_tasks: at most so many of these, drawn by the seed; then the experts' trajectories are
            those of the same tasks. By default all.
        temperature: at which turns are sampled.
        min_sampled_score: least final score of an episode that is learnt from.
        max_turn_tokens: the most tokens of a turn.
        lockstep: episodes that are played at once.
    """

    out: Path = Path("runs/rft")
    explorer: str = ""
    env: str = "ETO-WebShop-v0"
    dataset: str | None = None
    split: str = "train"
    n_samples: int = 4
    n_tasks: int | None = None
    max_tasks: int | None = None
    temperature: float = 1.0
    min_sampled_score: float = 1.0
    max_turn_tokens: int = 128
    lockstep: int = 64

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: a value is outside of its range.
        """
        super().__post_init__()
        for name in ("n_samples", "temperature", "max_turn_tokens", "lockstep"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.min_sampled_score <= 1:
            raise SettingsError(f"min_sampled_score {self.min_sampled_score} is not in [0, 1]")


def rft(settings: RFTSettings) -> dict[str, Any]:
    """Explore, keep what succeeded, fine-tune the base on it and the expert's.

    Returns:
        What ``result.json`` has.

    Raises:
        EmptyDataError: no expert trajectories were named, or none was kept.
        DataNotFoundError: there are none, or no such model.
        SettingsError: no explorer was named.
        StageMismatchError: the folder holds another stage.
        MissingExtraError: the extra ``train`` is not installed.
    """
    require("trl", extra="train")
    if not settings.data:
        raise EmptyDataError("no data: name folders of `eto collect`")
    if not settings.explorer:
        raise SettingsError("no explorer: name the checkpoint of `eto train sft`")
    inputs = {str(path): hash_input(path) for path in settings.data}
    for name in ("explorer", "model"):
        if Path(getattr(settings, name)).exists():
            inputs[name] = hash_input(getattr(settings, name))
    with Stage(settings.out, settings, inputs) as stage:
        if stage.result is not None:
            return stage.result
        collections = [read_collection(p, min_score=settings.min_score) for p in settings.data]
        expert = [episode for part in collections for episode in part.kept]
        explored = explore(settings, stage)
        if settings.max_tasks is not None:
            drawn = {episode.task_id for episode in explored}
            expert = [episode for episode in expert if episode.task_id in drawn]
        kept = successes(explored, expert, settings.min_sampled_score)
        counts: dict[str, Any] = {
            "n_expert": len(expert),
            "n_explored": len(explored),
            "n_successes": sum(e.score >= settings.min_sampled_score for e in _played(explored)),
            "n_added": len(kept),
            "explored_score": _mean([e.score for e in _played(explored)]),
        }
        result = train_on([*expert, *kept], settings, stage) | counts
        stage.finish(result)
        return result


def explore(settings: RFTSettings, stage: Stage) -> list[Trajectory]:
    """Every task `n_samples` times, in ``explored/``; goes on where it was stopped."""
    from eto_agents.models.huggingface import HuggingFaceModel
    from eto_agents.policies.react import ReActPolicy

    folder = stage.folder / "explored"
    env_args = {} if settings.dataset is None else {"dataset": settings.dataset}
    tasks = tasks_of(settings.env, settings.split, env_args)[: settings.n_tasks]
    checkpoint = load_checkpoint(
        settings.explorer,
        dtype=settings.dtype,
        device=settings.device,
        template=settings.template,
    )
    checkpoint = as_told(checkpoint, settings)
    policy = ReActPolicy(
        HuggingFaceModel.of(checkpoint, name=settings.explorer, max_batch=settings.lockstep),
        temperature=settings.temperature,
        max_tokens=settings.max_turn_tokens,
        world=settings.world,
    )
    if stage.is_writer:
        write_json(
            folder / "run.json",
            {"schema": RUN_SCHEMA_VERSION, "env_id": settings.env, **record_of(settings)},
        )
    else:
        wait_until((folder / "result.json").is_file)
    episodes = play(
        policy,
        settings.env,
        draw(tasks, settings.max_tasks, f"explore/{settings.seed}"),
        folder / "episodes.jsonl",
        split=settings.split,
        seeds=range(settings.n_samples),
        lockstep=settings.lockstep,
        env_args=env_args,
    )
    if stage.is_writer:
        score = _mean([episode.score for episode in _played(episodes)])
        write_json(folder / "result.json", {"n_episodes": len(episodes), "score": score})
    return episodes


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
    return [episode for episode in episodes if episode.status in ("completed", "truncated")]


def _mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
