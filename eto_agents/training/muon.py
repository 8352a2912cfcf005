"""Muon for the weight matrices of the layers and AdamW for all other parameters, as one optimizer.

Muon (K. Jordan 2024) is PyTorch's, with its step size matched to AdamW's (Moonshot's "match RMS"),
so that both share one learning rate. The paper uses AdamW alone; tiny models learn faster with
Muon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers behind one interface, which shares their parameter groups and their state."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        adam_beta2: float = 0.999,
    ) -> None:
        """Divide the named parameters between the two optimizers.

        Args:
            parameters: the model's named parameters.
            learning_rate: learning rate of both.
            weight_decay: weight decay of the matrices; norms and biases are not decayed.
            adam_beta2: AdamW's second beta.
        """
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        inside = [p for name, p in trained if p.ndim == 2 and not _is_outer(name)]
        outer = [p for name, p in trained if p.ndim == 2 and _is_outer(name)]
        vectors = [p for _, p in trained if p.ndim != 2]
        self._parts: list[torch.optim.Optimizer] = []
        if inside:
            muon = torch.optim.Muon(
                inside, adjust_lr_fn="match_rms_adamw", lr=learning_rate, weight_decay=weight_decay
            )
            self._parts.append(muon)
        groups = [
            {"params": outer, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if groups:
            betas = (0.9, adam_beta2)
            self._parts.append(torch.optim.AdamW(groups, lr=learning_rate, betas=betas))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with both optimizers."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        # Learning-rate schedulers write into these groups, and `state_dict` reads this state.
        groups = iter(self.param_groups)
        for part in self._parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]


def _is_outer(name: str) -> bool:
    return "embed" in name or "lm_head" in name
