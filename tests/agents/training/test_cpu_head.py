from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eto_agents.training.cpu_head import restore_head, use_cpu_head

utils = importlib.import_module("trl.trainer.utils")
add_fused_lm_head = getattr(utils, "add_fused_lm_head", None)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(add_fused_lm_head is None, reason="TRL before 1.15 has no head like ours"),
]

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


def llama(vocab_size: int = 50, **config: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes, **heads, **config))


def batch(left: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (3, 12), generator=generator)
    attention = torch.ones_like(ids)
    attention[0, 8:] = attention[1, 11:] = 0
    if left:
        attention = attention.flip(1)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.4, ids, -100)
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "labels": labels.masked_fill(attention == 0, -100),
    }


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("n_items", [None, 7])
def test_the_head_computes_the_same_as_trls(left: bool, n_items: int | None) -> None:
    theirs = llama()
    add_fused_lm_head(theirs, outputs=FIELDS)
    ours = copy.deepcopy(llama())
    add_fused_lm_head(ours, outputs=FIELDS)
    use_cpu_head(ours)
    given = batch(left) | ({} if n_items is None else {"num_items_in_batch": n_items})
    if left:  # rows that are padded on the left need position ids
        given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    expected, actual = (m(**given, fused_lm_head=True) for m in (theirs, ours))
    for name in (*FIELDS, "loss", "label_mask"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name))
    for result in (expected, actual):
        (result.log_probs.sum(1) ** 2).sum().backward()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_without_the_fused_head_the_original_one_is_used() -> None:
    model = llama()
    expected = model(**batch())
    add_fused_lm_head(model)
    use_cpu_head(model)
    actual = model(**batch())
    torch.testing.assert_close(actual.loss, expected.loss)
    torch.testing.assert_close(actual.logits, expected.logits)


@pytest.mark.parametrize("model", [llama(20_000), llama(logit_scale=2.0)])
def test_models_that_need_trls_head_keep_it(model: LlamaForCausalLM) -> None:
    add_fused_lm_head(model)
    own = model.forward
    use_cpu_head(model)
    assert model.forward == own


def test_the_original_head_can_be_restored() -> None:
    model = llama()
    add_fused_lm_head(model)
    use_cpu_head(model)
    restore_head(model)
    assert model.forward.__func__ is LlamaForCausalLM.forward
