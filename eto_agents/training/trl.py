"""What SFT, DPO and GRPO share because TRL trains them: arguments, resuming, LoRA, the result.

TRL's trainers are those of `transformers` with losses of their own. A run that is interrupted
resumes from the newest state that was written to its end, and ends with the same weights as an
undisturbed one: the order of the data is a function of seed and epoch alone.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

if TYPE_CHECKING:
    from eto_agents.runs import RunFolder
    from eto_agents.settings import FineTuning


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what says nothing to a user: transformers' own bars, and names that TRL should renew."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings():
        for text in (r"gradient_checkpointing\w*` is deprecated", "'rollout_func'.* experimental"):
            warnings.filterwarnings("ignore", f".*{text}")
        yield


def newest_state(folder: Path) -> Path | None:
    """The latest of a trainer's own checkpoints that was written to its end."""
    states = [file.parent for file in folder.glob("checkpoint-*/trainer_state.json")]
    # It is the last file that is written, so the others are there if it can be read whole.
    whole = [path for path in states if (path / "trainer_state.json").read_text().endswith("}\n")]
    return max(whole, key=step_of, default=None)


def step_of(state: Path | None) -> int:
    """The step at which a state was written; 0 for none."""
    return 0 if state is None else int(state.name.partition("-")[2])


DECAY_SHARE: Final = 0.3
"""Share of the steps in which "warmup_stable_decay" lets the learning rate fall."""


def common_arguments(
    settings: FineTuning, work: Path, model: Any, config: Any, n_steps: int
) -> dict[str, Any]:
    """Arguments that SFT's and DPO's `config` class have in common.

    Args:
        settings: of the training.
        work: where the trainer keeps its states.
        model: what is trained; where it lies and its data type decide on half precision.
        config: TRL's class, whose release decides on one argument's name.
        n_steps: optimiser steps of the whole training.
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
        "max_length": None,  # what is too long was dropped before: nothing is cut here
        # Computes in bfloat16 with weights in single precision.
        "bf16": on_gpu and weight.dtype == torch.float32 and torch.cuda.is_bf16_supported(),
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "seed": settings.seed,
        "save_strategy": "steps" if settings.save_every else "no",
        "save_steps": settings.save_every or 1,
        "disable_tqdm": True,
        **_checkpointing(settings.activation_checkpointing, config),
    }


def _checkpointing(wanted: bool, config: Any) -> dict[str, Any]:
    """The argument under the name that this release of transformers has for it."""
    if "activation_checkpointing" in config.__dataclass_fields__:
        return {"activation_checkpointing": wanted, "gradient_checkpointing": None}
    return {"gradient_checkpointing": wanted}


def lora_config(rank: int, alpha: int | None = None) -> Any:
    """PEFT's settings of an adapter on all linear layers; None for rank 0."""
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
    """The model with its LoRA adapter, if it has one, merged into the weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


class Trained(NamedTuple):
    """What a training method leaves.

    Attributes:
        checkpoint: the folder of the trained model.
        result: what ``result.json`` has: counts, last losses and the like.
    """

    checkpoint: Path
    result: dict[str, Any]

    @classmethod
    def of(cls, run: RunFolder) -> Trained:
        """What a complete run has."""
        return cls(run.checkpoint, run.result or {})
