"""PPO on whole episodes: the paper's PPO baseline (its section 4.1), built on `accelerate`.

    repeat: episodes   <- play(policy), with the token ids and log-probabilities that were sampled
            rewards    <- a step's reward on the last token of its turn,
                          minus kl_weight * log(policy / SFT policy) on each of the agent's tokens
            advantages <- GAE over the agent's tokens only
            policy     <- a few epochs of the clipped surrogate loss, and of the value loss

TRL no longer has PPO, and ETO's script (trl 0.7) learns from episodes that were collected
beforehand, with one reward per conversation. Here rewards are what the environment returns:
terminal with ``shaping=("terminal_only",)``, dense with other shapers. A linear value head reads
the model's last hidden states and sends no gradient into them. The value after the step limit is 0:
the limit is part of the task.

Follows "Proximal Policy Optimization Algorithms" (arXiv 1707.06347) and, for the KL penalty in the
reward, "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from eto_agents.console import report
from eto_agents.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from eto_agents.rollout import Job, Rollouts, make_batch
from eto_agents.runs import RunFolder, once
from eto_agents.settings import PPO
from eto_agents.training import losses
from eto_agents.training.episodes import Sample, sample_of
from eto_agents.training.losses import DivergedError
from eto_agents.training.rows import by_length
from eto_agents.training.states import load_state, save_state
from eto_agents.training.task_splits import playing_tasks
from eto_agents.training.trl import Trained
from eto_agents.trajectory import PLAYED
from eto_envs.errors import DataError, EtoError

if TYPE_CHECKING:
    from eto_agents.policy import Policy
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task

logger = logging.getLogger(__name__)


class SamplingMismatchError(EtoError):
    """The sampled tokens' log-probabilities differ from those that the model computes in training.

    PPO's ratio would then compare two different distributions.
    """


def ppo(model: str | Path, settings: PPO, *, out: Path) -> Trained:
    """Train a policy by reinforcement learning on the tasks of a split.

    Args:
        model: the initial policy, such as SFT's, which is also the reference of the KL penalty: a
            checkpoint's folder or name.
        settings: the settings of the training.
        out: the folder of the run. Repeating the call resumes an interrupted run, and returns at
            once if the run is complete.

    Raises:
        DataNotFoundError: there is no such model.
        DataError: none of an update's episodes can be learned from.
        DivergedError: the loss is not finite.
        RunMismatchError: the folder holds a run with different settings or another model.
    """
    tasks = playing_tasks(settings).train
    run = once(
        out,
        lambda run: _fit(model, tasks, settings, run),
        kind="ppo",
        settings=settings,
        everywhere=True,
        model=str(model),
    )
    return Trained.of(run)


def _fit(model: str | Path, tasks: Sequence[Task], settings: PPO, run: RunFolder) -> dict[str, Any]:
    started_s = time.monotonic()

    def on_metrics(update: int, metrics: Metrics) -> None:
        run.log({"step": update, **metrics})
        if run.is_writer:
            figures = {"score": f"{metrics['score']:.3f}", "KL": f"{metrics['kl']:.3g}"}
            report(run.folder.name, update, settings.n_updates, "updates", figures)

    if run.is_writer:
        report(run.folder.name, 0, settings.n_updates, "updates")
    trained = train_ppo(
        load_checkpoint(str(model), dtype=settings.dtype, device=settings.device),
        settings.env,
        tasks,
        settings,
        run.work,
        make_policy=lambda checkpoint: checkpoint.policy(settings, temperature=1.0),
        env_args=settings.env_args | {"split": settings.split},
        world=settings.world,
        on_metrics=on_metrics,
        on_start=run.rewind,
    )
    if not run.is_writer:
        return {}
    save_checkpoint(trained, run.checkpoint)
    metrics = run.metrics()
    return {
        "n_tasks": len(tasks),
        "n_updates": settings.n_updates,
        "n_episodes": int(sum(m["episodes"] for m in metrics)),
        "first_score": metrics[0]["score"],
        "last_score": metrics[-1]["score"],
        "kl": metrics[-1]["kl"],
        "wall_s": round(time.monotonic() - started_s, 1),
    }


Metrics = Mapping[str, float]
MakePolicy: TypeAlias = "Callable[[Checkpoint], Policy]"


class Scores(NamedTuple):
    """The model's outputs for the agent's tokens.

    All are (B, T - 1) floats; entry t belongs to token t + 1 and is 0 where the mask is 0.

    Attributes:
        log_probs: log-probability of the token.
        values: the value head's estimate of the return from the token on.
        entropy: entropy of the token's distribution in nats, without gradient.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor


