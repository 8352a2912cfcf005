"""`CachedRunner`: prefill and decoding with a KV cache that persists between batches.

Each token of a conversation is computed at most once over all its turns: the next turn's prompt
continues the row that holds the last one's (`prefix_cache`), and a prefix that new prompts share,
such as the prompt of their world, is computed once and copied. On CPUs batches are ragged
(`cpu_attention`); elsewhere, and where a layer has a sliding window, they are padded on the right.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eto_agents.models.local import cpu_attention
from eto_agents.models.local.cpu_attention import AttentionPlan, Chunk, RowGroup, attend_by
from eto_agents.models.local.prefix_cache import (
    MIN_SHARED_TOKENS,
    Ids,
    PrefixCache,
    n_common,
    row_groups,
)
from eto_agents.models.local.runner import Prefilled

_MAX_PASS_TOKENS: Final = 8192  # of a padded prefill pass, padding included
_MAX_CHUNK_TOKENS: Final = 2048  # of one sequence in it
_PASS_OVERHEAD_TOKENS: Final = 48  # what one more pass costs, in tokens
_MAX_PACKED_TOKENS: Final = 1024  # of a packed prefill pass: more do not fit into a core's cache


class AttentionPattern(NamedTuple):
    """Which earlier tokens a model's layers attend to.

    Attributes:
        layer_kinds: names of the kinds of its layers; empty if all are alike.
        window: how many tokens a sliding window has, None if no layer has one.
    """

    layer_kinds: frozenset[str]
    window: int | None


class CachedRunner:
    """Runs one model with its KV cache; see the module and `runner.Runner`."""

    def __init__(self, model: Any, pattern: AttentionPattern, max_cache_bytes: int) -> None:
        """Create a runner with an empty cache.

        Args:
            model: a causal language model of `transformers`.
            pattern: its attention.
            max_cache_bytes: the most memory that keys and values may take.
        """
        self._model = model
        self._pattern = pattern
        self._device = model.get_input_embeddings().weight.device
        self._prefixes = PrefixCache(model, max_cache_bytes)
        self._cache = self._prefixes.cache
        self._cache_argument = cache_argument(model)
        self._is_ragged = pattern.window is None and cpu_attention.is_supported(model)
        # Of the batch: its size, the tokens in each row (n,), each prompt's row, and for ragged
        # attention the length of the prefix that all rows share and the rows' groups.
        self._n_rows = 0
        self._lengths = torch.zeros(0, dtype=torch.long)
        self._prompt_rows: list[int] = []
        self._n_shared = 0
        self._groups: list[RowGroup] = []

    def max_rows(self, n_tokens: int) -> int:
        """See `Runner`; rows are never shorter than the longest so far."""
        return self._prefixes.max_rows(n_tokens)

    def reserve(self, n_rows: int, n_tokens: int) -> None:
        """See `Runner`."""
        self._prefixes.reserve(min(n_rows, self._prefixes.max_rows(n_tokens)), n_tokens)

    def prefill(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[Prefilled]:
        """See `Runner`."""
        sequences = [np.asarray(prompt, np.int32) for prompt in prompts]
        self._prefixes.reserve(len(sequences), max(map(len, sequences)) + n_new)
        rows, unmatched = self._prefixes.assign(sequences)
        n_cached = [0] * len(sequences)
        for index, row in rows.items():
            cached = self._prefixes.rows[row]
            # The last token is never taken from the cache: its logits give the first new one.
            cached.ids = cached.ids[: len(sequences[index]) - 1]
            n_cached[index] = cached.n_tokens
        self._prefill_shared(unmatched, sequences, rows, n_cached)
        order = self._prefixes.compact(rows)  # the prompt's index of each row
        if self._is_ragged:
            lengths = [len(sequence) for sequence in sequences]
            order = self._prefixes.sort_by_length(order, lengths, n_new)
        batch = dict(enumerate(sequences[index][:-1] for index in order))
        self._compute(batch)
        self._n_rows = len(batch)
        self._n_shared = _n_shared(list(batch.values()))
        row_lengths = [len(sequence) for sequence in batch.values()]
        self._lengths = torch.tensor(row_lengths, device=self._device)
        self._groups = row_groups(row_lengths)
        self._prompt_rows = [order.index(index) for index in range(len(sequences))]
        return [Prefilled(index, n_cached[index]) for index in order]

    def decode(self, tokens: Tensor, active: Tensor) -> Tensor:
        """See `Runner`."""
        columns = self._lengths[:, None]  # (n, 1): a row's new token goes behind its last
        # An upper bound: no row grows by more than one token a step.
        self._groups = [RowGroup(first, last, n + 1) for first, last, n in self._groups]
        n_visible = max(group.n_tokens for group in self._groups)
        plan = AttentionPlan(self._cache, groups=self._groups, n_shared=self._n_shared)
        with attend_by(self._model, plan) if self._is_ragged else contextlib.nullcontext():
            logits = self._forward(None, tokens.to(self._device)[:, None], columns, n_visible)
        # An inactive row stays as long as it is: its next token overwrites this one.
        self._lengths = self._lengths + active.to(self._device)
        return logits[:, -1]

    def select(self, rows: Sequence[int]) -> list[int]:
        """See `Runner`; selected rows among the first len(rows) stay where they are."""
        selected = set(rows)
        holes = [row for row in range(len(rows)) if row not in selected]
        movers = [row for row in rows if row >= len(rows)]
        order = list(range(self._n_rows))  # for each row, which row it was before
        for hole, mover in zip(holes, movers, strict=True):
            n_tokens = int(torch.maximum(self._lengths[hole], self._lengths[mover]))
            self._prefixes.swap(hole, mover, n_tokens)
            order[hole], order[mover] = mover, hole
        new_rows = {old: new for new, old in enumerate(order)}
        self._prompt_rows = [new_rows.get(row, row) for row in self._prompt_rows]
        order = order[: len(rows)]
        self._lengths = self._lengths[torch.tensor(order, device=self._device)]
        self._n_rows = len(rows)
        self._groups = row_groups(self._lengths.tolist())
        return order

    def finish(self, sequences: Sequence[Sequence[int]]) -> None:
        """See `Runner`; the rows are then known by these ids."""
        for row, sequence in zip(self._prompt_rows, sequences, strict=True):
            self._prefixes.rows[row].ids = np.asarray(sequence, np.int32)

    def _prefill_shared(
        self,
        unmatched: Sequence[int],
        sequences: Sequence[Ids],
        rows: Mapping[int, int],
        n_cached: list[int],
    ) -> None:
        """Compute the prefix that the unmatched prompts share once, and copy it to their rows."""
        if len(unmatched) < 2:
            return
        first, *others = unmatched
        n_shared = min(n_common(sequences[first], sequences[index]) for index in others)
        n_shared = min(n_shared, *(len(sequences[index]) - 1 for index in unmatched))
        if n_shared < max(n_cached[index] for index in unmatched) + MIN_SHARED_TOKENS:
            return
        self._compute({rows[first]: sequences[first][:n_shared]})
        for index in others:
            self._cache.copy(rows[first], rows[index], n_shared)
            self._prefixes.rows[rows[index]].ids = sequences[index][:n_shared]
            n_cached[index] = n_shared

    def _compute(self, sequences: Mapping[int, Ids]) -> None:
        """Compute keys and values of sequences, by row, from where their rows end."""
        if self._is_ragged:
            self._compute_packed(sequences)
        else:
            self._compute_padded(sequences)

    def _compute_padded(self, sequences: Mapping[int, Ids]) -> None:
        """In passes over sequences of like remaining length, padded on the right."""
        while True:
            n_left = {
                row: min(len(sequence) - self._prefixes.rows[row].n_tokens, _MAX_CHUNK_TOKENS)
                for row, sequence in sequences.items()
                if len(sequence) > self._prefixes.rows[row].n_tokens
            }
            if not n_left:
                return
            for rows in split_by_length(n_left):
                self._compute_padded_pass(rows, sequences, n_left)

    def _compute_padded_pass(
        self, rows: Sequence[int], sequences: Mapping[int, Ids], n_left: Mapping[int, int]
    ) -> None:
        starts = [self._prefixes.rows[row].n_tokens for row in rows]
        longest = max(n_left[row] for row in rows)
        # Tokens and columns are (rows, longest). Padding is written behind a row's end, where
        # nothing attends to it and the row's next tokens overwrite it.
        tokens = np.zeros((len(rows), longest), np.int64)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            chunk = sequences[row][start : start + n_left[row]]
            tokens[i, : len(chunk)] = chunk
        columns = torch.tensor(starts)[:, None] + torch.arange(longest)
        n_visible = int(columns.max()) + 1
        self._cache.reserve(self._cache.n_rows, n_visible)  # padding may exceed what was reserved
        self._forward(
            torch.tensor(rows, device=self._device),
            torch.from_numpy(tokens).to(self._device),
            columns.to(self._device),
            n_visible,
        )
        for row, start in zip(rows, starts, strict=True):
            self._prefixes.rows[row].ids = sequences[row][: start + n_left[row]]

    def _compute_packed(self, sequences: Mapping[int, Ids]) -> None:
        """In passes over packed batches: chunks of sequences one after the other, no padding."""
        chunks: list[Chunk] = []
        for row, sequence in sequences.items():
            start = self._prefixes.rows[row].n_tokens
            while start < len(sequence):
                room = _MAX_PACKED_TOKENS - sum(chunk.n_tokens for chunk in chunks)
                chunks.append(Chunk(row, start, min(len(sequence) - start, room)))
                start += chunks[-1].n_tokens
                if chunks[-1].n_tokens == room:
                    self._compute_packed_pass(chunks, sequences)
                    chunks = []
            self._prefixes.rows[row].ids = sequence
        if chunks:
            self._compute_packed_pass(chunks, sequences)

    def _compute_packed_pass(self, chunks: Sequence[Chunk], sequences: Mapping[int, Ids]) -> None:
        # Of every token, all (n,): its id, its row in the cache, and its column there, which is
        # its position, too.
        spans = [(row, slice(start, start + n)) for row, start, n in chunks]
        tokens = np.concatenate([sequences[row][span] for row, span in spans]).astype(np.int64)
        columns = np.concatenate([np.arange(span.start, span.stop) for _, span in spans])
        rows = np.repeat([chunk.row for chunk in chunks], [chunk.n_tokens for chunk in chunks])
        self._cache.set_packed(torch.from_numpy(rows), torch.from_numpy(columns))
        with attend_by(self._model, AttentionPlan(self._cache, chunks=chunks)):
            self._model(
                input_ids=torch.from_numpy(tokens)[None],
                attention_mask=torch.zeros(1, 1, 1, 1),  # ignored: each chunk has its own mask
                position_ids=torch.from_numpy(columns)[None],
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_argument: self._cache},
            )

    def _forward(
        self, rows: Tensor | None, tokens: Tensor, columns: Tensor, n_visible: int
    ) -> Tensor:
        """Run the model over n tokens a row.

        Args:
            rows: (batch,), the rows of the cache; None for the first ones.
            tokens: (batch, n), the tokens' ids.
            columns: (batch, n), the columns that they are written to, which are their positions.
            n_visible: how many columns attention is given.

        Returns:
            Logits (batch, 1, vocabulary) of the last token of each row.
        """
        self._cache.set_batch(rows, columns, n_visible)
        logits: Tensor = self._model(
            input_ids=tokens,
            attention_mask=self._masks(columns, n_visible),
            position_ids=columns,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: self._cache},
        ).logits
        return logits

    def _masks(self, columns: Tensor, n_visible: int) -> Any:
        """What each token attends to, from the columns (batch, n) that the tokens are in.

        Returns:
            A mask (batch, 1, n, n_visible) to be added to attention scores, 0 or -inf; a dict of
            masks by kind of layer where the model has several.
        """
        kinds, window = self._pattern
        # How far back each column lies, (batch, 1, n, n_visible): negative for later tokens, the
        # padding and what an earlier sequence left in the row.
        distance = columns[:, None, :, None] - torch.arange(n_visible, device=columns.device)
        # A boolean mask would be converted to this one in every layer.
        dtype = self._model.dtype
        full = torch.zeros((), dtype=dtype, device=columns.device).expand(distance.shape)
        full = full.masked_fill(distance < 0, float("-inf"))
        if window is None:
            return full
        sliding = full.masked_fill(distance >= window, float("-inf"))
        return {"full_attention": full, "sliding_attention": sliding} if kinds else sliding


def cache_argument(model: Any) -> str:
    """The name of the argument of a model's `forward` that takes the KV cache.

    It is ``cache`` since transformers 5.24 and was ``past_key_values`` before; some models of newer
    releases still have the old name.

    Raises:
        TypeError: it has neither.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of an adapter
    # The class's own: trainers and accelerate put a `forward(*args, **kwargs)` on the object.
    accepted = inspect.signature(type(inner).forward).parameters
    for name in ("cache", "past_key_values"):
        if name in accepted:
            return name
    raise TypeError(f"{type(inner).__name__}.forward takes neither cache nor past_key_values")


