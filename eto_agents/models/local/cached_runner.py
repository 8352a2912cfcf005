"""Reading and continuing many conversations side by side, at most once a token.

`Lockstep` keeps keys and values between calls. A conversation takes over the row that holds its
beginning; one that shares its beginning with another (all of a world share their prompt) gets a
copy of it. The rows that were used longest ago are given up first.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eto_agents.models.local import cpu_attention
from eto_agents.models.local.cpu_attention import Group, Piece, Plan, planned
from eto_agents.models.local.prefix_cache import MIN_SHARED_TOKENS, Ids, Rows, groups_of, n_common

_PASS_TOKENS: Final = 8192  # of one pass over prompts, padding included
_PIECE_TOKENS: Final = 2048  # of one conversation in one pass
_PASS_COST_TOKENS: Final = 48  # what a further pass costs, in tokens
_CPU_PASS_TOKENS: Final = 1024  # more do not fit into a core's cache


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
        self._device = model.get_input_embeddings().weight.device
        self._rows = Rows(model, max_cache_bytes)
        self._cache = self._rows.cache
        self._cache_argument = cache_argument(model)
        self._n_live = 0
        self._lengths = torch.zeros(0, dtype=torch.long)
        self._places: list[int] = []  # of every prompt, its row
        self._n_shared = 0  # tokens that all prompts begin with
        self._groups: list[Group] = []
        self._on_cpu = attention.window is None and cpu_attention.applies(model)

    def most_rows(self, n_tokens: int) -> int:
        """See `Reader`; rows are as long as the longest ever was."""
        return self._rows.most_rows(n_tokens)

    def expect(self, n_rows: int, n_tokens: int) -> None:
        """See `Reader`."""
        self._rows.make_room(min(n_rows, self._rows.most_rows(n_tokens)), n_tokens)

    def begin(self, prompts: Sequence[Sequence[int]], n_new: int) -> list[tuple[int, int]]:
        """See `Reader`."""
        texts = [np.asarray(prompt, np.int32) for prompt in prompts]
        self._rows.make_room(len(texts), max(map(len, texts)) + n_new)
        places, fresh = self._rows.place(texts)
        n_known = [0] * len(texts)
        for number, place in places.items():
            row = self._rows.rows[place]
            # The last token is always read: the reply depends on what it gives.
            row.ids = row.ids[: len(texts[number]) - 1]
            n_known[number] = row.n_tokens
        self._share(fresh, texts, places, n_known)
        numbers = self._rows.gather(places)
        if self._on_cpu:
            numbers = self._rows.sort(numbers, [len(text) for text in texts], n_new)
        self._read([texts[number][:-1] for number in numbers])
        self._n_live = len(texts)
        self._n_shared = _n_shared([texts[number][:-1] for number in numbers])
        lengths = [len(texts[number]) - 1 for number in numbers]
        self._lengths = torch.tensor(lengths, device=self._device)
        self._groups = groups_of(lengths)
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
            self._rows.swap(hole, mover, n_tokens)
            order[hole], order[mover] = mover, hole
        where = {old: new for new, old in enumerate(order)}
        self._places = [where.get(place, place) for place in self._places]
        order = order[: len(rows)]
        self._lengths = self._lengths[torch.tensor(order, device=self._device)]
        self._n_live = len(rows)
        self._groups = groups_of(self._lengths.tolist())
        return order

    def end(self, texts: Sequence[Sequence[int]]) -> None:
        """See `Reader`."""
        for place, text in zip(self._places, texts, strict=True):
            self._rows.rows[place].ids = np.asarray(text, np.int32)

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
        n_shared = min(n_common(texts[first], texts[number]) for number in others)
        n_shared = min(n_shared, *(len(texts[number]) - 1 for number in fresh))
        if n_shared < max(n_known[number] for number in fresh) + MIN_SHARED_TOKENS:
            return
        self._read([texts[first][:n_shared]], [places[first]])
        for number in others:
            self._cache.copy(places[first], places[number], n_shared)
            self._rows.rows[places[number]].ids = texts[number][:n_shared]
            n_known[number] = n_shared

    def _read(self, texts: Sequence[Ids], places: Sequence[int] | None = None) -> None:
        """Read texts in their rows, from where these end on."""
        places = range(len(texts)) if places is None else places
        if self._on_cpu:
            self._read_side_by_side(texts, places)
            return
        while True:
            left = {
                place: min(len(text) - self._rows.rows[place].n_tokens, _PIECE_TOKENS)
                for place, text in zip(places, texts, strict=True)
                if len(text) > self._rows.rows[place].n_tokens
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
            start = self._rows.rows[place].n_tokens
            while start < len(text):
                room = _CPU_PASS_TOKENS - sum(piece.n_tokens for piece in pieces)
                pieces.append(Piece(place, start, min(len(text) - start, room)))
                start += pieces[-1].n_tokens
                if pieces[-1].n_tokens == room:
                    self._read_pieces(pieces, texts, places)
                    pieces = []
            self._rows.rows[place].ids = text
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
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_argument: self._cache},
            )

    def _read_group(
        self, group: Sequence[int], texts: dict[int, Ids], left: dict[int, int]
    ) -> None:
        starts = [self._rows.rows[place].n_tokens for place in group]
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
            self._rows.rows[place].ids = texts[place][: start + left[place]]

    def _pass(self, rows: Tensor | None, tokens: Tensor, columns: Tensor, n_visible: int) -> Tensor:
        """Read tokens (rows, n) at columns (rows, n); logits (rows, 1, vocabulary) of the last."""
        self._cache.aim(rows, columns, n_visible)
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


def cache_argument(model: Any) -> str:
    """The name under which a model's `forward` takes keys and values.

    It is ``cache`` since transformers 5.24 and ``past_key_values`` before, where some models of
    newer releases still have the old one.

    Raises:
        TypeError: it takes neither.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of an adapter
    # The class's own: trainers and accelerate put a `forward(*args, **kwargs)` on the object.
    accepted = inspect.signature(type(inner).forward).parameters
    for name in ("cache", "past_key_values"):
        if name in accepted:
            return name
    raise TypeError(f"{type(inner).__name__}.forward takes neither cache nor past_key_values")


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


def _n_shared(texts: Sequence[Ids]) -> int:
    """How many tokens all texts begin with in common, 0 if too few or of one text."""
    if len(texts) < 2:
        return 0
    n = min(n_common(texts[0], text) for text in texts[1:])
    return n if n >= MIN_SHARED_TOKENS else 0
