"""Reading and continuing many conversations side by side, at most once a token.

`Lockstep` keeps keys and values between calls. A conversation takes over the row that holds its
beginning; one that shares its beginning with another (all of a world share their prompt) gets a
copy of it. Only token ids count: what a row holds is exactly the ids that went into it. The rows
that were used longest ago are given up first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eto_agents.models import cpu_attention
from eto_agents.models.cpu_attention import Group, Piece, Plan, planned
from eto_agents.models.kv_cache import CHUNK_TOKENS, KeyValueCache

Ids = NDArray[np.int32]

MIN_SHARED_TOKENS: Final = 16
"""A shorter common beginning is read anew."""

_PASS_TOKENS: Final = 8192  # of one pass over prompts, padding included
_PIECE_TOKENS: Final = 2048  # of one conversation in one pass
_PASS_COST_TOKENS: Final = 48  # what a further pass costs, in tokens
_CPU_PASS_TOKENS: Final = 1024  # more do not fit into a core's cache
_MIN_GROUP_ROWS: Final = 8  # that attend together
_SWAP_COST_READS: Final = 6  # what moving a token costs, in reads of it


@dataclass(slots=True)
class _Row:
    """What a row of the cache holds."""

    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    used: int = 0  # the call it was last used in

    @property
    def n_tokens(self) -> int:
        return len(self.ids)


class Attention(NamedTuple):
    """How far a model's layers look back.

    Attributes:
        kinds: the kinds of its layers by name; empty if all are the same and have no name.
        window: tokens that a layer with a window sees, None for no window.
    """

    kinds: frozenset[str]
    window: int | None


class Lockstep:
    """Rows of one model's conversations; see the module and `readers.Reader`."""

    def __init__(self, model: Any, attention: Attention, max_cache_bytes: int) -> None:
        """Take a causal language model of `transformers`, and how much memory rows may take."""
        self._model = model
        self._attention = attention
        self._max_bytes = max_cache_bytes
        self._device = model.get_input_embeddings().weight.device
        self._cache = KeyValueCache()
        self._rows: list[_Row] = []
        self._clock = 0
        self._n_live = 0
        self._lengths = torch.zeros(0, dtype=torch.long)
        self._places: list[int] = []  # of every prompt, its row
        self._n_shared = 0  # tokens that all prompts begin with
        self._groups: list[Group] = []
        self._on_cpu = attention.window is None and cpu_attention.applies(model)
        self._bytes_per_token = _bytes_per_token(model)

    def most_rows(self, n_tokens: int) -> int:
        """See `Reader`; rows are as long as the longest ever was."""
        n_tokens = max(n_tokens, self._cache.n_tokens)
        n_tokens = -(-n_tokens // CHUNK_TOKENS) * CHUNK_TOKENS
        return max(1, self._max_bytes // (n_tokens * self._bytes_per_token))

    def expect(self, n_rows: int, n_tokens: int) -> None:
        """See `Reader`."""
        self._make_room(min(n_rows, self.most_rows(n_tokens)), n_tokens)

    def begin(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[tuple[int, int]]:
        """See `Reader`."""
        self._clock += 1
        texts = [np.asarray(prompt, np.int32) for prompt in prompts]
        self._make_room(len(texts), max(map(len, texts)) + n_new)
        places = self._match(texts)
        n_known = [0] * len(texts)
        fresh = [number for number in range(len(texts)) if number not in places]
        for number in fresh:
            places[number] = self._take(texts[number], set(places.values()))
        for number, place in places.items():
            row = self._rows[place]
            # The last token is always read: the reply depends on what it gives.
            row.ids = row.ids[: len(texts[number]) - 1]
            n_known[number] = row.n_tokens
        self._share(fresh, texts, places, n_known)
        numbers = self._gather(places)
        if self._on_cpu:
            numbers = self._sort(numbers, [len(text) for text in texts], n_new)
        self._read([texts[number][:-1] for number in numbers])
        self._n_live = len(texts)
        self._n_shared = _n_shared([texts[number][:-1] for number in numbers])
        lengths = [len(texts[number]) - 1 for number in numbers]
        self._lengths = torch.tensor(lengths, device=self._device)
        self._groups = _groups(lengths)
        self._places = [numbers.index(number) for number in range(len(texts))]
        return [(number, n_known[number]) for number in numbers]

    def step(self, tokens: Tensor, live: Tensor) -> Tensor:
        """See `Reader`."""
        columns = self._lengths[:, None]
        # No row has grown by more than a token a step.
        self._groups = [Group(first, last, n + 1) for first, last, n in self._groups]
        n_visible = max(group.n_tokens for group in self._groups)
        plan = Plan(self._cache, groups=self._groups, n_shared=self._n_shared)
        with planned(self._model, plan) if self._on_cpu else contextlib.nullcontext():
            logits = self._pass(None, tokens.to(self._device)[:, None], columns, n_visible)
        self._lengths = self._lengths + live.to(self._device)
        return logits[:, -1]

    def keep(self, rows: Sequence[int]) -> list[int]:
        """See `Reader`."""
        stay = set(rows)
        holes = [row for row in range(len(rows)) if row not in stay]
        movers = [row for row in rows if row >= len(rows)]
        order = list(range(self._n_live))
        for hole, mover in zip(holes, movers, strict=True):
            n_tokens = int(torch.maximum(self._lengths[hole], self._lengths[mover]))
            self._swap(hole, mover, n_tokens)
            order[hole], order[mover] = mover, hole
        where = {old: new for new, old in enumerate(order)}
        self._places = [where.get(place, place) for place in self._places]
        order = order[: len(rows)]
        self._lengths = self._lengths[torch.tensor(order, device=self._device)]
        self._n_live = len(rows)
        self._groups = _groups(self._lengths.tolist())
        return order

    def end(self, texts: Sequence[Sequence[int]]) -> None:
        """See `Reader`."""
        for place, text in zip(self._places, texts, strict=True):
            self._rows[place].ids = np.asarray(text, np.int32)

    def _make_room(self, n_rows: int, n_tokens: int) -> None:
        allowed = self.most_rows(n_tokens)
        if len(self._rows) > allowed and n_tokens > self._cache.n_tokens:
            # Longer rows, so fewer of them: rarely needed, so it may begin anew.
            self._cache.clear()
            self._rows.clear()
        while len(self._rows) < n_rows:
            self._rows.append(_Row())
        self._cache.reserve(len(self._rows), n_tokens)

    def _match(self, texts: Sequence[Ids]) -> dict[int, int]:
        """Rows that a text goes on from, all or most of them, by the text's number."""
        raw_rows = [row.ids.tobytes() for row in self._rows]
        all_of = [
            (len(raw_row), number, place)
            for number, raw in enumerate(text.tobytes() for text in texts)
            for place, raw_row in enumerate(raw_rows)
            if len(raw_row) >= 4 * MIN_SHARED_TOKENS and raw.startswith(raw_row)
        ]
        places = _pair_off(all_of, {})
        most_of = []
        for number in set(range(len(texts))) - set(places):
            for place in set(range(len(self._rows))) - set(places.values()):
                n_common = _n_common(self._rows[place].ids, texts[number])
                if 2 * n_common > max(self._rows[place].n_tokens, MIN_SHARED_TOKENS):
                    most_of.append((n_common, number, place))
        places = _pair_off(most_of, places)
        for number, place in places.items():
            row = self._rows[place]
            row.ids = row.ids[: _n_common(row.ids, texts[number])]
            row.used = self._clock
        return places

    def _take(self, text: Ids, taken: set[int]) -> int:
        """The row unused for longest, with as much of the text as another row has."""
        free = [place for place in range(len(self._rows)) if place not in taken]
        target = min(free, key=lambda place: self._rows[place].used)
        shared = [_n_common(row.ids, text) for row in self._rows]
        source = max(range(len(shared)), key=lambda place: (shared[place], place == target))
        n_shared = shared[source] if shared[source] >= MIN_SHARED_TOKENS else 0
        if source != target and n_shared:
            self._cache.copy(source, target, n_shared)
        self._rows[target].ids = text[:n_shared]
        self._rows[target].used = self._clock
        return target

    def _share(
        self,
        fresh: Sequence[int],
        texts: Sequence[Ids],
        places: dict[int, int],
        n_known: list[int],
    ) -> None:
        """Read once what new texts have in common, and copy it."""
        if len(fresh) < 2:
            return
        first, *others = fresh
        n_shared = min(_n_common(texts[first], texts[number]) for number in others)
        n_shared = min(n_shared, *(len(texts[number]) - 1 for number in fresh))
        if n_shared < max(n_known[number] for number in fresh) + MIN_SHARED_TOKENS:
            return
        self._read([texts[first][:n_shared]], [places[first]])
        for number in others:
            self._cache.copy(places[first], places[number], n_shared)
            self._rows[places[number]].ids = texts[number][:n_shared]
            n_known[number] = n_shared

    def _gather(self, places: dict[int, int]) -> list[int]:
        """Swap rows until the texts' are the first; the text's number of each."""
        n = len(places)
        at = {place: number for number, place in places.items()}
        holes = iter([place for place in range(n) if place not in at])
        for place in sorted(place for place in at if place >= n):
            hole = next(holes)
            self._swap(hole, place, max(self._rows[hole].n_tokens, self._rows[place].n_tokens))
            at[hole] = at.pop(place)
        return [at[place] for place in range(n)]

    def _sort(self, numbers: list[int], lengths: Sequence[int], n_new: int) -> list[int]:
        """Put longer texts first, if that saves more than it costs."""
        wanted = sorted(range(len(numbers)), key=lambda place: (-lengths[numbers[place]], place))
        moved = sum(self._rows[place].n_tokens for i, place in enumerate(wanted) if i != place)
        n_read = (
            sum((last - first) * n for first, last, n in _groups([lengths[i] for i in order]))
            for order in (numbers, [numbers[place] for place in wanted])
        )
        if (next(n_read) - next(n_read)) * n_new <= _SWAP_COST_READS * moved:
            return numbers
        at = list(range(len(numbers)))  # which of the rows of before is where
        for target, place in enumerate(wanted):
            source = at.index(place)
            if source != target:
                longest = max(self._rows[source].n_tokens, self._rows[target].n_tokens)
                self._swap(source, target, longest)
                at[source], at[target] = at[target], at[source]
        return [numbers[place] for place in at]

    def _swap(self, a: int, b: int, n_tokens: int) -> None:
        self._cache.swap(a, b, n_tokens)
        self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    def _read(self, texts: Sequence[Ids], places: Sequence[int] | None = None) -> None:
        """Read texts in their rows, from where these end on."""
        places = range(len(texts)) if places is None else places
        if self._on_cpu:
            self._read_side_by_side(texts, places)
            return
        while True:
            left = {
                place: min(len(text) - self._rows[place].n_tokens, _PIECE_TOKENS)
                for place, text in zip(places, texts, strict=True)
                if len(text) > self._rows[place].n_tokens
            }
            if not left:
                return
            by_place = dict(zip(places, texts, strict=True))
            for group in split_by_length(left):
                self._read_group(group, by_place, left)

    def _read_side_by_side(self, texts: Sequence[Ids], places: Sequence[int]) -> None:
        """The same in passes without padding."""
        pieces: list[Piece] = []
        for place, text in zip(places, texts, strict=True):
            start = self._rows[place].n_tokens
            while start < len(text):
                room = _CPU_PASS_TOKENS - sum(piece.n_tokens for piece in pieces)
                pieces.append(Piece(place, start, min(len(text) - start, room)))
                start += pieces[-1].n_tokens
                if pieces[-1].n_tokens == room:
                    self._read_pieces(pieces, texts, places)
                    pieces = []
            self._rows[place].ids = (
                text if len(text) > self._rows[place].n_tokens else self._rows[place].ids
            )
        if pieces:
            self._read_pieces(pieces, texts, places)

    def _read_pieces(
        self, pieces: Sequence[Piece], texts: Sequence[Ids], places: Sequence[int]
    ) -> None:
        by_place = dict(zip(places, texts, strict=True))
        spans = [(place, slice(start, start + n)) for place, start, n in pieces]
        tokens = np.concatenate([by_place[place][span] for place, span in spans]).astype(np.int64)
        columns = np.concatenate([np.arange(span.start, span.stop) for _, span in spans])
        rows = np.repeat([piece.row for piece in pieces], [piece.n_tokens for piece in pieces])
        self._cache.aim_side_by_side(torch.from_numpy(rows), torch.from_numpy(columns))
        with planned(self._model, Plan(self._cache, pieces=pieces)):
            self._model(
                input_ids=torch.from_numpy(tokens)[None],
                attention_mask=torch.zeros(1, 1, 1, 1),  # every piece has its own
                position_ids=torch.from_numpy(columns)[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )

    def _read_group(
        self, group: Sequence[int], texts: dict[int, Ids], left: dict[int, int]
    ) -> None:
        starts = [self._rows[place].n_tokens for place in group]
        longest = max(left[place] for place in group)
        tokens = np.zeros((len(group), longest), np.int64)
        for i, (place, start) in enumerate(zip(group, starts, strict=True)):
            piece = texts[place][start : start + left[place]]
            tokens[i, : len(piece)] = piece
        columns = torch.tensor(starts)[:, None] + torch.arange(longest)
        # Padding may reach beyond a row's room; it is then written where nothing is seen of it.
        self._cache.reserve(self._cache.n_rows, int(columns.max()) + 1)
        self._pass(
            torch.tensor(group, device=self._device),
            torch.from_numpy(tokens).to(self._device),
            columns.to(self._device),
            int(columns.max()) + 1,
        )
        for place, start in zip(group, starts, strict=True):
            self._rows[place].ids = texts[place][: start + left[place]]

    def _pass(self, rows: Tensor | None, tokens: Tensor, columns: Tensor, n_visible: int) -> Tensor:
        """Read tokens (rows, n) at columns (rows, n); logits (rows, 1, vocabulary) of the last."""
        self._cache.aim(rows, columns, n_visible)
        logits: Tensor = self._model(
            input_ids=tokens,
            attention_mask=self._masks(columns, n_visible),
            position_ids=columns,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits

    def _masks(self, columns: Tensor, n_visible: int) -> Any:
        """What each token sees: additive masks (rows, 1, n, n_visible), by kind of layer."""
        kinds, window = self._attention
        distance = columns[:, None, :, None] - torch.arange(n_visible, device=columns.device)
        # Added and not boolean: PyTorch would turn a boolean mask into this one in every layer.
        dtype = self._model.dtype
        full = torch.zeros((), dtype=dtype, device=columns.device).expand(distance.shape)
        full = full.masked_fill(distance < 0, float("-inf"))
        if window is None:
            return full
        near = full.masked_fill(distance >= window, float("-inf"))
        return {"full_attention": full, "sliding_attention": near} if kinds else near


def split_by_length(lengths: dict[int, int]) -> list[list[int]]:
    """Groups to be read together, so that passes and padding cost least.

    Args:
        lengths: tokens to read, by row.
    """
    rows = sorted(lengths, key=lambda row: (-lengths[row], row))
    best: list[float] = [0.0] + [float("inf")] * len(rows)  # cost of the first i rows
    cut = [0] * (len(rows) + 1)
    for start in range(len(rows)):
        for end in range(start + 1, len(rows) + 1):
            n_tokens = (end - start) * lengths[rows[start]]
            if n_tokens > _PASS_TOKENS and end > start + 1:
                break
            cost = best[start] + n_tokens + _PASS_COST_TOKENS
            if cost < best[end]:
                best[end], cut[end] = cost, start
    groups = []
    end = len(rows)
    while end:
        groups.append(rows[cut[end] : end])
        end = cut[end]
    return groups[::-1]


def _pair_off(fits: list[tuple[int, int, int]], places: dict[int, int]) -> dict[int, int]:
    """Rows by text's number, from fits (tokens, number, row), the longest first."""
    places = dict(places)
    taken = set(places.values())
    for _, number, place in sorted(fits, key=lambda fit: (-fit[0], *fit[1:])):
        if number not in places and place not in taken:
            places[number] = place
            taken.add(place)
    return places


def _groups(lengths: Sequence[int]) -> list[Group]:
    """Neighbouring rows in up to four groups."""
    n = len(lengths)
    size = max(_MIN_GROUP_ROWS, -(-n // 4))
    return [Group(i, min(i + size, n), max(lengths[i : i + size])) for i in range(0, n, size)]


def _n_shared(texts: Sequence[Ids]) -> int:
    """How many tokens all texts begin with in common, 0 if too few or of one text."""
    if len(texts) < 2:
        return 0
    n = min(_n_common(texts[0], text) for text in texts[1:])
    return n if n >= MIN_SHARED_TOKENS else 0


def _n_common(a: Ids, b: Ids) -> int:
    """How many tokens two texts begin with in common."""
    n = min(len(a), len(b))
    if not n:
        return 0
    differs = a[:n] != b[:n]
    first = int(differs.argmax())
    return first if differs[first] else n


def _bytes_per_token(model: Any) -> int:
    """Of keys and values in all layers; where a config does not say, the most it could be."""
    config = model.config.get_text_config()
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_bytes: int = torch.empty((), dtype=model.dtype).element_size()
    return 2 * int(config.num_hidden_layers) * int(n_kv_heads) * int(head_size) * n_bytes
