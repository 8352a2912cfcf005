"""`PrefixCache`: which row of the KV cache holds which tokens, and which row serves a new prompt.

A prompt that continues a cached sequence takes over its row. One that shares only its beginning
with a cached sequence gets a copy of that part, in the least recently used row. Only token ids are
compared: a row's ids are exactly those that its keys and values were computed from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from eto_agents.models.local.cpu_attention import RowGroup
from eto_agents.models.local.kv_cache import CHUNK_TOKENS, KVCache

Ids = NDArray[np.int32]

MIN_SHARED_TOKENS: Final = 16
"""A shorter common prefix is computed again: copying it would save nothing."""

_MIN_GROUP_ROWS: Final = 8
_SWAP_COST_READS: Final = 6  # moving a token to another row costs as much as reading it this often


@dataclass(slots=True)
class Row:
    """A row of the KV cache.

    Attributes:
        ids: the tokens whose keys and values it holds.
        last_used: the number of the batch that it was last in.
    """

    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    last_used: int = 0

    @property
    def n_tokens(self) -> int:
        """Number of tokens it holds."""
        return len(self.ids)


class PrefixCache:
    """The KV cache of one model with the token ids of its rows.

    Attributes:
        cache: keys and values.
        rows: what the rows hold.
    """

    def __init__(self, model: Any, max_bytes: int) -> None:
        """Create a cache without rows.

        Args:
            model: a causal language model of `transformers`.
            max_bytes: the most memory that keys and values may take.
        """
        self.cache = KVCache()
        self.rows: list[Row] = []
        self._n_batches = 0
        self._max_bytes = max_bytes
        self._bytes_per_token = _bytes_per_token(model)

    def max_rows(self, n_tokens: int) -> int:
        """How many rows of this length fit; rows are never shorter than the longest so far."""
        n_tokens = max(n_tokens, self.cache.n_tokens)
        n_tokens = -(-n_tokens // CHUNK_TOKENS) * CHUNK_TOKENS
        return max(1, self._max_bytes // (n_tokens * self._bytes_per_token))

    def reserve(self, n_rows: int, n_tokens: int) -> None:
        """Have at least this many rows of this length."""
        allowed = self.max_rows(n_tokens)
        if len(self.rows) > allowed and n_tokens > self.cache.n_tokens:
            # Longer rows, and so fewer of them. It is rare, so the contents may be lost.
            self.cache.clear()
            self.rows.clear()
        while len(self.rows) < n_rows:
            self.rows.append(Row())
        self.cache.reserve(len(self.rows), n_tokens)

    def assign(self, prompts: Sequence[Ids]) -> tuple[dict[int, int], list[int]]:
        """Give each prompt a row that holds as much of it as is cached.

        Returns:
            The prompts' rows, by their indices, and the indices of prompts that continue no row.
        """
        self._n_batches += 1
        rows = self._match(prompts)
        unmatched = [index for index in range(len(prompts)) if index not in rows]
        for index in unmatched:
            rows[index] = self._evict(prompts[index], set(rows.values()))
        return rows, unmatched

    def compact(self, rows: dict[int, int]) -> list[int]:
        """Move the prompts' rows to the front, so that they are rows 0 to n - 1.

        Args:
            rows: the prompts' rows, by their indices.

        Returns:
            For each of the first n rows, the index of its prompt.
        """
        n = len(rows)
        index_at = {row: index for index, row in rows.items()}
        holes = iter([row for row in range(n) if row not in index_at])
        for row in sorted(row for row in index_at if row >= n):
            hole = next(holes)
            self.swap(hole, row, max(self.rows[hole].n_tokens, self.rows[row].n_tokens))
            index_at[hole] = index_at.pop(row)
        return [index_at[row] for row in range(n)]

    def sort_by_length(self, indices: list[int], lengths: Sequence[int], n_new: int) -> list[int]:
        """Move long prompts to the front if that saves more than it costs.

        Rows of a group are read up to the longest of them, so groups should be of like lengths.

        Args:
            indices: for each of the first n rows, the index of its prompt.
            lengths: lengths of the prompts, by index.
            n_new: the most decoding steps that follow.

        Returns:
            `indices`, in the new order.
        """

        def n_read(order: Sequence[int]) -> int:
            """Tokens that a decoding step reads."""
            groups = row_groups([lengths[index] for index in order])
            return sum((last - first) * n_tokens for first, last, n_tokens in groups)

        wanted = sorted(range(len(indices)), key=lambda row: (-lengths[indices[row]], row))
        n_moved = sum(self.rows[row].n_tokens for i, row in enumerate(wanted) if i != row)
        n_saved = n_read(indices) - n_read([indices[row] for row in wanted])
        if n_saved * n_new <= _SWAP_COST_READS * n_moved:
            return indices
        origins = list(range(len(indices)))  # for each row, which row it was before
        for target, origin in enumerate(wanted):
            source = origins.index(origin)
            if source != target:
                longest = max(self.rows[source].n_tokens, self.rows[target].n_tokens)
                self.swap(source, target, longest)
                origins[source], origins[target] = origins[target], origins[source]
        return [indices[row] for row in origins]

    def swap(self, a: int, b: int, n_tokens: int) -> None:
        """Swap two rows; their first `n_tokens` are moved."""
        self.cache.swap(a, b, n_tokens)
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]

    def _match(self, prompts: Sequence[Ids]) -> dict[int, int]:
        """Rows that prompts continue, by the prompts' indices.

        First the rows that are a prefix of a prompt, then those of which more than half is; the
        rest of such a row is dropped.
        """
        raw_rows = [row.ids.tobytes() for row in self.rows]
        raw_prompts = [prompt.tobytes() for prompt in prompts]
        prefixes = [
            (len(raw_row), index, row)
            for index, raw_prompt in enumerate(raw_prompts)
            for row, raw_row in enumerate(raw_rows)
            if len(raw_row) >= 4 * MIN_SHARED_TOKENS  # an id has four bytes
            and raw_prompt.startswith(raw_row)
        ]
        rows = _pair(prefixes, {})
        partly = []
        for index in set(range(len(prompts))) - set(rows):
            for row in set(range(len(self.rows))) - set(rows.values()):
                n = n_common(self.rows[row].ids, prompts[index])
                if 2 * n > max(self.rows[row].n_tokens, MIN_SHARED_TOKENS):
                    partly.append((n, index, row))
        rows = _pair(partly, rows)
        for index, row in rows.items():
            matched = self.rows[row]
            matched.ids = matched.ids[: n_common(matched.ids, prompts[index])]
            matched.last_used = self._n_batches
        return rows

    def _evict(self, prompt: Ids, taken: set[int]) -> int:
        """Give the least recently used row to a prompt, with as much of it as another row has."""
        free = [row for row in range(len(self.rows)) if row not in taken]
        target = min(free, key=lambda row: self.rows[row].last_used)
        shared = [n_common(row.ids, prompt) for row in self.rows]
        # Of rows that share equally much the target itself is best: nothing is copied.
        source = max(range(len(shared)), key=lambda row: (shared[row], row == target))
        n_shared = shared[source] if shared[source] >= MIN_SHARED_TOKENS else 0
        if source != target and n_shared:
            self.cache.copy(source, target, n_shared)
        self.rows[target].ids = prompt[:n_shared]
        self.rows[target].last_used = self._n_batches
        return target


def row_groups(lengths: Sequence[int]) -> list[RowGroup]:
    """Neighbouring rows in up to four groups of at least eight rows, from the rows' lengths."""
    n = len(lengths)
    size = max(_MIN_GROUP_ROWS, -(-n // 4))
    return [RowGroup(i, min(i + size, n), max(lengths[i : i + size])) for i in range(0, n, size)]


def n_common(a: Ids, b: Ids) -> int:
    """Length of the longest common prefix of two sequences."""
    n = min(len(a), len(b))
    if not n:
        return 0
    differs = a[:n] != b[:n]
    first = int(differs.argmax())
    return first if differs[first] else n


def _pair(candidates: list[tuple[int, int, int]], rows: dict[int, int]) -> dict[int, int]:
    """Add pairs to the rows by prompt: the longest match first, each prompt and row once.

    Args:
        candidates: matches, each (length, prompt's index, row).
        rows: the pairs so far.
    """
    rows = dict(rows)
    taken = set(rows.values())
    for _, index, row in sorted(candidates, key=lambda match: (-match[0], *match[1:])):
        if index not in rows and row not in taken:
            rows[index] = row
            taken.add(row)
    return rows


def _bytes_per_token(model: Any) -> int:
    """Of keys and values in all layers; at most so where the config leaves it open."""
    config = model.config.get_text_config()
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_bytes: int = torch.empty((), dtype=model.dtype).element_size()
    return 2 * int(config.num_hidden_layers) * int(n_kv_heads) * int(head_size) * n_bytes
