"""`Rows`: which row of the cache holds what, and which of them a text goes on from.

Only token ids count: what a row holds is exactly the ids that went into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from eto_agents.models.local.cpu_attention import Group
from eto_agents.models.local.kv_cache import CHUNK_TOKENS, KeyValueCache

Ids = NDArray[np.int32]

MIN_SHARED_TOKENS: Final = 16
"""A shorter common beginning is read anew."""

_MIN_GROUP_ROWS: Final = 8  # that attend together
_SWAP_COST_READS: Final = 6  # what moving a token costs, in reads of it


@dataclass(slots=True)
class Row:
    """What a row of the cache holds."""

    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    used: int = 0  # the call it was last used in

    @property
    def n_tokens(self) -> int:
        """How many."""
        return len(self.ids)


class Rows:
    """The rows of one model's cache.

    Attributes:
        cache: keys and values.
        rows: what they hold.
    """

    def __init__(self, model: Any, max_bytes: int) -> None:
        """Make none yet."""
        self.cache = KeyValueCache()
        self.rows: list[Row] = []
        self._clock = 0
        self._max_bytes = max_bytes
        self._bytes_per_token = _bytes_per_token(model)

    def most_rows(self, n_tokens: int) -> int:
        """How many rows there may be; they are as long as the longest ever was."""
        n_tokens = max(n_tokens, self.cache.n_tokens)
        n_tokens = -(-n_tokens // CHUNK_TOKENS) * CHUNK_TOKENS
        return max(1, self._max_bytes // (n_tokens * self._bytes_per_token))

    def make_room(self, n_rows: int, n_tokens: int) -> None:
        """Have so many rows of so many tokens at least."""
        allowed = self.most_rows(n_tokens)
        if len(self.rows) > allowed and n_tokens > self.cache.n_tokens:
            # Longer rows, so fewer of them: rarely needed, so it may begin anew.
            self.cache.clear()
            self.rows.clear()
        while len(self.rows) < n_rows:
            self.rows.append(Row())
        self.cache.reserve(len(self.rows), n_tokens)

    def place(self, texts: Sequence[Ids]) -> tuple[dict[int, int], list[int]]:
        """A row for each text, which holds as much of it as there is.

        Returns:
            Rows by the texts' numbers, and the numbers of texts that go on from no row.
        """
        self._clock += 1
        places = self._match(texts)
        fresh = [number for number in range(len(texts)) if number not in places]
        for number in fresh:
            places[number] = self._take(texts[number], set(places.values()))
        return places, fresh

    def gather(self, places: dict[int, int]) -> list[int]:
        """Swap rows until the texts' are the first; the text's number of each."""
        n = len(places)
        at = {place: number for number, place in places.items()}
        holes = iter([place for place in range(n) if place not in at])
        for place in sorted(place for place in at if place >= n):
            hole = next(holes)
            self.swap(hole, place, max(self.rows[hole].n_tokens, self.rows[place].n_tokens))
            at[hole] = at.pop(place)
        return [at[place] for place in range(n)]

    def sort(self, numbers: list[int], lengths: Sequence[int], n_new: int) -> list[int]:
        """Put longer texts first, if that saves more than it costs."""
        wanted = sorted(range(len(numbers)), key=lambda place: (-lengths[numbers[place]], place))
        moved = sum(self.rows[place].n_tokens for i, place in enumerate(wanted) if i != place)
        n_read = (
            sum((last - first) * n for first, last, n in groups_of([lengths[i] for i in order]))
            for order in (numbers, [numbers[place] for place in wanted])
        )
        if (next(n_read) - next(n_read)) * n_new <= _SWAP_COST_READS * moved:
            return numbers
        at = list(range(len(numbers)))  # which of the rows of before is where
        for target, place in enumerate(wanted):
            source = at.index(place)
            if source != target:
                longest = max(self.rows[source].n_tokens, self.rows[target].n_tokens)
                self.swap(source, target, longest)
                at[source], at[target] = at[target], at[source]
        return [numbers[place] for place in at]

    def swap(self, a: int, b: int, n_tokens: int) -> None:
        """Swap two rows with their first tokens."""
        self.cache.swap(a, b, n_tokens)
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]

    def _match(self, texts: Sequence[Ids]) -> dict[int, int]:
        """Rows that a text goes on from, all or most of them, by the text's number."""
        raw_rows = [row.ids.tobytes() for row in self.rows]
        all_of = [
            (len(raw_row), number, place)
            for number, raw in enumerate(text.tobytes() for text in texts)
            for place, raw_row in enumerate(raw_rows)
            if len(raw_row) >= 4 * MIN_SHARED_TOKENS and raw.startswith(raw_row)
        ]
        places = _pair_off(all_of, {})
        most_of = []
        for number in set(range(len(texts))) - set(places):
            for place in set(range(len(self.rows))) - set(places.values()):
                n = n_common(self.rows[place].ids, texts[number])
                if 2 * n > max(self.rows[place].n_tokens, MIN_SHARED_TOKENS):
                    most_of.append((n, number, place))
        places = _pair_off(most_of, places)
        for number, place in places.items():
            row = self.rows[place]
            row.ids = row.ids[: n_common(row.ids, texts[number])]
            row.used = self._clock
        return places

    def _take(self, text: Ids, taken: set[int]) -> int:
        """The row unused for longest, with as much of the text as another row has."""
        free = [place for place in range(len(self.rows)) if place not in taken]
        target = min(free, key=lambda place: self.rows[place].used)
        shared = [n_common(row.ids, text) for row in self.rows]
        source = max(range(len(shared)), key=lambda place: (shared[place], place == target))
        n_shared = shared[source] if shared[source] >= MIN_SHARED_TOKENS else 0
        if source != target and n_shared:
            self.cache.copy(source, target, n_shared)
        self.rows[target].ids = text[:n_shared]
        self.rows[target].used = self._clock
        return target


def groups_of(lengths: Sequence[int]) -> list[Group]:
    """Neighbouring rows in up to four groups."""
    n = len(lengths)
    size = max(_MIN_GROUP_ROWS, -(-n // 4))
    return [Group(i, min(i + size, n), max(lengths[i : i + size])) for i in range(0, n, size)]


def n_common(a: Ids, b: Ids) -> int:
    """How many tokens two texts begin with in common."""
    n = min(len(a), len(b))
    if not n:
        return 0
    differs = a[:n] != b[:n]
    first = int(differs.argmax())
    return first if differs[first] else n


def _pair_off(fits: list[tuple[int, int, int]], places: dict[int, int]) -> dict[int, int]:
    """Rows by text's number, from fits (tokens, number, row), the longest first."""
    places = dict(places)
    taken = set(places.values())
    for _, number, place in sorted(fits, key=lambda fit: (-fit[0], *fit[1:])):
        if number not in places and place not in taken:
            places[number] = place
            taken.add(place)
    return places


def _bytes_per_token(model: Any) -> int:
    """Of keys and values in all layers; where a config does not say, the most it could be."""
    config = model.config.get_text_config()
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_bytes: int = torch.empty((), dtype=model.dtype).element_size()
    return 2 * int(config.num_hidden_layers) * int(n_kv_heads) * int(head_size) * n_bytes
