"""`LocalModel`: its context, its weights, and the agents that play with it."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch

from eto_agents.models.base import Sampling
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.chat import encode
from eto_agents.rollout import Rollouts, jobs_of, make_batch
from tests.agents.models.local.random_models import (
    TOKENIZER,
    assistant,
    checkpoint_of,
    first_chat,
    free_reply,
    full_log_probs,
    local_model,
    play,
    user,
)

pytestmark = pytest.mark.torch


def make_policy(checkpoint: Checkpoint, **arguments: Any) -> ReActPolicy:
    return ReActPolicy(local_model(checkpoint), max_tokens=8, **arguments)


def webshop(policy: Any, batch_size: int, n_tasks: int = 10) -> dict[str, Any]:
    env = make_batch("ETO-WebShop-v0", policy, batch_size, {"dataset": "mini", "max_steps": 6})
    tasks = list(itertools.islice(env.envs[0].tasks, n_tasks))
    episodes = list(Rollouts(policy, env, jobs_of(tasks, [0])))
    env.close()
    assert [episode.error for episode in episodes if episode.error] == []
    return {episode.task_id: episode for episode in episodes}


def test_batches_of_1_8_and_64_play_the_same_episodes() -> None:
    played = [webshop(make_policy(checkpoint_of()), batch_size) for batch_size in (1, 8, 64)]
    texts = [
        {task: [step.token_ids for step in episode.steps] for task, episode in episodes.items()}
        for episodes in played
    ]
    assert len(texts[0]) == 10
    assert texts[0] == texts[1] == texts[2]


def test_turns_are_dropped_where_the_context_is_full() -> None:
    checkpoint = checkpoint_of(max_position_embeddings=1450)
    policy = make_policy(checkpoint, with_example=False)
    episodes = webshop(policy, 4, 4)
    dropped = [step.usage["dropped_turns"] for e in episodes.values() for step in e.steps]
    assert max(dropped) > 0
    assert all(
        step.usage["prompt_tokens"] + step.usage["completion_tokens"] <= 1450
        for episode in episodes.values()
        for step in episode.steps
    )


def test_a_chat_longer_than_the_context_is_an_error_of_its_own() -> None:
    model = local_model(checkpoint_of(max_position_embeddings=100))
    long, short = model.generate([[user("lamp " * 300)], [user("lamp")]], Sampling(max_tokens=4))
    assert "drop turns" in long.error
    assert short.error == ""
    nearly = [user("a" * (98 - model.count_tokens([user("")])))]
    assert model.count_tokens(nearly) == 98
    (cut,) = model.generate([nearly], Sampling(max_tokens=10, stop=()))
    assert cut.finish_reason == "length"
    assert len(cut.token_ids or []) <= 2
    assert model.generate([], Sampling()) == []
    (wrong,) = model.generate([[assistant("hello")]], Sampling())
    assert "roles" in wrong.error


def test_training_discards_what_was_cached() -> None:
    checkpoint = checkpoint_of()
    model = local_model(checkpoint)
    chat = first_chat(1)
    checkpoint.model.train()
    before = free_reply(model, chat)
    assert checkpoint.model.training
    optimizer = torch.optim.SGD(checkpoint.model.parameters(), lr=0.5)
    ids = torch.tensor([encode(chat, TOKENIZER).ids])
    checkpoint.model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = free_reply(model, chat)
    fresh = free_reply(local_model(checkpoint), chat)
    assert after.token_ids == fresh.token_ids
    assert after.log_probs == pytest.approx(fresh.log_probs, abs=1e-5)
    assert after.log_probs != pytest.approx(before.log_probs, abs=1e-3)


def test_half_precision() -> None:
    checkpoint = checkpoint_of()
    checkpoint.model.bfloat16()
    model = local_model(checkpoint)
    assert model.provenance["dtype"] == "bfloat16"
    for chat, completion in play(model, Sampling(max_tokens=8, stop=()), 3, 3)[:3]:
        assert completion.token_ids is not None
        log_probs = full_log_probs(
            checkpoint.model, model._encoder.encode(chat), completion.token_ids
        )
        own = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert own.tolist() == pytest.approx(completion.log_probs, abs=0.25)


def test_logits_that_are_not_finite_are_an_error() -> None:
    checkpoint = checkpoint_of()
    model = local_model(checkpoint)
    with torch.no_grad():
        checkpoint.model.lm_head.weight.fill_(float("nan"))
    (completion,) = model.generate([[user("A lamp?")]], Sampling(max_tokens=4))
    assert "not finite" in completion.error
    assert model.totals["errors"] == 1


def test_a_policy_uses_the_prompts_the_model_was_trained_with(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.toml"
    prompt.write_text('world = "webshop"\ninstruction = "Shop."\n')
    checkpoint = Checkpoint(
        checkpoint_of().model, TOKENIZER, "plain", str(prompt), with_example=False
    )
    record = make_policy(checkpoint).provenance
    assert record["prompts"] == "file"
    assert record["with_example"] is False
    record = make_policy(checkpoint, prompts="own", with_example=True).provenance
    assert record["prompts"] == "own"
    assert record["with_example"] is True
