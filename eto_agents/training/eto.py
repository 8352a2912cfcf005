"""ETO: SFT, then explore, pair, prefer and evaluate, as often as is asked for.

The paper's Algorithm 1. An iteration's policy plays the training tasks; where it did worse (or
better) than the expert the two trajectories become a pair; trajectory DPO on the pairs makes the
next policy. Each stage is a folder (`eto_agents.training.stage`) that knows its settings, the
hashes of what it read and whether it is done: the same call goes on where it was killed, in the
stage and at the step it was in. Evaluating is the caller's, through a function: training knows no
reports. Settings and outcome are here, the loop itself is in `eto_agents.training.eto_loop`.

    out/sft/  out/iteration-1/{explore,pairs,dpo,dev,evaluation}/  …  out/iterations.json

Differs from the reference: (1) exploration is on the tasks that have an expert trajectory, for only
they can become a pair. (2) With `keep_best` the result is the best iteration on tasks carved from
train; the paper reports the number of iterations that was best on its test sets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eto_agents.training.dpo import DPOSettings
from eto_agents.training.pairs import EXTRA_ROUNDS, Cut
from eto_envs.errors import require

logger = logging.getLogger(__name__)

PairKind = Literal["trajectory", "step", "mixture", "self", "success"]
"""Against the expert, whole or step by step or both; or among the agent's own episodes of a task,
any two of different reward or only a success against a failure."""

Evaluate = Callable[[Path, Path], Mapping[str, float]]
"""Scores a checkpoint's folder (first) and keeps what it needs in another (second)."""


@dataclass(frozen=True)
class Exploration:
    """How the agent plays while it learns.

    Attributes:
        samples: episodes of each task. ETO plays one.
        temperature: 0 takes the likeliest token, as ETO's script does.
        max_new_tokens: the most a turn has.
        lockstep: episodes that run at once.
        max_tasks: at most so many tasks, drawn anew for each iteration; by default all. It holds
            for step-wise pairs, too, for which nothing is played.
    """

    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 512
    lockstep: int = 64
    max_tasks: int | None = None


@dataclass(frozen=True, kw_only=True)
class ETOSettings:
    """What `eto` is told.

    Attributes:
        env: the Gymnasium id.
        data: folders of `eto collect` with the experts' trajectories.
        model: the agent to begin with: a checkpoint that knows the task already, or, with
            `sft_epochs`, what SFT makes it of ("tiny" makes a new one).
        out: the run's folder.
        iterations: times that the agent explores and learns (the paper: 2, ALFWorld 1).
        pairs: what is compared with what.
        cut: which rejected trajectories may be too long (`eto_agents.training.pairs.Cut`).
        extra_rounds: how many rounds longer than the chosen one a rejected one may be.
        max_pairs_per_task: of pairs without an expert.
        split: the split to explore.
        dataset: mini, an official name, or a folder with the official files.
        n_tasks: only the first so many tasks of the split.
        dev_tasks: tasks carved from the split on which each iteration is scored; none is explored,
            and SFT here leaves them out.
        dev_seed: which ones.
        keep_best: the result is the iteration (SFT among them) that is best on the dev tasks;
            otherwise the last.
        sft_epochs: epochs of SFT before the first iteration; 0 if the model knows the task.
        sft_learning_rate: SFT's.
        sft_batch_size: trajectories of an update of SFT.
        sft_optimizer: SFT's; "muon+adamw" is for tiny models.
        explore: how the agent plays.
        dpo: how it learns from pairs.
        later_beta: beta from the second iteration on; ETO's script has 0.5.
        later_learning_rate: DPO's learning rate from then on; the script has half the first.
        world: whose prompt; by default the one the environment and trajectories tell.
        seed: of sampling and orders.
    """

    env: str
    data: tuple[Path, ...]
    model: str
    out: Path
    iterations: int = 2
    pairs: PairKind = "trajectory"
    cut: Cut = "rejected"
    extra_rounds: int = EXTRA_ROUNDS
    max_pairs_per_task: int | None = 1
    split: str = "train"
    dataset: str | None = None
    n_tasks: int | None = None
    dev_tasks: int = 0
    dev_seed: int = 0
    keep_best: bool = False
    sft_epochs: float = 0.0
    sft_learning_rate: float = 1e-5
    sft_batch_size: int = 64
    sft_optimizer: Literal["adamw", "muon+adamw"] = "adamw"
    explore: Exploration = field(default_factory=Exploration)
    dpo: DPOSettings = field(default_factory=DPOSettings)
    later_beta: float | None = None
    later_learning_rate: float | None = None
    world: str | None = None
    seed: int = 0

    @property
    def env_args(self) -> dict[str, Any]:
        """Keyword arguments for the environment."""
        return {} if self.dataset is None else {"dataset": self.dataset}

    def __post_init__(self) -> None:
        """Check what does not fit together.

        Raises:
            ValueError: a value is out of range, or settings contradict each other.
        """
        if self.iterations < 0 or self.explore.samples < 1:
            raise ValueError("iterations must be at least 0 and explore.samples at least 1")
        if self.keep_best and not self.dev_tasks:
            raise ValueError("keep_best needs dev_tasks to choose on, never seen or unseen")
        if self.pairs in ("self", "success") and self.explore.samples < 2:
            raise ValueError(
                f"pairs={self.pairs!r} compares episodes: explore.samples of 2 or more"
            )
        if self.explore.samples > 1 and not self.explore.temperature:
            raise ValueError("several episodes a task are all alike at explore.temperature 0")


class Iteration(NamedTuple):
    """A row of the table by iteration (the paper's Figure 4); iteration 0 is the start.

    Attributes:
        number: of the iteration.
        checkpoint: the policy's folder or name.
        explored: mean score of the exploration that it learned from, None for the start.
        counts: of pairs, as `eto_agents.training.pairs.Pairs` has them.
        dev: mean score on the dev tasks, None if there are none.
        scores: what the evaluation said.
        learning: what DPO's stage said.
    """

    number: int
    checkpoint: str
    explored: float | None
    counts: dict[str, int]
    dev: float | None
    scores: dict[str, float]
    learning: dict[str, Any]


class Outcome(NamedTuple):
    """What the loop came to.

    Attributes:
        checkpoint: the policy's folder or name.
        best: the number of its iteration.
        iterations: all of them, the start first.
    """

    checkpoint: str
    best: int
    iterations: list[Iteration]


def eto(settings: ETOSettings, *, evaluate: Evaluate | None = None) -> Outcome:
    """Run the loop; the same call on the same folder goes on where it was killed.

    Args:
        settings: what and how.
        evaluate: called for the start and for each iteration.

    Raises:
        DataNotFoundError: no expert trajectories, or no such model.
        DataError: the experts are of other tasks than the split's.
        NoPairsError: nothing is left to prefer; says what became of the episodes.
        StageMismatchError: a stage's folder was begun with other settings or other data.
        DivergedError: the loss is not finite; the batch was saved.
    """
    require("trl", extra="train")
    from eto_agents.training.eto_loop import Loop

    return Loop(settings, evaluate).run()
