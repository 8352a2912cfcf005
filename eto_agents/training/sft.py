"""Supervised fine-tuning (behaviour cloning) on expert trajectories: ETO's section 3.1.

    policy <- argmax over the experts' trajectories of the log-likelihood of the agent's tokens

The defaults are the paper's (section 4.1): 3 epochs, batches of 64, a learning rate of 1e-5 with
3 % warm-up and cosine decay, AdamW, the loss on the agent's tokens only. The training loop is TRL's
`SFTTrainer`; rows are tokenised and labelled beforehand (`eto_agents.training.rows`), so TRL's chat
templates and masks are not used. This module adds an optional weight for the loss on the
environment's tokens, batches by number of tokens, and an order of the rows with little padding.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from eto_agents.console import report
from eto_agents.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    without_bars,
)
from eto_agents.processes import gathered_weights, n_processes
from eto_agents.runs import RunFolder, once
from eto_agents.settings import SFT, SettingsError
from eto_agents.training.cpu_head import use_cpu_head
from eto_agents.training.rows import (
    EmptyDataError,
    Rows,
    build_rows,
    labels_of,
    protocol_of,
    texts_of,
)
from eto_agents.training.trl import (
    Trained,
    begin_above_zero,
    common_arguments,
    lora_config,
    newest_state,
    step_of,
    train_from,
)
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory

logger = logging.getLogger(__name__)

TINY: Final = "tiny"
"""The model name that stands for a new tiny model (`eto_agents.models.tiny`)."""


def sft(model: str | Path, experts: Sequence[Trajectory], settings: SFT, *, out: Path) -> Trained:
    """Fine-tune a model on trajectories.

    Args:
        model: a checkpoint's folder or name; "tiny" or "tiny:SIZE" makes a new model.
        experts: the trajectories to imitate.
        settings: the settings of the training.
        out: the folder of the run. Repeating the call resumes an interrupted run, and returns at
            once if the run is complete.

    Raises:
        DataNotFoundError: there is no such model.
        EmptyDataError: there are no trajectories, or all are too long.
        DataError: the loss became infinite or not a number.
        RunMismatchError: the folder holds a run with different settings, trajectories or model.
    """
    if not experts:
        raise EmptyDataError("no trajectories to train on: none were given")
    run = once(
        out,
        lambda run: fit(model, experts, settings, run),
        kind="sft",
        settings=settings,
        everywhere=True,
        experts=experts,
        model=str(model),
    )
    return Trained.of(run)


def fit(
    model: str | Path, trajectories: Sequence[Trajectory], settings: SFT, run: RunFolder
) -> dict[str, Any]:
    """Train and save a checkpoint in a claimed folder; returns the content of ``result.json``."""
    start_s = time.monotonic()
    checkpoint = open_model(model, trajectories, settings)
    protocol = settings.protocol or protocol_of(trajectories) or checkpoint.protocol or "thought"
    checkpoint = dataclasses.replace(checkpoint, protocol=protocol)
    rows = build_rows(
        trajectories,
        checkpoint,
        max_length=settings.max_length,
        too_long=settings.too_long,
        world=settings.world,
    )
    trainer = RowTrainer(checkpoint, rows, settings, run)
    state = newest_state(run.work)
    if state is not None:
        logger.info("resuming from %s", state.name)
    run.rewind(step_of(state))
    with without_bars():
        train_from(trainer, state)
    _save(trainer, checkpoint, run)
    return _result(trainer, rows, run) | {"wall_s": round(time.monotonic() - start_s, 1)}


def open_model(model: str | Path, trajectories: Sequence[Trajectory], settings: SFT) -> Checkpoint:
    """Load the model to train, or make a new tiny one.

    Raises:
        EmptyDataError: there are no trajectories to make a tiny model's tokenizer from.
    """
    kind, _, size = str(model).partition(":")
    if kind == TINY and not Path(model).exists():
        from eto_agents.models.tiny import make_tiny

        if not trajectories:
            raise EmptyDataError("no trajectories to make a tiny model from")
        prompts = settings.prompts or "brief"
        tiny = make_tiny(
            texts_of(
                trajectories, prompts=prompts, world=settings.world, protocol=settings.protocol
            ),
            size=size or "small",
            vocab_size=settings.vocab_size,
            template=settings.template or "plain",
            prompts=prompts,
            seed=settings.seed,
        )
        if settings.device is not None:
            tiny.model.to(settings.device)
        if settings.with_example is not None:
            tiny = dataclasses.replace(tiny, with_example=settings.with_example)
        return tiny
    return load_checkpoint(
        str(model),
        dtype=settings.dtype,
        device=settings.device,
        template=settings.template,
        prompts=settings.prompts,
        with_example=settings.with_example,
    )


class RowTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's `SFTTrainer` on encoded rows, logging to a run's folder."""

    optimizer: Any

    def __init__(
        self,
        checkpoint: Checkpoint,
        rows: Rows,
        settings: SFT,
        run: RunFolder,
    ) -> None:
        """Set up the trainer; nothing is trained yet."""
        from datasets import Dataset

        self._lengths = [len(row.ids) for row in rows.rows]
        self._settings = settings
        self._batches = _batches_of(self._lengths, settings)
        columns = {
            "input_ids": [row.ids for row in rows.rows],
            "labels": [labels_of(*row) for row in rows.rows],
        }
        model = checkpoint.model
        super().__init__(
            model=model,
            args=_arguments(settings, run.work, model, self._n_steps_per_epoch),
            train_dataset=Dataset.from_dict(columns),
            processing_class=checkpoint.tokenizer,
            peft_config=lora_config(settings.lora_rank, settings.lora_alpha),
        )
        use_cpu_head(self.model)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(_RunLog(run))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: the run's files document the training."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """TRL's loss on the agent's tokens, or with `world_weight` a loss on all tokens."""
        if not self._settings.world_weight:
            return super().compute_loss(model, inputs, *args, **named)
        return self._loss_on_all(model, inputs, *args, **named)

    def _loss_on_all(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Negative log-likelihood of all tokens, those of the environment with a weight.

        The weighted sum is divided by the number of agent tokens only, so that the agent's part of
        the loss is the same as without the environment's tokens.
        """
        ids = inputs["input_ids"]  # (B, T)
        is_agent = inputs.pop("labels") != -100  # (B, T)
        labels = ids.masked_fill(inputs["attention_mask"] == 0, -100)  # everything but padding
        outputs = model(**inputs, labels=labels, fused_lm_head=True)
        if not hasattr(outputs, "log_probs"):
            raise SettingsError("world_weight needs TRL 1.15, and so Python 3.11, on this device")
        is_agent = is_agent[:, 1:]  # (B, T - 1), as `outputs.log_probs`: position t is token t + 1
        weights = torch.where(is_agent, 1.0, self._settings.world_weight)
        n_agent = is_agent.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -(outputs.log_probs * weights).sum() / torch.as_tensor(n_agent).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # DDP averages gradients over processes, but the divisor counts all processes' tokens.
            loss = loss * self.accelerator.num_processes
        counts = torch.stack([(outputs.is_top1 & is_agent).sum(), is_agent.sum()])
        n_right, n_all = self.accelerator.gather_for_metrics(counts[None]).sum(0).tolist()
        self._metrics["train"]["mean_token_accuracy"].append(n_right / max(n_all, 1))
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW, or Muon for the weight matrices of the layers and AdamW for the rest."""
        if self.optimizer is None and self._settings.optimizer == "muon+adamw":
            from eto_agents.training.muon import MuonAdamW

            trained: Any = model or self.model
            self.optimizer = MuonAdamW(
                trained.named_parameters(),
                learning_rate=self._settings.learning_rate,
                weight_decay=self._settings.weight_decay,
                adam_beta2=self._settings.adam_beta2,
            )
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the settings, with a warm-up that begins above 0."""
        n_warmup = self.args.get_warmup_steps(num_training_steps)
        return begin_above_zero(super().create_scheduler(num_training_steps, optimizer), n_warmup)

    @property
    def _n_steps_per_epoch(self) -> int:
        if self._batches is not None:
            return len(self._batches)
        return math.ceil(len(self._lengths) / self._settings.batch_size)

    def get_train_dataloader(self) -> Any:
        """Batches by number of tokens with `batch_tokens`, else TRL's."""
        if self._batches is None:
            return super().get_train_dataloader()
        loader = torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=self._batches, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        n_rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        n_rows *= self.args.world_size
        return LengthGrouped(self._lengths, n_rows, self._settings.seed)


class LengthGrouped(torch.utils.data.Sampler[int]):
    """A random order in which the rows of an optimizer step have similar lengths: less padding.

    Args:
        lengths: number of tokens of each row.
        batch_size: rows per optimizer step.
        seed: determines the order, together with the epoch.
    """

    GROUP = 16
    """Number of steps whose rows are sorted by length together."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Start with epoch 0."""
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch's order; called by the data loader."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the rows' indices, `batch_size` consecutive ones for each step."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        # Shuffle all rows, sort each group of `GROUP` steps by length, and cut it into steps.
        order = torch.randperm(len(self), generator=generator).tolist()
        size = self._batch_size
        steps = []
        for start in range(0, len(order), size * self.GROUP):
            group = order[start : start + size * self.GROUP]
            group.sort(key=lambda row: -self._lengths[row])
            steps += [group[i : i + size] for i in range(0, len(group), size)]
        # Shuffle the steps, so that training does not go from long rows to short ones.
        complete = [step for step in steps if len(step) == size]
        for i in torch.randperm(len(complete), generator=generator).tolist():
            yield from complete[i]
        for step in steps:  # an incomplete step comes last, or it would shift all later ones
            if len(step) < size:
                yield from step


class TokenBatches(torch.utils.data.Sampler[list[int]]):
    """Batches of rows of similar length with a limited number of tokens, reshuffled every epoch.

    Every epoch has the same number of batches, so that a step's number determines its epoch.

    Args:
        lengths: number of tokens of each row.
        n_tokens: maximum number of tokens of a batch, padding included; a longer row forms a batch
            by itself.
        seed: determines the batches and their order, together with the epoch.
        n_epochs: number of epochs.
    """

    GROUP = 256
    """Number of rows, drawn at random, that are sorted by length together."""

    def __init__(self, lengths: Sequence[int], n_tokens: int, seed: int, n_epochs: int) -> None:
        """Count the batches; start with epoch 0."""
        self._lengths = lengths
        self._n_tokens = n_tokens
        self._seed = seed
        self._epoch = 0
        self._n_batches = max(len(self._make_batches(epoch)) for epoch in range(n_epochs))

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return self._n_batches

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch's batches; called by the data loader."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch's rows."""
        batches = self._make_batches(self._epoch)
        while len(batches) < self._n_batches:  # split the largest until there are enough
            batches.sort(key=len)
            largest = batches.pop()
            batches += [largest[::2], largest[1::2]]
        order = torch.randperm(len(batches), generator=self._generator(self._epoch, 1))
        for i in order.tolist():
            yield batches[i]

    def _make_batches(self, epoch: int) -> list[list[int]]:
        # Shuffle all rows, sort each group of `GROUP` by length, and fill batches in that order: a
        # batch's newest row is its longest, so with padding it has len(batch) times its tokens.
        batches: list[list[int]] = []
        order = torch.randperm(len(self._lengths), generator=self._generator(epoch, 0)).tolist()
        for start in range(0, len(order), self.GROUP):
            batch: list[int] = []
            for row in sorted(order[start : start + self.GROUP], key=self._lengths.__getitem__):
                if batch and self._lengths[row] * (len(batch) + 1) > self._n_tokens:
                    batches.append(batch)
                    batch = []
                batch.append(row)
            batches.append(batch)
        return batches

    def _generator(self, epoch: int, part: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1_000_003 + 2 * epoch + part)


def _batches_of(lengths: Sequence[int], settings: SFT) -> TokenBatches | None:
    if not settings.batch_tokens:
        return None
    if n_processes() > 1:
        raise SettingsError("batch_tokens supports a single process only: use batch_size instead")
    n_epochs = math.ceil(settings.epochs)
    return TokenBatches(lengths, settings.batch_tokens, settings.seed, n_epochs)


class _RunLog(TrainerCallback):  # type: ignore[misc]
    """Writes the trainer's metrics to the run's folder, and reports progress."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._figures: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start_s = time.monotonic()
        self._show(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._show(state)

    def _show(self, state: Any) -> None:
        if self._run.is_writer:
            name = self._run.folder.name
            report(name, state.global_step, state.max_steps, "steps", self._figures)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not abs(loss) < float("inf"):
            raise DataError(
                f"the loss is {loss} at step {state.global_step}: lower the learning rate"
            )
        names = {
            "loss": "loss",
            "mean_token_accuracy": "token_accuracy",
            "entropy": "entropy",
            "grad_norm": "gradient_norm",
            "learning_rate": "learning_rate",
        }
        figures = {name: float(logs[key]) for key, name in names.items() if key in logs}
        wall_s = round(time.monotonic() - self._start_s, 2)
        self._run.log(
            {"step": state.global_step, "epoch": state.epoch, **figures, "wall_s": wall_s}
        )
        self._figures = {"loss": f"{loss:.4f}", "epoch": f"{state.epoch:.2f}"}


def _arguments(settings: SFT, work: Path, model: Any, n_steps_per_epoch: int) -> SFTConfig:
    n = n_processes()
    rows_at_once = min(settings.micro_batch_size, settings.batch_size // n)
    n_micro, rest = divmod(settings.batch_size, max(1, rows_at_once) * n)
    if rest or rows_at_once < 1:
        raise SettingsError(
            f"batch_size {settings.batch_size} must be a multiple of micro_batch_size "
            f"({rows_at_once}) times the number of processes ({n})"
        )
    n_steps = math.ceil(settings.epochs * n_steps_per_epoch)
    return SFTConfig(
        **common_arguments(settings, work, model, SFTConfig, n_steps),
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=1 if settings.batch_tokens else n_micro,
        warmup_steps=settings.warmup_ratio,  # TRL takes a number below 1 as a share of all steps
        adam_beta2=settings.adam_beta2,
        save_total_limit=2,
        logging_steps=settings.log_every,
        logging_first_step=True,
        report_to="none",  # `RunFolder.log` reports
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )


def _save(trainer: RowTrainer, checkpoint: Checkpoint, run: RunFolder) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = gathered_weights(trainer)
    if run.is_writer:
        trained = dataclasses.replace(checkpoint, model=model)
        save_checkpoint(trained, run.checkpoint, weights=weights)
    trainer.accelerator.wait_for_everyone()


def _result(trainer: RowTrainer, rows: Rows, run: RunFolder) -> dict[str, Any]:
    losses = [record["loss"] for record in run.metrics()]
    model: Any = trainer.model
    parameters = list(model.parameters())
    return {
        "n_trajectories": len(rows.rows),
        "n_too_long": rows.n_too_long,
        "n_tokens": rows.n_tokens,
        "n_trained_tokens": rows.n_trained_tokens,
        "rows_sha256": rows.sha256,
        "n_parameters": sum(p.numel() for p in parameters),
        "n_trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "n_steps": trainer.state.global_step,
        "n_epochs": round(float(trainer.state.epoch or 0.0), 4),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }
