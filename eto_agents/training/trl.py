"""Shared by SFT, DPO and GRPO, which TRL trains: arguments, resuming, LoRA, the result.

An interrupted run resumes from the newest complete state and ends with the same weights as an
uninterrupted one, because the order of the data depends only on the seed and the epoch.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from transformers import TrainerCallback

from eto_envs.errors import CorruptDataError, EtoError

if TYPE_CHECKING:
    from eto_agents.runs import RunFolder
    from eto_agents.settings import FineTuning


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide transformers' progress bars, and deprecation warnings that are for TRL to act on."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings():
        for text in (r"gradient_checkpointing\w*` is deprecated", "'rollout_func'.* experimental"):
            warnings.filterwarnings("ignore", f".*{text}")
        yield


def newest_state(folder: Path) -> Path | None:
    """The folder of the latest complete state that a trainer saved; None if there is none."""
    states = [file.parent for file in folder.glob("checkpoint-*/trainer_state.json")]
    # trainer_state.json is written last: if it is complete, so are the other files.
    complete = [s for s in states if (s / "trainer_state.json").read_bytes().endswith(b"}\n")]
    return max(complete, key=step_of, default=None)


def train_from(trainer: Any, state: Path | None) -> None:
    """Train to the end, from a saved state if there is one.

    Args:
        trainer: a `transformers.Trainer`.
        state: as `newest_state` returns it.

    Raises:
        CorruptDataError: no step succeeds after loading the state.
    """
    if state is None:
        trainer.train()
        return
    began = _Began()
    trainer.add_callback(began)
    try:
        trainer.train(resume_from_checkpoint=str(state))
    except (EtoError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the libraries raise at damaged files
        if began.is_true:
            raise
        raise CorruptDataError(
            f"cannot resume from {state} ({error}): delete that folder to resume from an earlier "
            "state, or from the start"
        ) from error


class _Began(TrainerCallback):  # type: ignore[misc]
    """Remembers whether a step has ended."""

    is_true = False

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.is_true = True


def step_of(state: Path | None) -> int:
    """The optimiser step at which a state was saved; 0 for None."""
    return 0 if state is None else int(state.name.partition("-")[2])


DECAY_SHARE: Final = 0.3
"""Share of the steps over which "warmup_stable_decay" decays the learning rate."""


def common_arguments(
    settings: FineTuning, work: Path, model: Any, config: Any, n_steps: int
) -> dict[str, Any]:
    """Keyword arguments for both of TRL's `SFTConfig` and `DPOConfig`.

    Args:
        settings: the settings of the training.
        work: folder for the trainer's states.
        model: the model to train; its device and data type decide whether bfloat16 is used.
        config: TRL's config class; one argument's name depends on its version.
        n_steps: number of optimiser steps of the whole training.
    """
    decay = {"num_decay_steps": math.ceil(DECAY_SHARE * n_steps), "decay_type": "linear"}
    weight = next(model.parameters())
    on_gpu = weight.is_cuda
    return {
        "output_dir": str(work),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_schedule,
        "lr_scheduler_kwargs": decay if settings.lr_schedule == "warmup_stable_decay" else None,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,  # rows that are too long were dropped: TRL must not truncate any
        # Mixed precision: bfloat16 activations, float32 weights.
        "bf16": on_gpu and weight.dtype == torch.float32 and torch.cuda.is_bf16_supported(),
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "seed": settings.seed,
        "save_strategy": "steps" if settings.save_every else "no",
        "save_steps": settings.save_every or 1,
        "disable_tqdm": True,
        **_checkpointing(settings.activation_checkpointing, config),
    }


def _checkpointing(is_enabled: bool, config: Any) -> dict[str, Any]:
    """The argument for activation checkpointing, which transformers has renamed."""
    if "activation_checkpointing" in config.__dataclass_fields__:
        return {"activation_checkpointing": is_enabled, "gradient_checkpointing": None}
    return {"gradient_checkpointing": is_enabled}


def largest_divisor(n: int, at_most: int) -> int:
    """The largest divisor of `n` up to a limit: into how large equal parts a batch can be cut."""
    return max(d for d in range(1, min(n, at_most) + 1) if n % d == 0)


def begin_above_zero(scheduler: Any, n_warmup: int) -> Any:
    """Shift a schedule's linear warm-up, so that its first step has a learning rate above 0.

    Transformers begins at 0, which wastes a step: in a stage of ten steps, a tenth of the training.

    Args:
        scheduler: a `torch.optim.lr_scheduler.LambdaLR` before its first step; changed in place.
        n_warmup: number of steps of the warm-up. Step k of them, counted from 0, has a share of
            (k + 1) / (n_warmup + 1) of the learning rate.

    Returns:
        The scheduler.
    """

    def shifted(schedule: Callable[[int], float]) -> Callable[[int], float]:
        def share(step: int) -> float:
            return (step + 1) / (n_warmup + 1) if step < n_warmup else schedule(step)

        return share

    scheduler.lr_lambdas = [shifted(schedule) for schedule in scheduler.lr_lambdas]
    rates = scheduler.base_lrs, scheduler.lr_lambdas, scheduler.optimizer.param_groups
    for rate, schedule, group in zip(*rates, strict=True):
        group["lr"] = rate * schedule(0)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
    return scheduler


def lora_config(rank: int, alpha: int | None = None) -> Any:
    """PEFT's configuration of an adapter on all linear layers; None for rank 0."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def merged(model: Any) -> Any:
    """Merge a model's LoRA adapter, if it has one, into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


class Trained(NamedTuple):
    """The result of a training method.

    Attributes:
        checkpoint: the folder of the trained model.
        result: the content of ``result.json``, such as counts and final losses.
    """

    checkpoint: Path
    result: dict[str, Any]

    @classmethod
    def of(cls, run: RunFolder) -> Trained:
        """The result of a complete run."""
        return cls(run.checkpoint, run.result or {})
