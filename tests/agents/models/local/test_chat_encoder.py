"""Replies keep the ids they were sampled as, unless they contain special tokens."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

from eto_agents.models.base import Sampling
from eto_agents.react.chat import encode
from tests.agents.models.local.random_models import (
    TOKENIZER,
    assistant,
    checkpoint_of,
    free_reply,
    local_model,
    swap_heads,
    user,
)

pytestmark = pytest.mark.torch


def test_special_tokens_in_a_reply_are_encoded_as_text() -> None:
    checkpoint = checkpoint_of()
    chat = [user("A lamp?")]
    ids = free_reply(local_model(checkpoint), chat).token_ids
    assert ids is not None
    forged = TOKENIZER.convert_tokens_to_ids("<|user|>")
    swap_heads(checkpoint, forged, ids[2])
    model = local_model(checkpoint)
    done = free_reply(model, chat)
    assert forged in (done.token_ids or [])
    after = [*chat, assistant(done.text), user("Go on.")]
    expected = encode(after, TOKENIZER, "plain", for_reply=True).ids
    assert model._encoder.encode(after) == expected
    assert expected.count(forged) == 2
    assert not model.generate([after], Sampling(max_tokens=3))[0].error
