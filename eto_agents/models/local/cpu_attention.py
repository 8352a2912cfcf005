"""Attention over rows of unequal length, on a processor, where padding costs what it weighs.

What a model reads comes as one row of tokens, the pieces of many texts side by side: each attends
to its own row of the cache alone and as far as that reaches. What it writes comes as one token a
row: rows of one world share their prompt, whose keys are read once for all of them; only what is a
row's own is read row by row, as far as the longest of a few neighbours reaches. It is the same
softmax over the same numbers as in `transformers`' own attention ("sdpa"), which everything else is
left to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eto_agents.models.local.kv_cache import KeyValueCache

_NAME: Final = "eto_lockstep"
_OTHER_TERMS: Final = ("position_bias", "s_aux", "softcap")  # left to transformers


class Piece(NamedTuple):
    """Tokens of one text in a pass.

    Attributes:
        row: the row of the cache they are written to.
        start: where in it.
        n_tokens: how many.
    """

    row: int
    start: int
    n_tokens: int


class Group(NamedTuple):
    """Neighbouring rows that attend together.

    Attributes:
        first: the first of them.
        last: the one after the last.
        n_tokens: of the longest.
    """

    first: int
    last: int
    n_tokens: int


@dataclass(frozen=True)
class Plan:
    """How a pass attends: to `pieces`, or one token a row in `groups`."""

    cache: KeyValueCache
    pieces: Sequence[Piece] = ()
    groups: Sequence[Group] = ()
    n_shared: int = 0
    """Tokens that all rows of the groups begin with."""


_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)


def applies(model: Any) -> bool:
    """Whether the model's attention can be replaced: "sdpa" in single precision, no accelerator."""
    config = model.config.get_text_config()
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and all(parameter.device.type == "cpu" for parameter in model.parameters())
        and model.dtype == torch.float32
    )


@contextlib.contextmanager
def planned(model: Any, plan: Plan) -> Iterator[None]:
    """Attend by a plan; the model's own way is put back."""
    config = model.config.get_text_config()
    own = config._attn_implementation
    token = _PLAN.set(plan)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = own
        _PLAN.reset(token)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """As `transformers` wants it: (rows, heads, n, channels) to (rows, n, heads, channels)."""
    plan = _PLAN.get()
    if plan is None:
        done: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **arguments
        )
        return done
    other = [name for name in _OTHER_TERMS if arguments.get(name) is not None]
    if other or dropout:
        raise ValueError(f"attention with {', '.join(other) or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    keys, values = plan.cache.layer(module.layer_idx)
    if plan.pieces:
        return _read(query, keys, values, plan.pieces, scale), None
    return _write(query, keys, values, attention_mask, plan, scale), None


def _read(query: Tensor, keys: Tensor, values: Tensor, pieces: Any, scale: float) -> Tensor:
    """Attention of pieces side by side: (1, heads, n, channels) to (1, n, heads, channels)."""
    n_heads, n_channels = query.shape[1], query.shape[3]
    n_kv_heads = keys.shape[1]
    n_each = n_heads // n_kv_heads
    result = query.new_empty(1, query.shape[2], n_heads, n_channels)
    at = 0
    for row, start, n in pieces:
        # The heads that share keys one after the other, as if they were more tokens.
        own = query[:, :, at : at + n].reshape(1, n_kv_heads, n_each * n, n_channels)
        mask = query.new_full((n, start + n), float("-inf")).triu(start + 1).repeat(n_each, 1)
        read = scaled_dot_product_attention(
            own,
            keys[row : row + 1, :, : start + n],
            values[row : row + 1, :, : start + n],
            attn_mask=mask,
            scale=scale,
        )
        result[:, at : at + n] = read.reshape(1, n_heads, n, n_channels).transpose(1, 2)
        at += n
    return result


def _write(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, plan: Plan, scale: float
) -> Tensor:
    """Attention of one token a row: (rows, heads, 1, channels) to (rows, 1, heads, channels)."""
    n_rows, n_heads, _, n_channels = query.shape
    n_kv_heads = keys.shape[1]
    n_shared = plan.n_shared
    # Heads that share keys side by side: (rows, key heads, heads of each, channels).
    grouped = query.reshape(n_rows, n_kv_heads, -1, n_channels) * scale
    if n_shared:
        together = grouped.transpose(0, 1).reshape(n_kv_heads, -1, n_channels)
        scores = torch.matmul(together, keys[0, :, :n_shared].transpose(1, 2))
        shared_scores = scores.view(n_kv_heads, n_rows, -1, n_shared).transpose(0, 1)
    results, shares = [], []
    for first, last, n_tokens in plan.groups:
        own_keys = keys[first:last, :, n_shared:n_tokens].transpose(2, 3)
        scores = torch.matmul(grouped[first:last], own_keys)
        if mask is not None:
            scores += mask[first:last, :, :, n_shared:n_tokens]
        if n_shared:
            scores = torch.cat([shared_scores[first:last], scores], -1)
        weights = scores.softmax(-1)
        shares.append(weights[..., :n_shared])
        own_values = values[first:last, :, n_shared:n_tokens]
        results.append(torch.matmul(weights[..., n_shared:], own_values))
    result = torch.cat(results)
    if n_shared:
        together = torch.cat(shares).transpose(0, 1).reshape(n_kv_heads, -1, n_shared)
        shared = torch.matmul(together, values[0, :, :n_shared])
        result += shared.view(n_kv_heads, n_rows, -1, n_channels).transpose(0, 1)
    return result.reshape(n_rows, 1, n_heads, n_channels)


ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
