"""Attention of one new token a row, where all rows begin with the same tokens.

Rows of one world share their prompt. Its keys are then read once for all rows and not once for
each, as one product of matrices; only what is a row's own is read row by row. It is the same
softmax over the same numbers. For processors only, most of whose time this takes; every other pass
is `transformers`' own ("sdpa").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME: Final = "eto_lockstep"
_OTHER_TERMS: Final = ("position_bias", "s_aux", "softcap")  # left to transformers

_N_SHARED: ContextVar[int | None] = ContextVar("n_shared", default=None)


def applies(model: Any) -> bool:
    """Whether the model's attention can be replaced: "sdpa", all layers alike, on a processor."""
    config = model.config.get_text_config()
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and model.get_input_embeddings().weight.device.type == "cpu"
        and model.dtype == torch.float32
    )


@contextlib.contextmanager
def planned(model: Any, n_shared: int) -> Iterator[None]:
    """Attend so, all rows beginning with the same `n_shared` tokens; the own way is put back."""
    config = model.config.get_text_config()
    own = config._attn_implementation
    token = _N_SHARED.set(n_shared)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = own
        _N_SHARED.reset(token)


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
    n_shared = _N_SHARED.get()
    is_other = any(arguments.get(name) is not None for name in _OTHER_TERMS)
    if n_shared is None or attention_mask is None or dropout or is_other:
        done: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **arguments
        )
        return done
    n_rows, n_heads, _, n_channels = query.shape
    n_kv_heads = key.shape[1]
    scale = n_channels**-0.5 if scaling is None else scaling
    # Heads that share keys side by side: (rows, key heads, heads of each, channels).
    grouped = query.reshape(n_rows, n_kv_heads, -1, n_channels) * scale
    own = torch.matmul(grouped, key[:, :, n_shared:].transpose(2, 3))
    own += attention_mask[..., n_shared:]
    if not n_shared:
        result = torch.matmul(own.softmax(-1), value)
        return result.reshape(n_rows, 1, n_heads, n_channels), None
    together = grouped.transpose(0, 1).reshape(n_kv_heads, -1, n_channels)
    shared = torch.matmul(together, key[0, :, :n_shared].transpose(1, 2))
    shared = shared.view(n_kv_heads, n_rows, -1, n_shared).transpose(0, 1)
    weights = torch.cat([shared, own], -1).softmax(-1)
    result = torch.matmul(weights[..., n_shared:], value[:, :, n_shared:])
    together = weights[..., :n_shared].transpose(0, 1).reshape(n_kv_heads, -1, n_shared)
    shared = torch.matmul(together, value[0, :, :n_shared])
    result += shared.view(n_kv_heads, n_rows, -1, n_channels).transpose(0, 1)
    return result.reshape(n_rows, 1, n_heads, n_channels), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