class ActorCritic(nn.Module):
    """A language model with a linear value head on its last hidden states."""

    def __init__(self, model: Any) -> None:
        """Add a value head whose estimates are 0."""
        super().__init__()
        self.model = model
        self.head = nn.Linear(int(model.config.get_text_config().hidden_size), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(model.device)

    def forward(self, ids: Tensor, mask: Tensor) -> Scores:
        """Score the agent's tokens.

        Args:
            ids: (B, T) token ids, padded on the right. Attention is causal, so that no token sees
                the padding and no attention mask is needed.
            mask: (B, T), 1 on the agent's tokens.
        """
        # Position t predicts token t + 1: C features for each of T - 1 positions.
        features = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        own = losses.shifted(mask).bool()  # (B, T - 1)
        # The N agent tokens of the batch are picked out, so that the product with the V columns of
        # the output embedding is computed for them only.
        picked = features[own]  # (N, C)
        logits = self.model.get_output_embeddings()(picked).float()  # (N, V)
        log_softmax = logits.log_softmax(dim=-1)
        log_probs = log_softmax.gather(1, ids[:, 1:][own][:, None])[:, 0]  # (N,)
        values = self.head(picked.detach().to(self.head.weight.dtype))[:, 0]  # (N,)
        with torch.no_grad():
            entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)  # (N,)
        # Back to (B, T - 1).
        zeros = torch.zeros(own.shape, device=ids.device)
        scattered = [zeros.masked_scatter(own, x.float()) for x in (log_probs, values, entropy)]
        return Scores(*scattered)


class Batch(NamedTuple):
    """B episodes of up to T tokens, padded on the right.

    Attributes:
        ids: (B, T) token ids.
        mask: (B, T), 1 on the agent's tokens.
        own: (B, T - 1) floats, the mask shifted to line up with log-probabilities.
        sampled: (B, T - 1) floats, the log-probabilities with which the tokens were sampled.
        rewards: (B, T - 1) floats, a step's reward on the last token of its turn.
    """

    ids: Tensor
    mask: Tensor
    own: Tensor
    sampled: Tensor
    rewards: Tensor


@dataclass
class MicroBatch:
    """Episodes that are computed at once, with what is learned from them.

    Attributes:
        batch: the episodes.
        values: (B, T - 1), the critic's estimates before the update.
        advantages: (B, T - 1).
        returns: (B, T - 1), the targets of the critic.
    """

    batch: Batch
    values: Tensor
    advantages: Tensor
    returns: Tensor


