"""PPO on whole episodes as a stage: a policy and a task set in, a policy that has played it out.

The paper's PPO baseline (its section 4.1) made anew: TRL has none any more, and ETO's own (trl 0.7)
learned from episodes collected beforehand with one reward a conversation. Rewards are whatever the
environment returns: ``shaping=("terminal_only",)`` among its arguments makes them terminal, other
shapers dense. Settings and the stage's folder are here, the loop is in
`eto_agents.training.ppo_trainer`.

Follows "Proximal Policy Optimization Algorithms" (arXiv 1707.06347) and, for the penalty in the
reward, "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eto_agents.console import report
from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.training.stage import Stage, hash_input
from eto_agents.training.task_splits import carve_dev, tasks_of
from eto_envs.errors import EtoError, require

if TYPE_CHECKING:
    from eto_agents.models.checkpoints import Checkpoint
    from eto_agents.policy import Policy


class SamplingMismatchError(EtoError):
    """The tokens' log-probabilities as sampled are not those the model gives them in training."""


@dataclass(frozen=True)
class PPOSettings:
    """How PPO trains.

    Attributes:
        n_updates: times that episodes are played and learned from.
        n_episodes: episodes an update.
        n_epochs: times that an update goes over its episodes.
        n_minibatches: steps of the optimiser in an epoch.
        learning_rate: of the model.
        value_learning_rate: of the value head.
        clip: how far a token's ratio counts.
        value_clip: how far a value may move in an update; None does not clip.
        value_weight: weight of the value loss; the head alone learns from it.
        kl_weight: what a nat of leaving the SFT policy costs, in the reward; 0 keeps no reference.
        gamma: discount from token to token.
        lam: GAE's lambda.
        weight_decay: AdamW's.
        max_grad_norm: gradients are scaled down to this norm.
        tokens_per_batch: the most tokens, padding included, that go through the model at once.
        lockstep: episodes that are played at once.
        max_sampling_gap: the most that log-probabilities as sampled and as computed in training
            may differ on average, in nats a token.
        save_every: updates between two states a killed run can go on from; 0 saves none.
        max_new_tokens: the most a turn has.
        dtype: in what the weights are held.
        device: such as cpu or cuda:1; by default a GPU if there is one.
        seed: of tasks, sampling and the order of episodes.
    """

    n_updates: int = 20
    n_episodes: int = 64
    n_epochs: int = 2
    n_minibatches: int = 4
    learning_rate: float = 1e-6
    value_learning_rate: float = 1e-3
    clip: float = 0.2
    value_clip: float | None = None
    value_weight: float = 1.0
    kl_weight: float = 0.05
    gamma: float = 1.0
    lam: float = 0.95
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens_per_batch: int = 16384
    lockstep: int = 64
    max_sampling_gap: float = 0.05
    save_every: int = 5
    max_new_tokens: int = 512
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is outside of its range.
        """
        for name in ("n_updates", "n_episodes", "n_epochs", "n_minibatches", "clip", "lockstep"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PPORun(PPOSettings):
    """What `ppo` is told, beside how it trains.

    Attributes:
        env: the Gymnasium id.
        model: the SFT policy, a checkpoint's folder or name.
        out: the stage's folder.
        split: the split to play.
        dataset: mini, an official name, or a folder with the official files.
        shaping: reward shapers by name, such as terminal_only or step_cost=0.01.
        n_tasks: only the first so many tasks of the split.
        dev_tasks: tasks that are carved from the split and not played, for tuning.
        dev_seed: which ones.
        world: whose prompt; by default the environment's own.
    """

    env: str
    model: str
    out: Path
    split: str = "train"
    dataset: str | None = None
    shaping: tuple[str, ...] = ()
    n_tasks: int | None = None
    dev_tasks: int = 0
    dev_seed: int = 0
    world: str | None = None

    @property
    def env_args(self) -> dict[str, Any]:
        """Keyword arguments for the environment."""
        wanted = {"dataset": self.dataset, "shaping": self.shaping or None}
        return {name: value for name, value in wanted.items() if value is not None}


def ppo(run: PPORun) -> dict[str, Any]:
    """Train a checkpoint by playing, in a stage's folder; a call that was killed goes on.

    Returns:
        What ``result.json`` has; of a complete stage what it had.

    Raises:
        DataNotFoundError: no such model.
        DataError: no episode could be learned from.
        DivergedError: the loss is not finite.
        StageMismatchError: the folder holds a stage with other settings or another model.
        MissingExtraError: the extra ``train`` is not installed.
    """
    require("accelerate", extra="train")
    tasks = carve_dev(
        tasks_of(run.env, run.split, run.env_args)[: run.n_tasks], run.dev_tasks, run.dev_seed
    ).train
    inputs = {"model": hash_input(run.model)} if Path(run.model).exists() else {}
    with Stage(run.out, run, inputs) as stage:
        if stage.result is not None:
            return stage.result
        from eto_agents.training.ppo_trainer import train_ppo

        started_s = time.monotonic()

        def log(update: int, metrics: Mapping[str, float]) -> None:
            stage.log({"step": update, **metrics})
            if stage.is_writer:
                shown = {"score": f"{metrics['score']:.3f}", "KL": f"{metrics['kl']:.3g}"}
                report(run.out.name, update, run.n_updates, "updates", shown)

        if stage.is_writer:
            report(run.out.name, 0, run.n_updates, "updates")

        trained = train_ppo(
            load_checkpoint(run.model, dtype=run.dtype, device=run.device),
            run.env,
            tasks,
            run,
            stage.work,
            make_policy=lambda checkpoint: sampling_policy(checkpoint, run),
            env_args=run.env_args | {"split": run.split},
            world=run.world,
            on_metrics=log,
            on_start=stage.rewind,
        )
        if not stage.is_writer:
            stage.wait()
            return stage.result or {}
        save_checkpoint(trained, stage.checkpoint)
        metrics = stage.metrics()
        result = {
            "n_tasks": len(tasks),
            "n_updates": run.n_updates,
            "n_episodes": int(sum(m["episodes"] for m in metrics)),
            "first_score": metrics[0]["score"],
            "last_score": metrics[-1]["score"],
            "kl": metrics[-1]["kl"],
            "wall_s": round(time.monotonic() - started_s, 1),
        }
        stage.finish(result)
        shutil.rmtree(stage.work, ignore_errors=True)
        return result


def sampling_policy(checkpoint: Checkpoint, run: PPORun) -> Policy:
    """The ReAct agent of a checkpoint at temperature 1, as PPO's ratios need it."""
    from eto_agents.models.huggingface import HuggingFaceModel
    from eto_agents.policies.react import ReActPolicy

    return ReActPolicy(
        HuggingFaceModel.of(checkpoint, max_batch=run.lockstep),
        prompts=checkpoint.prompts,
        with_example=checkpoint.with_example,
        world=run.world,
        temperature=1.0,
        max_tokens=run.max_new_tokens,
    )