def split_by_length(lengths: Mapping[int, int]) -> list[list[int]]:
    """Divide rows among prefill passes so that passes and padding together cost least.

    Args:
        lengths: number of tokens to compute, by row.

    Returns:
        The rows of each pass.
    """
    # A pass costs its number of rows times the longest of them, so rows of like lengths belong
    # together. Of the rows sorted, longest first, the best division of the first `end` is the best
    # division of the first `start` and one pass over the others, for the best `start`.
    rows = sorted(lengths, key=lambda row: (-lengths[row], row))
    costs: list[float] = [0.0] + [float("inf")] * len(rows)  # of the first i rows
    starts = [0] * (len(rows) + 1)  # where the last of their passes begins
    for start in range(len(rows)):
        for end in range(start + 1, len(rows) + 1):
            n_tokens = (end - start) * lengths[rows[start]]
            if n_tokens > _MAX_PASS_TOKENS and end > start + 1:
                break
            cost = costs[start] + n_tokens + _PASS_OVERHEAD_TOKENS
            if cost < costs[end]:
                costs[end], starts[end] = cost, start
    passes = []
    end = len(rows)
    while end:
        passes.append(rows[starts[end] : end])
        end = starts[end]
    return passes[::-1]


def _n_shared(sequences: Sequence[Ids]) -> int:
    """Length of the prefix that all sequences share; 0 if it is short or there is only one."""
    if len(sequences) < 2:
        return 0
    n = min(n_common(sequences[0], sequence) for sequence in sequences[1:])
    return n if n >= MIN_SHARED_TOKENS else 0
