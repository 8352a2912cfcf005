"""GRPO on whole episodes, through TRL's `rollout_func`; not in the paper, for comparison with PPO.

    repeat: episodes  <- play(policy), n_samples episodes (a group) of each of several tasks
            advantage <- an episode's score minus its group's mean, divided by the group's standard
                         deviation; the same for all of the episode's tokens
            policy    <- `epochs` steps of the clipped surrogate with a KL penalty to the SFT policy

Follows DeepSeekMath, arXiv 2402.03300. The loss is on the agent's tokens only. With `explore_with`
a vLLM server plays, to which TRL sends the weights before every update. TRL (1.16) calls
`rollout_func` experimental.
"""

from __future__ import annotations

import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from eto_agents.console import report
from eto_agents.live_episode import Job
from eto_agents.models.checkpoint import (
    Checkpoint,
    acting,
    load_checkpoint,
    save_checkpoint,
    without_bars,
)
from eto_agents.processes import n_processes
from eto_agents.rollout import Rollouts, make_batch
from eto_agents.runs import RunFolder, once
from eto_agents.settings import GRPO, Playing, SettingsError
from eto_agents.training.cpu_head import restore_head
from eto_agents.training.episodes import can_be_learned_from, sample_of
from eto_agents.training.exploration import served_policy
from eto_agents.training.playing_server import address, open_server
from eto_agents.training.task_splits import playing_tasks
from eto_agents.training.trl import Trained, largest_divisor, newest_state, step_of, train_from
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.served import ServedCheckpoint
    from eto_agents.policy import Policy
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task


def grpo(model: str | Path, settings: GRPO, *, out: Path) -> Trained:
    """Train a policy by reinforcement learning on the tasks of a split.

    Args:
        model: the initial policy, such as SFT's, which is also the reference of the KL penalty: a
            checkpoint's folder or name.
        settings: the settings of the training.
        out: the folder of the run. Repeating the call resumes an interrupted run, and returns at
            once if the run is complete.

    Raises:
        DataNotFoundError: there is no such model.
        DataError: there are fewer tasks than an update needs.
        SettingsError: a server is to play, and TRL cannot send it the weights from here.
        BackendError: that server does not answer, or has another model.
        RunMismatchError: the folder holds a run with different settings or another model.
    """
    tasks = playing_tasks(settings).train
    n_groups = settings.n_episodes // settings.n_samples
    if len(tasks) < n_groups:
        raise DataError(
            f"an update plays {n_groups} tasks {settings.n_samples} times each, but there are only "
            f"{len(tasks)}: lower n_episodes, or raise n_samples"
        )
    run = once(
        out,
        lambda run: _fit(model, tasks, settings, run),
        kind="grpo",
        settings=settings,
        everywhere=True,
        model=str(model),
    )
    return Trained.of(run)