def train_ppo(  # noqa: PLR0913 (each is a separate choice of the caller)
    checkpoint: Checkpoint,
    env_id: str,
    tasks: Sequence[Task],
    settings: PPO,
    folder: Path,
    *,
    make_policy: MakePolicy,
    env_args: Mapping[str, Any] | None = None,
    world: str | None = None,
    on_metrics: Callable[[int, Metrics], None] = lambda *_: None,
    on_start: Callable[[int], None] = lambda _: None,
) -> Checkpoint:
    """Train a policy by reinforcement learning.

    Args:
        checkpoint: the initial policy, which is also the reference; its weights change in place.
        env_id: the Gymnasium id.
        tasks: the tasks to play, all of one split.
        settings: the settings of the training.
        folder: folder for the states from which an interrupted run resumes.
        make_policy: makes the agent of a checkpoint; it must sample at temperature 1 and return
            token ids and log-probabilities. Called for every update.
        env_args: keyword arguments for the environment, including ``split`` and ``shaping``.
        world: the world whose prompt the policy gets; by default the environment's.
        on_metrics: called with the number of an update and its metrics.
        on_start: called with the number of updates that were completed before.

    Returns:
        The trained policy.

    Raises:
        DataError: none of an update's episodes can be learned from; says why.
        DivergedError: the loss is not finite.
        SamplingMismatchError: the policy's log-probabilities are not the model's.
    """
    accelerator = Accelerator(cpu=checkpoint.model.device.type == "cpu")
    actor = ActorCritic(checkpoint.model.eval())
    reference = copy.deepcopy(actor).requires_grad_(False) if settings.kl_weight else None
    optimizer = _optimizer(actor, settings)
    on_start(first := load_state(folder / "states", actor, optimizer))
    actor, optimizer = accelerator.prepare(actor, optimizer)
    env = make_batch(env_id, make_policy(checkpoint), settings.n_envs, env_args)
    try:
        for update in range(first, settings.n_updates):
            started_s = time.perf_counter()
            jobs = _jobs(tasks, settings, update, accelerator)
            episodes = list(Rollouts(make_policy(checkpoint), env, jobs))
            play_s = time.perf_counter() - started_s
            samples, metrics = _samples(episodes, checkpoint, world)
            parts, estimate_metrics = _estimate_advantages(
                actor, reference, samples, checkpoint, settings, accelerator
            )
            metrics |= estimate_metrics
            metrics |= _learn(actor, optimizer, parts, settings, accelerator, update)
            wall_s = time.perf_counter() - started_s
            n_tokens = sum(len(sample.ids) for sample in samples)
            metrics |= {"tokens_per_s": n_tokens / wall_s, "play_share": play_s / wall_s}
            on_metrics(update + 1, _reduced(metrics, accelerator))
            if accelerator.is_main_process and _is_due(update + 1, settings):
                save_state(folder / "states", _unwrapped(accelerator, actor), optimizer, update + 1)
    finally:
        env.close()
    return dataclasses.replace(checkpoint, model=_unwrapped(accelerator, actor).model.eval())


def _is_due(update: int, settings: PPO) -> bool:
    return bool(settings.save_every) and update % settings.save_every == 0


