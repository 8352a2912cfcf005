"""PPO on whole episodes: the paper's PPO baseline (its section 4.1), our own on `accelerate`.

    repeat: episodes   <- play(policy), with the token ids and log-probabilities that were sampled
            rewards    <- a step's reward on the last token of its turn,
                          less kl_weight * log(policy / SFT policy) on every token of the agent's
            advantages <- GAE over the agent's tokens alone
            policy     <- a few epochs of the clipped surrogate; the value head learns beside it

TRL has no PPO any more, and ETO's own (trl 0.7) learned from episodes collected beforehand with one
reward a conversation. Rewards are whatever the environment returns: ``shaping=("terminal_only",)``
makes them terminal, other shapers dense. A linear value head reads the model's last features and
sends no gradient into them. What an episode is worth after its step limit is 0: the limit is part
of the task.

Follows "Proximal Policy Optimization Algorithms" (arXiv 1707.06347) and, for the penalty in the
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
from eto_agents.training.task_splits import split_dev, tasks_of
from eto_agents.training.trl import Trained
from eto_agents.trajectory import PLAYED
from eto_envs.errors import DataError, EtoError

if TYPE_CHECKING:
    from eto_agents.policy import Policy
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import Task

logger = logging.getLogger(__name__)


class SamplingMismatchError(EtoError):
    """The tokens' log-probabilities as sampled are not those the model gives them in training."""


def ppo(model: str | Path, settings: PPO, *, out: Path) -> Trained:
    """Train a policy by playing.

    Args:
        model: the SFT policy, to which the penalty keeps it near: a checkpoint's folder or name.
        settings: how.
        out: the folder of the run; the same call on it resumes, and returns at once when it is
            complete.

    Raises:
        DataNotFoundError: no such model.
        DataError: no episode could be learned from.
        DivergedError: the loss is not finite.
        RunMismatchError: the folder holds a run with other settings or another model.
    """
    tasks = tasks_of(settings.env, settings.split, settings.env_args)[: settings.n_tasks]
    tasks = split_dev(tasks, settings.dev_tasks, settings.dev_seed).train
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
    """What the model says of tokens; (B, T - 1) each, entry t is about token t + 1, 0 off the mask.

    Attributes:
        log_probs: the tokens' log-probabilities.
        values: what is still to come before the token, by the value head.
        entropy: of the distribution the token is drawn from, without gradient.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor


class ActorCritic(nn.Module):
    """A language model and a linear value head on its last features, which it does not change."""

    def __init__(self, model: Any) -> None:
        """Begin with values of 0."""
        super().__init__()
        self.model = model
        self.head = nn.Linear(int(model.config.get_text_config().hidden_size), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(model.device)

    def forward(self, ids: Tensor, mask: Tensor) -> Scores:
        """Score the agent's tokens; ids and mask are (B, T), padded on the right.

        No attention mask: attention is causal, so no token can look at what is to its right.
        """
        features = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        own = losses.shifted(mask).bool()
        picked = features[own]  # (N, width): words are only guessed where the agent wrote
        logits = self.model.get_output_embeddings()(picked).float()
        everything = logits.log_softmax(dim=-1)
        written = everything.gather(1, ids[:, 1:][own][:, None])[:, 0]
        values = self.head(picked.detach().to(self.head.weight.dtype))[:, 0]
        with torch.no_grad():
            entropy = -(everything.exp() * everything).sum(dim=-1)
        empty = torch.zeros(own.shape, device=ids.device)
        scattered = [empty.masked_scatter(own, x.float()) for x in (written, values, entropy)]
        return Scores(*scattered)


class Batch(NamedTuple):
    """Episodes side by side, padded on the right; (B, T) and, shifted by one, (B, T - 1).

    Attributes:
        ids: (B, T).
        mask: (B, T), the agent's tokens.
        own: (B, T - 1), the same for log-probabilities.
        sampled: (B, T - 1), log-probabilities as sampled.
        rewards: (B, T - 1).
    """

    ids: Tensor
    mask: Tensor
    own: Tensor
    sampled: Tensor
    rewards: Tensor


@dataclass
class Part:
    """Some episodes of an update with all that learning from them needs; (B, T - 1) tensors."""

    batch: Batch
    values: Tensor
    advantages: Tensor
    returns: Tensor


def train_ppo(  # noqa: PLR0913 (each is one thing that a user decides)
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
    """Train a policy by playing.

    Args:
        checkpoint: the SFT policy, to which the penalty is; its weights change in place.
        env_id: the Gymnasium id.
        tasks: what to play, of one split.
        settings: how.
        folder: for the states that an interrupted run resumes from.
        make_policy: the agent of a checkpoint, which samples at temperature 1 and tells what it
            sampled; called again for every update.
        env_args: for the environment, ``shaping`` and the ``split`` among them.
        world: whose prompt the policy is shown; by default the environment's own.
        on_metrics: called with the update's number and its metrics.
        on_start: called with the number of updates that an earlier call has made.

    Returns:
        The trained policy.

    Raises:
        DataError: no episode could be learned from; says why.
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
            jobs = _choose(tasks, settings, update, accelerator)
            episodes = list(Rollouts(make_policy(checkpoint), env, jobs))
            played_s = time.perf_counter() - started_s
            samples, metrics = _samples(episodes, checkpoint, world)
            parts, about = _estimate_advantages(
                actor, reference, samples, checkpoint, settings, accelerator
            )
            learned = _learn(actor, optimizer, parts, settings, accelerator, update)
            took_s = time.perf_counter() - started_s
            n_tokens = sum(len(sample.ids) for sample in samples)
            metrics |= {"tokens_per_s": n_tokens / took_s, "play_share": played_s / took_s}
            on_metrics(update + 1, _together(metrics | about | learned, accelerator))
            if accelerator.is_main_process and _is_due(update + 1, settings):
                save_state(folder / "states", _plain(accelerator, actor), optimizer, update + 1)
    finally:
        env.close()
    return dataclasses.replace(checkpoint, model=_plain(accelerator, actor).model.eval())


