"""Attention of one new token a row, where all rows begin with the same tokens.

Rows of one world share their prompt. Its keys are then read once for all rows and not once for
each, as one product of matrices; only what is a row's own is read row by row, as far as the longest
row of a few neighbours reaches. It is the same softmax over the same numbers. For processors only,
whose time this takes most of; every other pass is `transformers`' own ("sdpa").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME: Final = "eto_lockstep"


class Plan(NamedTuple):
    """How the rows of a pass are read.

    Attributes:
        n_shared: tokens that all rows begin with.
        groups: neighbours that are read together: first row, last row + 1, tokens of the longest.
    """

    n_shared: int
    groups: Sequence[tuple[int, int, int]]


_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)


def applies(model: Any) -> bool:
    """Whether the model's attention can be replaced: "sdpa", all layers alike, on a processor."""
    config = model.config.get_text_config()
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and model.get_input_embeddings().weight.device.type == "cpu"
        and model.dtype == torch.float32
    )


@contextlib.contextmanager
def planned(model: Any, plan: Plan) -> Iterator[None]:
    """Let the model attend by a plan; its own way is put back."""
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
    """As `transformers` wants it: (rows, heads, 1, channels) to (rows, 1, heads, channels)."""
    plan = _PLAN.get()
    if plan is None or attention_mask is None or dropout or "position_bias" in arguments:
        done: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **arguments
        )
        return done
    n_rows, n_heads, _, n_channels = query.shape
    n_kv_heads = key.shape[1]
    scale = n_channels**-0.5 if scaling is None else scaling
    # Heads that share keys side by side: (rows, key heads, heads of each, channels).
    grouped = query.view(n_rows, n_kv_heads, -1, n_channels) * scale
    n_shared = plan.n_shared
    if n_shared:
        together = grouped.permute(1, 0, 2, 3).reshape(n_kv_heads, -1, n_channels)
        shared_scores = torch.matmul(together, key[0, :, :n_shared].transpose(1, 2))
        shared_scores = shared_scores.view(n_kv_heads, n_rows, -1, n_shared).transpose(0, 1)
    parts = []
    weights_shared = []
    for first, last, n_tokens in plan.groups:
        own_keys = key[first:last, :, n_shared:n_tokens]
        scores = torch.matmul(grouped[first:last], own_keys.transpose(2, 3))
        scores += attention_mask[first:last, :, :, n_shared:n_tokens]
        if n_shared:
            scores = torch.cat([shared_scores[first:last], scores], -1)
        weights = scores.softmax(-1)
        own_values = value[first:last, :, n_shared:n_tokens]
        parts.append(torch.matmul(weights[..., n_shared:], own_values))
        weights_shared.append(weights[..., :n_shared])
    result = torch.cat(parts) if len(parts) > 1 else parts[0]
    if n_shared:
        shares = torch.cat(weights_shared).transpose(0, 1).reshape(n_kv_heads, -1, n_shared)
        from_shared = torch.matmul(shares, value[0, :, :n_shared])
        result = result + from_shared.view(n_kv_heads, n_rows, -1, n_channels).transpose(0, 1)
    return result.reshape(n_rows, 1, n_heads, n_channels), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