def _reduced(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Combine the metrics of all processes: counts and speeds are summed, the rest averaged."""
    n = accelerator.num_processes
    if n == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=accelerator.device)
    sums = accelerator.reduce(values, "sum").tolist()
    return {k: v if k in _SUMMED else v / n for k, v in zip(metrics, sums, strict=True)}


_SUMMED = ("episodes", "episodes_dropped", "tokens", "tokens_per_s")


def _optimizer(actor: ActorCritic, settings: PPO) -> Any:
    return torch.optim.AdamW(
        [
            {"params": list(actor.model.parameters()), "lr": settings.learning_rate},
            {"params": list(actor.head.parameters()), "lr": settings.value_learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )


def _unwrapped(accelerator: Accelerator, actor: nn.Module) -> ActorCritic:
    module: ActorCritic = accelerator.unwrap_model(actor)
    return module


def _jobs(tasks: Sequence[Task], settings: PPO, update: int, accelerator: Accelerator) -> list[Job]:
    """This process's episodes of an update: tasks in random order, none twice before all once."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + update)
    order: list[int] = []
    while len(order) < settings.n_episodes:
        order += torch.randperm(len(tasks), generator=generator).tolist()
    # All processes draw the same order; each plays every num_processes-th episode of it.
    indices = range(accelerator.process_index, settings.n_episodes, accelerator.num_processes)
    # No two episodes of a run share a seed, so that repetitions of a task are sampled differently.
    first = (settings.seed * 1_000_003 + update) * settings.n_episodes
    return [Job(tasks[order[i]], first + i) for i in indices]


def _samples(
    episodes: Sequence[Trajectory], checkpoint: Checkpoint, world: str | None
) -> tuple[list[Sample], dict[str, float]]:
    """Encode the episodes that can be learned from, and compute metrics of playing."""
    played = [e for e in episodes if e.status in PLAYED and e.steps]
    # If turns were dropped to fit the context, replies were sampled given a shorter conversation
    # than the encoded one, so that their log-probabilities would not match.
    complete = [e for e in played if not any(s.usage.get("dropped_turns") for s in e.steps)]
    encoded = [(e, sample_of(e, checkpoint, world=world)) for e in complete]
    used = [e for e, sample in encoded if sample is not None]
    if not used:
        errors = sorted({e.error for e in episodes if e.error})[:3]
        why = errors or "the tokenizer encodes the replies differently from how they were sampled"
        raise DataError(f"none of {len(episodes)} episodes can be learned from: {why}")
    n_steps = sum(len(e.steps) for e in used)
    metrics = {
        "score": sum(e.score for e in used) / len(used),
        "success": sum(e.success for e in used) / len(used),
        "reward": sum(s.reward for e in used for s in e.steps) / len(used),
        "steps": n_steps / len(used),
        "invalid_actions": sum(not s.is_valid for e in used for s in e.steps) / n_steps,
        "episodes": float(len(used)),
        "episodes_dropped": float(len(episodes) - len(used)),
    }
    return [sample for _, sample in encoded if sample is not None], metrics


def _estimate_advantages(
    actor: nn.Module,
    reference: nn.Module | None,
    samples: Sequence[Sample],
    checkpoint: Checkpoint,
    settings: PPO,
    accelerator: Accelerator,
) -> tuple[list[MicroBatch], dict[str, float]]:
    """Compute the advantages and returns of an update's episodes, in micro-batches.

    Returns:
        The micro-batches, at least as many as the settings have minibatches where the episodes'
        lengths allow it, and metrics.
    """
    parts: list[MicroBatch] = []
    gap = kl = n_tokens = 0.0  # sums over the agent's tokens
    padding = checkpoint.tokenizer.pad_token_id
    sizes = [len(sample.ids) for sample in samples]
    max_tokens = min(settings.micro_batch_tokens, -(-sum(sizes) // settings.n_minibatches))
    for rows in by_length(sizes, max_tokens):
        batch = _batch([samples[i] for i in rows], padding, accelerator.device)
        with torch.no_grad():
            scores: Scores = actor(batch.ids, batch.mask)
            rewards = batch.rewards
            if reference is not None:
                # Penalty per token: log(policy / reference), whose expectation is the KL.
                log_ratio = (batch.sampled - reference(batch.ids, batch.mask).log_probs) * batch.own
                rewards = rewards - settings.kl_weight * log_ratio
                kl += float(log_ratio.sum())
        gap += float(((scores.log_probs - batch.sampled) * batch.own).abs().sum())
        n_tokens += float(batch.own.sum())
        estimate = losses.gae(
            rewards, scores.values, batch.own, gamma=settings.gamma, lam=settings.lam
        )
        parts.append(MicroBatch(batch, scores.values, *estimate))
    if gap / n_tokens > settings.max_sampling_gap:
        raise SamplingMismatchError(
            f"log-probabilities as sampled and as computed in training differ by "
            f"{gap / n_tokens:.3g} nats per token: sample at temperature 1 and top_p 1, with the "
            "chat template and data type that training uses"
        )
    _whiten(parts, accelerator)
    metrics = {"sampling_gap": gap / n_tokens, "kl": kl / n_tokens, "tokens": n_tokens}
    return parts, metrics | {"explained_variance": _explained_variance(parts)}


def _learn(
    actor: nn.Module,
    optimizer: Any,
    parts: Sequence[MicroBatch],
    settings: PPO,
    accelerator: Accelerator,
    update: int,
) -> dict[str, float]:
    """Train for some epochs on an update's episodes.

    Returns:
        Metrics of the loss, averaged over the agent's tokens.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + update)
    sums: dict[str, float] = {}
    n_seen = 0.0
    for _ in range(settings.epochs):
        order = torch.randperm(len(parts), generator=generator).tolist()
        # Every process takes the same number of optimiser steps, or they would wait for ever.
        n_minibatches = min(settings.n_minibatches, *_gathered(accelerator, len(parts)))
        for k in range(n_minibatches):
            # A minibatch is one optimiser step. Its micro-batches accumulate gradients, each
            # weighted by its number of tokens: with the processes' average as divisor, because
            # gradients are averaged over processes, every token of the step counts the same.
            minibatch = [parts[i] for i in order[k::n_minibatches]]
            n_tokens = sum(float(part.batch.own.sum()) for part in minibatch)
            n_tokens = _mean_over_processes(accelerator, n_tokens)
            for i, part in enumerate(minibatch):
                is_last = i == len(minibatch) - 1  # processes average gradients once per step
                with nullcontext() if is_last else accelerator.no_sync(actor):
                    loss, metrics = _loss(actor, part, settings)
                    n_own = float(part.batch.own.sum())
                    accelerator.backward(loss * n_own / n_tokens)
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * n_own
                n_seen += n_own
            accelerator.clip_grad_norm_(actor.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    return {name: value / n_seen for name, value in sums.items()}


def _loss(actor: nn.Module, part: MicroBatch, settings: PPO) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a micro-batch, averaged over the agent's tokens, and metrics."""
    batch = part.batch
    scores: Scores = actor(batch.ids, batch.mask)
    policy = losses.ppo(scores.log_probs, batch.sampled, part.advantages, batch.own, settings.clip)
    value = losses.value_loss(
        scores.values, part.values, part.returns, batch.own, settings.value_clip
    )
    loss = policy.loss + settings.value_weight * value
    if not torch.isfinite(loss):
        raise DivergedError("PPO's loss is not finite: lower the learning rate")
    return loss, {
        "policy_loss": policy.loss.detach(),
        "value_loss": value.detach(),
        "clip_fraction": policy.clip_fraction,
        "update_kl": policy.kl,
        "entropy": losses.masked_mean(scores.entropy, batch.own),
    }


def _gathered(accelerator: Accelerator, number: int) -> list[int]:
    """Gather one number from every process."""
    own = torch.tensor([number], device=accelerator.device)
    return [int(n) for n in accelerator.gather(own).tolist()]


def _mean_over_processes(accelerator: Accelerator, number: float) -> float:
    if accelerator.num_processes == 1:
        return number
    own = torch.tensor(number, dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(own, "mean"))


def _batch(samples: Sequence[Sample], padding: int, device: torch.device) -> Batch:
    """Pad B episodes on the right to the longest one's T tokens."""

    def padded(rows: Sequence[Sequence[float]], value: float, dtype: torch.dtype) -> Tensor:
        longest = max(len(row) for row in rows)
        equal = [[*row, *[value] * (longest - len(row))] for row in rows]
        return torch.tensor(equal, dtype=dtype, device=device)

    mask = padded([s.mask for s in samples], 0, torch.long)
    # The first token is never the agent's: dropping it lines the columns up with log-probabilities.
    return Batch(
        ids=padded([s.ids for s in samples], padding, torch.long),
        mask=mask,
        own=losses.shifted(mask).float(),
        sampled=padded([s.log_probs for s in samples], 0.0, torch.float32)[:, 1:],
        rewards=padded([s.rewards for s in samples], 0.0, torch.float32)[:, 1:],
    )


def _whiten(parts: Sequence[MicroBatch], accelerator: Accelerator) -> None:
    """Shift and scale the advantages to mean 0 and standard deviation 1, in place.

    Mean and deviation are over all of the agent's tokens of the update, in all processes.
    """
    own = torch.cat([part.advantages[part.batch.own.bool()] for part in parts])  # (N,)
    mean, deviation = own.mean(), own.std(unbiased=False)
    if accelerator.num_processes > 1:
        wide = own.double()  # a difference of large sums: single precision would not do
        sums = torch.stack([wide.sum(), (wide**2).sum(), wide.new_tensor(float(len(own)))])
        total, total_squared, n_tokens = accelerator.reduce(sums, "sum")
        mean = (total / n_tokens).to(own.dtype)
        variance = total_squared / n_tokens - (total / n_tokens) ** 2
        deviation = variance.clamp(min=0.0).sqrt().to(own.dtype)
    for part in parts:
        # Without rewards all advantages are close to 0, and 1e-3 keeps their noise from growing.
        part.advantages = (part.advantages - mean) / (deviation + 1e-3) * part.batch.own


def _explained_variance(parts: Sequence[MicroBatch]) -> float:
    """Share of the returns' variance that the values explain; at most 1, 0 without variance."""
    own = [part.batch.own.bool() for part in parts]
    returns = torch.cat([p.returns[o] for p, o in zip(parts, own, strict=True)])
    values = torch.cat([p.values[o] for p, o in zip(parts, own, strict=True)])
    variance = float(returns.var(unbiased=False))
    return 1 - float((returns - values).var(unbiased=False)) / variance if variance else 0.0