def _fit(
    model: str | Path, tasks: Sequence[Task], settings: GRPO, run: RunFolder
) -> dict[str, Any]:
    started_s = time.monotonic()
    checkpoint = load_checkpoint(str(model), dtype=settings.dtype, device=settings.device)
    checkpoint = acting(checkpoint, settings.protocol)
    served = open_server(model, checkpoint, settings)
    make_policy = None
    if served is not None:
        make_policy = functools.partial(served_policy, served, settings)
    with without_bars():
        with _loadable(checkpoint.model):
            trainer = GRPOTrainer(
                model=checkpoint.model,
                reward_funcs=score,
                args=_config(settings, run.work, checkpoint.model, served),
                train_dataset=Dataset.from_dict({"prompt": [task.id for task in tasks]}),
                processing_class=checkpoint.tokenizer,
                rollout_func=rollout_func(
                    checkpoint, settings, tasks, seed=settings.seed, make_policy=make_policy
                ),
            )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_RunLog(run, settings))
        state = newest_state(run.work)
        run.rewind(step_of(state) // settings.epochs)
        train_from(trainer, state)
    if not run.is_writer:
        return {}
    restore_head(checkpoint.model)
    save_checkpoint(checkpoint, run.checkpoint)
    metrics = run.metrics()
    return {
        "n_tasks": len(tasks),
        "n_updates": settings.n_updates,
        "n_episodes": settings.n_updates * settings.n_episodes,
        "n_optimizer_steps": settings.n_updates * settings.epochs,
        "n_trained_tokens": int(metrics[-1]["num_tokens"]) * settings.epochs,
        "first_score": metrics[0]["score"],
        "last_score": metrics[-1]["score"],
        "wall_s": round(time.monotonic() - started_s, 1),
    }


def rollout_func(
    checkpoint: Checkpoint,
    playing: Playing,
    tasks: Iterable[Task],
    *,
    seed: int = 0,
    make_policy: Callable[[float], Policy] | None = None,
) -> Callable[[Sequence[str], Any], dict[str, list[Any]]]:
    """Make the function with which a `GRPOTrainer` of TRL plays its episodes.

    Args:
        checkpoint: the policy, whose model and tokenizer are the trainer's.
        playing: how it plays.
        tasks: the tasks, whose ids are the trainer's prompts.
        seed: seed of the episodes.
        make_policy: makes the agent for a temperature; by default the checkpoint's.

    Returns:
        A function of the prompts, one for each episode, and the trainer. Its result has the field
        `score`, too, for the reward function `score`.
    """
    by_id = {task.id: task for task in tasks}
    make = make_policy or (lambda t: checkpoint.policy(playing, temperature=t))

    def rollout(task_ids: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        # Seeds depend on the update's number only, so that a resumed run plays the same episodes.
        update = trainer.state.global_step // trainer.num_iterations
        accelerator, n = trainer.accelerator, len(task_ids)
        first = (seed * 1_000_003 + update) * n * accelerator.num_processes
        first += n * accelerator.process_index
        policy = make(trainer.temperature)
        jobs = [Job(by_id[task_id], first + i) for i, task_id in enumerate(task_ids)]
        env_args = playing.env_args | {"split": playing.split}
        env = make_batch(playing.env, policy, playing.n_envs, env_args)
        try:
            played = {episode.seed: episode for episode in Rollouts(policy, env, jobs)}
        finally:
            env.close()
        episodes = [played[job.seed] for job in jobs]
        scores = zip(episodes, _scores(episodes), strict=True)
        rows = [_row(e, checkpoint, playing.world) | {"score": score} for e, score in scores]
        return {name: [row[name] for row in rows] for name in rows[0]}

    return rollout


def score(score: list[float], **_: Any) -> list[float]:
    """The reward function for TRL: the final scores, which `rollout_func` passes along."""
    return score


@contextmanager
def _loadable(model: Any) -> Iterator[None]:
    """Make the model loadable from the path in its config, from which TRL loads the reference.

    If the path does not hold this model (an adapter was merged, or the model converted), it is
    saved to a temporary folder.
    """
    config = model.config
    name = config._name_or_path
    path = Path(name)
    if (path / "config.json").is_file() or (not path.exists() and name.count("/") == 1):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config._name_or_path = folder
        try:
            yield
        finally:
            config._name_or_path = name


class _RunLog(TrainerCallback):  # type: ignore[misc]
    """Writes the metrics of each update's first step to the run's folder, and reports progress."""

    def __init__(self, run: RunFolder, settings: GRPO) -> None:
        self._run = run
        self._settings = settings

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        if logs is None or "reward" not in logs:
            return
        numbers = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
        score = numbers.pop("reward")  # the mean score of the episodes
        update = math.ceil(state.global_step / self._settings.epochs)
        self._run.log({"step": update, "score": score, **numbers})
        if self._run.is_writer:
            figures = {"score": f"{score:.3f}"}
            report(self._run.folder.name, update, self._settings.n_updates, "updates", figures)


def _config(settings: GRPO, work: Path, model: Any, served: ServedCheckpoint | None) -> GRPOConfig:
    share, rest = divmod(settings.n_episodes, n_processes())
    if rest:
        raise SettingsError(
            f"n_episodes {settings.n_episodes} must be a multiple of the number of processes "
            f"({n_processes()})"
        )
    micro = largest_divisor(share, settings.micro_batch_size)
    return GRPOConfig(
        output_dir=str(work),
        max_steps=settings.n_updates * settings.epochs,  # optimiser steps
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        steps_per_generation=share // micro,
        num_generations=settings.n_samples,
        num_iterations=settings.epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        beta=settings.kl_weight,
        epsilon=settings.clip,
        max_grad_norm=settings.max_grad_norm,
        use_cpu=model.device.type == "cpu",
        bf16=False,
        logging_steps=1,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every * settings.epochs or 1,
        save_total_limit=1,
        report_to="none",  # `RunFolder.log` reports
        disable_tqdm=True,
        seed=settings.seed,
        **_server_arguments(served),
    )


def _server_arguments(served: ServedCheckpoint | None) -> dict[str, Any]:
    if served is None:
        return {}
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": address(served)}


def _row(episode: Trajectory, checkpoint: Checkpoint, world: str | None) -> dict[str, Any]:
    """Convert an episode to the fields that TRL expects from `rollout_func`.

    TRL needs a row for every episode. One that cannot be learned from gets a placeholder with
    `env_mask` 0, so that only its score counts, in its group's mean and deviation.
    """
    end = [checkpoint.tokenizer.eos_token_id]
    row = {"prompt_ids": end, "completion_ids": end, "logprobs": [0.0], "env_mask": [0]}
    if can_be_learned_from(episode):
        sample = sample_of(episode, checkpoint, world=world)
        n = sample.n_prompt
        row = {
            "prompt_ids": sample.ids[:n],
            "completion_ids": sample.ids[n:],
            "logprobs": sample.log_probs[n:],
            "env_mask": sample.mask[n:],
        }
    return row


def _scores(episodes: Sequence[Trajectory]) -> list[float]:
    """The scores; where the environment failed, the mean of the task's other episodes, or of all.

    TRL needs a number for every episode, and a failure of the environment says nothing about the
    agent.

    Raises:
        DataError: the environment failed in every episode.
    """
    by_task: dict[str, list[float]] = {}
    for episode in episodes:
        if episode.status != "env_error":
            by_task.setdefault(episode.task_id, []).append(episode.score)
    every = [score for scores in by_task.values() for score in scores]
    if not every:
        error = next((e.error for e in episodes if e.error), "")
        raise DataError(f"the environment failed in all of {len(episodes)} episodes: {error}")
    return [
        statistics.fmean(by_task.get(episode.task_id, every))
        if episode.status == "env_error"
        else episode.score
        for episode in episodes
    ]
