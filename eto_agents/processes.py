"""Running as one of several processes, as `accelerate launch` or `torchrun` start them.

All processes train; the main one plays, writes and evaluates while the others wait for its files.
They wait for files rather than at a barrier, which would time out while a large model plays for
hours. When one process fails, the launcher stops the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


def n_processes() -> int:
    """Number of processes in the launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that plays, writes and evaluates."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_until(is_done: Callable[[], bool], every_s: float = 0.5) -> None:
    """Block until `is_done` returns true, checking every `every_s` seconds."""
    while not is_done():
        time.sleep(every_s)


def gathered_weights(trainer: Any) -> dict[str, Any] | None:
    """Gather a trained model's weights from all processes.

    Args:
        trainer: a transformers trainer after training; every process must call this.

    Returns:
        Tensors by name, or None if every process holds the whole model anyway.
    """
    if not trainer.is_fsdp_enabled:
        return None
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights
