"""Running all methods of a recipe in one world with one seed, in order.

There is one function per method, and `run` calls them in order; their labels are in `METHODS` of
`eto_agents.reproduce.recipe`. Every step has its own folder, so repeating the call resumes. A run's
folder holds::

    expert/ demonstrations/ base/ sft/ rft/ ppo/ eto/ sft-more/ …    training, by method
    controls/                                                        controls on the dev tasks
    runs/{base,sft,sft-more,best-of-n,rft,ppo,eto-1,eto-2,…}/        evaluations
    outcome.json                                                     the evaluation of each row

SFT-more is a control for the amount of training: the SFT model is trained on the experts'
trajectories for as many further updates as ETO's DPO makes, with two trajectories in place of a
pair. If ETO selects its best iteration on the development tasks (the SFT model included), so does
the control. Further controls, on request, tell apart what ETO's gain comes from: knowing which
demonstrations succeed (``sft-more-successes``, ``rft-successes``), or imitating the better of two
trajectories without contrast (``chosen-nll``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from eto_agents.best_of_n import BestOfN
from eto_agents.collect import collect
from eto_agents.console import log, relayed
from eto_agents.evaluation.harness import evaluate
from eto_agents.evaluation.results import Results
from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.policy import load_policy
from eto_agents.preference import read_pairs
from eto_agents.reproduce.outcome import Facts, Outcome, run_folder
from eto_agents.reproduce.recipe import METHODS, BestOf, Recipe, WorldRecipe
from eto_agents.reproduce.steps import OnEvent, Steps
from eto_agents.runs import RunFolder, RunMismatchError, once
from eto_agents.settings import ETO, SFT
from eto_agents.store import TrajectoryStore
from eto_agents.training.dpo import dpo
from eto_agents.training.eto import Iteration, best_of, dpo_settings, eto
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
    """One world with one seed: its settings, and the steps that methods share.

    Attributes:
        recipe: the settings of the world.
        seed: seed of weights, data order and sampling.
        folder: the run's folder; a generated mini dataset is next to it.
        sft_checkpoint: folder of SFT's checkpoint.
    """

    def __init__(self, recipe: WorldRecipe, seed: int, folder: Path) -> None:
        """Set up a run; nothing is run yet."""
        self.recipe = recipe
        self.seed = seed
        self.folder = folder
        self.sft_checkpoint = folder / "sft" / "checkpoint"

    @property
    def dataset(self) -> str:
        """The dataset to train on: the recipe's, or a generated mini dataset with more tasks."""
        world = self.recipe.world
        if world.n_rounds == 1:
            return world.dataset
        return str(self.folder.parent / f"mini-{world.n_rounds}-rounds")

    @property
    def base(self) -> str:
        """The model before training: the folder of a new tiny one, or the recipe's name."""
        model = self.recipe.model
        return str(self.folder / "base" / "checkpoint") if model.is_tiny else model.name

    @functools.cached_property
    def demonstrations(self) -> list[Trajectory]:
        """The expert trajectories to train on.

        Raises:
            DataNotFoundError: `prepare` has not collected them yet.
        """
        file = self.folder / "demonstrations" / "episodes.jsonl"
        if not file.is_file():
            raise DataNotFoundError(f"no demonstrations at {file}: call prepare() first")
        return list(TrajectoryStore(file).read())

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
        """Complete the settings of SFT or RFT with those from other sections of the recipe."""
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
        """Complete the settings of a method that plays with those from other sections."""
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

    def exploring(self, settings: Any, **more: Any) -> Any:
        """Complete the settings of RFT, PPO or GRPO, which do not play the dev tasks either."""
        return self.playing(
            settings,
            dev_tasks=self.recipe.eto.dev_tasks,
            dev_seed=self.recipe.eto.dev_seed,
            dtype=self.recipe.model.dtype,
            device=self.recipe.model.device,
            **more,
        )

    def eto_settings(self) -> ETO:
        """ETO's settings, completed with those from other sections of the recipe."""
        model = self.recipe.model
        dpo = dataclasses.replace(
            self.recipe.eto.dpo, dtype=model.dtype, device=model.device, seed=self.seed
        )
        settings: ETO = self.playing(self.recipe.eto, dpo=dpo)
        return settings

    def _write_dataset(self) -> None:
        """Generate the mini dataset with more train tasks; all runs of a world share it."""
        import filelock

        world, path = self.recipe.world, Path(self.dataset)
        if world.n_rounds == 1:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                log(f"generating {world.n_rounds} rounds of train tasks")
                world_of_env(world.env).write_more_tasks(path, world.n_rounds)

    def collect_demonstrations(self) -> Facts:
        """Let the expert play, and select the trajectories to train on, without dev tasks."""
        recipe = self.recipe
        identity = {
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
            selected = [_without_idling(e) for e in played.selected if e.task_id not in dev]
            _write(run.episodes, selected)
            return {
                "n_played": len(played.scores),
                "n_dropped": sum(played.dropped.values()),
                "n_kept": len(selected),
                "score": math.fsum(played.scores) / max(len(played.scores), 1),
            }

        folder = self.folder / "demonstrations"
        return once(folder, make, kind="demonstrations", settings=identity).result or {}

    def dev_tasks(self) -> list[Any]:
        """The development tasks, which are held out of train."""
        settings = self.recipe.eto
        tasks = tasks_of(self.recipe.world.env, "train", {"dataset": self.dataset})
        tasks = tasks[: self.recipe.expert.n_tasks]
        return split_dev(tasks, settings.dev_tasks, settings.dev_seed).dev

    def _make_base(self) -> None:
        """Make the tiny model, with a tokenizer trained on the demonstrations."""
        model = self.recipe.model

        def make(run: RunFolder) -> Facts:
            tiny = open_model(model.name, self.demonstrations, self.tuned(self.recipe.sft))
            save_checkpoint(tiny, run.checkpoint)
            n_parameters = sum(p.numel() for p in tiny.model.parameters())
            return {"n_parameters": n_parameters, "vocabulary": len(tiny.tokenizer)}

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
        """Evaluate a checkpoint on the splits of the table, in ``runs/NAME``.

        Args:
            name: name of the evaluation.
            checkpoint: a checkpoint's folder or name.
            best_of_n: settings of Best-of-N; by default the model plays once, greedily.

        Returns:
            The mean reward in [0, 1] by split.
        """
        recipe = self.recipe
        model, settings = recipe.model, self.tuned(recipe.sft)
        # No trajectories: they would serve a new tiny model only, and this one exists.
        policy = open_model(checkpoint, (), settings).policy(
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
            # The table is about the original dataset, even if a generated one was trained on.
            env_args={"dataset": recipe.world.dataset},
            agent_errors="zero",
        )
        return {split: result.reward.mean for split, result in results.splits.items()}

    def run_folder(self, name: str) -> Path:
        """Folder of an evaluation."""
        return self.folder / "runs" / name

    def sft(self) -> Trained:
        """Fine-tune the base model on the demonstrations."""
        model, settings = self.base, self.tuned(self.recipe.sft)
        return sft(model, self.demonstrations, settings, out=self.folder / "sft")

    @property
    def successes(self) -> list[Trajectory]:
        """The demonstrations that succeed, by the minimum score of RFT's successes."""
        least = self.recipe.rft.min_score
        return [episode for episode in self.demonstrations if episode.score >= least]

    def eto(self, settings: ETO | None = None, name: str = "eto", start: str = "") -> ETOResult:
        """Run ETO, and evaluate every iteration in ``runs/NAME-NUMBER``.

        Args:
            settings: ETO's settings; by default `eto_settings()`.
            name: name of its folder, and prefix of the evaluations' names.
            start: the initial policy; by default SFT's.
        """
        settings = settings or self.eto_settings()
        done: list[Iteration] = []
        note = ""
        model, out = start or self.sft_checkpoint, self.folder / name
        experts = [] if settings.pairs in ("self", "success") else self.demonstrations
        try:
            for iteration in eto(model, experts, settings, out=out):
                done.append(iteration)
                if iteration.number:
                    self.evaluate(f"{name}-{iteration.number}", iteration.model)
        except NoPairsError as error:
            if not done:
                raise
            note = f"stopped after {len(done) - 1}: {error}" if len(done) > 1 else str(error)
        return ETOResult(done, best_of(done, settings), note)


class ETOResult(NamedTuple):
    """The result of `WorldRun.eto`.

    Attributes:
        iterations: the completed iterations, starting with the initial policy.
        best: the iteration that counts.
        note: why there are fewer iterations than planned; empty if there are not.
    """

    iterations: list[Iteration]
    best: Iteration
    note: str

    @property
    def n_episodes(self) -> int:
        """Number of episodes that were explored in all iterations."""
        return sum(i.n_explored for i in self.iterations)

    @property
    def n_updates(self) -> int:
        """Number of DPO updates in all iterations."""
        return sum(int(i.learning.get("n_updates", 0)) for i in self.iterations)

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the pairs of all iterations, in one epoch."""
        return sum(int(i.learning.get("n_tokens", 0)) for i in self.iterations)


# The methods. Each trains, evaluates and fills its row of the outcome, and returns facts to show.


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


def _rft(
    run: WorldRun,
    outcome: Outcome,
    name: str = "rft",
    demonstrations: Sequence[Trajectory] | None = None,
) -> Facts:
    begins_with_sft = run.recipe.model.rft_begins_with == "sft"
    model = run.sft_checkpoint if begins_with_sft else run.base
    settings = run.exploring(run.tuned(run.recipe.rft))
    trained = rft(
        model,
        run.demonstrations if demonstrations is None else demonstrations,
        settings,
        explorer=run.sft_checkpoint,
        out=run.folder / name,
    )
    facts = {fact: trained.result[fact] for fact in ("n_successes", "n_added")}
    facts |= _learning(trained.result, n_episodes=trained.result["n_explored"])
    return facts | _row(run, outcome, name, trained.checkpoint)


def _rft_on_successes(run: WorldRun, outcome: Outcome) -> Facts:
    """A control: RFT that is told, as ETO is, which demonstrations succeed."""
    successes = run.successes
    outcome.notes["rft-successes"] = _shares(run, successes)
    return _rft(run, outcome, "rft-successes", successes)


def _ppo(run: WorldRun, outcome: Outcome) -> Facts:
    trained = ppo(run.sft_checkpoint, run.exploring(run.recipe.ppo), out=run.folder / "ppo")
    facts = _playing(trained.result) | {"kl": trained.result["kl"]}
    return facts | _row(run, outcome, "ppo", trained.checkpoint)


def _grpo(run: WorldRun, outcome: Outcome) -> Facts:
    trained = grpo(run.sft_checkpoint, run.exploring(run.recipe.grpo), out=run.folder / "grpo")
    return _playing(trained.result) | _row(run, outcome, "grpo", trained.checkpoint)


def _eto(run: WorldRun, outcome: Outcome) -> Facts:
    result = run.eto()
    if result.note:
        outcome.notes["eto"] = result.note
    n_tokens = round(result.n_tokens * run.recipe.eto.dpo.epochs)
    facts: Facts = _spent(result.n_episodes, result.n_updates, n_tokens)
    if len(result.iterations) < 2:
        return facts
    best = result.best.number
    outcome.rows["eto"] = f"eto-{best}" if best else "sft"
    if not best:
        outcome.notes["eto"] = "no iteration was better than SFT on the dev tasks"
    failing = len(run.demonstrations) - len(run.successes)
    if failing and run.recipe.eto.pairs not in ("self", "success"):
        share = 100 * failing / len(run.demonstrations)
        told = f"{share:.0f} % of the demonstrations fail, which only the pairs of ETO tell"
        outcome.notes["eto"] = "; ".join(filter(None, (outcome.notes.get("eto"), told)))
    pairs = [i.counts.get("pairs", 0) for i in result.iterations[1:]]
    facts |= {"pairs": pairs, "best": best}
    return facts | _scores(run.run_folder(outcome.rows["eto"]))


def _sft_more(
    run: WorldRun,
    outcome: Outcome,
    name: str = "sft-more",
    demonstrations: Sequence[Trajectory] | None = None,
) -> Facts:
    """The control: as many further updates on expert trajectories as ETO makes on pairs."""
    n_updates = outcome.facts["ETO"]["n_updates"]
    if not n_updates:
        outcome.notes[name] = "ETO made no update, so there is nothing to match"
        return {}
    demonstrations = run.demonstrations if demonstrations is None else demonstrations
    settings = run.recipe.eto
    batch_size = 2 * settings.dpo.batch_size
    n_batches = math.ceil(len(demonstrations) / batch_size)
    sft_more = run.tuned(run.recipe.sft_more)
    sft_more = dataclasses.replace(
        sft_more,
        # Half an update less, so that rounding up cannot add one.
        epochs=(n_updates - 0.5) / n_batches,
        batch_size=batch_size,
        micro_batch_size=math.gcd(batch_size, min(batch_size, sft_more.micro_batch_size)),
    )
    trained = sft(run.sft_checkpoint, demonstrations, sft_more, out=run.folder / name)
    facts = _learning(trained.result)
    outcome.notes[name] = (
        f"{facts['n_updates']} further updates on experts' trajectories ({facts['n_tokens']:,} "
        f"tokens) for ETO's {n_updates} on pairs ({outcome.facts['ETO']['n_tokens']:,} tokens)"
    )
    return facts | _selected_row(run, outcome, name, trained.checkpoint)


def _sft_more_on_successes(run: WorldRun, outcome: Outcome) -> Facts:
    """A control: SFT-more that is told, as ETO is, which demonstrations succeed."""
    successes = run.successes
    facts = _sft_more(run, outcome, "sft-more-successes", successes)
    notes = outcome.notes
    notes["sft-more-successes"] += f"; {_shares(run, successes)}"
    return facts


def _chosen_nll(run: WorldRun, outcome: Outcome) -> Facts:
    """A control: imitation of the chosen side of ETO's own pairs, in the same updates."""
    name, model = "chosen-nll", run.sft_checkpoint
    settings, n_tokens, n_updates = run.eto_settings(), 0, 0
    for folder in sorted((run.folder / "eto").glob("iteration-*/pairs"), key=_iteration_of):
        number = _iteration_of(folder)
        alone = dataclasses.replace(
            dpo_settings(settings, number), preference_weight=0.0, nll_weight=1.0
        )
        pairs = list(read_pairs(folder / "pairs.jsonl"))
        trained = dpo(model, pairs, alone, out=run.folder / name / f"iteration-{number}")
        model = trained.checkpoint
        n_updates += trained.result["n_updates"]
        n_tokens += round(trained.result["n_tokens"] * alone.epochs)
    if not n_updates:
        outcome.notes[name] = "ETO made no pairs"
        return {}
    facts = _spent(outcome.facts["ETO"]["n_episodes"], n_updates, n_tokens)
    return facts | _selected_row(run, outcome, name, model)


def _iteration_of(folder: Path) -> int:
    return int(folder.parent.name.partition("-")[2])


_METHODS: Final[Mapping[str, Callable[[WorldRun, Outcome], Facts]]] = {
    "base": _base,
    "sft": _sft,
    "sft-more": _sft_more,
    "sft-more-successes": _sft_more_on_successes,
    "best-of-n": _best_of_n,
    "rft": _rft,
    "rft-successes": _rft_on_successes,
    "ppo": _ppo,
    "grpo": _grpo,
    "chosen-nll": _chosen_nll,
    "eto": _eto,
}
"""The function that runs each method; `Recipe.steps` orders them by their dependencies."""


def run(
    recipe: Recipe, world: str, seed: int, out: Path, on_event: OnEvent = lambda _: None
) -> Outcome:
    """Train and evaluate a recipe's methods in one world with one seed.

    Args:
        recipe: the recipe.
        world: one of its worlds.
        seed: the seed.
        out: the reproduction's folder. Repeating the call resumes an interrupted run.
        on_event: called with the run's progress.
    """
    methods = recipe.steps[1:]
    folder = run_folder(out, world, seed)
    world_run, outcome = WorldRun(recipe.worlds[world], seed, folder), Outcome(world, seed, folder)
    steps = Steps(outcome, methods, recipe.worlds[world].measured, on_event)
    with relayed(steps.relay):
        with steps.step("expert", "expert") as facts:
            facts |= world_run.prepare()
        for method in methods:
            with steps.step(method, METHODS[method]) as facts:
                try:
                    facts |= _METHODS[method](world_run, outcome)
                except (RunMismatchError, DataNotFoundError, CorruptDataError):
                    raise  # the problem is the folder, not the method
                except (DataError, DivergedError, SamplingMismatchError) as error:
                    if method in ("base", "sft"):
                        raise
                    # A method that finds nothing to learn from leaves its row empty.
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


def _spent(n_episodes: int, n_updates: int, n_tokens: int) -> Facts:
    """What a training took; see `eto_agents.reproduce.tables.Budget`."""
    return {"n_episodes": n_episodes, "n_updates": n_updates, "n_tokens": n_tokens}


def _learning(result: Mapping[str, Any], n_episodes: int = 0) -> Facts:
    """Facts of a fine-tuning on trajectories."""
    names = ("n_trajectories", "first_loss", "last_loss")
    spent = _spent(n_episodes, result["n_steps"], round(result["n_epochs"] * result["n_tokens"]))
    return {name: result[name] for name in names} | spent


def _playing(result: Mapping[str, Any]) -> Facts:
    """Facts of a training on the policy's own episodes."""
    names = ("n_episodes", "n_optimizer_steps", "n_trained_tokens")
    return _spent(*(result[name] for name in names))


def _shares(run: WorldRun, successes: Sequence[Trajectory]) -> str:
    n_all = len(run.demonstrations)
    return f"{len(successes):,} of {n_all:,} demonstrations succeed, and only these are imitated"


def _selected_row(run: WorldRun, outcome: Outcome, name: str, checkpoint: Path) -> Facts:
    """Evaluate a control of ETO, which is selected on the dev tasks if ETO is."""
    facts: Facts = {}
    if run.recipe.eto.keep_best:
        facts = {
            "dev_sft": _dev_score(run, run.sft_checkpoint, "dev-sft"),
            "dev": _dev_score(run, checkpoint, f"dev-{name}"),
        }
        checkpoint = checkpoint if facts["dev"] > facts["dev_sft"] else run.sft_checkpoint
    return facts | _row(run, outcome, name, checkpoint)


def _dev_score(run: WorldRun, checkpoint: Path, name: str) -> float:
    """Mean score of greedy episodes on the dev tasks."""
    tasks, settings = run.dev_tasks(), run.eto_settings()
    folder = run.folder / "controls" / name
    return mean_score(explore(checkpoint, tasks, settings, folder, temperature=0.0))


def _without_idling(episode: Trajectory) -> Trajectory:
    """Remove the repetitions of the last action from a failed episode.

    An expert that believes that it is done repeats an action until the step limit.
    """
    actions = [step.action for step in episode.steps]
    if episode.success or actions[-2:-1] != actions[-1:]:
        return episode
    while actions[-2:-1] == actions[-1:]:
        actions.pop()
    return with_steps(episode, episode.steps[: len(actions)])


def _write(file: Path, episodes: list[Trajectory]) -> None:
    file.unlink(missing_ok=True)  # an interrupted call may have written some of them
    with TrajectoryStore(file) as store:
        for episode in episodes:
            store.append(episode)
