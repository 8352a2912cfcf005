"""Draws follow the model's distribution, and a reply ends where it should."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import numpy as np
import torch

from eto_agents.models.base import Sampling
from eto_agents.models.local.sampler import sample_inverse_cdf
from tests.agents.models.local.random_models import (
    END,
    TOKENIZER,
    assistant,
    checkpoint_of,
    free_reply,
    local_model,
    swap_heads,
    user,
)

pytestmark = pytest.mark.torch


def test_a_reply_depends_on_its_seed_alone() -> None:
    model = local_model(checkpoint_of())
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=12, stop=())
    chats = [[user("A lamp?")]] * 3
    state = torch.random.get_rng_state()
    a, b, c = model.generate(chats, sampling, [5, 6, 5])
    assert a.token_ids == c.token_ids != b.token_ids
    (alone,) = model.generate(chats[:1], sampling, [6])
    assert alone.token_ids == b.token_ids
    without = [model.generate(chats[:1], sampling)[0].token_ids for _ in range(3)]
    assert without[0] != without[1] or without[1] != without[2]
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("top_p", "expected"), [(1.0, [0.1, 0.2, 0.3, 0.4]), (0.6, [0, 0, 3, 4])])
def test_draws_follow_the_distribution(top_p: float, expected: list[float]) -> None:
    n = 20_000
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(n, 4)
    at = torch.from_numpy(np.random.default_rng(0).random(n))
    shares = np.bincount(sample_inverse_cdf(logits, at, top_p).numpy(), minlength=4) / n
    assert shares == pytest.approx(np.array(expected) / sum(expected), abs=0.015)
    edge = torch.tensor([1 - 1e-16, 0.0], dtype=torch.float64)
    ends = sample_inverse_cdf(torch.tensor([[0.0, 0.0, -200.0]] * 2), edge, 1.0)
    assert ends.tolist() == [1, 0]


@pytest.mark.parametrize("first", [3, 8, 11])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_stops_end_a_reply_before_them(first: int, length: int) -> None:
    model = local_model(checkpoint_of())
    chat = [user("A lamp?")]
    text = free_reply(model, chat).text
    stop = text[first : first + length]
    (completion,) = model.generate([chat], Sampling(max_tokens=24, stop=("never", stop)))
    expected = text.partition(stop)[0]
    assert completion.text == expected
    assert completion.finish_reason == "stop"
    ids = completion.token_ids
    assert ids is not None
    assert completion.log_probs is not None
    assert len(ids) == len(completion.log_probs)
    assert expected.startswith(TOKENIZER.decode(ids))
    # The next turn's prompt has the text before the stop and no more.
    after = [*chat, assistant(completion.text), user("Go on.")]
    prompt = TOKENIZER.decode(model._encoder.encode(after))
    assert f"<|assistant|>{expected}<|end|>" in prompt


def test_the_end_token_ends_a_reply_and_is_one_of_its_tokens() -> None:
    checkpoint = checkpoint_of()
    chat = [user("A lamp?")]
    ids = free_reply(local_model(checkpoint), chat).token_ids
    assert ids is not None
    at = next(i for i in range(3, 20) if ids[i] not in ids[:i])
    swap_heads(checkpoint, END, ids[at])
    model = local_model(checkpoint)
    done = free_reply(model, chat)
    assert done.token_ids == [*ids[:at], END]
    assert done.finish_reason == "stop"
    assert done.text == TOKENIZER.decode(ids[:at])
    cut = model.generate([chat], Sampling(max_tokens=at, stop=()))[0]
    assert (cut.finish_reason, cut.token_ids) == ("length", ids[:at])
