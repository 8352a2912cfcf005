"""A faster language-model head for training on a CPU.

TRL's trainers use a head that computes log-probabilities in tiles. On a CPU it computes them at
every position, although the environment's tokens (nine out of ten in WebShop) and the padding are
left out of the loss; and the padding mask keeps attention from using its fast path. The head here
computes the same values at the agent's positions only, and attends without a mask: padding is on
the right, which causal attention never sees. ``tests/speed/training.py`` measures the saving: a
half to two thirds of the time for a tiny model. Models with a large vocabulary keep TRL's head,
whose tiles save memory that matters more.
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
except ImportError:  # TRL 1.14, the last one for Python 3.10, whose trainers do not need it

    @dataclass
    class FusedCausalLMOutput(ModelOutput):  # type: ignore[no-redef, misc]
        """The output of a fused head; see TRL's class of the same name."""

        loss: Any = None
        log_probs: Any = None
        entropy: Any = None
        mean_logits: Any = None
        is_top1: Any = None
        label_mask: Any = None


_LARGEST_VOCABULARY: Final = 16384


def use_cpu_head(model: Any) -> None:
    """Replace the head that TRL's trainers have installed in a model, where that saves time.

    Args:
        model: a causal language model, possibly wrapped in a LoRA adapter; changed in place.
    """
    model = _base(model)
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    is_plain = not any(getattr(config, name, None) is not None for name in _SCALES)
    if head.weight.device.type != "cpu" or head.weight.shape[0] > _LARGEST_VOCABULARY:
        return
    if is_plain and head.weight.dtype == torch.float32:
        model.forward = types.MethodType(_forward_with(model.forward), model)


def restore_head(model: Any) -> None:
    """Restore a model's original head, in place of TRL's or the one of this module."""
    vars(_base(model)).pop("forward", None)


def _base(model: Any) -> Any:
    """The model inside a LoRA adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_SCALES: Final = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling"),
    *("output_multiplier", "lm_head_multiplier"),
)
"""Settings of models that scale their head's outputs; TRL's head supports them, this one not."""


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
    """Compute TRL's output at the labelled positions.

    Args:
        hidden: (B, T, C) last hidden states.
        labels: (B, T) token ids, -100 where there is no loss.
        head: the output embedding, C to V logits.
        n_items: number by which the summed loss is divided; by default the number of labels.

    Returns:
        Fields of (B, T - 1); 0 where there is no label.
    """
    # Position t predicts token t + 1. N labelled positions of the whole batch are picked out, so
    # that the large products, (N, C) times (C, V), are computed for them only.
    labels = labels[:, 1:]
    mask = labels != -100
    targets = labels[mask]  # (N,)
    logits = head(hidden[:, :-1][mask])  # (N, V)
    log_softmax = logits.log_softmax(-1)

    def scatter(values: Tensor) -> Tensor:
        """(N,) back to (B, T - 1)."""
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = scatter(log_softmax.gather(-1, targets[:, None])[:, 0])
    with torch.no_grad():
        entropy = scatter(-(log_softmax.exp() * log_softmax).sum(-1))
        mean_logits = scatter(logits.mean(-1))
        is_top1 = scatter(logits.argmax(-1) == targets)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / (mask.sum().clamp(min=1) if n_items is None else n_items),
        log_probs=log_probs,
        entropy=entropy,
        mean_logits=mean_logits,
        is_top1=is_top1,
        label_mask=mask,
    )
