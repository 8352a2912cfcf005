"""Architectures for which the KV cache does not work."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch
import transformers

from eto_agents.models.base import Sampling
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.local import UnsupportedModelError
from tests.agents.models.local.random_models import (
    END,
    SHAPE,
    TOKENIZER,
    local_model,
    user,
)

pytestmark = pytest.mark.torch


def other_checkpoint(family: str, **shape: Any) -> Checkpoint:
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(TOKENIZER), eos_token_id=END, bos_token_id=END, pad_token_id=0, **shape
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    return Checkpoint(model, TOKENIZER, "plain")


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),  # no attention
        ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # positions come from its masks
        (
            "Llama",
            SHAPE
            | {
                "num_hidden_layers": 1,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            },
        ),
    ],
    ids=["Mamba", "Bloom", "dynamic positions"],
)
def test_other_architectures_run_only_without_it(family: str, shape: dict[str, Any]) -> None:
    own = {"vocab_size", "eos_token_id", "bos_token_id", "pad_token_id"}
    checkpoint = other_checkpoint(family, **{k: v for k, v in shape.items() if k not in own})
    with pytest.raises(UnsupportedModelError, match="with_cache=False"):
        local_model(checkpoint)
    model = local_model(checkpoint, with_cache=False)
    (completion,) = model.generate([[user("A lamp?")]], Sampling(max_tokens=5, stop=()))
    assert not completion.error
    assert len(completion.token_ids or []) in range(1, 6)
