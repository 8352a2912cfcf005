"""All methods of a recipe in one world under one seed, in order: what `eto reproduce` does.

`run` is the order, a function for each method, and `METHODS` of `eto_agents.reproduce.recipe` their
labels. Every step has a folder of its own, so that the same call resumes. In a run's folder::

    expert/ demonstrations/ base/ sft/ sft-more/ rft/ ppo/ grpo/ eto/    training
    runs/{base,sft,sft-more,best-of-n,rft,ppo,grpo,eto-1,eto-2,…}/       evaluations
    outcome.json                                                         which run is which row

SFT-more is the control without which RFT and ETO get credit for mere training: the SFT model is
trained on the experts' trajectories for as many further updates as ETO's DPO made, with two
trajectories in the place of a pair. Where ETO may keep its best iteration on the dev tasks, SFT
among them, the control has the same choice.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from eto_agents.best_of_n import BestOfN
from eto_agents.collect import collect
from eto_agents.console import log, relayed
from eto_agents.evaluation.harness import evaluate
from eto_agents.evaluation.results import Results
from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint
from eto_agents.policy import load_policy
from eto_agents.reproduce.outcome import Facts, Outcome, run_folder
from eto_agents.reproduce.recipe import METHODS, BestOf, Recipe, WorldRecipe
from eto_agents.reproduce.steps import Steps, Watch
from eto_agents.runs import RunFolder, RunMismatchError, once
from eto_agents.settings import ETO, SFT, read_json
from eto_agents.store import TrajectoryStore
from eto_agents.training.eto import Iteration, best_of, eto
from eto_agents.training.exploration import explore
from eto_agents.training.grpo import grpo
from eto_agents.training.losses import DivergedError
from eto_agents.training.pairs import NoPairsError, with_steps
from eto_agents.training.ppo import SamplingMismatchError, ppo
from eto_agents.training.rft import rft
from eto_agents.training.sft import open_model, sft
from eto_agents.training.task_splits import mean_score, split_dev, tasks_of
from eto_agents.worlds.base import world_of_env
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError

if TYPE_CHECKING:
    from eto_agents.training.trl import Trained
    from eto_agents.trajectory import Trajectory

_S = TypeVar("_S", bound=SFT)


class WorldRun:
    """One world under one seed: its settings and the steps that methods share.

    Attributes:
        recipe: what is done in this world.
        seed: of weights, orders and sampling.
        folder: of the run; a larger mini dataset lies beside the runs of a world.
        sft_checkpoint: where SFT leaves its model.
    """

    def __init__(self, recipe: WorldRecipe, seed: int, folder: Path) -> None:
        """Do nothing yet."""
        self.recipe = recipe
        self.seed = seed
        self.folder = folder
        self.sft_checkpoint = folder / "sft" / "checkpoint"

    @property
    def dataset(self) -> str:
        """What is trained on: the recipe's, or a mini dataset with further train tasks."""
        world = self.recipe.world
        if world.n_rounds == 1:
            return world.dataset
        return str(self.folder.parent / f"mini-{world.n_rounds}-rounds")

    @property
    def base(self) -> str:
        """The model before training: a new tiny one, or the one that is named."""
        model = self.recipe.model
        return str(self.folder / "base" / "checkpoint") if model.is_tiny else model.name

    @functools.cached_property
    def demonstrations(self) -> list[Trajectory]:
        """The experts' trajectories that are imitated, once `prepare` has collected them."""
        return list(TrajectoryStore(self.folder / "demonstrations" / "episodes.jsonl").read())

    def prepare(self) -> Facts:
        """Write the dataset, collect the demonstrations, and make the untrained model.

        Returns:
            Counts of the demonstrations, and the experts' mean score.
        """
        self._write_dataset()
        facts = self.collect_demonstrations()
        if self.recipe.model.is_tiny:
            self._make_base()
        return facts

    def tuned(self, settings: _S) -> _S:
        """Settings of SFT or RFT with what follows from the other sections."""
        model = self.recipe.model
        return dataclasses.replace(
            settings,
            template=model.template,
            prompts=model.prompts,
            with_example=model.with_example,
            world=self.recipe.world.prompt,
            vocab_size=model.vocab_size,
            dtype=model.dtype,
            device=model.device,
            seed=self.seed,
        )

    def playing(self, settings: Any, **more: Any) -> Any:
        """Settings of a method that plays with what follows from the other sections."""
        return dataclasses.replace(
            settings,
            env=self.recipe.world.env,
            dataset=self.dataset,
            n_tasks=self.recipe.expert.n_tasks,
            n_envs=self.recipe.model.n_envs,
            max_new_tokens=self.recipe.model.max_new_tokens,
            world=self.recipe.world.prompt,
            seed=self.seed,
            **more,
        )

    def on_policy(self, settings: Any) -> Any:
        """PPO's or GRPO's settings with what follows from the other sections."""
        return self.playing(
            settings,
            dev_tasks=self.recipe.eto.dev_tasks,
            dev_seed=self.recipe.eto.dev_seed,
            dtype=self.recipe.model.dtype,
            device=self.recipe.model.device,
        )

    def eto_settings(self) -> ETO:
        """ETO's settings with what follows from the other sections."""
        model = self.recipe.model
        dpo = dataclasses.replace(
            self.recipe.eto.dpo, dtype=model.dtype, device=model.device, seed=self.seed
        )
        settings: ETO = self.playing(self.recipe.eto, dpo=dpo)
        return settings

    def _write_dataset(self) -> None:
        """Make the mini dataset with further train tasks; runs of a world share it."""
        import filelock

        world, path = self.recipe.world, Path(self.dataset)
        if world.n_rounds == 1:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                log(f"making {world.n_rounds} rounds of train tasks")
                world_of_env(world.env).write_more_tasks(path, world.n_rounds)

    def collect_demonstrations(self) -> Facts:
        """Let the experts play; none of what is kept is of a dev task."""
        recipe = self.recipe
        decisive = {
            "world": dataclasses.asdict(recipe.world),
            "expert": dataclasses.asdict(recipe.expert),
            "dataset": self.dataset,
            "dev_tasks": recipe.eto.dev_tasks,
            "dev_seed": recipe.eto.dev_seed,
            "seed": self.seed,
        }

        def make(run: RunFolder) -> Facts:
            log(f"{recipe.expert.policy} plays")
            first = self.seed * recipe.expert.n_samples
            played = collect(
                load_policy(recipe.expert.policy, **recipe.expert.policy_args),
                recipe.world.env,
                out=self.folder / "expert",
                thoughts=recipe.expert.thoughts,
                min_score=recipe.expert.min_score,
                seeds=range(first, first + recipe.expert.n_samples),
                n_envs=recipe.model.n_envs,
                n_tasks=recipe.expert.n_tasks,
                env_args={"dataset": self.dataset},
            )
            dev = {task.id for task in self.dev_tasks()}
            chosen = [_until_idle(e) for e in played.selected if e.task_id not in dev]
            _write(run.episodes, chosen)
            return {
                "n_played": len(played.scores),
                "n_dropped": sum(played.dropped.values()),
                "n_kept": len(chosen),
                "score": math.fsum(played.scores) / max(len(played.scores), 1),
            }

        folder = self.folder / "demonstrations"
        return once(folder, make, kind="demonstrations", settings=decisive).result or {}

    def dev_tasks(self) -> list[Any]:
        """The tasks that are split off train to choose on."""
        settings = self.recipe.eto
        tasks = tasks_of(self.recipe.world.env, "train", {"dataset": self.dataset})
        tasks = tasks[: self.recipe.expert.n_tasks]
        return split_dev(tasks, settings.dev_tasks, settings.dev_seed).dev

    def _make_base(self) -> None:
        """Make the tiny model, with the demonstrations' vocabulary."""
        model = self.recipe.model

        def make(run: RunFolder) -> Facts:
            made = open_model(model.name, self.demonstrations, self.tuned(self.recipe.sft))
            save_checkpoint(made, run.checkpoint)
            n_parameters = sum(p.numel() for p in made.model.parameters())
            return {"n_parameters": n_parameters, "vocabulary": len(made.tokenizer)}

        prompt = self.recipe.world.prompt
        once(
            self.folder / "base",
            make,
            kind="base",
            settings=dataclasses.asdict(model) | {"prompt": prompt, "seed": self.seed},
            demonstrations=self.folder / "demonstrations",
        )

    def evaluate(
        self, name: str, checkpoint: str | Path, best_of_n: BestOf | None = None
    ) -> dict[str, float]:
        """Play the splits of the table, greedily or as Best-of-N, in ``runs/NAME``.

        Returns:
            The mean reward in [0, 1] by split.
        """
        recipe = self.recipe
        model, settings = recipe.model, self.tuned(recipe.sft)
        loaded = load_checkpoint(
            str(checkpoint),
            dtype=model.dtype,
            device=model.device,
            template=settings.template,
            prompts=settings.prompts,
            with_example=settings.with_example,
        )
        policy = loaded.policy(
            self.playing(recipe.eto),
            temperature=0.0 if best_of_n is None else best_of_n.temperature,
        )
        results = evaluate(
            policy if best_of_n is None else BestOfN(policy, best_of_n.n),
            recipe.world.env,
            recipe.evaluation.splits,
            out=self.run_folder(name),
            n_envs=model.n_envs,
            n_tasks=recipe.evaluation.n_tasks,
            # The splits of the table are the dataset's own, whatever was trained on.
            env_args={"dataset": recipe.world.dataset},
            agent_errors="zero",
        )
        return {split: result.reward.mean for split, result in results.splits.items()}

    def run_folder(self, name: str) -> Path:
        """Where `evaluate` keeps a run."""
        return self.folder / "runs" / name

    def sft(self) -> Trained:
        """Behaviour cloning."""
        model, settings = self.base, self.tuned(self.recipe.sft)
        return sft(model, self.demonstrations, settings, out=self.folder / "sft")

    def eto(self, settings: ETO | None = None, name: str = "eto", start: str = "") -> Learned:
        """ETO with an evaluation of every iteration in ``runs/NAME-NUMBER``.

        Args:
            settings: other ones than `eto_settings` gives.
            name: of its folder and the evaluations.
            start: the policy to begin with; by default SFT's.
        """
        settings = settings or self.eto_settings()
        done: list[Iteration] = []
        note = ""
        model, out = start or self.sft_checkpoint, self.folder / name
        alone = settings.pairs in ("self", "success")
        try:
            for iteration in eto(model, [] if alone else self.demonstrations, settings, out=out):
                done.append(iteration)
                if iteration.number:
                    self.evaluate(f"{name}-{iteration.number}", iteration.model)
        except NoPairsError as error:
            if not done:
                raise
            note = f"stopped after {len(done) - 1}: {error}" if len(done) > 1 else str(error)
        return Learned(done, best_of(done, settings), note)