def _is_due(update: int, settings: PPO) -> bool:
    return bool(settings.save_every) and update % settings.save_every == 0


def _together(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """What all processes tell: counts and speeds summed, the rest averaged."""
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


def _plain(accelerator: Accelerator, actor: nn.Module) -> ActorCritic:
    unwrapped: ActorCritic = accelerator.unwrap_model(actor)
    return unwrapped


def _choose(
    tasks: Sequence[Task], settings: PPO, update: int, accelerator: Accelerator
) -> list[Job]:
    """This process's episodes of an update: tasks in random order, all before any comes again."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + update)
    order: list[int] = []
    while len(order) < settings.n_episodes:
        order += torch.randperm(len(tasks), generator=generator).tolist()
    mine = range(accelerator.process_index, settings.n_episodes, accelerator.num_processes)
    # The run's seed of an episode: no two of an update share one, and so no two draw the same.
    first = (settings.seed * 1_000_003 + update) * settings.n_episodes
    return [Job(tasks[order[i]], first + i) for i in mine]


def _samples(
    episodes: Sequence[Trajectory], checkpoint: Checkpoint, world: str | None
) -> tuple[list[Sample], dict[str, float]]:
    """The episodes that can be learned from, and what is logged of all."""
    played = [e for e in episodes if e.status in PLAYED and e.steps]
    # A model that did not read the whole conversation wrote under another one than we can rebuild.
    read = [e for e in played if not any(s.usage.get("dropped_turns") for s in e.steps)]
    found = [(e, sample_of(e, checkpoint, world=world)) for e in read]
    whole = [e for e, sample in found if sample is not None]
    if not whole:
        faults = sorted({e.error for e in episodes if e.error})[:3]
        why = faults or "what was sampled is not how the tokenizer writes the same text"
        raise DataError(f"none of {len(episodes)} episodes can be learned from: {why}")
    n_steps = sum(len(e.steps) for e in whole)
    metrics = {
        "score": sum(e.score for e in whole) / len(whole),
        "success": sum(e.success for e in whole) / len(whole),
        "reward": sum(s.reward for e in whole for s in e.steps) / len(whole),
        "steps": n_steps / len(whole),
        "invalid_actions": sum(not s.is_valid for e in whole for s in e.steps) / n_steps,
        "episodes": float(len(whole)),
        "episodes_dropped": float(len(episodes) - len(whole)),
    }
    return [sample for _, sample in found if sample is not None], metrics


def _estimate_advantages(
    actor: nn.Module,
    reference: nn.Module | None,
    samples: Sequence[Sample],
    checkpoint: Checkpoint,
    settings: PPO,
    accelerator: Accelerator,
) -> tuple[list[Part], dict[str, float]]:
    """Advantages and returns of every token of the agent's, before anything is learned."""
    parts: list[Part] = []
    gap = kl = n_tokens = 0.0
    padding = checkpoint.tokenizer.pad_token_id
    sizes = [len(sample.ids) for sample in samples]
    room = min(settings.micro_batch_tokens, -(-sum(sizes) // settings.n_minibatches))
    for rows in by_length(sizes, room):
        batch = _batch([samples[i] for i in rows], padding, accelerator.device)
        with torch.no_grad():
            scores: Scores = actor(batch.ids, batch.mask)
            rewards = batch.rewards
            if reference is not None:
                leaving = (batch.sampled - reference(batch.ids, batch.mask).log_probs) * batch.own
                rewards = rewards - settings.kl_weight * leaving
                kl += float(leaving.sum())
        gap += float(((scores.log_probs - batch.sampled) * batch.own).abs().sum())
        n_tokens += float(batch.own.sum())
        found = losses.gae(
            rewards, scores.values, batch.own, gamma=settings.gamma, lam=settings.lam
        )
        parts.append(Part(batch, scores.values, *found))
    if gap / n_tokens > settings.max_sampling_gap:
        raise SamplingMismatchError(
            f"log-probabilities as sampled and as computed in training differ by "
            f"{gap / n_tokens:.3g} nats a token: sample at temperature 1 and top_p 1, with the "
            "chat template and data type that training uses"
        )
    _whiten(parts)
    about = {"sampling_gap": gap / n_tokens, "kl": kl / n_tokens, "tokens": n_tokens}
    return parts, about | {"explained_variance": _explained(parts)}


def _learn(
    actor: nn.Module,
    optimizer: Any,
    parts: Sequence[Part],
    settings: PPO,
    accelerator: Accelerator,
    update: int,
) -> dict[str, float]:
    """Some epochs over an update's episodes."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + update)
    sums: dict[str, float] = {}
    n_seen = 0.0
    for _ in range(settings.epochs):
        order = torch.randperm(len(parts), generator=generator).tolist()
        n_minibatches = min(settings.n_minibatches, *_gathered(accelerator, len(parts)))
        for k in range(n_minibatches):
            minibatch = [parts[i] for i in order[k::n_minibatches]]
            n_tokens = sum(float(part.batch.own.sum()) for part in minibatch)
            for i, part in enumerate(minibatch):
                is_last = i == len(minibatch) - 1  # gradients are shared among processes once
                with nullcontext() if is_last else accelerator.no_sync(actor):
                    loss, about = _loss(actor, part, settings)
                    share = float(part.batch.own.sum())
                    accelerator.backward(loss * share / n_tokens)
                for name, value in about.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * share
                n_seen += share
            accelerator.clip_grad_norm_(actor.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    return {name: value / n_seen for name, value in sums.items()}


def _loss(actor: nn.Module, part: Part, settings: PPO) -> tuple[Tensor, dict[str, Tensor]]:
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
    """A number of every process."""
    mine = torch.tensor([number], device=accelerator.device)
    return [int(n) for n in accelerator.gather(mine).tolist()]


def _batch(samples: Sequence[Sample], padding: int, device: torch.device) -> Batch:
    def padded(rows: Sequence[Sequence[float]], value: float, dtype: torch.dtype) -> Tensor:
        longest = max(len(row) for row in rows)
        filled = [[*row, *[value] * (longest - len(row))] for row in rows]
        return torch.tensor(filled, dtype=dtype, device=device)

    mask = padded([s.mask for s in samples], 0, torch.long)
    return Batch(
        ids=padded([s.ids for s in samples], padding, torch.long),
        mask=mask,
        own=losses.shifted(mask).float(),
        sampled=padded([s.log_probs for s in samples], 0.0, torch.float32)[:, 1:],
        rewards=padded([s.rewards for s in samples], 0.0, torch.float32)[:, 1:],
    )


def _whiten(parts: Sequence[Part]) -> None:
    """Advantages of all episodes of the update together to mean 0 and deviation 1."""
    own = torch.cat([part.advantages[part.batch.own.bool()] for part in parts])
    mean, deviation = own.mean(), own.std(unbiased=False)
    for part in parts:
        # Where nothing was rewarded all are next to 0: what is left is noise, not to be blown up.
        part.advantages = (part.advantages - mean) / (deviation + 1e-3) * part.batch.own


def _explained(parts: Sequence[Part]) -> float:
    """Share of the returns' variance that the values had foreseen; 1 is all."""
    own = [part.batch.own.bool() for part in parts]
    returns = torch.cat([p.returns[o] for p, o in zip(parts, own, strict=True)])
    values = torch.cat([p.values[o] for p, o in zip(parts, own, strict=True)])
    variance = float(returns.var(unbiased=False))
    return 1 - float((returns - values).var(unbiased=False)) / variance if variance else 0.0
