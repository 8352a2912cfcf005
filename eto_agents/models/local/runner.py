"""`Reader`: what reads token ids and gives logits; and `Plain`, the simplest one.

`Plain` keeps nothing between two tokens, which is slow and right for every architecture; it is what
`eto_agents.models.local.cached_runner` is checked against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Reader(Protocol):
    """What continues conversations, rows 0 to n - 1."""

    def most_rows(self, n_tokens: int) -> int:
        """How many conversations of so many tokens fit in memory; at least 1."""

    def expect(self, n_rows: int, n_tokens: int) -> None:
        """Keep so many conversations of so many tokens from now on, as far as memory allows."""

    def begin(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[tuple[int, int]]:
        """Read all but the last token of prompts, and make room for `n_new` tokens more.

        Returns:
            For every row: the number of its prompt, and how many of its tokens were known.
        """

    def step(self, tokens: Tensor, live: Tensor) -> Tensor:
        """Read one token (n,) a row; logits (n, vocabulary). Only `live` (n,) rows grow by it."""

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with these of the rows alone, which become rows 0 to len(rows) - 1.

        Returns:
            For every row from now on: which it was.
        """

    def end(self, texts: Sequence[Sequence[int]]) -> None:
        """Say what was read in all, by prompt."""


class Plain:
    """Reads everything anew for every token."""

    def __init__(self, model: Any) -> None:
        """Take a causal language model of `transformers`."""
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._texts: list[list[int]] = []

    def most_rows(self, n_tokens: int) -> int:
        """No bound: rows are read one by one."""
        return 1 << 30

    def expect(self, n_rows: int, n_tokens: int) -> None:
        """See `Reader`."""

    def begin(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[tuple[int, int]]:
        """See `Reader`."""
        self._texts = [list(prompt[:-1]) for prompt in prompts]
        return [(number, 0) for number in range(len(prompts))]

    def step(self, tokens: Tensor, live: Tensor) -> Tensor:
        """See `Reader`; rows that are not live have logits 0."""
        logits: list[Tensor | None] = []
        for text, token, is_live in zip(self._texts, tokens.tolist(), live.tolist(), strict=True):
            if not is_live:
                logits.append(None)
                continue
            text.append(token)
            ids = torch.tensor([text], device=self._device)
            logits.append(self._model(input_ids=ids, use_cache=False).logits[0, -1])
        shape = next(row for row in logits if row is not None)
        return torch.stack([torch.zeros_like(shape) if row is None else row for row in logits])

    def keep(self, rows: Sequence[int]) -> list[int]:
        """See `Reader`."""
        self._texts = [self._texts[row] for row in rows]
        return list(rows)

    def end(self, texts: Sequence[Sequence[int]]) -> None:
        """See `Reader`."""
