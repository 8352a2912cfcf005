"""What an interrupted run of PPO resumes from: weights and the optimiser's moments.

One file in safetensors, written whole. What an update draws at random is seeded by its
number, so nothing else has to be saved.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from eto_envs.errors import CorruptDataError

_FILE = "state.safetensors"


def save_state(folder: Path, module: nn.Module, optimizer: Any, update: int) -> None:
    """Write the state after `update` updates; the one before is replaced."""
    tensors: dict[str, torch.Tensor] = {
        f"weights.{name}": value for name, value in module.named_parameters()
    }
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{_FILE}.{os.getpid()}"
    try:
        plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
        save_file(plain, unfinished, metadata={"update": str(update)})
        os.replace(unfinished, folder / _FILE)
    finally:
        unfinished.unlink(missing_ok=True)


def load_state(folder: Path, module: nn.Module, optimizer: Any) -> int:
    """Put a saved state into a model and its optimiser.

    Returns:
        Updates that were made; 0 if nothing was saved.

    Raises:
        CorruptDataError: the file is damaged, or of another model.
    """
    path = folder / _FILE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            update = int(file.metadata()["update"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(tensors.pop(f"weights.{name}"))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptDataError(
            f"{path} is no state of this model ({error}): delete it to start over"
        ) from error
    moments: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        _, number, key = name.split(".", 2)
        moments.setdefault(int(number), {})[key] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    return update
