"""GRPO on whole episodes through TRL's `rollout_func`; not in the paper, beside its PPO.

A group is one task played several times; an episode's advantage is its score less the group's mean
(DeepSeekMath, arXiv 2402.03300), the same for every token that the agent wrote. The world's tokens
are read and not learned from. TRL (1.16) calls `rollout_func` experimental.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eto_agents.models.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from eto_agents.rollout import Job, Rollouts, make_batch
from eto_agents.training.episodes import sample_of
from eto_agents.training.ppo import PPORun, sampling_policy
from eto_agents.training.task_splits import carve_dev, tasks_of
from eto_envs.errors import require

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class GRPORun(PPORun):
    """PPO's run with groups; the settings of the value, of GAE and of minibatches do nothing.

    Attributes:
        n_samples: episodes of a task; `n_episodes` must be a multiple.
    """

    n_samples: int = 8


def grpo(run: GRPORun) -> list[dict[str, Any]]:
    """Train a checkpoint by playing; writes ``out/checkpoint``. A call begins anew.

    Returns:
        What TRL logged, an entry an update; ``reward`` is the mean score.

    Raises:
        MissingExtraError: the extra ``train`` is not installed.
    """
    require("trl", extra="train")
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from eto_agents.training.cpu_head import use_own_head

    checkpoint = load_checkpoint(run.model, dtype=run.dtype, device=run.device)
    task_set = tasks_of(run.env, run.split, run.env_args)[: run.n_tasks]
    tasks = {task.id: task for task in carve_dev(task_set, run.dev_tasks, run.dev_seed).train}
    seeds = itertools.count(run.seed * 1_000_003)

    def rollout(task_ids: Sequence[str], _: Any) -> dict[str, list[Any]]:
        policy = sampling_policy(checkpoint, run)
        jobs = [Job(tasks[task_id], next(seeds)) for task_id in task_ids]
        env = make_batch(run.env, policy, run.lockstep, run.env_args | {"split": run.split})
        played = {episode.seed: episode for episode in Rollouts(policy, env, jobs)}
        env.close()
        rows = [_row(played[job.seed], checkpoint, run.world) for job in jobs]
        return {name: [row[name] for row in rows] for name in rows[0]}

    trainer = GRPOTrainer(
        model=checkpoint.model,
        reward_funcs=lambda score, **_: score,
        args=_config(run, checkpoint.model.device.type == "cpu"),
        train_dataset=Dataset.from_dict({"prompt": list(tasks)}),
        processing_class=checkpoint.tokenizer,
        rollout_func=rollout,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    use_own_head(checkpoint.model)
    save_checkpoint(checkpoint, run.out / "checkpoint")
    return [record for record in trainer.state.log_history if "reward" in record]


def _config(run: GRPORun, on_cpu: bool) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(run.out / "work"),
        max_steps=run.n_updates,
        per_device_train_batch_size=run.n_episodes,
        num_generations=run.n_samples,
        num_iterations=run.n_epochs,
        learning_rate=run.learning_rate,
        beta=run.kl_weight,
        epsilon=run.clip,
        max_grad_norm=run.max_grad_norm,
        use_cpu=on_cpu,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=run.seed,
    )


def _row(episode: Trajectory, checkpoint: Checkpoint, world: str | None) -> dict[str, Any]:
    """An episode as TRL wants it."""
    sample = sample_of(episode, checkpoint, world=world) if episode.steps else None
    end = [checkpoint.tokenizer.eos_token_id]
    row = {"prompt_ids": end, "completion_ids": end, "logprobs": [0.0], "env_mask": [0]}
    if sample is not None:  # else it was written otherwise than it is read: not learned from
        n = sample.n_prompt
        row = {
            "prompt_ids": sample.ids[:n],
            "completion_ids": sample.ids[n:],
            "logprobs": sample.log_probs[n:],
            "env_mask": sample.mask[n:],
        }
    return row | {"score": episode.score}
