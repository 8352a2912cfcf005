"""`Runner`: what runs the model over a batch and gives logits; and one without a KV cache.

`UncachedRunner` recomputes everything for every token, which is slow and right for every
architecture: `eto_agents.models.local.cached_runner` is checked against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Prefilled(NamedTuple):
    """A row of a batch after prefill.

    Attributes:
        prompt: index of the prompt that it holds.
        n_cached: tokens of the prompt that were cached already.
    """

    prompt: int
    n_cached: int


class Runner(Protocol):
    """Runs a model over a batch of sequences, rows 0 to n - 1: prefill, then decoding steps."""

    def max_rows(self, n_tokens: int) -> int:
        """How many sequences of this length fit into memory; at least 1."""

    def reserve(self, n_rows: int, n_tokens: int) -> None:
        """Allocate memory for this many sequences of this length, as far as there is enough."""

    def prefill(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[Prefilled]:
        """Run the model over all but the last token of each prompt.

        Args:
            prompts: token ids; at least one each.
            n_new: the most tokens that follow a prompt.

        Returns:
            One for each row of the batch.
        """

    def decode(self, tokens: Tensor, active: Tensor) -> Tensor:
        """Run the model over one more token a row.

        Args:
            tokens: (n,), the tokens.
            active: (n,), bool; other rows do not grow, and their logits mean nothing.

        Returns:
            Logits (n, vocabulary) of the token after.
        """

    def select(self, rows: Sequence[int]) -> list[int]:
        """Shrink the batch to these rows, which become rows 0 to len(rows) - 1 in any order.

        Returns:
            For each new row, its old one.
        """

    def finish(self, sequences: Sequence[Sequence[int]]) -> None:
        """End the batch.

        Args:
            sequences: for each prompt, the ids that the model was run over, the prompt's included.
        """


class UncachedRunner:
    """Recomputes the whole sequence for every token, one sequence at a time."""

    def __init__(self, model: Any) -> None:
        """Take a causal language model of `transformers`."""
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._sequences: list[list[int]] = []

    def max_rows(self, n_tokens: int) -> int:
        """Practically unlimited."""
        return 1 << 30

    def reserve(self, n_rows: int, n_tokens: int) -> None:
        """See `Runner`; nothing to do."""

    def prefill(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[Prefilled]:
        """See `Runner`; only stores the prompts."""
        self._sequences = [list(prompt[:-1]) for prompt in prompts]
        return [Prefilled(index, 0) for index in range(len(prompts))]

    def decode(self, tokens: Tensor, active: Tensor) -> Tensor:
        """See `Runner`; rows that are not active have logits 0."""
        rows = zip(self._sequences, tokens.tolist(), active.tolist(), strict=True)
        logits: list[Tensor | None] = []
        for sequence, token, is_active in rows:
            if not is_active:
                logits.append(None)
                continue
            sequence.append(token)
            ids = torch.tensor([sequence], device=self._device)
            logits.append(self._model(input_ids=ids, use_cache=False).logits[0, -1])
        shape = next(row for row in logits if row is not None)
        return torch.stack([torch.zeros_like(shape) if row is None else row for row in logits])

    def select(self, rows: Sequence[int]) -> list[int]:
        """See `Runner`."""
        self._sequences = [self._sequences[row] for row in rows]
        return list(rows)

    def finish(self, sequences: Sequence[Sequence[int]]) -> None:
        """See `Runner`; nothing to do."""
