"""Attention over a ragged batch on CPUs, without padding.

Prefill runs the model over a packed batch: chunks of many sequences, concatenated to one row of
tokens, where each chunk attends to its own row of the KV cache and no further than it reaches.
Decoding has one token a row. Rows often share a prefix, the prompt of their world: its keys are
read once for all rows, and only what follows is read row by row, up to the longest of a few
neighbouring rows. The softmax is over the same numbers as in `transformers`' own attention
("sdpa"), which all other forward passes are left to.
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

from eto_agents.models.local.kv_cache import KVCache

_NAME: Final = "eto_ragged"
_OTHER_TERMS: Final = ("position_bias", "s_aux", "softcap")  # not implemented here


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence in a packed batch.

    Attributes:
        row: the sequence's row of the KV cache.
        start: column of the first token in it.
        n_tokens: length.
    """

    row: int
    start: int
    n_tokens: int


class RowGroup(NamedTuple):
    """Neighbouring rows, first to last - 1, whose attention is computed together.

    Attributes:
        first: the first row.
        last: the row after the last.
        n_tokens: length of the longest row.
    """

    first: int
    last: int
    n_tokens: int


@dataclass(frozen=True)
class AttentionPlan:
    """What the attention of a forward pass is over.

    Attributes:
        cache: keys and values.
        chunks: of a prefill pass; empty for a decoding step.
        groups: of a decoding step: together all rows of the batch, in order.
        n_shared: of a decoding step: the length of the prefix that all its rows share.
    """

    cache: KVCache
    chunks: Sequence[Chunk] = ()
    groups: Sequence[RowGroup] = ()
    n_shared: int = 0


_PLAN: ContextVar[AttentionPlan | None] = ContextVar("plan", default=None)


def is_supported(model: Any) -> bool:
    """Whether the model's attention can be replaced: "sdpa" in float32, all of it on the CPU."""
    config = model.config.get_text_config()
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and all(parameter.device.type == "cpu" for parameter in model.parameters())
        and model.dtype == torch.float32
    )


@contextlib.contextmanager
def attend_by(model: Any, plan: AttentionPlan) -> Iterator[None]:
    """Let the model's forward passes attend by a plan; afterwards its own attention is back."""
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
    """The signature of `transformers`: (batch, heads, n, channels) to (batch, n, heads, channels).

    `key` and `value` are ignored under a plan: they are read from its cache.
    """
    plan = _PLAN.get()
    if plan is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **arguments
        )
        return result
    other = [name for name in _OTHER_TERMS if arguments.get(name) is not None]
    if other or dropout:
        raise ValueError(f"attention with {', '.join(other) or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    keys, values = plan.cache.layer(module.layer_idx)
    if plan.chunks:
        return _attend_in_prefill(query, keys, values, plan.chunks, scale), None
    return _attend_in_decoding(query, keys, values, attention_mask, plan, scale), None


def _attend_in_prefill(
    query: Tensor, keys: Tensor, values: Tensor, chunks: Sequence[Chunk], scale: float
) -> Tensor:
    """Attention of a packed batch: (1, heads, n, channels) to (1, n, heads, channels)."""
    n_heads, n_channels = query.shape[1], query.shape[3]
    n_kv_heads = keys.shape[1]
    n_each = n_heads // n_kv_heads  # query heads of a key head
    result = query.new_empty(1, query.shape[2], n_heads, n_channels)
    offset = 0  # of the chunk in the packed batch
    for row, start, n in chunks:
        # The query heads that share a key head are stacked along the token axis, as if they were
        # more tokens, so that keys need not be repeated: (1, key heads, n_each * n, channels).
        own = query[:, :, offset : offset + n].reshape(1, n_kv_heads, n_each * n, n_channels)
        # Token i of the chunk is in column start + i and sees the columns up to it: the mask is
        # (n, start + n), -inf above the diagonal, once for each of the stacked heads.
        mask = query.new_full((n, start + n), float("-inf")).triu(start + 1).repeat(n_each, 1)
        attended = scaled_dot_product_attention(
            own,
            keys[row : row + 1, :, : start + n],
            values[row : row + 1, :, : start + n],
            attn_mask=mask,
            scale=scale,
        )
        unstacked = attended.reshape(1, n_heads, n, n_channels)
        result[:, offset : offset + n] = unstacked.transpose(1, 2)
        offset += n
    return result


def _attend_in_decoding(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    plan: AttentionPlan,
    scale: float,
) -> Tensor:
    """Attention of one token a row: (rows, heads, 1, channels) to (rows, 1, heads, channels)."""
    n_rows, n_heads, _, n_channels = query.shape
    n_kv_heads = keys.shape[1]
    n_shared = plan.n_shared
    # The query heads that share a key head take the place of the token axis:
    # (rows, key heads, heads of each, channels).
    grouped = query.reshape(n_rows, n_kv_heads, -1, n_channels) * scale
    if n_shared:
        # All rows hold the prefix, so row 0's keys serve all of them, in one product a key head:
        # (key heads, rows * heads of each, channels) times (key heads, channels, n_shared).
        stacked = grouped.transpose(0, 1).reshape(n_kv_heads, -1, n_channels)
        scores = torch.matmul(stacked, keys[0, :, :n_shared].transpose(1, 2))
        shared_scores = scores.view(n_kv_heads, n_rows, -1, n_shared).transpose(0, 1)
    results, shared_weights = [], []
    for first, last, n_tokens in plan.groups:
        # After the prefix each row has keys of its own, to the end of the group's longest row;
        # the mask (rows, 1, 1, columns) hides what is beyond the end of a shorter one.
        own_keys = keys[first:last, :, n_shared:n_tokens].transpose(2, 3)
        scores = torch.matmul(grouped[first:last], own_keys)
        if mask is not None:
            scores += mask[first:last, :, :, n_shared:n_tokens]
        if n_shared:
            scores = torch.cat([shared_scores[first:last], scores], -1)
        # One softmax over both parts: (rows, key heads, heads of each, n_tokens).
        weights = scores.softmax(-1)
        shared_weights.append(weights[..., :n_shared])
        own_values = values[first:last, :, n_shared:n_tokens]
        results.append(torch.matmul(weights[..., n_shared:], own_values))
    result = torch.cat(results)
    if n_shared:
        # The prefix's share of the weighted sum, again in one product a key head:
        # (key heads, rows * heads of each, n_shared) times (key heads, n_shared, channels).
        stacked = torch.cat(shared_weights).transpose(0, 1).reshape(n_kv_heads, -1, n_shared)
        shared = torch.matmul(stacked, values[0, :, :n_shared])
        result += shared.view(n_kv_heads, n_rows, -1, n_channels).transpose(0, 1)
    return result.reshape(n_rows, 1, n_heads, n_channels)


ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
