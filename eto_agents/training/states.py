"""The saved state from which an interrupted PPO run resumes: weights, buffers, optimiser moments.

It is one safetensors file, written atomically. The random draws of an update are seeded by its
number, so nothing else has to be saved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
    for part, single in enumerate(_parts(optimizer)):
        for number, moments in single.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer.{part}.{number}.{name}"] = torch.as_tensor(value)
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
        parts = _parts(optimizer)
        moments: list[dict[int, dict[str, Any]]] = [{} for _ in parts]
        for name, value in tensors.items():
            _, part, number, key = name.split(".", 3)
            moments[int(part)].setdefault(int(number), {})[key] = value
        states = [
            {"state": state, "param_groups": single.state_dict()["param_groups"]}
            for single, state in zip(parts, moments, strict=True)
        ]
        optimizer.load_state_dict({"parts": states} if len(states) > 1 else states[0])
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptDataError(
            f"{path} is not a state of this model ({error}): delete it to start over"
        ) from error
    return update


def _parts(optimizer: Any) -> Sequence[Any]:
    """The optimizers that an optimizer consists of."""
    return getattr(optimizer, "parts", None) or [optimizer]


def _saved(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, each once, and the buffers that are part of the state."""
    yield from module.named_parameters()
    names = module.state_dict().keys()
    yield from ((name, value) for name, value in module.named_buffers() if name in names)
