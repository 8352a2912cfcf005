"""The agent's log-probabilities on a processor without work for what is not the agent's.

TRL gives its models a head that computes log-probabilities in tiles. Off a GPU it computes them at
every position, though the world's tokens (nine of ten in WebShop) and the padding are left out
of the loss; and the mask of the padding keeps attention off its fast way. The head here does what
TRL's does, at the agent's positions alone, and attends without the mask: padding is at the end,
where no token looks. ``tests/speed/training.py`` prints what that saves, a half to two thirds with
a tiny model. With a large vocabulary TRL's head stays: the memory its tiles save matters more.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers.utils import ModelOutput

try:
    from trl.trainer.utils import FusedCausalLMOutput
except ImportError:  # TRL 1.14, the last that Python 3.10 can have: its trainers do without

    @dataclass
    class FusedCausalLMOutput(ModelOutput):  # type: ignore[no-redef, misc]
        """What a fused head gives; see TRL's class of the same name."""

        loss: Any = None
        log_probs: Any = None
        entropy: Any = None
        mean_logits: Any = None
        is_top1: Any = None
        label_mask: Any = None


_LARGEST_VOCABULARY: Final = 16384


def use_cpu_head(model: Any) -> None:
    """Replace the head that TRL's trainers have put on a model, where that saves time.

    Args:
        model: a causal language model, inside of a LoRA adapter or not; changed in place.
    """
    model = _inside(model)
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    is_plain = not any(getattr(config, name, None) is not None for name in _SCALES)
    if head.weight.device.type != "cpu" or head.weight.shape[0] > _LARGEST_VOCABULARY:
        return
    if is_plain and head.weight.dtype == torch.float32:
        model.forward = types.MethodType(_forward_with(model.forward), model)


def use_own_head(model: Any) -> None:
    """Take TRL's head and ours off a model: it is a plain one again."""
    vars(_inside(model)).pop("forward", None)


def _inside(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_SCALES: Final = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling"),
    *("output_multiplier", "lm_head_multiplier"),
)
"""Settings of models whose logits are not what their head gives: TRL's head knows them."""


def _forward_with(original: Any) -> Any:
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            given = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            kwargs |= {name: value for name, value in given.items() if value is not None}
            return original(*args, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None and not _is_padded_at_the_end(attention_mask):
            kwargs["attention_mask"] = attention_mask
        hidden = self.base_model(*args, **kwargs | {"use_cache": False}).last_hidden_state
        return _scores(hidden, labels, self.get_output_embeddings(), num_items_in_batch)

    return forward


def _is_padded_at_the_end(attention_mask: Tensor) -> bool:
    return bool((attention_mask.diff(dim=1) <= 0).all())


def _scores(hidden: Tensor, labels: Tensor, head: Any, n_items: Any) -> FusedCausalLMOutput:
    """TRL's output, from (B, T, C) and (B, T): fields of (B, T - 1), 0 off the labels."""
    labels = labels[:, 1:]
    mask = labels != -100
    following = labels[mask]
    logits = head(hidden[:, :-1][mask])
    table = logits.log_softmax(-1)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = spread(table.gather(-1, following[:, None])[:, 0])
    with torch.no_grad():
        entropy = spread(-(table.exp() * table).sum(-1))
        mean_logits = spread(logits.mean(-1))
        is_top1 = spread(logits.argmax(-1) == following)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if n_items is None else n_items),
        log_probs=log_probs,
        entropy=entropy,
        mean_logits=mean_logits,
        is_top1=is_top1,
        label_mask=mask,
    )
