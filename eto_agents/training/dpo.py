"""Trajectory DPO: ETO's section 3.2, equation 6.

    reference <- the policy at the start of training
    loss      <- -log sigmoid(beta * (log-ratio of the chosen trajectory - of the rejected one)),
                 where a log-ratio is the sum over the agent's tokens of log policy - log reference

TRL's `DPOTrainer` trains on every token after the prompt, which in a trajectory of several turns
includes the environment's. Everything after its collator uses `completion_mask`, so a collator with
the right mask is sufficient (`TrajectoryCollator`). The reference's log-probabilities are computed
once, in batches of similar length, so that no second model is held in memory.

Where the paper (second version) and its repository (``run_eto.sh``) disagree: the paper gives beta
0.1 (ALFWorld 0.5), and cosine decay with 3 % warm-up (for SFT; it is the default here too). The
script's DPO uses a constant learning rate after 10 % warm-up, and from the second iteration on beta
0.5 and half the learning rate.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from eto_agents.console import report
from eto_agents.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    without_bars,
)
from eto_agents.processes import gathered_weights, n_processes
from eto_agents.runs import RunFolder, once
from eto_agents.settings import DPO, SettingsError
from eto_agents.strict_json import write_json
from eto_agents.training.cpu_head import restore_head, use_cpu_head
from eto_agents.training.losses import DivergedError
from eto_agents.training.pairs import NoPairsError
from eto_agents.training.preference_rows import (
    PreferenceRow,
    PreferenceRows,
    acting_as_in,
    encode_pairs,
    lengths,
)
from eto_agents.training.rows import by_length
from eto_agents.training.trl import (
    Trained,
    begin_above_zero,
    common_arguments,
    largest_divisor,
    lora_config,
    merged,
    newest_state,
    step_of,
    train_from,
)
from eto_envs.errors import EtoError

if TYPE_CHECKING:
    from eto_agents.preference import PreferencePair
    from eto_agents.training.pairs import Pair

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float]


class WrongReferenceError(EtoError):
    """The reference is not the policy at the start of training."""


def dpo(
    model: str | Path, pairs: Sequence[Pair | PreferencePair], settings: DPO, *, out: Path
) -> Trained:
    """Train a policy to prefer the chosen trajectories of pairs.

    Args:
        model: the initial policy, which is also the reference: a checkpoint's folder or name.
        pairs: the pairs to learn from.
        settings: the settings of the training.
        out: the folder of the run. Repeating the call resumes an interrupted run, and returns at
            once if the run is complete.

    Raises:
        NoPairsError: there are no pairs, or all are too long.
        DivergedError: the loss is not finite; the batch was saved.
        RunMismatchError: the folder holds a run with different settings, pairs or model.
    """
    run = once(
        out,
        lambda run: _fit(model, pairs, settings, run),
        kind="dpo",
        settings=settings,
        everywhere=True,
        pairs=pairs,
        model=str(model),
    )
    return Trained.of(run)


def _fit(
    model: str | Path, pairs: Sequence[Pair | PreferencePair], settings: DPO, run: RunFolder
) -> dict[str, Any]:
    started_s = time.monotonic()
    checkpoint = load_checkpoint(str(model), dtype=settings.dtype, device=settings.device)
    checkpoint = acting_as_in(checkpoint, pairs)
    data = encode_pairs(
        pairs,
        checkpoint,
        max_length=settings.max_length,
        too_long=settings.too_long,
        world=settings.world,
    )
    n_planned = n_updates(len(data.rows), settings)

    def on_metrics(update: int, metrics: Metrics) -> None:
        run.log({"step": update, **metrics})
        if run.is_writer:
            names = {"loss": "loss", "accuracy": "rewards/accuracies"}
            figures = {k: f"{metrics[v]:.3f}" for k, v in names.items() if v in metrics}
            report(run.folder.name, update, n_planned, "updates", figures)

    if run.is_writer:
        report(run.folder.name, 0, n_planned, "updates")
    with without_bars():
        fitted = train_dpo(
            checkpoint, data, settings, run.work, on_metrics=on_metrics, on_start=run.rewind
        )
    if not run.is_writer:
        return {}
    save_checkpoint(fitted.checkpoint, run.checkpoint, weights=fitted.weights)
    return _result(run, data, settings) | {"wall_s": round(time.monotonic() - started_s, 1)}


def n_updates(n_pairs: int, settings: DPO) -> int:
    """Number of optimiser steps of a run over `n_pairs` pairs."""
    return math.ceil(math.ceil(n_pairs / settings.batch_size) * settings.epochs)


class Fitted(NamedTuple):
    """The result of `train_dpo`.

    Attributes:
        checkpoint: the trained policy.
        weights: its weights by name, if those in `checkpoint` are sharded over processes; else
            None.
    """

    checkpoint: Checkpoint
    weights: Mapping[str, Any] | None


def train_dpo(
    checkpoint: Checkpoint,
    data: PreferenceRows,
    settings: DPO,
    folder: Path,
    *,
    on_metrics: Callable[[int, Metrics], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    trainer_args: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train a policy on encoded pairs; the initial policy is the reference.

    Args:
        checkpoint: the policy; its weights are changed in place. A LoRA adapter is merged first, so
            that the reference is the fine-tuned model and not its base.
        data: the result of `encode_pairs`.
        settings: the settings of the training.
        folder: folder for the states from which an interrupted run resumes, and for
            ``bad_batch.json``.
        on_metrics: called with the number of an update and its metrics.
        on_start: called with the number of updates that were completed before.
        trainer_args: further arguments for TRL's `DPOConfig`, such as ``fsdp``.

    Raises:
        NoPairsError: `data` has no rows.
        DivergedError: the loss is not finite; the batch is saved in `folder`.
        SettingsError: LoRA is combined with weights that are sharded over processes.
    """
    if not data.rows:
        raise NoPairsError("no pairs to train on")
    model = merged(checkpoint.model)
    states = folder / "states"
    trainer = TrajectoryDPOTrainer(
        rows=data.rows,
        settings=settings,
        folder=folder,
        on_metrics=on_metrics,
        model=model,
        args=_config(model, data, settings, states, trainer_args or {}),
        processing_class=checkpoint.tokenizer,
        data_collator=TrajectoryCollator(pad_token_id=checkpoint.tokenizer.pad_token_id),
        peft_config=lora_config(settings.lora_rank),
    )
    if settings.lora_rank and trainer.is_fsdp_enabled:
        raise SettingsError(
            "a LoRA adapter cannot be merged into weights that FSDP shards over processes: launch "
            "without sharding (baselines/accelerate/ddp_8gpu.yaml), or set lora_rank to 0"
        )
    last = newest_state(states)
    if last is not None:
        logger.info("resuming from %s", last.name)
    if on_start is not None:
        on_start(step_of(last))
    train_from(trainer, last)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    restore_head(trained)
    weights = gathered_weights(trainer)
    return Fitted(dataclasses.replace(checkpoint, model=merged(trained).eval()), weights)