class Learned(NamedTuple):
    """What ETO came to.

    Attributes:
        iterations: that were completed, the start first.
        best: the one that counts.
        note: why there are fewer than were planned; empty if there are not.
    """

    iterations: list[Iteration]
    best: Iteration
    note: str

    @property
    def n_updates(self) -> int:
        """Updates that DPO made in all iterations."""
        return sum(int(i.learning.get("n_updates", 0)) for i in self.iterations)

    @property
    def n_tokens(self) -> int:
        """Tokens of the pairs, each once, of all iterations."""
        return sum(int(i.learning.get("n_tokens", 0)) for i in self.iterations)


# The methods. Each trains, evaluates and fills its row of the outcome; what it returns is shown.


def _base(run: WorldRun, outcome: Outcome) -> Facts:
    return _row(run, outcome, "base", run.base)


def _sft(run: WorldRun, outcome: Outcome) -> Facts:
    trained = run.sft()
    return _learning(trained.result) | _row(run, outcome, "sft", trained.checkpoint)


def _best_of_n(run: WorldRun, outcome: Outcome) -> Facts:
    settings = run.recipe.best_of_n
    outcome.rows["best-of-n"] = "best-of-n"
    outcome.notes["best-of-n"] = (
        f"N = {settings.n} at temperature {settings.temperature:g}, chosen by the true reward"
    )
    return run.evaluate("best-of-n", run.sft_checkpoint, settings)


