"""PPO on whole episodes: the paper's PPO baseline (its section 4.1), built on `accelerate`.

    repeat: episodes   <- play(policy), with the token ids and log-probabilities that were sampled
            rewards    <- a step's reward on the last token of its turn,
                          minus kl_weight * log(policy / SFT policy) on each of the agent's tokens
            advantages <- GAE over the agent's tokens only
            policy     <- a few epochs of the clipped surrogate loss
            values     <- ridge regression of the returns on the model's last hidden states

TRL no longer has PPO, and ETO's script (trl 0.7) learns from episodes that were collected
beforehand, with one reward per conversation. Here rewards are what the environment returns:
terminal with ``shaping=("terminal_only",)``, dense with other shapers. The value head is linear and
fitted in closed form after every update, so it needs no learning rate, and its gradient norm cannot
scale the policy's. The value after the step limit is 0: the limit is part of the task.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from eto_agents.console import report
from eto_agents.live_episode import Job
from eto_agents.models.checkpoint import Checkpoint, acting, load_checkpoint, save_checkpoint
from eto_agents.models.control_tokens import control_ids, without_tokens
from eto_agents.rollout import Rollouts, make_batch
from eto_agents.runs import RunFolder, once
from eto_agents.settings import PPO
from eto_agents.training import losses
from eto_agents.training.episodes import Sample, can_be_learned_from, sample_of
from eto_agents.training.exploration import served_policy
from eto_agents.training.losses import DivergedError
from eto_agents.training.playing_server import open_server, weight_sender
from eto_agents.training.rows import by_length
from eto_agents.training.states import load_state, save_state
from eto_agents.training.task_splits import playing_tasks
from eto_agents.training.trl import Trained
from eto_envs.errors import DataError, EtoError

if TYPE_CHECKING:
    from eto_agents.policy import Policy
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task

logger = logging.getLogger(__name__)

_VALUE_DECAY: Final = 0.7
"""Weight of an update's returns in the value head's fit, relative to those of the next update: the
policy that they belong to is left behind."""


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
        SettingsError: a server is to play, and TRL cannot send it the weights from here.
        BackendError: that server does not answer, or has another model.
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
    checkpoint = load_checkpoint(str(model), dtype=settings.dtype, device=settings.device)
    checkpoint = acting(checkpoint, settings.protocol)
    trained = train_ppo(
        checkpoint,
        settings.env,
        tasks,
        settings,
        run.work,
        make_policy=_policy_maker(model, checkpoint, settings),
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
        "n_episodes": settings.n_updates * settings.n_episodes,
        "n_optimizer_steps": int(sum(m["optimizer_steps"] for m in metrics)),
        "n_trained_tokens": int(sum(m["trained_tokens"] for m in metrics)),
        "first_score": metrics[0]["score"],
        "last_score": metrics[-1]["score"],
        "kl": metrics[-1]["kl"],
        "wall_s": round(time.monotonic() - started_s, 1),
    }


def _policy_maker(model: str | Path, checkpoint: Checkpoint, settings: PPO) -> MakePolicy:
    served = open_server(model, checkpoint, settings)
    if served is None:
        return lambda checkpoint: checkpoint.policy(settings, temperature=1.0)
    send = weight_sender(served, checkpoint.model.device)

    def make_policy(checkpoint: Checkpoint) -> Policy:
        send(checkpoint.model)
        return served_policy(served, settings, 1.0)

    return make_policy


Metrics = Mapping[str, float]
MakePolicy: TypeAlias = "Callable[[Checkpoint], Policy]"


class Scores(NamedTuple):
    """The model's outputs for the agent's tokens.

    The first three are (B, T - 1) floats; entry t belongs to token t + 1 and is 0 where the mask is
    0.

    Attributes:
        log_probs: log-probability of the token.
        values: the value head's estimate of the return from the token on, without gradient.
        entropy: entropy of the token's distribution in nats, without gradient.
        features: (N, C + 1) floats, what the value head reads for each of the N agent tokens, row
            by row: the C hidden states before the token and a constant 1.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor
    features: Tensor


