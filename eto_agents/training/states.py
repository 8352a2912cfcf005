"""The saved state from which an interrupted PPO run resumes: weights, buffers, optimiser moments.

It is one safetensors file, written atomically. The random draws of an update are seeded by its
number, so nothing else has to be saved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from eto_envs.errors import CorruptDataError

_FILE = "state.safetensors"


def save_state(folder: Path, module: nn.Module, optimizer: Any, update: int) -> None:
    """Save the state after `update` updates, replacing the previous one."""
    tensors = {f"weights.{name}": value for name, value in _saved(module)}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_FILE}.{os.getpid()}"
    try:
        on_cpu = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
        save_file(on_cpu, temporary, metadata={"update": str(update)})
        os.replace(temporary, folder / _FILE)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(folder: Path, module: nn.Module, optimizer: Any) -> int:
    """Load a saved state into a model and its optimiser.

    Returns:
        Number of completed updates; 0 if there is no saved state.

    Raises:
        CorruptDataError: the file is damaged, or belongs to another model.
    """
    path = folder / _FILE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            update = int((file.metadata() or {})["update"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, value in _saved(module):
                value.copy_(tensors.pop(f"weights.{name}"))
        moments: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            _, number, key = name.split(".", 2)
            moments.setdefault(int(number), {})[key] = value
        state = optimizer.state_dict()
        optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptDataError(
            f"{path} is not a state of this model ({error}): delete it to start over"
        ) from error
    return update


def _saved(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, each once, and the buffers that are part of the state."""
    yield from module.named_parameters()
    names = module.state_dict().keys()
    yield from ((name, value) for name, value in module.named_buffers() if name in names)