def _rft(run: WorldRun, outcome: Outcome) -> Facts:
    begins_with_sft = run.recipe.model.rft_begins_with == "sft"
    model = run.sft_checkpoint if begins_with_sft else run.base
    settings = run.playing(run.tuned(run.recipe.rft))
    out = run.folder / "rft"
    trained = rft(model, run.demonstrations, settings, explorer=run.sft_checkpoint, out=out)
    facts = {name: trained.result[name] for name in ("n_successes", "n_added")}
    return facts | _learning(trained.result) | _row(run, outcome, "rft", trained.checkpoint)


def _ppo(run: WorldRun, outcome: Outcome) -> Facts:
    trained = ppo(run.sft_checkpoint, run.on_policy(run.recipe.ppo), out=run.folder / "ppo")
    facts = {name: trained.result[name] for name in ("n_updates", "n_episodes", "kl")}
    return facts | _row(run, outcome, "ppo", trained.checkpoint)


def _grpo(run: WorldRun, outcome: Outcome) -> Facts:
    trained = grpo(run.sft_checkpoint, run.on_policy(run.recipe.grpo), out=run.folder / "grpo")
    facts = {name: trained.result[name] for name in ("n_updates", "n_episodes")}
    return facts | _row(run, outcome, "grpo", trained.checkpoint)


