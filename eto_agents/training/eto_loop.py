"""The loop of ETO, stage by stage; what it does is told in `eto_agents.training.eto`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eto_agents.collection import read_collection
from eto_agents.config import write_json
from eto_agents.console import log
from eto_agents.models.base import Sampling
from eto_agents.models.checkpoints import load_checkpoint
from eto_agents.preference import write_pairs
from eto_agents.training.dpo import dpo_stage
from eto_agents.training.eto import (
    ETOSettings,
    Evaluate,
    Exploration,
    Iteration,
    Outcome,
    PairKind,
)
from eto_agents.training.pairs import Cut, Pairs, self_pairs, step_pairs, trajectory_pairs
from eto_agents.training.preference_rows import as_preference
from eto_agents.training.processes import is_main_process
from eto_agents.training.sft import SFTSettings, train_on
from eto_agents.training.stage import Stage, hash_input
from eto_agents.training.task_splits import carve_dev, draw, mean_score, play, tasks_of
from eto_agents.training.teacher_forcing import own_steps
from eto_agents.trajectory import Trajectory
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.checkpoints import Checkpoint
    from eto_agents.models.huggingface import HuggingFaceModel
    from eto_agents.policies.react import ReActPolicy
    from eto_envs.tasks import Task


class Loop:
    """One run of ETO in its folder; see `eto_agents.training.eto.eto`."""

    def __init__(self, settings: ETOSettings, evaluate: Evaluate | None) -> None:
        """Open the task set and the experts' trajectories."""
        self._settings = settings
        self._evaluate = evaluate
        tasks = tasks_of(settings.env, settings.split, settings.env_args)[: settings.n_tasks]
        self._tasks = carve_dev(tasks, settings.dev_tasks, settings.dev_seed)
        train = {task.id for task in self._tasks.train}
        kept = [e for path in settings.data for e in read_collection(path).kept]
        self._experts = [expert for expert in kept if expert.task_id in train]
        if not self._experts and settings.pairs not in ("self", "success"):
            raise DataError(
                f"none of {len(kept)} expert trajectories is of a task of {settings.split!r}: "
                "collect them on the split that is explored"
            )
        self._data = {str(path): hash_input(path) for path in settings.data}

    def run(self) -> Outcome:
        """All stages, those that are complete from their folders."""
        done = [self._appraise(0, self._sft(), None, {}, {})]
        for number in range(1, self._settings.iterations + 1):
            done.append(self._iterate(number, done[-1].checkpoint))
            self._write(done)
        best = max(done, key=lambda i: i.dev or 0.0) if self._settings.keep_best else done[-1]
        self._write(done)
        return Outcome(best.checkpoint, best.number, done)

    def _write(self, done: list[Iteration]) -> None:
        table = {"iterations": [iteration._asdict() for iteration in done]}
        if is_main_process():
            write_json(self._settings.out / "iterations.json", table)

    def _sft(self) -> str:
        told = self._settings
        if not told.sft_epochs:
            return told.model
        settings = SFTSettings(
            data=told.data,
            out=told.out / "sft",
            model=told.model,
            epochs=told.sft_epochs,
            learning_rate=told.sft_learning_rate,
            batch_size=told.sft_batch_size,
            optimizer=told.sft_optimizer,
            world=told.world,
            seed=told.seed,
        )
        inputs = self._data | {"dev": f"{told.dev_tasks} of seed {told.dev_seed}"}
        with Stage(settings.out, settings, inputs) as stage:
            if stage.result is None:
                log(f"SFT on {len(self._experts)} trajectories")
                train_on(self._experts, settings, stage)
            return str(stage.checkpoint)

    def _iterate(self, number: int, model: str) -> Iteration:
        folder = self._settings.out / f"iteration-{number}"
        episodes = self._explore(folder / "explore", number, model)
        pairs = self._pair(folder / "pairs", number, model, episodes)
        learning = self._learn(folder, number, model, pairs)
        explored = mean_score(episodes) if episodes else None
        return self._appraise(
            number, str(folder / "dpo" / "checkpoint"), explored, pairs.counts, learning
        )

    def _explore(self, folder: Path, number: int, model: str) -> list[Trajectory]:
        told = self._settings
        if told.pairs == "step":
            return []
        tasks = self._drawn(number)
        asked = _Played(told.env, told.env_args, told.split, told.explore, told.seed)
        with Stage(folder, asked, self._inputs(model, tasks)) as stage:
            stage.wait()
            if stage.result is None:
                log(f"iteration {number}: exploring {len(tasks)} tasks")
            first = (told.seed * 1000 + number) * told.explore.samples
            seeds = range(first, first + told.explore.samples)
            episodes = self._play(folder, model, tasks, seeds, told.explore.temperature)
            if stage.result is None:
                stage.finish({"n_episodes": len(episodes), "score": mean_score(episodes)})
        return episodes

    def _drawn(self, number: int) -> list[Task]:
        """The tasks that an iteration learns from."""
        told = self._settings
        alone = told.pairs in ("self", "success")
        known = {expert.task_id for expert in self._experts}
        tasks = [task for task in self._tasks.train if alone or task.id in known]
        return draw(tasks, told.explore.max_tasks, f"explore/{told.seed}/{number}")

    def _play(
        self, folder: Path, model: str, tasks: list[Task], seeds: range, temperature: float
    ) -> list[Trajectory]:
        told = self._settings
        file = folder / "episodes.jsonl"
        policy = _Lazy(lambda: self._policy(model, temperature))
        return play(
            policy,
            told.env,
            tasks,
            file,
            split=told.split,
            seeds=seeds,
            lockstep=told.explore.lockstep,
            env_args=told.env_args,
        )

    def _policy(self, model: str, temperature: float) -> ReActPolicy:
        from eto_agents.policies.react import ReActPolicy

        checkpoint = self._load(model)
        return ReActPolicy(
            self._speaker(checkpoint),
            prompts=checkpoint.prompts,
            with_example=checkpoint.with_example,
            world=self._settings.world,
            temperature=temperature,
            max_tokens=self._settings.explore.max_new_tokens,
        )

    def _load(self, model: str) -> Checkpoint:
        return load_checkpoint(
            model, dtype=self._settings.dpo.dtype, device=self._settings.dpo.device
        )

    def _speaker(self, checkpoint: Checkpoint) -> HuggingFaceModel:
        from eto_agents.models.huggingface import HuggingFaceModel

        return HuggingFaceModel.of(checkpoint, max_batch=self._settings.explore.lockstep)

    def _pair(self, folder: Path, number: int, model: str, episodes: list[Trajectory]) -> Pairs:
        told = self._settings
        asked = _Paired(told.pairs, told.cut, told.extra_rounds, told.max_pairs_per_task)
        inputs = dict(self._data)
        if told.pairs in ("step", "mixture") and told.explore.max_tasks is not None:
            inputs["tasks"] = _hash_of(self._drawn(number))
        if episodes:
            inputs["explore"] = hash_input(folder.parent / "explore" / "episodes.jsonl")
        with Stage(folder, asked, inputs) as stage:
            stage.wait()
            pairs = self._compare(folder, number, model, episodes).check()
            if stage.result is None:
                log(f"iteration {number}: {pairs.counts}")
                checkpoint = self._load(model)
                file = folder / "pairs.jsonl"
                write_pairs(
                    file, (as_preference(p, checkpoint, world=told.world) for p in pairs.pairs)
                )
                stage.finish(pairs.counts)
        return pairs

    def _compare(self, folder: Path, number: int, model: str, episodes: list[Trajectory]) -> Pairs:
        told = self._settings
        if told.pairs in ("self", "success"):
            return self_pairs(
                episodes,
                success_against_failure=told.pairs == "success",
                max_per_task=told.max_pairs_per_task,
                cut=told.cut,
                extra_rounds=told.extra_rounds,
            )
        pairs = Pairs([], {})
        if told.pairs in ("trajectory", "mixture"):
            pairs = trajectory_pairs(
                self._experts, episodes, cut=told.cut, extra_rounds=told.extra_rounds
            )
        if told.pairs in ("step", "mixture"):
            checkpoint = self._load(model)
            drawn = {task.id for task in self._drawn(number)}
            every = {e.task_id: e for e in reversed(self._experts) if e.task_id in drawn}
            experts = list(every.values())[::-1]
            steps = own_steps(
                self._speaker(checkpoint),
                checkpoint,
                experts,
                Sampling(told.explore.temperature, max_tokens=told.explore.max_new_tokens),
                folder / "own_steps.jsonl",
                seed=told.seed * 1000 + number,
                world=told.world,
            )
            pairs = pairs + step_pairs(experts, steps)
        return pairs

    def _learn(self, folder: Path, number: int, model: str, pairs: Pairs) -> dict[str, Any]:
        told = self._settings
        settings = told.dpo
        if number > 1:
            later = {"beta": told.later_beta, "learning_rate": told.later_learning_rate}
            given = {name: value for name, value in later.items() if value is not None}
            settings = dataclasses.replace(settings, **given)  # type: ignore[arg-type]
        if not (folder / "dpo" / "result.json").is_file():
            log(f"iteration {number}: DPO on {len(pairs.pairs)} pairs")
        inputs = {"pairs": hash_input(folder / "pairs" / "pairs.jsonl")}
        return dpo_stage(folder / "dpo", model, pairs.pairs, settings, inputs, world=told.world)

    def _appraise(
        self,
        number: int,
        checkpoint: str,
        explored: float | None,
        counts: dict[str, int],
        learning: dict[str, Any],
    ) -> Iteration:
        folder = self._settings.out / f"iteration-{number}"
        dev = self._score_dev(folder / "dev", checkpoint) if self._tasks.dev else None
        scores: dict[str, float] = {}
        if self._evaluate is not None and is_main_process():
            log(f"iteration {number}: evaluating")
            scores = dict(self._evaluate(Path(checkpoint), folder / "evaluation"))
        return Iteration(number, checkpoint, explored, counts, dev, scores, learning)

    def _score_dev(self, folder: Path, checkpoint: str) -> float:
        told = self._settings
        greedy = dataclasses.replace(told.explore, samples=1, temperature=0.0, max_tasks=None)
        asked = _Played(told.env, told.env_args, told.split, greedy, told.dev_seed)
        with Stage(folder, asked, self._inputs(checkpoint, self._tasks.dev)) as stage:
            stage.wait()
            episodes = self._play(folder, checkpoint, self._tasks.dev, range(1), 0.0)
            if stage.result is None:
                stage.finish({"n_episodes": len(episodes), "score": mean_score(episodes)})
        return mean_score(episodes)

    def _inputs(self, model: str, tasks: Sequence[Task]) -> dict[str, str]:
        return {
            "model": hash_input(model) if Path(model).exists() else model,
            "tasks": _hash_of(tasks),
        }


def _hash_of(tasks: Sequence[Task]) -> str:
    ids = json.dumps([task.id for task in tasks])
    return hashlib.sha256(ids.encode()).hexdigest()


@dataclass(frozen=True)
class _Played:
    """What decides the episodes of a stage."""

    env: str
    env_args: Mapping[str, Any]
    split: str
    explore: Exploration
    seed: int


@dataclass(frozen=True)
class _Paired:
    """What decides the pairs of a stage."""

    pairs: PairKind
    cut: Cut
    extra_rounds: int
    max_pairs_per_task: int | None


class _Lazy:
    """A policy that loads its model when it is first needed: not where all has been played."""

    def __init__(self, make: Callable[[], ReActPolicy]) -> None:
        self._make = make
        self._made: ReActPolicy | None = None
        self.name = "react"

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
            self.name = self._made.name
        return getattr(self._made, name)
