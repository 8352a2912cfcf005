"""Rows of episodes in which the agent calls a tool."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from eto_envs.errors import DataError

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch
import transformers

from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.control_tokens import control_ids
from eto_agents.models.scripted import ScriptedModel
from eto_agents.models.tiny import train_tokenizer
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.chat import encode, pieces
from eto_agents.react.tools import ACT
from eto_agents.rollout import run_episode
from eto_agents.training.episodes import sample_of
from eto_agents.training.pairs import Pair, with_steps
from eto_agents.training.ppo import ActorCritic
from eto_agents.training.preference_rows import as_preference, encode_pairs
from eto_agents.training.rows import (
    EmptyDataError,
    encode_trajectory,
    protocol_of,
    texts_of,
)
from eto_agents.training.teacher_forcing import _generate
from eto_agents.trajectory import Message, ToolCall, Trajectory
from tests.agents.models.local.random_models import SHAPE
from tests.agents.training.episodes import episode

pytestmark = pytest.mark.torch

FAMILIES = ("plain", "llama-3.1", "qwen2.5", "qwen3")


def call(action: str, number: int) -> ToolCall:
    arguments = json.dumps({"action": action})
    return {
        "id": f"call-{number}",
        "type": "function",
        "function": {"name": "act", "arguments": arguments},
    }


def saying(content: str, *calls: ToolCall) -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


CHAT: list[Message] = [{"role": "user", "content": "Look."}]
REPLIES: list[Message] = [
    saying("I look.", call("look", 1)),
    saying("Action: look"),
    saying("", call("inventory", 3)),
]


@functools.cache
def _played(replies: str, prompts: str, with_example: bool) -> Trajectory:
    model = ScriptedModel(json.loads(replies))
    policy = ReActPolicy(model, protocol="tool", prompts=prompts, with_example=with_example)
    n_steps = len(json.loads(replies))
    return run_episode(
        policy, "ETO-ALFWorld-v0", 0, split="train", dataset="mini", max_steps=n_steps
    )


def played(
    replies: Sequence[Message] = REPLIES, *, prompts: str = "brief", with_example: bool = False
) -> Trajectory:
    """An episode: a call with a thought, a reply without a call, a call."""
    return _played(json.dumps(replies), prompts, with_example)


def checkpoint_of(template: str) -> Checkpoint:
    tokenizer = train_tokenizer(["I look. Action: go to desk 1"], vocab_size=300, template=template)
    config = transformers.LlamaConfig(
        **SHAPE | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    )
    model = transformers.LlamaForCausalLM(config)
    return Checkpoint(model, tokenizer, template, "brief", with_example=False)


@pytest.fixture(params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return checkpoint_of(request.param)


def runs(ids: Sequence[int], mask: Sequence[int], checkpoint: Checkpoint) -> list[tuple[str, int]]:
    """The texts of tokens with the same mask, in turn."""
    texts: list[tuple[str, int]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or mask[end] != mask[start]:
            texts.append((checkpoint.tokenizer.decode(ids[start:end]), mask[start]))
            start = end
    return texts


def test_what_the_agent_writes_is_trained_on_and_nothing_else(checkpoint: Checkpoint) -> None:
    trajectory = played()
    row = encode_trajectory(trajectory, checkpoint)
    parts = pieces(trajectory.messages, checkpoint.template, tools=[ACT])
    assert runs(*row, checkpoint) == [(piece.text, int(piece.is_agent)) for piece in parts]
    trained = [piece.text for piece in parts if piece.is_agent]
    assert len(trained) == 3
    assert '{"action": "look"}' in trained[0]
    assert trained[1].startswith("Action: look<|")
    assert not any("You" in text or "Call the tool" in text for text in trained)


def test_a_worked_example_is_in_the_row_but_not_trained_on(checkpoint: Checkpoint) -> None:
    reader = dataclasses.replace(checkpoint, prompts="own", with_example=True)
    row = encode_trajectory(played(), reader)
    assert sum(row.mask) == sum(encode_trajectory(played(), checkpoint).mask)
    whole = played(prompts="own", with_example=True)
    assert row == encode_trajectory(whole, reader)
    parts = pieces(whole.messages, checkpoint.template, tools=[ACT])
    assert checkpoint.tokenizer.decode(row.ids) == "".join(piece.text for piece in parts)
    assert sum(piece.is_agent for piece in parts) > 3


def test_a_row_is_the_chat_that_the_model_reads_and_its_reply(checkpoint: Checkpoint) -> None:
    trajectory = played()
    row = encode_trajectory(trajectory, checkpoint)
    for n in (2, 4, 6):  # messages before each reply
        read = encode(
            trajectory.messages[:n],
            checkpoint.tokenizer,
            checkpoint.template,
            for_reply=True,
            tools=[ACT],
        )
        assert row.ids[: len(read.ids)] == read.ids
        assert row.mask[len(read.ids)] == 1


def letters(text: str, checkpoint: Checkpoint) -> list[int]:
    """Other tokens of the same text, one or more for each character."""
    return [i for c in text for i in checkpoint.tokenizer.encode(c, add_special_tokens=False)]


def written(trajectory: Trajectory, checkpoint: Checkpoint) -> list[str]:
    end = checkpoint.tokenizer.eos_token
    parts = pieces(trajectory.messages, checkpoint.template, tools=[ACT])
    return [piece.text.removesuffix(end) for piece in parts if piece.is_agent]


def sampled(trajectory: Trajectory, checkpoint: Checkpoint, texts: Sequence[str]) -> Trajectory:
    """The episode as if its replies had been sampled as these texts, letter by letter."""
    end = checkpoint.tokenizer.eos_token_id
    steps = []
    for step, text in zip(trajectory.steps, texts, strict=True):
        ids = [*letters(text, checkpoint), end]
        steps.append(dataclasses.replace(step, token_ids=ids, log_probs=[-0.5] * len(ids)))
    return dataclasses.replace(trajectory, steps=steps)


def test_sampled_ids_are_used_as_they_are(checkpoint: Checkpoint) -> None:
    texts = written(played(), checkpoint)
    trajectory = sampled(played(), checkpoint, texts)
    ids, mask = encode_trajectory(trajectory, checkpoint)
    agent = [i for i, is_agent in zip(ids, mask, strict=True) if is_agent]
    assert agent == [i for step in trajectory.steps for i in step.token_ids or []]
    sample = sample_of(trajectory, checkpoint)
    assert sample.with_tools
    assert (sample.ids, sample.mask) == (ids, mask)
    assert sum(sample.log_probs) == pytest.approx(-0.5 * len(agent))


def test_calls_need_not_be_written_as_the_template_writes_them(checkpoint: Checkpoint) -> None:
    texts = [
        text.replace('": {"', '" :  { "') if "{" in text else text
        for text in written(played(), checkpoint)
    ]
    trajectory = sampled(played(), checkpoint, texts)
    ids, mask = encode_trajectory(trajectory, checkpoint)
    agent = [i for i, is_agent in zip(ids, mask, strict=True) if is_agent]
    assert agent == [i for step in trajectory.steps for i in step.token_ids or []]


def test_tokens_of_another_reply_are_not_used(checkpoint: Checkpoint) -> None:
    texts = [text.replace("o", "u") for text in written(played(), checkpoint)]
    trajectory = sampled(played(), checkpoint, texts)
    assert encode_trajectory(trajectory, checkpoint) == encode_trajectory(played(), checkpoint)
    with pytest.raises(DataError, match="was not sampled with the tokenizer"):
        sample_of(trajectory, checkpoint)


def test_a_reply_that_was_cut_inside_a_token_keeps_the_tokens_before(
    checkpoint: Checkpoint,
) -> None:
    whole = "Action: look"
    texts = written(played(), checkpoint)
    trajectory = sampled(played(), checkpoint, [texts[0], whole[:-2], texts[2]])
    ids, mask = encode_trajectory(trajectory, checkpoint)
    text = [text for text, is_agent in runs(ids, mask, checkpoint) if is_agent][1]
    assert text == whole + checkpoint.tokenizer.eos_token
    start = letters(whole[:-2], checkpoint)
    assert any(ids[i : i + len(start)] == start for i in range(len(ids)))


def silent() -> Trajectory:
    """An episode in which the agent never called its tool."""
    return played([saying("Hm."), saying("Hm.")])


def test_an_episode_without_calls_is_known_to_have_had_tools() -> None:
    checkpoint = checkpoint_of("qwen2.5")
    assert Trajectory.from_json(silent().to_json()).tools == [ACT]
    row = encode_trajectory(silent(), checkpoint)
    assert json.dumps(ACT) in checkpoint.tokenizer.decode(row.ids)
    assert [text for text, mask in runs(*row, checkpoint) if mask] == ["Hm.<|im_end|>"] * 2
    parts = pieces(silent().messages, "qwen2.5", tools=[ACT])
    assert checkpoint.tokenizer.decode(row.ids) == "".join(piece.text for piece in parts)


def test_both_sides_of_a_pair_have_tools_if_one_calls_any(checkpoint: Checkpoint) -> None:
    pair = Pair(played(), silent())
    [row] = encode_pairs([pair], checkpoint).rows
    start = len(row["prompt_ids"])
    for side, name in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
        whole = encode_trajectory(side, checkpoint)
        assert row["prompt_ids"] + row[f"{name}_ids"] == whole.ids  # type: ignore[literal-required]
        assert row[f"{name}_mask"] == whole.mask[start:]  # type: ignore[literal-required]
        assert row[f"{name}_mask"][0] == 1  # type: ignore[literal-required]
    [again] = encode_pairs([as_preference(pair, checkpoint)], checkpoint).rows
    assert again == row


def test_pairs_with_calls_part_at_a_step() -> None:
    checkpoint = checkpoint_of("plain")
    other = [*REPLIES[:2], saying("", call("help", 3))]
    pair = Pair(played(), played(other), n_shared=2)
    preference = as_preference(pair, checkpoint)
    assert preference.prompt == played().messages[:6]
    assert (preference.chosen, preference.rejected) == ([REPLIES[2]], [other[2]])
    assert encode_pairs([preference], checkpoint).rows == encode_pairs([pair], checkpoint).rows


def test_the_first_steps_of_an_episode_have_the_first_messages() -> None:
    several = [saying("", call("look", 1), call("inventory", 2)), *REPLIES[1:]]
    whole = played(several)
    assert [message["role"] for message in whole.messages[3:5]] == ["tool", "tool"]
    for n, end in ((1, 3), (2, 6), (3, 8)):
        assert with_steps(whole, whole.steps[:n]).messages == whole.messages[:end]
    assert with_steps(whole, whole.steps[1:]).messages == []
    assert with_steps(whole, []).messages == []
    row = encode_trajectory(whole, checkpoint_of("qwen2.5"))
    assert len(re.findall("1+", "".join(map(str, row.mask)))) == 3


def test_a_conversation_that_lacks_replies_is_named() -> None:
    checkpoint = checkpoint_of("plain")
    lacking = dataclasses.replace(played(), messages=played().messages[:3])
    with pytest.raises(EmptyDataError, match="with 1 replies for 3 steps"):
        encode_trajectory(lacking, checkpoint)


def acting(template: str, protocol: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint_of(template), protocol=protocol)


def test_the_protocol_of_the_checkpoint_decides() -> None:
    """A record that is older than the field `tools` does not tell it if the agent called none."""
    old = dataclasses.replace(silent(), tools=[])
    checkpoint = checkpoint_of("qwen2.5")
    assert encode_trajectory(old, checkpoint) != encode_trajectory(silent(), checkpoint)
    checkpoint = acting("qwen2.5", "tool")
    assert encode_trajectory(old, checkpoint).ids == encode_trajectory(silent(), checkpoint).ids
    with pytest.raises(DataError, match="called tools, and the model is trained with"):
        encode_trajectory(played(), acting("qwen2.5", "thought"))


def test_an_experts_episode_is_rewritten_as_calls(checkpoint: Checkpoint) -> None:
    steps = [
        dataclasses.replace(step, thought="", text=f"Action: {step.action}")
        for step in episode().steps
    ]
    expert = dataclasses.replace(episode(), steps=steps, messages=[])
    caller = dataclasses.replace(checkpoint, protocol="tool")
    row = encode_trajectory(expert, caller)
    trained = "".join(text for text, mask in runs(*row, checkpoint) if mask)
    assert "Action:" not in trained
    for step in steps:
        assert json.dumps({"action": step.action}) in trained


def test_the_protocol_of_trajectories() -> None:
    expert = dataclasses.replace(episode(), messages=[])
    assert protocol_of([expert]) is None
    assert protocol_of([expert, dataclasses.replace(episode(), messages=CHAT)]) == "thought"
    assert protocol_of([expert, silent()]) == "tool"


def test_texts_for_a_tokenizer_have_the_calls() -> None:
    texts = texts_of([played()])
    assert 'I look.\n{"name": "act", "arguments": {"action": "look"}}' in texts
    assert played().steps[0].observation in texts


def test_step_wise_pairs_are_of_replies_in_text() -> None:
    with pytest.raises(DataError, match="choose pairs of whole trajectories"):
        _generate(None, checkpoint_of("plain"), [played()], None, 0, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", ["plain", "qwen2.5"])
def test_ppo_computes_the_log_probs_that_were_sampled_with(template: str) -> None:
    tokenizer = train_tokenizer(["Action: look"], vocab_size=300, template=template)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])  # as in Qwen2.5's
    shape = SHAPE | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
        model.get_output_embeddings().weight.data.normal_()
    checkpoint = Checkpoint(model.eval(), tokenizer, template, "brief", with_example=False)
    excluded = [
        control_ids(model, tokenizer, template, with_tools=tools) for tools in (False, True)
    ]
    assert (excluded[0] == excluded[1]) == (template == "plain")
    actor = ActorCritic(model, *excluded)
    for protocol in ("thought", "tool"):
        policy = ReActPolicy(
            checkpoint.chat_model(), protocol=protocol, temperature=1.0, max_tokens=15
        )  # type: ignore[arg-type]
        episode = run_episode(
            policy, "ETO-ALFWorld-v0", 0, split="train", dataset="mini", max_steps=2
        )
        sample = sample_of(episode, checkpoint)
        assert sample.with_tools == (protocol == "tool")
        ids, mask = torch.tensor([sample.ids]), torch.tensor([sample.mask])
        scores = actor(ids, mask, sample.with_tools)
        expected = torch.tensor([sample.log_probs])[:, 1:]
        assert sum(sample.mask) > 20
        assert torch.allclose(scores.log_probs, expected, atol=1e-4)
        other = actor(ids, mask, not sample.with_tools)
        assert torch.allclose(other.log_probs, expected, atol=1e-4) == (template == "plain")
