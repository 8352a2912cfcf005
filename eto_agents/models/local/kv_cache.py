"""`KeyValueCache`: what a model remembers of many conversations, one row each.

Rows are of any length and live in buffers made in advance, so that a token costs one write and no
copy of all that came before (`transformers`' own `DynamicCache` joins tensors at every token).
Nothing here knows what a row means: see `eto_agents.models.local.cached_runner`.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

CHUNK_TOKENS: Final = 256
"""Buffers grow by whole chunks."""

_Cache: Any = Cache  # untyped, whatever transformers says of itself


class KeyValueCache(_Cache):  # type: ignore[misc]
    """Keys and values of all layers, (rows, heads, tokens, channels) each.

    Attributes:
        n_rows: rows there is room for.
        n_tokens: tokens there is room for in each row.
    """

    def __init__(self) -> None:
        """Make an empty one; buffers are made when a layer first writes."""
        super().__init__(layers=[])
        self.n_rows = 0
        self.n_tokens = 0
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._rows: Any = None  # Tensor | None
        self._is_side_by_side = False
        self._columns = torch.empty(0, 0, dtype=torch.long)
        self._n_visible = 0

    def reserve(self, n_rows: int, n_tokens: int) -> None:
        """Make room, keeping what is there; room is never given back but by `clear`."""
        n_rows = max(n_rows, self.n_rows)
        if n_tokens > self.n_tokens:
            n_tokens = -(-n_tokens // CHUNK_TOKENS) * CHUNK_TOKENS
        n_tokens = max(n_tokens, self.n_tokens)
        if (n_rows, n_tokens) == (self.n_rows, self.n_tokens):
            return
        for i, pair in enumerate(self._buffers):  # one layer after the other: less at once
            keys, values = (self._grown(old, n_rows, n_tokens) for old in pair)
            self._buffers[i] = keys, values
        self.n_rows, self.n_tokens = n_rows, n_tokens

    def clear(self) -> None:
        """Give all memory back."""
        self._buffers.clear()
        self.n_rows = self.n_tokens = 0

    def aim(self, rows: Tensor | None, columns: Tensor, n_visible: int) -> None:
        """Say where the model's next pass writes and what it sees.

        Args:
            rows: the rows of the batch, None for the first ones in order.
            columns: (batch, tokens): where in its row each token is written.
            n_visible: how many columns are handed to the model's attention.
        """
        self._rows, self._columns, self._n_visible = rows, columns, n_visible
        self._is_side_by_side = False

    def aim_side_by_side(self, rows: Tensor, columns: Tensor) -> None:
        """The next pass has one row, each token of which goes to a row (n,) and column (n,).

        Attention is not handed what it is to see: it takes it from `layer`.
        """
        self._rows, self._columns = rows, columns
        self._is_side_by_side = True

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values; all that its attention is to see."""
        while layer_idx >= len(self._buffers):
            # Zeros and not `empty`: what is masked out must be finite, 0 times NaN is NaN.
            made = [
                state.new_zeros(self.n_rows, state.shape[1], self.n_tokens, state.shape[3])
                for state in (key_states, value_states)
            ]
            self._buffers.append((made[0], made[1]))
        pair = self._buffers[layer_idx]
        device = key_states.device
        columns = self._columns.to(device)
        if self._is_side_by_side:
            rows = self._rows.to(device)
            for buffer, new in zip(pair, (key_states, value_states), strict=True):
                buffer[rows, :, columns] = new[0].transpose(0, 1)
            return key_states, value_states
        rows = (
            torch.arange(len(columns), device=device)
            if self._rows is None
            else self._rows.to(device)
        )
        for buffer, new in zip(pair, (key_states, value_states), strict=True):
            buffer[rows[:, None], :, columns] = new.transpose(1, 2)
        # A slice is a view; rows out of order are copied, once for a pass over many tokens.
        seen = slice(len(columns)) if self._rows is None else rows
        keys, values = (buffer[seen, :, : self._n_visible] for buffer in pair)
        return keys, values

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer."""
        return self._buffers[layer_idx]

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Copy the first tokens of a row to another."""
        for pair in self._buffers:
            for buffer in pair:
                buffer[target, :, :n_tokens] = buffer[source, :, :n_tokens]

    def swap(self, a: int, b: int, n_tokens: int) -> None:
        """Swap the first tokens of two rows."""
        for pair in self._buffers:
            for buffer in pair:
                kept = buffer[a, :, :n_tokens].clone()
                buffer[a, :, :n_tokens] = buffer[b, :, :n_tokens]
                buffer[b, :, :n_tokens] = kept

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are always given."""
        return 0

    @staticmethod
    def _grown(old: Tensor, n_rows: int, n_tokens: int) -> Tensor:
        new = old.new_zeros(n_rows, old.shape[1], n_tokens, old.shape[3])
        new[: old.shape[0], :, : old.shape[2]] = old
        return new
