"""A local model that calls tools: what it may write, what it wrote, and how it goes on."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from typing import Any

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch
import transformers

from eto_agents.models.base import Completion, Sampling, complete
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.control_tokens import control_ids
from eto_agents.models.tiny import train_tokenizer
from eto_agents.react.chat import encode
from eto_agents.react.tools import ACT
from eto_agents.trajectory import Message, ToolCall
from eto_envs.errors import UnknownNameError
from tests.agents.models.local.random_models import SHAPE, user

pytestmark = pytest.mark.torch

CALL: ToolCall = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "act", "arguments": '{"action": "look"}'},
}
CHAT = [user("A lamp?")]
CALLING: Message = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
RESULT: Message = {"role": "tool", "content": "A lamp.", "tool_call_id": "call-1"}
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
SAMPLING = Sampling(max_tokens=60, stop=())


PARTS = ["I look.\n", '{"name": "act", "', "arguments", "parameters", '": {"action": "look"}}']
PARTS += [f"\n{PARTS[1]}", f"{PARTS[-1]}\n"]
"""Tokens with which none comes twice in a reply."""


@functools.cache
def caller(template: str) -> Checkpoint:
    """A model that writes one call, because it knows which token follows which.

    Its layers add nothing, so that a token's logits depend on the token before it alone.
    """
    tokenizer = train_tokenizer(["A lamp?"], vocab_size=300, template=template)
    tokenizer.add_tokens(PARTS)
    if template.startswith("qwen"):
        tokenizer.add_tokens(TAGS)  # as Qwen3's has them: they are not special ones
    shape = SHAPE | {"vocab_size": len(tokenizer), "hidden_size": 64, "head_dim": 16}
    config = transformers.LlamaConfig(**shape | {"eos_token_id": tokenizer.eos_token_id})
    whole = encode([*CHAT, CALLING], tokenizer, template, tools=[ACT])
    first = whole.mask.index(1)
    written = whole.ids[first - 1 : first + sum(whole.mask)]  # and the token before it
    assert len({*written}) == len(written)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = transformers.LlamaForCausalLM(config)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.model.embed_tokens.weight.normal_()
        model.lm_head.weight.normal_(0, 0.01)
        for before, after in itertools.pairwise(written):
            model.lm_head.weight[after] = embedding[before]
    return Checkpoint(model.eval(), tokenizer, template)


def token(checkpoint: Checkpoint, text: str) -> int:
    return int(checkpoint.tokenizer.convert_tokens_to_ids(text))


@pytest.mark.parametrize("template", ["plain", "qwen2.5", "llama-3.1"])
def test_a_call_is_parsed_and_goes_on_as_it_was_sampled(template: str) -> None:
    checkpoint = caller(template)
    model = checkpoint.chat_model()
    [completion] = complete(model, [CHAT], SAMPLING, tools=[ACT])
    assert (completion.text, completion.tool_calls) == ("I look.", [CALL])
    assert (completion.finish_reason, completion.error) == ("tool_calls", "")
    assert completion.token_ids is not None
    assert completion.log_probs is not None
    prompt = model._encoder.encode(CHAT, [ACT])
    whole = encode([*CHAT, CALLING], checkpoint.tokenizer, template, tools=[ACT])
    assert whole.ids[: len(prompt)] == prompt
    written = [i for i, is_agent in zip(*whole, strict=True) if is_agent]
    assert completion.token_ids == written
    # The same text in other tokens: the next turn has those that were sampled.
    letters = [token for c in "I look.\n" for token in plain_ids(checkpoint, c)]
    reply = [*letters, *written[1:]]
    text = checkpoint.tokenizer.decode(reply[:-1])
    read = model._encoder.read(CHAT, Completion(text, reply), [ACT])
    assert read.message == CALLING
    after = model._encoder.encode([*CHAT, CALLING, RESULT], [ACT])
    assert after[: len(prompt) + len(reply)] == prompt + reply


def plain_ids(checkpoint: Checkpoint, text: str) -> list[int]:
    ids: list[int] = checkpoint.tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_only_with_tools_the_tokens_around_calls_may_be_written() -> None:
    checkpoint = caller("qwen2.5")
    call, result = (token(checkpoint, tag) for tag in ("<tool_call>", "<tool_response>"))
    arguments = (checkpoint.model, checkpoint.tokenizer, "qwen2.5")
    assert {call, result} <= {*control_ids(*arguments)}
    with_tools = control_ids(*arguments, with_tools=True)
    assert result in with_tools
    assert call not in with_tools
    model = checkpoint.chat_model()
    [completion] = complete(model, [CHAT], SAMPLING)
    assert (completion.token_ids or [])[:1] == plain_ids(checkpoint, "I look.\n")
    assert call not in (completion.token_ids or [])
    [completion] = complete(model, [CHAT], SAMPLING, tools=[ACT])
    assert call in (completion.token_ids or [])


def test_llamas_tag_is_not_written_without_tools() -> None:
    checkpoint = caller("llama-3.1")
    arguments = (checkpoint.model, checkpoint.tokenizer, "llama-3.1")
    tag, other_end = (token(checkpoint, text) for text in ("<|python_tag|>", "<|eom_id|>"))
    assert {tag, other_end} <= {*control_ids(*arguments)}
    assert tag not in control_ids(*arguments, with_tools=True)
    checkpoint.model.generation_config.eos_token_id = [other_end]  # as in Meta's checkpoints
    assert other_end not in control_ids(*arguments)


def test_a_text_where_there_are_tools() -> None:
    checkpoint = caller("plain")
    cut_off = Sampling(max_tokens=2, stop=())
    [completion] = complete(checkpoint.chat_model(), [CHAT], cut_off, tools=[ACT])
    assert completion.tool_calls == []
    assert completion.text == 'I look.\n{"name": "act", "'
    assert completion.finish_reason == "length"


def test_chats_differ_by_tools_and_calls() -> None:
    model = caller("qwen2.5").chat_model()
    assert model.count_tokens(CHAT, tools=[ACT]) > model.count_tokens(CHAT) + 50
    other = {**CALL, "function": {"name": "act", "arguments": "{}"}}
    chats = [[*CHAT, {**CALLING, "tool_calls": [made]}, RESULT] for made in (CALL, other)]
    first, second = (model._encoder.encode(chat, [ACT]) for chat in chats)  # type: ignore[arg-type]
    assert first != second
    assert model._encoder.encode(chats[0]) != first  # type: ignore[arg-type]


def test_a_template_without_tools_is_refused() -> None:
    tokenizer = train_tokenizer(["A lamp?"], vocab_size=300, template="smollm2")
    config = transformers.LlamaConfig(**SHAPE | {"vocab_size": len(tokenizer)})
    made = Checkpoint(transformers.LlamaForCausalLM(config).eval(), tokenizer, "smollm2")
    model = made.chat_model()
    with pytest.raises(UnknownNameError, match=r"'smollm2'.*that have them: plain, llama-3\.1"):
        model.generate([CHAT], Sampling(), tools=[ACT])