@dataclass
class TrajectoryCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator with a completion mask that covers the agent's tokens only."""

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """Make a batch of n pairs, in which `completion_mask` is 1 on the agent's tokens."""
        # TRL pads on the right and stacks the n chosen sides above the n rejected ones: (2n, T).
        batch: dict[str, Any] = super().torch_call(examples)
        mask = torch.zeros_like(batch["completion_mask"])
        sides = [(row, side) for side in ("chosen", "rejected") for row in examples]
        for i, (row, side) in enumerate(sides):
            start = len(row["prompt_ids"])
            agent_mask = row[f"{side}_mask"]
            mask[i, start : start + len(agent_mask)] = torch.tensor(agent_mask)
        batch["completion_mask"] = mask
        return batch


class SortedWithinUpdates(torch.utils.data.Sampler[int]):
    """A random order in which the pairs of each update are sorted by length: less padding.

    Each update gets the same pairs as in the random order itself.
    """

    def __init__(self, row_lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Take the number of tokens of each row, and the number of pairs per update."""
        self._lengths = list(row_lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch's order; called by the data loader."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the rows' indices."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._batch_size):
            update = order[start : start + self._batch_size]
            yield from sorted(update, key=self._lengths.__getitem__)


class TrajectoryDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's `DPOTrainer` on encoded pairs."""

    def __init__(
        self,
        *,
        rows: Sequence[PreferenceRow],
        settings: DPO,
        folder: Path,
        on_metrics: Callable[[int, Metrics], None] | None = None,
        **arguments: Any,
    ) -> None:
        """Set up the trainer.

        Args:
            rows: the encoded pairs.
            settings: the settings of the training.
            folder: folder for ``bad_batch.json``.
            on_metrics: called with the number of an update and its metrics.
            **arguments: TRL's own arguments.
        """
        self._settings = settings
        self._folder = folder
        self._on_metrics = on_metrics
        self._has_warned = False
        is_single = next(arguments["model"].parameters()).dtype in (torch.float32, torch.float64)
        self._is_exact = is_single and not arguments["args"].bf16
        self._row_lengths = [max(lengths(row)) for row in rows]
        super().__init__(train_dataset=Dataset.from_list(list(rows)), **arguments)
        self.remove_callback(PrinterCallback)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: the run's files document the training."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the settings, with a warm-up that begins above 0."""
        trl: Any = super()
        n_warmup = self.args.get_warmup_steps(num_training_steps)
        return begin_above_zero(trl.create_scheduler(num_training_steps, optimizer), n_warmup)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # already tokenised

    def _set_signature_columns_if_needed(self) -> None:
        # TRL drops the dataset's columns that it does not know; the collator needs the masks.
        trl: Any = super()
        trl._set_signature_columns_if_needed()
        columns = [*(self._signature_columns or ()), "chosen_mask", "rejected_mask"]
        trainer: Any = self
        trainer._signature_columns = list(dict.fromkeys(columns))

    def _get_train_sampler(self, train_dataset: Any = None) -> SortedWithinUpdates:
        batch_size, seed = self._settings.batch_size, self._settings.seed
        return SortedWithinUpdates(self._row_lengths, batch_size, seed)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Add the reference's log-probabilities to the dataset, in batches of similar length."""
        trl: Any = super()
        model: Any = self.model  # before the first update the policy itself is the reference
        use_cpu_head(model)  # TRL has just installed its own head, and uses it from here on
        was_training = model.training
        model.eval()
        # Per row, the summed log-probabilities of the chosen and of the rejected side's agent
        # tokens. A batch of n rows has 2n sequences, hence half of the token budget.
        log_probs: dict[int, tuple[float, float]] = {}
        for batch in by_length(self._row_lengths, self._settings.micro_batch_tokens // 2):
            inputs = self._prepare_inputs(self.data_collator([dataset[i] for i in batch]))
            chosen, rejected = trl.compute_ref_log_probs(model, inputs)
            log_probs.update(
                zip(batch, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True)
            )
        model.train(was_training)
        columns = list(zip(*(log_probs[i] for i in range(len(dataset))), strict=True))
        dataset = dataset.add_column("ref_chosen_logps", list(columns[0]))
        return dataset.add_column("ref_rejected_logps", list(columns[1]))

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        trl: Any = super()
        result = trl._compute_loss(model, inputs, return_outputs)
        loss: Tensor = result[0] if return_outputs else result
        if not torch.isfinite(loss):
            self._save_batch(inputs)
        if self.state.global_step == 0 and model.training:
            self._check_reference(inputs)
        return result

    def _save_batch(self, inputs: Mapping[str, Any]) -> None:
        path = self._folder / "bad_batch.json"
        batch = {name: value.tolist() for name, value in inputs.items()}
        write_json(path, batch)
        raise DivergedError(
            f"the loss is not finite at update {self.state.global_step}; the batch is saved in "
            f"{path}. Lower the learning rate or beta, or look for a broken pair in it"
        )

    def _check_reference(self, inputs: Mapping[str, Any]) -> None:
        """Check that before the first update the policy equals the reference."""
        # TRL's reward is beta * (log policy - log reference), summed over a side's agent tokens and
        # averaged over the batch: before the first update it must be 0 up to rounding.
        reward = self._metrics["train"]["rewards/chosen"][-1]
        n_tokens = float(inputs["completion_mask"].sum()) / len(inputs["completion_mask"])
        gap = abs(reward) / self._settings.beta / max(n_tokens, 1.0)  # nats per token
        if gap > (1e-3 if self._is_exact else 0.05):
            raise WrongReferenceError(
                "the reference is not the policy at the start of training: their "
                f"log-probabilities differ by {gap:.3g} nats per token. Use the same checkpoint "
                "for both"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log how far the chosen log-probability has fallen; warn once if it is too far."""
        rewards = self._metrics["train"].get("rewards/chosen")
        if rewards:
            fallen = -sum(rewards) / len(rewards) / self._settings.beta
            logs["chosen_drop_nats"] = fallen
            if fallen > self._settings.alarm_nats and not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "update %d: the log-probability of the chosen trajectories has fallen by %.1f "
                    "nats (alarm_nats is %.1f): the policy is unlearning what it should prefer. "
                    "Lower the learning rate, or raise nll_weight",
                    self.state.global_step,
                    fallen,
                    self._settings.alarm_nats,
                )
        if self.state.global_step == 1:
            # Computed before the first update, where the policy is the reference and all rewards
            # are 0: which of two is higher is decided by rounding.
            self._metrics["train"].pop("rewards/accuracies", None)
        super().log(logs, start_time)
        if self._on_metrics is not None and "loss" in logs:  # else it is a summary of the run
            numbers = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
            self._on_metrics(self.state.global_step, numbers)


def _config(
    model: Any,
    data: PreferenceRows,
    settings: DPO,
    states: Path,
    trainer_args: Mapping[str, Any],
) -> DPOConfig:
    longest = max(max(lengths(row)) for row in data.rows)
    micro = _micro_batch(settings, longest, n_processes())
    weights = {"sigmoid": settings.preference_weight, "sft": settings.nll_weight}
    weights = {name: weight for name, weight in weights.items() if weight or name == "sigmoid"}
    losses = {"loss_type": list(weights), "loss_weights": list(weights.values())}
    n_steps = n_updates(len(data.rows), settings)
    arguments = common_arguments(settings, states, model, DPOConfig, n_steps) | {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // (micro * n_processes()),
        "warmup_steps": int(settings.warmup_ratio * n_steps),
        "beta": settings.beta,
        "precompute_ref_log_probs": True,
        "logging_steps": 1,
        "save_total_limit": 1,
        "report_to": "none",  # `RunFolder.log` reports
    }
    return DPOConfig(**arguments | losses | dict(trainer_args))


def _micro_batch(settings: DPO, longest: int, n: int) -> int:
    """Number of pairs computed at once: a divisor of each process's share of the batch.

    Args:
        settings: the settings of the training.
        longest: tokens of the longest side of any pair.
        n: number of processes.
    """
    share, rest = divmod(settings.batch_size, n)
    if rest:
        raise SettingsError(
            f"batch_size {settings.batch_size} must be a multiple of the number of processes ({n})"
        )
    n_fitting = max(1, settings.micro_batch_tokens // (2 * longest))
    return largest_divisor(share, n_fitting)


def _result(run: RunFolder, data: PreferenceRows, settings: DPO) -> dict[str, Any]:
    last = [m for m in run.metrics() if "rewards/margins" in m][-1:] or [{}]
    return {
        "n_pairs": len(data.rows),
        "n_too_long": data.n_too_long,
        "n_tokens": data.n_tokens,
        "rows_sha256": data.sha256,
        "n_updates": n_updates(len(data.rows), settings),
        "accuracy": last[0].get("rewards/accuracies"),
        "margin": last[0].get("rewards/margins"),
        "chosen_drop_nats": last[0].get("chosen_drop_nats"),
    }
