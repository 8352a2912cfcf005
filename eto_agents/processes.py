"""Which of several processes this is, when `accelerate launch` or `torchrun` has started many.

All of them train; one plays, writes and evaluates, and the others wait for its files. They wait on
files and not on a barrier, which would give up while a large model plays for hours; when one
process fails, the launcher stops the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


def n_processes() -> int:
    """How many were started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_until(is_done: Callable[[], bool], every_s: float = 0.5) -> None:
    """Return when the main process has come so far."""
    while not is_done():
        time.sleep(every_s)


def gathered_weights(trainer: Any) -> dict[str, Any] | None:
    """A trained model's tensors by name from all processes, or None if each has them all.

    Args:
        trainer: one of transformers', after training; every process must call this.
    """
    if not trainer.is_fsdp_enabled:
        return None
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights
