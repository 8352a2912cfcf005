"""TRL's `SFTTrainer` on rows, with what a resumable and quiet run needs.

Rows come tokenised with labels, so TRL's own chat templates and masks play no part. The order of
the rows is a function of seed and epoch alone, so that a run resumed from a checkpoint sees what
an undisturbed one would have seen, to the bit. What to train and for how long is
`eto_agents.training.sft`'s part.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from eto_agents.config import SettingsError
from eto_agents.console import report
from eto_agents.models.checkpoints import without_bars
from eto_agents.training.cpu_head import use_cpu_head
from eto_agents.training.processes import n_processes
from eto_agents.training.stage import Stage
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.checkpoints import Checkpoint
    from eto_agents.training.rows import Rows
    from eto_agents.training.sft import SFTSettings

logger = logging.getLogger(__name__)


def train(checkpoint: Checkpoint, rows: Rows, settings: SFTSettings, stage: Stage) -> RowTrainer:
    """Train the checkpoint's model in place, from where an earlier call was stopped.

    Raises:
        DataError: the loss became infinite or no number.
    """
    trainer = RowTrainer(checkpoint, rows, settings, stage)
    start = newest_complete(stage.work)
    if start is not None:
        logger.info("going on from %s", start.name)
    stage.rewind(int(start.name.partition("-")[2]) if start is not None else 0)
    with without_bars():
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    return trainer


def newest_complete(folder: Path) -> Path | None:
    """The latest of a trainer's own checkpoints that was written to its end."""
    states = [file.parent for file in folder.glob("checkpoint-*/trainer_state.json")]
    # It is the last file that is written, so the others are there if it can be read whole.
    whole = [path for path in states if (path / "trainer_state.json").read_text().endswith("}\n")]
    return max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)


class RowTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on rows; logs to the stage."""

    optimizer: Any

    def __init__(
        self,
        checkpoint: Checkpoint,
        rows: Rows,
        settings: SFTSettings,
        stage: Stage,
    ) -> None:
        """Set the trainer up; nothing is trained yet."""
        from datasets import Dataset

        self._lengths = [len(row.ids) for row in rows.rows]
        self._settings = settings
        self._batches = _batches_of(self._lengths, settings)
        columns = {
            "input_ids": [row.ids for row in rows.rows],
            "labels": [_labels(*row) for row in rows.rows],
        }
        model = checkpoint.model
        super().__init__(
            model=model,
            args=_arguments(settings, stage.work, model, self._n_steps_per_epoch),
            train_dataset=Dataset.from_dict(columns),
            processing_class=checkpoint.tokenizer,
            peft_config=_lora(settings),
        )
        use_cpu_head(self.model)
        for shown in (PrinterCallback, ProgressCallback):
            self.remove_callback(shown)
        self.add_callback(_StageLog(stage))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the stage's files say what was done."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """TRL's loss, or with a weight for the world's tokens ours."""
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
        """Negative log-likelihood of the agent's tokens and, weighted, the world's, per agent's."""
        ids = inputs["input_ids"]
        is_agent = inputs.pop("labels") != -100
        labels = ids.masked_fill(inputs["attention_mask"] == 0, -100)
        outputs = model(**inputs, labels=labels, fused_lm_head=True)
        if not hasattr(outputs, "log_probs"):
            raise SettingsError("world_weight needs TRL 1.15, and so Python 3.11, on this device")
        is_agent = is_agent[:, 1:]
        weights = torch.where(is_agent, 1.0, self._settings.world_weight)
        n_agent = is_agent.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -(outputs.log_probs * weights).sum() / torch.as_tensor(n_agent).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # as TRL does: DDP averages gradients
        counts = torch.stack([(outputs.is_top1 & is_agent).sum(), is_agent.sum()])
        n_right, n_all = self.accelerator.gather_for_metrics(counts[None]).sum(0).tolist()
        self._metrics["train"]["mean_token_accuracy"].append(n_right / max(n_all, 1))
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW, or with Muon for the matrices inside of the layers."""
        if self.optimizer is None and self._settings.optimizer == "muon+adamw":
            from eto_agents.training.muon import MuonAdamW

            trained: Any = model or self.model
            self.optimizer = MuonAdamW(
                trained.named_parameters(),
                learning_rate=self._settings.learning_rate,
                weight_decay=self._settings.weight_decay,
            )
        return super().create_optimizer(model)

    @property
    def _n_steps_per_epoch(self) -> int:
        if self._batches is not None:
            return len(self._batches)
        return math.ceil(len(self._lengths) / self._settings.batch_size)

    def get_train_dataloader(self) -> Any:
        """Batches by tokens, or TRL's."""
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
    """Shuffled rows with those of one optimizer step alike in length, so that little is padding.

    Args:
        lengths: tokens of each row.
        batch_size: rows of an optimizer step.
        seed: decides, with the epoch, the order.
    """

    GROUP = 16
    """Steps among whose rows those of like length are brought together."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Take the lengths; the epoch is 0."""
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """All rows, once."""
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called by the data loader."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Positions of the rows."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        size = self._batch_size
        steps = []
        for start in range(0, len(order), size * self.GROUP):
            group = order[start : start + size * self.GROUP]
            group.sort(key=lambda row: -self._lengths[row])
            steps += [group[i : i + size] for i in range(0, len(group), size)]
        whole = [step for step in steps if len(step) == size]
        for i in torch.randperm(len(whole), generator=generator).tolist():
            yield from whole[i]
        for step in steps:  # what is left over comes last, or steps would not begin with batches
            if len(step) < size:
                yield from step


