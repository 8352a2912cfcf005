"""`KVCache`: keys and values of many sequences, one row each, in preallocated buffers.

A new token costs one write; `transformers`' own `DynamicCache` concatenates tensors at every token,
which copies all earlier ones. The batch is ragged: every row starts at column 0, has its own length
and is right-padded to the buffer's. Which sequence a row holds is `prefix_cache`'s part.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

CHUNK_TOKENS: Final = 256
"""Buffers grow by a multiple of this many tokens."""

_Cache: Any = Cache  # transformers is not type-checked


class KVCache(_Cache):  # type: ignore[misc]
    """Two buffers a layer, keys and values, each of shape (rows, key heads, tokens, channels).

    Attributes:
        n_rows: rows in the buffers.
        n_tokens: tokens in each row of the buffers.
    """

    def __init__(self) -> None:
        """Create an empty cache; a layer's buffers are allocated when it first writes."""
        super().__init__(layers=[])
        self.n_rows = 0
        self.n_tokens = 0
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._rows: Any = None  # Tensor | None
        self._is_packed = False
        self._columns = torch.empty(0, 0, dtype=torch.long)
        self._n_visible = 0

    def reserve(self, n_rows: int, n_tokens: int) -> None:
        """Grow the buffers to at least this size; contents stay. Only `clear` frees memory."""
        n_rows = max(n_rows, self.n_rows)
        if n_tokens > self.n_tokens:
            n_tokens = -(-n_tokens // CHUNK_TOKENS) * CHUNK_TOKENS  # rounded up
        n_tokens = max(n_tokens, self.n_tokens)
        if (n_rows, n_tokens) == (self.n_rows, self.n_tokens):
            return
        # Layer by layer, so that only one layer's buffers are held twice at a time.
        for i, pair in enumerate(self._buffers):
            keys, values = (self._grown(old, n_rows, n_tokens) for old in pair)
            self._buffers[i] = keys, values
        self.n_rows, self.n_tokens = n_rows, n_tokens

    def clear(self) -> None:
        """Free all memory."""
        self._buffers.clear()
        self.n_rows = self.n_tokens = 0

    def set_batch(self, rows: Tensor | None, columns: Tensor, n_visible: int) -> None:
        """Choose where the next forward pass writes, and what its attention is given.

        Args:
            rows: (batch,), the row of each sequence in the batch; None for rows 0 to batch - 1.
            columns: (batch, n), where in its row each of the n new tokens is written.
            n_visible: attention is given the first this many columns of the rows.
        """
        self._rows, self._columns, self._n_visible = rows, columns, n_visible
        self._is_packed = False

    def set_packed(self, rows: Tensor, columns: Tensor) -> None:
        """Choose where the next forward pass, a packed batch of shape (1, n), writes.

        Its attention is given the new keys and values alone and reads the others by `layer`.

        Args:
            rows: (n,), the row of each token.
            columns: (n,), where in its row each token is written.
        """
        self._rows, self._columns = rows, columns
        self._is_packed = True

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values (batch, key heads, n, channels).

        Returns:
            Keys and values that the layer's attention is given; see `set_batch`, `set_packed`.
        """
        while layer_idx >= len(self._buffers):
            # Zeros, not `empty`: masked positions have weight 0, and 0 times NaN is NaN.
            made = [
                state.new_zeros(self.n_rows, state.shape[1], self.n_tokens, state.shape[3])
                for state in (key_states, value_states)
            ]
            self._buffers.append((made[0], made[1]))
        pair = self._buffers[layer_idx]
        device = key_states.device
        columns = self._columns.to(device)
        if self._is_packed:
            rows = self._rows.to(device)
            for buffer, new in zip(pair, (key_states, value_states), strict=True):
                # Two index tensors (n,) around a slice: the target is (n, key heads, channels).
                buffer[rows, :, columns] = new[0].transpose(0, 1)
            return key_states, value_states
        rows = (
            torch.arange(len(columns), device=device)
            if self._rows is None
            else self._rows.to(device)
        )
        for buffer, new in zip(pair, (key_states, value_states), strict=True):
            # (batch, 1) and (batch, n) broadcast: the target is (batch, n, key heads, channels).
            buffer[rows[:, None], :, columns] = new.transpose(1, 2)
        # The slice of a decoding step is a view. Rows in any order, as in prefill, are a copy,
        # which is made once for many tokens.
        selected = slice(len(columns)) if self._rows is None else rows
        keys, values = (buffer[selected, :, : self._n_visible] for buffer in pair)
        return keys, values

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """The whole buffers of a layer: keys and values."""
        return self._buffers[layer_idx]

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Copy the first tokens of a row to another row."""
        for pair in self._buffers:
            for buffer in pair:
                buffer[target, :, :n_tokens] = buffer[source, :, :n_tokens]

    def swap(self, a: int, b: int, n_tokens: int) -> None:
        """Swap the first tokens of two rows."""
        for pair in self._buffers:
            for buffer in pair:
                saved = buffer[a, :, :n_tokens].clone()
                buffer[a, :, :n_tokens] = buffer[b, :, :n_tokens]
                buffer[b, :, :n_tokens] = saved

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0; `transformers` derives positions and masks from it, but both are always passed."""
        return 0

    @staticmethod
    def _grown(old: Tensor, n_rows: int, n_tokens: int) -> Tensor:
        new = old.new_zeros(n_rows, old.shape[1], n_tokens, old.shape[3])
        new[: old.shape[0], :, : old.shape[2]] = old
        return new