def _eto(run: WorldRun, outcome: Outcome) -> Facts:
    learned = run.eto()
    if learned.note:
        outcome.notes["eto"] = learned.note
    if len(learned.iterations) < 2:
        return {"n_updates": 0}
    best = learned.best.number
    outcome.rows["eto"] = f"eto-{best}" if best else "sft"
    if not best:
        outcome.notes["eto"] = "no iteration was better than SFT on the dev tasks"
    pairs = [i.counts.get("pairs", 0) for i in learned.iterations[1:]]
    facts = {"pairs": pairs, "n_updates": learned.n_updates, "n_tokens": learned.n_tokens}
    return facts | {"best": best} | _scores(run.run_folder(outcome.rows["eto"]))


def _sft_more(run: WorldRun, outcome: Outcome) -> Facts:
    """The control: as many more updates on the experts' trajectories as ETO made on pairs."""
    n_updates = outcome.facts["ETO"]["n_updates"]
    if not n_updates:
        outcome.notes["sft-more"] = "ETO made no update, so there is nothing to match"
        return {"n_updates": 0}
    settings = run.recipe.eto
    batch_size = 2 * settings.dpo.batch_size
    n_batches = math.ceil(
        read_json(run.folder / "sft" / "result.json")["n_trajectories"] / batch_size
    )
    sft_more = run.tuned(run.recipe.sft_more)
    sft_more = dataclasses.replace(
        sft_more,
        # Half an update less, so that rounding up cannot give one more.
        epochs=(n_updates - 0.5) / n_batches,
        batch_size=batch_size,
        micro_batch_size=math.gcd(batch_size, min(batch_size, sft_more.micro_batch_size)),
    )
    out = run.folder / "sft-more"
    trained = sft(run.sft_checkpoint, run.demonstrations, sft_more, out=out)
    result = trained.result
    n_seen = round(result["n_steps"] / n_batches * result["n_tokens"])
    n_pair_tokens = round(outcome.facts["ETO"]["n_tokens"] * settings.dpo.epochs)
    outcome.notes["sft-more"] = (
        f"{result['n_steps']} further updates on experts' trajectories ({n_seen:,} tokens) for "
        f"ETO's {n_updates} on pairs ({n_pair_tokens:,} tokens)"
    )
    checkpoint, facts = trained.checkpoint, _learning(result)
    if settings.keep_best:
        scores = [_dev_score(run, name) for name in (run.sft_checkpoint, checkpoint)]
        facts |= {"dev_sft": scores[0], "dev": scores[1]}
        checkpoint = checkpoint if scores[1] > scores[0] else run.sft_checkpoint
    return facts | _row(run, outcome, "sft-more", checkpoint)


