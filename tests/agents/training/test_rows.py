"""Rows: the chat that the model reads when it plays, with the loss on its own tokens only."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest

from eto_envs.errors import DataError, UnknownNameError

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.chat import encode
from eto_agents.react.prompts import load_prompts
from eto_agents.rollout import run_episode
from eto_agents.training.pairs import with_steps
from eto_agents.training.rows import (
    EmptyDataError,
    build_rows,
    by_length,
    encode_trajectory,
    texts_of,
)
from eto_agents.trajectory import Trajectory
from tests.agents.training.episodes import episode, nano

pytestmark = pytest.mark.torch

EPISODES = [episode(n) for n in range(3)]
NANO = nano(EPISODES)


def test_only_replies_and_their_end_tokens_are_trained_on() -> None:
    ids, mask = encode_trajectory(EPISODES[0], NANO)
    tokens = NANO.tokenizer
    trained = tokens.decode([i for i, is_agent in zip(ids, mask, strict=True) if is_agent])
    assert trained == "".join(f"{step.text}<|end|>" for step in EPISODES[0].steps)
    whole = tokens.decode(ids)
    assert whole.startswith(f"<|user|>{load_prompts('brief')['alfworld-2.1.1'].instruction}<|end|>")
    assert whole.endswith(f"<|assistant|>{EPISODES[0].steps[-1].text}<|end|>")  # ends with a reply
    assert "Observation: On the desk 0, you see a mug 0.<|end|>" in whole


@pytest.mark.parametrize("with_example", [False, True])
def test_the_worked_example_is_in_the_row_but_not_trained_on(with_example: bool) -> None:
    reader = dataclasses.replace(NANO, prompts="own", with_example=with_example)
    row = encode_trajectory(EPISODES[0], reader)
    assert sum(row.mask) == sum(encode_trajectory(EPISODES[0], NANO).mask)
    reply = load_prompts("own")["alfworld-2.1.1"].example[-1]["content"]
    assert (reply in NANO.tokenizer.decode(row.ids)) == with_example


def test_a_row_is_the_chat_that_the_policy_gives_the_model() -> None:
    model = ScriptedModel(["Thought: a\nAction: look", "no action", *["Action: look"] * 48])
    policy = ReActPolicy(model, prompts="brief", with_example=False)
    played = run_episode(policy, "ETO-ALFWorld-v0", 0, split="train", dataset="mini", max_steps=4)
    row = encode_trajectory(played, NANO)
    read = encode(model.requests[-1], NANO.tokenizer, NANO.template, for_reply=True)
    reply = NANO.tokenizer.encode("Action: look<|end|>", add_special_tokens=False)
    assert row.ids == read.ids + reply
    assert row.mask[-len(reply) - 1 :] == [0] + [1] * len(reply)


@pytest.mark.parametrize("with_example", [False, True])
def test_a_row_can_be_made_from_the_recorded_messages_alone(with_example: bool) -> None:
    model = ScriptedModel(["Thought: a\nAction: look", "no action", *["Action: look"] * 48])
    policy = ReActPolicy(model, prompts="own", with_example=with_example)
    played = run_episode(policy, "ETO-ALFWorld-v0", 0, split="train", dataset="mini", max_steps=4)
    reader = dataclasses.replace(NANO, prompts="own", with_example=with_example)
    read_back = Trajectory.from_json(played.to_json())
    n_replies = len(read_back.steps)
    row = encode(
        read_back.messages,
        NANO.tokenizer,
        NANO.template,
        first_trained=len(read_back.messages) - (2 * n_replies - 1),
    )
    assert row == encode_trajectory(played, reader)
    short = with_steps(played, played.steps[:2])
    assert short.messages == played.messages[: len(played.messages) - 4]
    assert with_steps(played, played.steps[1:]).messages == []


def test_sampled_token_ids_are_used_if_the_tokenizer_decodes_them_to_the_reply() -> None:
    text = EPISODES[0].steps[0].text
    letters = [NANO.tokenizer.encode(c, add_special_tokens=False)[0] for c in text]
    steps = [dataclasses.replace(EPISODES[0].steps[0], token_ids=letters), EPISODES[0].steps[1]]
    sampled = encode_trajectory(dataclasses.replace(EPISODES[0], steps=steps), NANO)
    usual = encode_trajectory(EPISODES[0], NANO)
    n_usual = len(NANO.tokenizer.encode(text, add_special_tokens=False))
    assert len(sampled.ids) - len(usual.ids) == len(letters) - n_usual > 0
    assert NANO.tokenizer.decode(sampled.ids) == NANO.tokenizer.decode(usual.ids)
    for foreign in ([5, 6, 7], [10**6]):
        steps[0] = dataclasses.replace(steps[0], token_ids=foreign)
        assert encode_trajectory(dataclasses.replace(EPISODES[0], steps=steps), NANO) == usual


def test_rows_that_are_too_long_are_dropped_and_counted_or_an_error() -> None:
    n_tokens = len(encode_trajectory(EPISODES[0], NANO).ids)
    longer = episode(0, n_steps=5)
    rows = build_rows([*EPISODES, longer], NANO, max_length=n_tokens + 5)
    assert (len(rows.rows), rows.n_too_long) == (3, 1)
    assert rows.n_tokens == sum(len(row.ids) for row in rows.rows)
    with pytest.raises(DataError, match=f"more than {n_tokens + 5}"):
        build_rows([*EPISODES, longer], NANO, max_length=n_tokens + 5, too_long="error")
    with pytest.raises(EmptyDataError, match="all 1 have more than 9 tokens"):
        build_rows([longer], NANO, max_length=9)
    with pytest.raises(EmptyDataError, match="none were given"):
        build_rows([], NANO)
    with pytest.raises(ValueError, match="must be positive"):
        build_rows(EPISODES, NANO, max_length=0)


def test_the_hash_depends_on_the_rows() -> None:
    first, same, other = (build_rows(EPISODES[:n], NANO) for n in (2, 2, 3))
    assert first.sha256 == same.sha256 != other.sha256


def test_errors_name_the_mistake() -> None:
    with pytest.raises(EmptyDataError, match="has no steps to train on"):
        encode_trajectory(dataclasses.replace(EPISODES[0], steps=[]), NANO)
    custom = dataclasses.replace(EPISODES[0], env_id="Mars-v0", world="mars")
    with pytest.raises(UnknownNameError, match=r"Give world="):
        encode_trajectory(custom, NANO)
    assert encode_trajectory(custom, NANO, world="alfworld-2.1.1").ids
    with pytest.raises(UnknownNameError, match="no prompt for world 'mars'"):
        encode_trajectory(custom, NANO, world="mars")


def test_texts_are_the_messages_of_the_chats() -> None:
    texts = texts_of(EPISODES[:1])
    assert texts[-1] == EPISODES[0].steps[-1].text
    assert texts[2] == EPISODES[0].initial_observation


def test_batches_hold_sequences_of_similar_length() -> None:
    lengths = [9, 2, 30, 3, 2, 8, 3]
    batches = list(by_length(lengths, 10))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert [[lengths[i] for i in batch] for batch in batches] == [[2, 2, 3], [3], [8], [9], [30]]
    assert all(max(lengths[i] for i in b) * len(b) <= 10 or len(b) == 1 for b in batches)
    assert list(by_length(lengths, 10**6)) == [[1, 4, 3, 6, 5, 0, 2]]
    assert list(by_length([], 10)) == []
