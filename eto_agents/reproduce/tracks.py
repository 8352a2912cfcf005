"""One world under one seed, from the expert's trajectories to the runs that fill the table.

Every stage is a function of `eto_agents.training`, `collect` or `evaluate` in a folder of its own
(`eto_agents.training.stage`): the same call goes on where it was killed. In a track's folder::

    expert/ demonstrations/ base/ sft/ sft-more/ rft/ ppo/ eto/   training
    runs/{base,sft,sft-more,best-of-n,rft,ppo,eto-1,eto-2,…}/     evaluations

SFT-more is the control without which RFT and ETO get credit for mere training: the SFT model is
trained on the experts' trajectories for as many further updates as ETO's DPO made, with two
trajectories in the place of a pair. Where ETO may keep its best iteration on the dev tasks, SFT
among them, the control has the same choice. Tables are `eto_agents.reproduce.tables`' part.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eto_agents.collect import collect
from eto_agents.config import read_json
from eto_agents.console import log
from eto_agents.evaluation.harness import evaluate
from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.policy import load_policy
from eto_agents.reproduce.settings import Told
from eto_agents.reproduce.tiers import BestOf, Evaluation, Expert, Model, World
from eto_agents.store import TrajectoryStore
from eto_agents.training.eto import ETOSettings, Iteration, eto
from eto_agents.training.pairs import NoPairsError, with_steps
from eto_agents.training.ppo import ppo
from eto_agents.training.rft import rft
from eto_agents.training.sft import open_model, sft
from eto_agents.training.stage import Stage, hash_input
from eto_agents.training.task_splits import carve_dev, tasks_of

if TYPE_CHECKING:
    from eto_agents.policy import Policy
    from eto_agents.trajectory import Trajectory


class Learned(NamedTuple):
    """What ETO came to in a track.

    Attributes:
        iterations: that were completed, the start first.
        best: the number of the one that counts.
        note: why there are fewer than were asked for; empty if there are not.
    """

    iterations: list[Iteration]
    best: int
    note: str

    @property
    def n_updates(self) -> int:
        """Updates that DPO made in all iterations."""
        return sum(int(i.learning.get("n_updates", 0)) for i in self.iterations)

    @property
    def n_tokens(self) -> int:
        """Tokens of the pairs, each once, of all iterations."""
        return sum(int(i.learning.get("n_tokens", 0)) for i in self.iterations)


class Track(Told):
    """One world under one seed; a stage that is complete is read from its folder."""

    def demonstrations(self) -> Path:
        """The experts' trajectories that are learnt from; none is of a dev task."""
        recipe = self.recipe
        asked = _Demonstrated(
            recipe.world, recipe.expert, self.dataset, recipe.eto.dev_tasks, recipe.eto.dev_seed
        )
        with Stage(self.data, asked, {"seed": str(self.seed)}) as stage:
            if stage.result is None:
                log(f"{recipe.expert.policy} plays")
                kept, scores, dropped, _ = self._play_expert()
                dev = {task.id for task in self._dev_tasks()}
                chosen = [_until_idle(episode) for episode in kept if episode.task_id not in dev]
                _write_anew(stage.folder / "episodes.jsonl", chosen)
                stage.finish(
                    {
                        "n_played": len(scores),
                        "n_dropped": sum(dropped.values()),
                        "n_kept": len(chosen),
                        "score": math.fsum(scores) / max(len(scores), 1),
                    }
                )
            return stage.folder

    def base(self) -> str:
        """The model before training: a new tiny one, or the one that is named."""
        model = self.recipe.model
        if not model.is_tiny:
            return model.name
        data = self.demonstrations()
        asked = _Made(model, self.recipe.world.prompt, self.seed)
        with Stage(self.folder / "base", asked, {"data": hash_input(data)}) as stage:
            if stage.result is None:
                settings = self.sft_settings(stage.folder, model.name)
                episodes = list(TrajectoryStore(data / "episodes.jsonl").read())
                made = open_model(episodes, settings)
                save_checkpoint(made, stage.checkpoint)
                n_parameters = sum(p.numel() for p in made.model.parameters())
                stage.finish({"n_parameters": n_parameters, "vocabulary": len(made.tokenizer)})
            return str(stage.checkpoint)

    def sft(self) -> dict[str, Any]:
        """Behaviour cloning; what its stage says."""
        self.demonstrations()
        return sft(self.sft_settings(self.folder / "sft", self.base()))

    def sft_more(self, n_updates: int) -> tuple[dict[str, Any], str]:
        """The control: so many more updates on the experts' trajectories.

        Returns:
            What its stage says, and the checkpoint that counts: with `keep_best` that of SFT, if
            the control is worse on the dev tasks.
        """
        settings = self.filled(self.recipe.sft_more, self.folder / "sft-more", self.sft_checkpoint)
        batch_size = 2 * self.recipe.eto.dpo.batch_size
        n_rows = int(read_json(self.folder / "sft" / "result.json")["n_trajectories"])
        # Half an update less, so that rounding up cannot give one more.
        epochs = (n_updates - 0.5) / math.ceil(n_rows / batch_size)
        micro = math.gcd(batch_size, min(batch_size, settings.micro_batch_size))
        result = sft(
            dataclasses.replace(
                settings, epochs=epochs, batch_size=batch_size, micro_batch_size=micro
            )
        )
        passes = result["n_steps"] / math.ceil(n_rows / batch_size)
        result = result | {"n_seen_tokens": round(passes * result["n_tokens"])}
        checkpoint = str(settings.out / "checkpoint")
        if not self.recipe.eto.keep_best:
            return result, checkpoint
        scores = [self._score_dev(name) for name in (self.sft_checkpoint, checkpoint)]
        result = result | {"dev_sft": scores[0], "dev": scores[1]}
        return result, checkpoint if scores[1] > scores[0] else self.sft_checkpoint

    def rft(self) -> dict[str, Any]:
        """Rejection-sampling fine-tuning; what its stage says."""
        begins_with_sft = self.recipe.model.rft_begins_with == "sft"
        model = self.sft_checkpoint if begins_with_sft else self.base()
        return rft(self.rft_settings(self.folder / "rft", model, self.sft_checkpoint))

    def ppo(self) -> dict[str, Any]:
        """PPO from the SFT model; what its stage says."""
        return ppo(self.ppo_run(self.sft_checkpoint, self.folder / "ppo"))

    def eto(self, settings: ETOSettings | None = None, prefix: str = "eto") -> Learned:
        """ETO from the SFT model, with an evaluation of every iteration in ``runs/PREFIX-N``.

        Args:
            settings: other ones than `eto_settings` gives.
            prefix: of the evaluations' names.
        """
        told = settings or self.eto_settings(self.sft_checkpoint, self.folder / "eto")

        def score(checkpoint: Path, folder: Path) -> dict[str, float]:
            number = int(folder.parent.name.rpartition("-")[2])
            if number == 0 and str(checkpoint) == self.sft_checkpoint:
                return self.evaluate("sft", str(checkpoint))
            return self.evaluate(f"{prefix}-{number}", str(checkpoint))

        try:
            outcome = eto(told, evaluate=score)
            return Learned(outcome.iterations, outcome.best, "")
        except NoPairsError as error:
            table = told.out / "iterations.json"
            if not table.is_file():
                return Learned([], 0, str(error))
            done = [Iteration(**row) for row in read_json(table)["iterations"]]
            best = max(done, key=lambda i: i.dev or 0.0) if told.keep_best else done[-1]
            return Learned(done, best.number, f"stopped after {len(done) - 1}: {error}")

    def evaluate(
        self, name: str, checkpoint: str, best_of: BestOf | None = None
    ) -> dict[str, float]:
        """Play the task sets, greedily or as Best-of-N; mean reward in [0, 1] by split."""
        recipe = self.recipe
        asked = _Evaluated(recipe.world, recipe.model, recipe.evaluation, best_of)
        is_there = Path(checkpoint).exists()
        inputs = {"model": hash_input(checkpoint) if is_there else checkpoint}
        with Stage(self.folder / "runs" / name, asked, inputs) as stage:
            if stage.result is None:
                results = evaluate(
                    self._player(checkpoint, f"{recipe.name}-{self.seed}-{name}", best_of),
                    recipe.world.env,
                    recipe.evaluation.splits,
                    out=stage.folder,
                    batch_size=recipe.evaluation.batch_size,
                    n_tasks=recipe.evaluation.n_tasks,
                    # The task sets of the table are the dataset's own, whatever was trained on.
                    env_args={"dataset": recipe.world.dataset},
                    agent_errors="zero",
                )
                stage.finish({s: r.reward.mean for s, r in results.splits.items()})
            return dict(stage.result or {})

    def run_folder(self, name: str) -> Path:
        """Where `evaluate` keeps a run."""
        return self.folder / "runs" / name

    def _player(self, checkpoint: str, name: str, best_of: BestOf | None) -> Policy:
        from eto_agents.best_of_n import BestOfN
        from eto_agents.models.huggingface import HuggingFaceModel
        from eto_agents.policies.react import ReActPolicy

        told = self.recipe.model
        loaded = load_checkpoint(
            checkpoint, dtype=told.dtype, device=told.device, template=told.template
        )
        policy = ReActPolicy(
            HuggingFaceModel.of(loaded, name=name, max_batch=told.lockstep),
            prompts=told.prompts,
            with_example=told.with_example,
            world=self.recipe.world.prompt,
            temperature=0.0 if best_of is None else best_of.temperature,
            max_tokens=told.max_turn_tokens,
        )
        return policy if best_of is None else BestOfN(policy, best_of.n)

    def _play_expert(self) -> Any:
        expert = self.recipe.expert
        first = self.seed * expert.samples
        return collect(
            load_policy(expert.policy, **expert.policy_args),
            self.recipe.world.env,
            out=self.folder / "expert",
            thoughts=expert.thoughts,
            min_score=expert.min_score,
            seeds=range(first, first + expert.samples),
            batch_size=self.recipe.model.lockstep,
            n_tasks=expert.n_tasks,
            env_args=self.env_args,
        )

    def _dev_tasks(self) -> list[Any]:
        tasks = tasks_of(self.recipe.world.env, "train", self.env_args)
        told = self.recipe.eto
        return carve_dev(tasks[: self.recipe.expert.n_tasks], told.dev_tasks, told.dev_seed).dev

    def _score_dev(self, checkpoint: str) -> float:
        """An ETO of no iterations scores its start on the dev tasks, and does no more."""
        place = Path(checkpoint).parent.name
        told = self.eto_settings(checkpoint, self.folder / "sft-more" / f"dev-{place}")
        outcome = eto(dataclasses.replace(told, iterations=0, keep_best=False))
        return outcome.iterations[0].dev or 0.0


@dataclass(frozen=True)
class _Demonstrated:
    """What decides the experts' trajectories."""

    world: World
    expert: Expert
    dataset: str
    dev_tasks: int
    dev_seed: int


@dataclass(frozen=True)
class _Made:
    """What decides a tiny model before training."""

    model: Model
    prompt: str | None
    seed: int


@dataclass(frozen=True)
class _Evaluated:
    """What decides a run."""

    world: World
    model: Model
    evaluation: Evaluation
    best_of: BestOf | None


def _until_idle(episode: Trajectory) -> Trajectory:
    """A failure without what repeats its last action: an expert that idles thinks it is done."""
    actions = [step.action for step in episode.steps]
    if episode.success or actions[-2:-1] != actions[-1:]:
        return episode
    while actions[-2:-1] == actions[-1:]:
        actions.pop()
    return with_steps(episode, episode.steps[: len(actions)])


def _write_anew(file: Path, episodes: list[Trajectory]) -> None:
    file.unlink(missing_ok=True)  # a killed call may have left some of them
    with TrajectoryStore(file) as store:
        for episode in episodes:
            store.append(episode)