_METHODS: Final[Mapping[str, Callable[[WorldRun, Outcome], Facts]]] = {
    "base": _base,
    "sft": _sft,
    "sft-more": _sft_more,
    "best-of-n": _best_of_n,
    "rft": _rft,
    "ppo": _ppo,
    "grpo": _grpo,
    "eto": _eto,
}
"""What runs each method; `Recipe.steps` has them in the order in which they need each other."""


def run(recipe: Recipe, world: str, seed: int, out: Path, watch: Watch = lambda _: None) -> Outcome:
    """Train and evaluate a recipe's methods in one world under one seed.

    Args:
        recipe: what and how.
        world: one of its worlds.
        seed: one seed.
        out: the reproduction's folder; the same call on it resumes.
        watch: called with what happens.
    """
    methods = recipe.steps[1:]
    folder = run_folder(out, world, seed)
    world_run, outcome = WorldRun(recipe.worlds[world], seed, folder), Outcome(world, seed, folder)
    steps = Steps(outcome, methods, recipe.worlds[world].measured, watch)
    with relayed(steps.relay):
        with steps.step("expert", "expert") as facts:
            facts |= world_run.prepare()
        for method in methods:
            with steps.step(method, METHODS[method]) as facts:
                try:
                    facts |= _METHODS[method](world_run, outcome)
                except (RunMismatchError, DataNotFoundError, CorruptDataError):
                    raise  # something is wrong with the folder, not with the method
                except (DataError, DivergedError, SamplingMismatchError) as error:
                    if method in ("base", "sft"):
                        raise
                    # A method that cannot learn from what it sees leaves its row empty.
                    outcome.notes[method] = f"no result: {error}"
                    facts |= {"failed": str(error)} | ({"n_updates": 0} if method == "eto" else {})
            outcome.save()
    return outcome


def _row(run: WorldRun, outcome: Outcome, method: str, checkpoint: str | Path) -> Facts:
    outcome.rows[method] = method
    return run.evaluate(method, checkpoint)


def _scores(folder: Path) -> Facts:
    splits = Results.load(folder).splits
    return {split: result.reward.mean for split, result in splits.items()}


def _learning(result: Mapping[str, Any]) -> Facts:
    names = ("n_trajectories", "n_tokens", "n_steps", "first_loss", "last_loss")
    return {name: result[name] for name in names}


def _dev_score(run: WorldRun, checkpoint: Path) -> float:
    """Mean score of greedy episodes on the dev tasks."""
    folder = run.folder / "sft-more" / f"dev-{checkpoint.parent.name}"
    tasks, settings = run.dev_tasks(), run.eto_settings()
    return mean_score(explore(checkpoint, tasks, settings, folder, temperature=0.0))


def _until_idle(episode: Trajectory) -> Trajectory:
    """A failure without what repeats its last action: an expert that idles thinks it is done."""
    actions = [step.action for step in episode.steps]
    if episode.success or actions[-2:-1] != actions[-1:]:
        return episode
    while actions[-2:-1] == actions[-1:]:
        actions.pop()
    return with_steps(episode, episode.steps[: len(actions)])


def _write(file: Path, episodes: list[Trajectory]) -> None:
    file.unlink(missing_ok=True)  # an interrupted call may have left some of them
    with TrajectoryStore(file) as store:
        for episode in episodes:
            store.append(episode)