class ActorCritic(nn.Module):
    """A language model with a linear value head on its last hidden states.

    Attributes:
        model: the language model.
        control_ids: (n,), tokens that are excluded from its distribution, as in playing.
        control_ids_with_tools: (m,), the same where the agent has tools.
        value_head: (C + 1,), weights of the C hidden states and of a constant.
        gram: (C + 1, C + 1), the weighted sums that the value head was fitted to.
        moment: (C + 1,), likewise.
    """

    control_ids: Tensor
    control_ids_with_tools: Tensor
    value_head: Tensor
    gram: Tensor
    moment: Tensor

    def __init__(
        self, model: Any, control_ids: Sequence[int] = (), with_tools: Sequence[int] = ()
    ) -> None:
        """Add a value head whose estimates are 0.

        Args:
            model: the language model.
            control_ids: tokens to exclude.
            with_tools: tokens to exclude where the agent has tools.
        """
        super().__init__()
        self.model = model
        n_features = int(model.config.get_text_config().hidden_size) + 1
        ids = torch.tensor(list(control_ids), dtype=torch.long)
        self.register_buffer("control_ids", ids)
        ids = torch.tensor(list(with_tools), dtype=torch.long)
        self.register_buffer("control_ids_with_tools", ids, persistent=False)
        self.register_buffer("value_head", torch.zeros(n_features))
        self.register_buffer("gram", torch.zeros(n_features, n_features))
        self.register_buffer("moment", torch.zeros(n_features))
        self.to(model.device)

    def forward(self, ids: Tensor, mask: Tensor, with_tools: bool = False) -> Scores:
        """Score the agent's tokens.

        Args:
            ids: (B, T) token ids, padded on the right. Attention is causal, so that no token sees
                the padding and no attention mask is needed.
            mask: (B, T), 1 on the agent's tokens.
            with_tools: whether the agent had tools.
        """
        # Position t predicts token t + 1: C hidden states for each of T - 1 positions.
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        own = losses.shifted(mask).bool()  # (B, T - 1)
        # The N agent tokens of the batch are picked out, so that the product with the V columns of
        # the output embedding is computed for them only.
        picked = hidden[own]  # (N, C)
        logits = self.model.get_output_embeddings()(picked)  # (N, V)
        excluded = self.control_ids_with_tools if with_tools else self.control_ids
        log_softmax = without_tokens(logits, excluded).log_softmax(dim=-1)
        log_probs = log_softmax.gather(1, ids[:, 1:][own][:, None])[:, 0]  # (N,)
        with torch.no_grad():
            features = nn.functional.pad(picked.float(), (0, 1), value=1.0)  # (N, C + 1)
            values = features @ self.value_head  # (N,)
            entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)  # (N,)

        def scattered(x: Tensor) -> Tensor:
            """(N,) back to (B, T - 1)."""
            return torch.zeros(own.shape, device=ids.device).masked_scatter(own, x.float())

        return Scores(scattered(log_probs), scattered(values), scattered(entropy), features)

    def fit_value_head(self, gram: Tensor, moment: Tensor, ridge: float) -> None:
        """Fit the value head to an update's returns, and with less weight to those of older ones.

        Args:
            gram: (C + 1, C + 1), the sum over tokens of the outer product of `Scores.features`.
            moment: (C + 1,), the sum over tokens of the features times the token's return.
            ridge: strength of the penalty, relative to the mean square of the features.
        """
        self.gram.mul_(_VALUE_DECAY).add_(gram)
        self.moment.mul_(_VALUE_DECAY).add_(moment)
        wide = self.gram.double().cpu()
        penalty = torch.full((len(wide),), ridge * float(wide.diagonal()[:-1].mean())).double()
        penalty[-1] = 0.0  # the constant is not shrunk
        weights = torch.linalg.solve(wide + penalty.diag(), self.moment.double().cpu())
        self.value_head.copy_(weights)


class Batch(NamedTuple):
    """B episodes of up to T tokens, padded on the right.

    Attributes:
        ids: (B, T) token ids.
        mask: (B, T), 1 on the agent's tokens.
        own: (B, T - 1) floats, the mask shifted to line up with log-probabilities.
        sampled: (B, T - 1) floats, the log-probabilities with which the tokens were sampled.
        rewards: (B, T - 1) floats, a step's reward on the last token of its turn.
        with_tools: whether the agent had tools.
    """

    ids: Tensor
    mask: Tensor
    own: Tensor
    sampled: Tensor
    rewards: Tensor
    with_tools: bool


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
    model = checkpoint.model.eval()
    excluded = [
        control_ids(model, checkpoint.tokenizer, checkpoint.template, with_tools=with_tools)
        for with_tools in (False, True)
    ]
    actor = ActorCritic(model, *excluded)
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
            padding = checkpoint.tokenizer.pad_token_id
            advantages, estimate_metrics = _estimate_advantages(
                actor, reference, samples, padding, settings, accelerator
            )
            metrics |= estimate_metrics
            metrics |= _learn(
                actor, optimizer, samples, advantages, padding, settings, accelerator, update
            )
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


