"""Muon for the matrices inside of the layers, AdamW for all else, as one optimizer.

Muon (K. Jordan 2024) is torch's own, scaled to AdamW's step size (Moonshot's "match RMS"), so both
share one learning rate. The paper uses AdamW alone; tiny models learn faster with this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers behind one face; their parameter groups are shared with them."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        """Divide named parameters among the two."""
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        inside = [p for name, p in trained if p.ndim == 2 and not _is_outer(name)]
        others = [p for name, p in trained if p.ndim != 2 or _is_outer(name)]
        shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        self._parts: list[torch.optim.Optimizer] = []
        if inside:
            self._parts.append(torch.optim.Muon(inside, adjust_lr_fn="match_rms_adamw", **shared))
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=(0.9, 0.98), **shared))
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()

    def _share(self) -> None:
        # A scheduler changes the learning rate in these; the two must see it.
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def _is_outer(name: str) -> bool:
    return "embed" in name or "lm_head" in name