class TokenBatches(torch.utils.data.Sampler[list[int]]):
    """Rows of like length that have a number of tokens together; others in each epoch.

    Every epoch has as many batches, so that a step's number tells its epoch.

    Args:
        lengths: tokens of each row.
        n_tokens: the most of a batch, padding included; a longer row is a batch of its own.
        seed: decides, with the epoch, which rows are together, and the order.
        n_epochs: how many there will be.
    """

    GROUP = 256
    """Rows, drawn at random, among which those of like length are brought together."""

    def __init__(self, lengths: Sequence[int], n_tokens: int, seed: int, n_epochs: int) -> None:
        """Count the batches; the epoch is 0."""
        self._lengths = lengths
        self._n_tokens = n_tokens
        self._seed = seed
        self._epoch = 0
        self._n_batches = max(len(self._put_together(epoch)) for epoch in range(n_epochs))

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._n_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the rows that are together, and the order; called by the data loader."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Positions of the rows of each batch."""
        batches = self._put_together(self._epoch)
        while len(batches) < self._n_batches:  # a few of the largest in two
            batches.sort(key=len)
            largest = batches.pop()
            batches += [largest[::2], largest[1::2]]
        order = torch.randperm(len(batches), generator=self._generator(self._epoch, 1))
        for i in order.tolist():
            yield batches[i]

    def _put_together(self, epoch: int) -> list[list[int]]:
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


def _batches_of(lengths: Sequence[int], settings: SFTSettings) -> TokenBatches | None:
    if not settings.tokens_per_step:
        return None
    if n_processes() > 1:
        raise SettingsError("tokens_per_step is for one process: give batch_size instead")
    n_epochs = math.ceil(settings.epochs)
    return TokenBatches(lengths, settings.tokens_per_step, settings.seed, n_epochs)


class _StageLog(TrainerCallback):  # type: ignore[misc]
    """Writes what the trainer logs to the stage, and shows how far it is."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._figures: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start_s = time.monotonic()
        self._show(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._show(state)

    def _show(self, state: Any) -> None:
        if self._stage.is_writer:
            name = self._stage.folder.name
            report(name, state.global_step, state.max_steps, "steps", self._figures)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not abs(loss) < float("inf"):
            raise DataError(f"the loss is {loss} at step {state.global_step}: lower learning_rate")
        names = {
            "loss": "loss",
            "mean_token_accuracy": "token_accuracy",
            "entropy": "entropy",
            "grad_norm": "gradient_norm",
            "learning_rate": "learning_rate",
        }
        figures = {name: float(logs[key]) for key, name in names.items() if key in logs}
        wall_s = round(time.monotonic() - self._start_s, 2)
        self._stage.log(
            {"step": state.global_step, "epoch": state.epoch, **figures, "wall_s": wall_s}
        )
        self._figures = {"loss": f"{loss:.4f}", "epoch": f"{state.epoch:.2f}"}


def forget_work(stage: Stage) -> None:
    """Delete the trainer's own checkpoints once the stage's is written."""
    if stage.is_writer:
        shutil.rmtree(stage.work, ignore_errors=True)


def _labels(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    return [token if is_agent else -100 for token, is_agent in zip(ids, mask, strict=True)]


_DECAY_SHARE = 0.3  # of the steps, of the schedule that first holds the learning rate


def _arguments(settings: SFTSettings, work: Path, model: Any, n_steps_per_epoch: int) -> SFTConfig:
    n = n_processes()
    rows_at_once = min(settings.micro_batch_size, settings.batch_size // n)
    n_micro, rest = divmod(settings.batch_size, max(1, rows_at_once) * n)
    if rest or rows_at_once < 1:
        raise SettingsError(
            f"batch_size {settings.batch_size} must be a multiple of micro_batch_size "
            f"{rows_at_once} times {n} processes"
        )
    n_steps = math.ceil(settings.epochs * n_steps_per_epoch)
    decay = {"num_decay_steps": math.ceil(_DECAY_SHARE * n_steps), "decay_type": "linear"}
    on_gpu = next(model.parameters()).is_cuda
    is_fp32 = next(model.parameters()).dtype == torch.float32
    return SFTConfig(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=1 if settings.tokens_per_step else n_micro,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        lr_scheduler_kwargs=decay if settings.schedule == "warmup_stable_decay" else None,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        adam_beta2=settings.adam_beta2,
        max_length=None,
        bf16=on_gpu and is_fp32 and torch.cuda.is_bf16_supported(),
        **_checkpointing(settings.activation_checkpointing),
        use_cpu=not on_gpu,
        seed=settings.seed,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 1,
        save_total_limit=2,
        logging_steps=settings.log_every,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=list(settings.report_to) or "none",
        dataloader_pin_memory=on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """The argument under the name that this version of transformers has for it."""
    if "activation_checkpointing" in SFTConfig.__dataclass_fields__:
        return {"activation_checkpointing": wanted, "gradient_checkpointing": None}
    return {"gradient_checkpointing": wanted}


def _lora(settings: SFTSettings) -> Any:
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