_SUMMED: Final = ("episodes", "episodes_dropped", "tokens", "trained_tokens", "tokens_per_s")


def _optimizer(actor: ActorCritic, settings: PPO) -> Any:
    # As in transformers' trainer, norms and biases are not decayed.
    parameters = list(actor.model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


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
    used = [e for e in episodes if can_be_learned_from(e)]
    if not used:
        errors = sorted({e.error for e in episodes if e.error})[:3]
        why = errors or "turns had to be dropped to fit the model's context"
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
    samples = [sample_of(e, checkpoint, world=world) for e in used]
    return samples, metrics


def _estimate_advantages(
    actor: nn.Module,
    reference: nn.Module | None,
    samples: Sequence[Sample],
    padding: int,
    settings: PPO,
    accelerator: Accelerator,
) -> tuple[list[Tensor], dict[str, float]]:
    """Compute the advantages of an update's episodes, and fit the value head to their returns.

    Returns:
        The advantages of each episode's tokens but the first, (T - 1,) floats; and metrics.
    """
    advantages = [torch.empty(0)] * len(samples)
    values, returns = [], []  # of all of the agent's tokens, in parts
    gram = moment = torch.zeros(1, device=accelerator.device)
    gap = kl = n_tokens = 0.0  # sums over the agent's tokens
    # Nothing is learned here: the order of the episodes is free, and similar lengths need little
    # padding.
    for rows in by_length([len(s.ids) for s in samples], settings.micro_batch_tokens):
        batch = _batch([samples[i] for i in rows], padding, accelerator.device)
        with torch.no_grad():
            scores: Scores = actor(batch.ids, batch.mask, batch.with_tools)
            rewards = batch.rewards
            if reference is not None:
                # Penalty per token: log(policy / reference), whose expectation is the KL.
                expected: Scores = reference(batch.ids, batch.mask, batch.with_tools)
                log_ratio = (batch.sampled - expected.log_probs) * batch.own
                rewards = rewards - settings.kl_weight * log_ratio
                kl += float(log_ratio.sum())
        gap += float(((scores.log_probs - batch.sampled) * batch.own).abs().sum())
        n_tokens += float(batch.own.sum())
        estimate = losses.gae(
            rewards, scores.values, batch.own, gamma=settings.gamma, lam=settings.lam
        )
        for i, row in zip(rows, estimate.advantages, strict=True):
            advantages[i] = row[: len(samples[i].ids) - 1]
        own = batch.own.bool()
        values.append(scores.values[own])
        returns.append(estimate.returns[own])
        gram = gram + scores.features.T @ scores.features
        moment = moment + scores.features.T @ returns[-1]
    if gap / n_tokens > settings.max_sampling_gap:
        raise SamplingMismatchError(
            f"log-probabilities as sampled and as computed in training differ by "
            f"{gap / n_tokens:.3g} nats per token: sample at temperature 1 and top_p 1, with the "
            "chat template and data type that training uses"
        )
    _unwrapped(accelerator, actor).fit_value_head(
        accelerator.reduce(gram, "sum"), accelerator.reduce(moment, "sum"), settings.value_ridge
    )
    return _whitened(advantages, samples, accelerator), {
        "sampling_gap": gap / n_tokens,
        "kl": kl / n_tokens,
        "tokens": n_tokens,
        "explained_variance": _explained_variance(torch.cat(values), torch.cat(returns)),
    }


def _learn(
    actor: nn.Module,
    optimizer: Any,
    samples: Sequence[Sample],
    advantages: Sequence[Tensor],
    padding: int,
    settings: PPO,
    accelerator: Accelerator,
    update: int,
) -> dict[str, float]:
    """Train for some epochs on an update's episodes, or until the policy has moved far enough.

    Returns:
        Metrics of the loss, averaged over the agent's tokens; the number of optimiser steps; and
        the number of tokens that were computed, the environment's included, over all epochs.
    """
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + update)
    sums: dict[str, float] = {}
    n_seen = n_computed = n_steps = 0.0

    def metrics_of_update() -> dict[str, float]:
        averages = {name: value / n_seen for name, value in sums.items()}
        return averages | {"optimizer_steps": n_steps, "trained_tokens": n_computed}

    # Every process takes the same number of optimiser steps, or they would wait for ever.
    n_minibatches = min(settings.n_minibatches, *_gathered(accelerator, len(samples)))
    for _ in range(settings.epochs):
        order = torch.randperm(len(samples), generator=generator).tolist()
        for k in range(n_minibatches):
            # A minibatch is one optimiser step, on episodes drawn at random. Its micro-batches
            # accumulate gradients, each weighted by its number of tokens: with the processes'
            # average as divisor, because gradients are averaged over processes, every token of the
            # step counts the same.
            drawn = order[k::n_minibatches]
            own_tokens = [sum(samples[i].mask) for i in drawn]
            n_tokens = _mean_over_processes(accelerator, sum(own_tokens))
            lengths = [len(samples[i].ids) for i in drawn]
            parts = list(by_length(lengths, settings.micro_batch_tokens))
            moved = 0.0
            for number, part in enumerate(parts):
                rows = [drawn[j] for j in part]
                batch = _batch([samples[i] for i in rows], padding, accelerator.device)
                targets = pad_sequence([advantages[i] for i in rows], batch_first=True)
                is_last = number == len(parts) - 1  # processes average gradients once per step
                with nullcontext() if is_last else accelerator.no_sync(actor):
                    loss, metrics = _loss(actor, batch, targets, settings)
                    n_own = float(batch.own.sum())
                    accelerator.backward(loss * n_own / n_tokens)
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * n_own
                n_computed += sum(len(samples[i].ids) for i in rows)
                moved += float(metrics["update_kl"]) * n_own / n_tokens
                n_seen += n_own
            if settings.target_kl and _mean_over_processes(accelerator, moved) > settings.target_kl:
                optimizer.zero_grad()
                return metrics_of_update()
            accelerator.clip_grad_norm_(actor.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            n_steps += 1
    return metrics_of_update()


def _loss(
    actor: nn.Module, batch: Batch, advantages: Tensor, settings: PPO
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a micro-batch, averaged over the agent's tokens, and metrics."""
    scores: Scores = actor(batch.ids, batch.mask, batch.with_tools)
    policy = losses.ppo(scores.log_probs, batch.sampled, advantages, batch.own, settings.clip)
    if not torch.isfinite(policy.loss):
        raise DivergedError("PPO's loss is not finite: lower the learning rate")
    return policy.loss, {
        "policy_loss": policy.loss.detach(),
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
        with_tools=any(s.with_tools for s in samples),
    )


def _whitened(
    advantages: Sequence[Tensor], samples: Sequence[Sample], accelerator: Accelerator
) -> list[Tensor]:
    """The advantages, shifted and scaled to mean 0 and standard deviation 1.

    Mean and deviation are over all of the agent's tokens of the update, in all processes.
    """
    masks = [torch.tensor(s.mask[1:], dtype=torch.bool, device=accelerator.device) for s in samples]
    own = torch.cat([row[mask] for row, mask in zip(advantages, masks, strict=True)])  # (N,)
    mean, deviation = own.mean(), own.std(unbiased=False)
    if accelerator.num_processes > 1:
        wide = own.double()  # a difference of large sums: single precision would not do
        sums = torch.stack([wide.sum(), (wide**2).sum(), wide.new_tensor(float(len(own)))])
        total, total_squared, n_tokens = accelerator.reduce(sums, "sum")
        mean = (total / n_tokens).to(own.dtype)
        variance = total_squared / n_tokens - (total / n_tokens) ** 2
        deviation = variance.clamp(min=0.0).sqrt().to(own.dtype)
    # Without rewards all advantages are close to 0, and 1e-3 keeps their noise from growing.
    return [
        (row - mean) / (deviation + 1e-3) * mask
        for row, mask in zip(advantages, masks, strict=True)
    ]


def _explained_variance(values: Tensor, returns: Tensor) -> float:
    """Share of the returns' variance that the values explain; at most 1, 0 without variance."""
    variance = float(returns.var(unbiased=False))
    return 1 - float((returns - values).var(unbiased=False)) / variance if variance else 0.0
