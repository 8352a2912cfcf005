"""`eto train eto`, `dpo` and `ppo`; their flags are the fields of the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, arg

from eto_agents.cli.evaluation import given
from eto_agents.console import Display
from eto_agents.training.dpo import DPORun
from eto_agents.training.eto import ETOSettings
from eto_agents.training.ppo import PPORun

if TYPE_CHECKING:
    from rich.table import Table

    from eto_agents.training.eto import Evaluate, Outcome


def eto(
    settings: Annotated[ETOSettings, arg(name="")],
    splits: tuple[str, ...] = ("seen", "unseen"),
    n_eval_tasks: int | None = None,
    quiet: bool = False,
) -> None:
    """ETO: explore, pair, prefer, evaluate, and again; the same command goes on after a kill.

    Args:
        settings: of the loop.
        splits: task sets that every iteration is evaluated on; none for no evaluation.
        n_eval_tasks: only the first so many tasks of each.
        quiet: no progress.
    """
    from rich.console import Console

    from eto_agents.training import eto as loop

    with Display(quiet):
        outcome = loop.eto(settings, evaluate=scorer(settings, splits, n_eval_tasks))
    written = f"iteration {outcome.best} is the result: {outcome.checkpoint}"
    Console(highlight=False).print(iteration_table(outcome), written, sep="\n")


def dpo(run: Annotated[DPORun, OmitArgPrefixes], quiet: bool = False) -> None:
    """Trajectory DPO on a file of pairs; rerun the command to resume.

    Args:
        run: settings of the training.
        quiet: show no progress.
    """
    from eto_agents.cli.train import show_result
    from eto_agents.training import dpo as stage

    with Display(quiet):
        result = stage.dpo(run)
    show_result(result, run.out)


def ppo(run: Annotated[PPORun, OmitArgPrefixes], quiet: bool = False) -> None:
    """PPO on the tasks of a split; rerun the command to resume.

    Args:
        run: settings of the training.
        quiet: show no progress.
    """
    from eto_agents.cli.train import show_result
    from eto_agents.training import ppo as stage

    with Display(quiet):
        result = stage.ppo(run)
    show_result(result, run.out)


def scorer(
    settings: ETOSettings, splits: Sequence[str], n_tasks: int | None = None
) -> Evaluate | None:
    """Scores checkpoints on task sets, greedily; None if there is none."""
    if not splits:
        return None

    def evaluate_folder(checkpoint: Path, folder: Path) -> Mapping[str, float]:
        from eto_agents.evaluation.harness import evaluate
        from eto_agents.models.huggingface import HuggingFaceModel
        from eto_agents.policies.react import ReActPolicy

        play = settings.explore
        model = HuggingFaceModel(
            str(checkpoint), dtype=settings.dpo.dtype, device=settings.dpo.device,
            max_batch=play.lockstep,
        )  # fmt: skip
        results = evaluate(
            ReActPolicy(model, world=settings.world, max_tokens=play.max_new_tokens),
            settings.env,
            splits,
            out=folder,
            batch_size=play.lockstep,
            n_tasks=n_tasks,
            env_args=given(dataset=settings.dataset),
        )
        return {split: part.reward.mean for split, part in results.splits.items()}

    return evaluate_folder


def iteration_table(outcome: Outcome) -> Table:
    """The scores by iteration, the paper's Figure 4 in numbers."""
    from rich.table import Table

    splits = list(dict.fromkeys(name for i in outcome.iterations for name in i.scores))
    table = Table("iteration", "pairs", "win / tie / lose", "explored", "dev", *splits)
    for row in outcome.iterations:
        counts = row.counts
        outcomes = " / ".join(str(counts.get(name, 0)) for name in ("win", "tie", "lose"))
        table.add_row(
            f"{row.number}{' *' if row.number == outcome.best else ''}",
            str(counts.get("pairs", "")),
            outcomes if counts else "",
            *(_score(value) for value in (row.explored, row.dev)),
            *(_score(row.scores.get(name)) for name in splits),
        )
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
