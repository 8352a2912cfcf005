"""The renderer, token by token, with byte-level and SentencePiece tokenizers."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_agents.react.chat import Encoded, encode, find_template, pieces, templates
from eto_agents.react.prompts import load_prompts
from eto_agents.react.tools import ACT
from eto_agents.trajectory import Message, Tool, ToolCall
from eto_envs.errors import UnknownNameError

if importlib.util.find_spec("tokenizers") is None or importlib.util.find_spec("jinja2") is None:
    pytest.skip("tokenizers and jinja2 are not installed", allow_module_level=True)

KINDS = ("bytes", "sentencepiece", "sentencepiece-legacy")
CASES = [(name, kind) for name in templates() for kind in KINDS]
WITH_TOOLS = [name for name, form in templates().items() if form.call_tags is not None]


def words() -> list[str]:
    chats = [prompt.head(with_example=True) for prompt in load_prompts().values()]
    return [message["content"] for chat in chats for message in chat]


@functools.cache
def make_tokenizer(kind: str, special: tuple[str, ...]) -> Any:
    """A BPE trained on the prompts, built like GPT-2's (bytes) or Llama-2's (SentencePiece)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    alphabet: list[str] = []
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        if kind == "sentencepiece":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        special = ("<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256)))
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=list(special),
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=8,
    )
    texts = words() if kind == "bytes" else [t for text in words() for t in text.split("\n")]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_of(name: str, kind: str) -> Any:
    form = find_template(name)
    tags = dict.fromkeys([*form.special, *(form.call_tags or ())])
    return make_tokenizer(kind, tuple(tags))


def chat(*texts: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)]


EPISODE = chat(
    "Shop for me.",
    "OK",
    "WebShop [SEP] Instruction: [SEP] i want a café table [SEP] Search",
    "Thought: I search.\nAction: search[café table]",
    "Observation:\nBack to Search [SEP] Page 1",
    "Thought: The first fits.\n\nAction: click[B012345678]",
    "Observation:\nBuy Now\n",
)

QWEN = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
)
SMOL = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
DOCUMENTED = {
    "plain": "<|user|>u1<|end|><|assistant|>a1<|end|><|user|>u2<|end|><|assistant|>",
    "llama-2": "<s>[INST] u1 [/INST] a1 </s><s>[INST] u2 [/INST]",
    "llama-3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nu1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nu2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama-3.1": f"{LLAMA}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nu1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nu2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] u1 [/INST] a1</s>[INST] u2 [/INST]",
    "mistral-v3": "<s>[INST] u1[/INST] a1</s>[INST] u2[/INST]",
    "qwen2.5": f"{QWEN}<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n"
    "a1<|im_end|>\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    "a1<|im_end|>\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n",
    "smollm2": f"{SMOL}<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\n"
    "a1<|im_end|>\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n",
}
WITH_SYSTEM = {
    "plain": "<|system|>S<|end|><|user|>u1<|end|><|assistant|>",
    "llama-2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nu1 [/INST]",
    "llama-3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nu1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama-3.1": f"{LLAMA}S<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nu1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] S\n\nu1 [/INST]",
    "mistral-v3": "<s>[INST] S\n\nu1[/INST]",
    "qwen2.5": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "smollm2": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n",
}


def text_of(messages: Sequence[Message], name: str, **arguments: Any) -> str:
    return "".join(piece.text for piece in pieces(messages, name, **arguments))


@pytest.mark.parametrize("name", templates())
def test_rendered_texts_equal_the_documented_ones(name: str) -> None:
    assert text_of(chat("u1", "a1", "u2"), name, for_reply=True) == DOCUMENTED[name]
    assert text_of(chat("u1", system="S"), name, for_reply=True) == WITH_SYSTEM[name]


def reference(messages: Sequence[Message], name: str, tokenizer: Any) -> Encoded:
    """Encode the whole text at once, with a mask from the characters that each token covers."""
    text = text_of(messages, name)
    covered = [0] * len(text)
    place = 0
    for message in messages:
        place = text.index(message["content"], place)
        end = place + len(message["content"])
        if message["role"] == "assistant":
            start = place - (text[place - 1] == " ")  # in Llama-2 and Mistral the space is included
            end = text.index(find_template(name).end, end) + len(find_template(name).end)
            covered[start:end] = [1] * (end - start)
        place = end
    encoding = tokenizer.encode(text, add_special_tokens=False)
    # A token that covers nothing (a byte of a character, a mark before a word) counts as the next.
    mask = [covered[min(start, len(text) - 1)] for start, _ in encoding.offsets]
    return Encoded(encoding.ids, mask)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_tokens_equal_those_of_the_whole_text(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(name, kind)
    for n in (2, 4, 6):
        encoded = encode(EPISODE[:n], tokenizer, name)
        expected = reference(EPISODE[:n], name, tokenizer)
        assert encoded.ids == expected.ids
        assert encoded.mask == expected.mask
        assert 0 < sum(encoded.mask) < len(encoded.mask)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_mask_covers_the_agents_texts_and_ends_of_turn(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(name, kind)
    ids, mask = encode(EPISODE, tokenizer, name)
    end = find_template(name).end
    own = [i for i, is_agent in zip(ids, mask, strict=True) if is_agent]
    texts = tokenizer.decode(own, skip_special_tokens=False).split(end)
    assert [t.strip() for t in texts] == [m["content"] for m in EPISODE[1::2]] + [""]
    assert own.count(tokenizer.token_to_id(end)) == 3


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_ids_of_every_turn_continue_those_before(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(name, kind)
    before = Encoded([], [])
    for n in range(1, len(EPISODE) + 1):
        turns = [encode(EPISODE[:n], tokenizer, name)]
        if n % 2:
            turns.append(encode(EPISODE[:n], tokenizer, name, for_reply=True))
        for now in turns:
            assert len(now.ids) == len(now.mask)
            assert now.ids[: len(before.ids)] == before.ids
            assert now.mask[: len(before.mask)] == before.mask
            before = now


FRAGMENTS = ("a", " ", "\n", "é", "\0", "<", "|", "▁", "🙂", "Thought:", "<s>", "</s>", "[INST]")
FRAGMENTS += ("[/INST]", "<<SYS>>", "<think>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<tool_call>")
FRAGMENTS += (
    "</tool_call>",
    "</tool_response>",
    "<|python_tag|>",
    '{"name": "act"',
    "}",
    "\\",
    '"',
)
ODD = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(ODD, min_size=3, max_size=5), name=st.sampled_from(sorted(templates())))
def test_arbitrary_texts_keep_the_properties(kind: str, texts: list[str], name: str) -> None:
    tokenizer = tokenizer_of(name, kind)
    form = find_template(name)
    messages = chat(*texts)
    before: list[int] = []
    for n in range(1, len(messages) + 1):
        ids, mask = encode(messages[:n], tokenizer, name, for_reply=bool(n % 2))
        assert ids[: len(before)] == before
        # Only the template ends a turn, and the end of the agent's turn has mask 1.
        specials = {tokenizer.token_to_id(token) for token in form.special}
        blank = chat(*["x"] * n)
        plain = encode(blank, tokenizer, name, for_reply=bool(n % 2)).ids
        assert [i for i in ids if i in specials] == [i for i in plain if i in specials]
        ends = [m for i, m in zip(ids, mask, strict=True) if i == tokenizer.token_to_id(form.end)]
        assert sum(ends) == n // 2
        before = ids


class Merging:
    """Each character is a token, but two line breaks are a single one."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        tokens = re.findall(r"<\|\w+\|>|\n\n|.|\n", text)
        return [sum(ord(c) << (8 * i) for i, c in enumerate(token)) for token in tokens]


def test_no_token_spans_the_beginning_of_a_reply() -> None:
    messages = chat("u", "\nAction: x", "v")
    prompt = encode(messages[:1], Merging(), "qwen2.5", for_reply=True)
    whole = encode(messages, Merging(), "qwen2.5")
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    written = [i for i, is_agent in zip(*whole, strict=True) if is_agent]
    assert written == Merging().encode("\nAction: x<|im_end|>", add_special_tokens=False)


def test_markup_in_a_message_is_broken_up() -> None:
    text = text_of(chat("say </s> and [/INST] \0!"), "llama-2")
    assert text == "<s>[INST] say < /s> and [ /INST] �! [/INST]"


@pytest.mark.parametrize("name", ["plain", "llama-2", "qwen2.5"])
def test_sampled_ids_are_used_as_they_are(name: str) -> None:
    tokenizer = tokenizer_of(name, "bytes")
    end = tokenizer.token_to_id(find_template(name).end)
    odd = tokenizer.encode("Tho", add_special_tokens=False).ids
    odd += tokenizer.encode("ught: x\nAction: y", add_special_tokens=False).ids
    messages = chat("u", "Thought: x\nAction: y", "v")
    prompt = encode(messages[:1], tokenizer, name, for_reply=True)
    for ids in (odd, [*odd, end]):
        whole = encode(messages, tokenizer, name, sampled={1: ids})
        assert whole.ids[: len(prompt.ids)] == prompt.ids
        written = [i for i, is_agent in zip(*whole, strict=True) if is_agent]
        assert written == [*odd, end]


def test_turns_of_the_prompt_can_be_masked() -> None:
    tokenizer = tokenizer_of("plain", "bytes")
    whole = encode(EPISODE, tokenizer)
    some = encode(EPISODE, tokenizer, first_trained=2)
    assert some.ids == whole.ids
    left_out = sum(whole.mask) - sum(some.mask)
    assert left_out == len(tokenizer.encode("OK<|end|>", add_special_tokens=False).ids)


def test_a_tokenizer_may_return_lists() -> None:
    class AsInTransformers:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            own = tokenizer_of("plain", "bytes").encode(text, add_special_tokens=add_special_tokens)
            return list(own.ids)

    own = encode(EPISODE, tokenizer_of("plain", "bytes"))
    assert encode(EPISODE, AsInTransformers()) == own


def test_a_tokenizer_without_the_special_tokens_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no token in this tokenizer '<\|im_start\|>'"):
        encode(EPISODE, tokenizer_of("plain", "bytes"), "qwen2.5")
    with pytest.raises(UnknownNameError, match="did you mean 'llama-2'"):
        encode(EPISODE, tokenizer_of("plain", "bytes"), "llama2")


@pytest.mark.parametrize(
    ("roles", "for_reply"),
    [
        ([], False),
        (["system"], False),
        (["assistant"], False),
        (["user", "user"], False),
        (["user", "system"], False),
        (["user", "tool"], False),
        (["user", "assistant", "tool"], False),
        (["user", "assistant"], True),
    ],
)
def test_roles_out_of_order_are_refused(roles: list[str], for_reply: bool) -> None:
    messages: list[Message] = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(ValueError, match=r"roles must be|message must be the user's|no message of"):
        pieces(messages, for_reply=for_reply)


def call(action: str, call_id: str = "1") -> ToolCall:
    arguments = json.dumps({"action": action}, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": "act", "arguments": arguments}}


def calling(*calls: ToolCall, content: str = "") -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(content: str, call_id: str = "1") -> Message:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


CALLS = [
    *chat("u1", system="S"),
    calling(call("open <é>")),
    result('r1\n"q"'),
    {"role": "assistant", "content": "a2"},
    user("u2"),
    calling(call("x")),
    result("r3"),
    user("u3"),
]
"""A call alone and its result, a reply in text, a call at whose result the user goes on."""

TOOL: Tool = {"type": "function", "function": {"name": "act", "description": "D", "parameters": {}}}
OPENING = "<|start_header_id|>{}<|end_header_id|>\n\n"
EXPECTED_CALLS = {
    "plain": "<|system|>S<|end|><|user|>u1<|end|>"
    '<|assistant|>{"name": "act", "arguments": {"action": "open <é>"}}<|end|>'
    '<|user|>r1\n"q"<|end|><|assistant|>a2<|end|><|user|>u2<|end|>'
    '<|assistant|>{"name": "act", "arguments": {"action": "x"}}<|end|>'
    "<|user|>r3<|end|><|user|>u3<|end|><|assistant|>",
    # `llama3_1.jinja` of trl 1.16.0, which is the template of meta-llama/Llama-3.1-8B-Instruct, and
    # `llama3_2.jinja` with that date.
    "llama-3.1": f"{LLAMA}S<|eot_id|>{OPENING.format('user')}u1<|eot_id|>"
    '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "act", "parameters": '
    '{"action": "open <é>"}}<|eot_id|>'
    f'{OPENING.format("ipython")}"r1\\n\\"q\\""<|eot_id|>'
    f"{OPENING.format('assistant')}a2<|eot_id|>{OPENING.format('user')}u2<|eot_id|>"
    '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "act", "parameters": '
    '{"action": "x"}}<|eot_id|>'
    f'{OPENING.format("ipython")}"r3"<|eot_id|>{OPENING.format("user")}u3<|eot_id|>'
    f"{OPENING.format('assistant')}",
    # `qwen2_5.jinja` of trl 1.16.0, which is the template of Qwen/Qwen2.5-0.5B-Instruct.
    "qwen2.5": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n<tool_call>\n"
    '{"name": "act", "arguments": {"action": "open <é>"}}\n</tool_call><|im_end|>\n'
    '<|im_start|>user\n<tool_response>\nr1\n"q"\n</tool_response><|im_end|>\n'
    "<|im_start|>assistant\na2<|im_end|>\n<|im_start|>user\nu2<|im_end|>\n"
    "<|im_start|>assistant\n<tool_call>\n"
    '{"name": "act", "arguments": {"action": "x"}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\n<tool_response>\nr3\n</tool_response><|im_end|>\n"
    "<|im_start|>user\nu3<|im_end|>\n<|im_start|>assistant\n",
}
THOUGHT = "<think>\n\n</think>\n\n"  # qwen3.jinja of trl 1.16.0 has it before the last reply alone
EXPECTED_CALLS["qwen3"] = EXPECTED_CALLS["qwen2.5"].replace("assistant\n", f"assistant\n{THOUGHT}")

LISTED = {
    # SHA-256 of the first two messages with `TOOL`, rendered with the same files of trl 1.16.0
    # (qwen3's with enable_thinking=False): the families' fixed texts are long.
    "llama-3.1": "c910de8ade4d9174a0096848b023b07a1b191af2771be86075d76a5098cf572b",
    "qwen2.5": "eec045a829480b815530adcc8551d3e3984016972bf7b15735b5d0ec25b3ddd3",
    "qwen3": "2f9b7a6db9b50af22fc990cea0cee5c758e95e1807b4e7219707b9afc099b014",
}


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_calls_and_results_are_rendered_as_the_families_do(name: str) -> None:
    assert text_of(CALLS, name, for_reply=True) == EXPECTED_CALLS[name]
    listed = text_of(CALLS[:2], name, for_reply=True, tools=[TOOL])
    if name in LISTED:
        assert sha256(listed.encode()).hexdigest() == LISTED[name]
    else:
        assert listed == "<|system|>S<|end|><|user|>u1<|end|><|assistant|>"


def test_several_calls_a_message() -> None:
    chat = [
        user("u"),
        calling(call("x"), call("y", "2"), content="t"),
        result("1"),
        result("2", "2"),
    ]
    x, y = (f'{{"name": "act", "arguments": {{"action": "{action}"}}}}' for action in "xy")
    assert text_of(chat, "plain") == (
        f"<|user|>u<|end|><|assistant|>t\n{x}\n{y}<|end|><|user|>1<|end|><|user|>2<|end|>"
    )
    assert text_of(chat, "qwen2.5").endswith(
        f"assistant\nt\n<tool_call>\n{x}\n</tool_call>\n<tool_call>\n{y}\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n"
        "<tool_response>\n2\n</tool_response><|im_end|>\n"
    )
    with pytest.raises(ValueError, match=r"'llama-3\.1' has one tool call a message, got 2"):
        text_of(chat, "llama-3.1")


def test_what_is_written_beside_a_call_stays() -> None:
    """Llama's own template leaves it out."""
    text = text_of([user("u"), calling(call("x"), content="I think.")], "llama-3.1")
    assert text.endswith('\n\nI think.\n{"name": "act", "parameters": {"action": "x"}}<|eot_id|>')


REVISIONS = {
    "qwen2.5": ("qwen2_5.jinja", {}),
    "qwen3": ("qwen3.jinja", {"enable_thinking": False}),
    "llama-3.1": ("llama3_1.jinja", {"bos_token": "<|begin_of_text|>"}),
    "llama-3.1 (3.2)": (
        "llama3_2.jinja",
        {"bos_token": "<|begin_of_text|>", "date_string": "26 Jul 2024"},
    ),
}


@pytest.mark.parametrize("revision", REVISIONS)
def test_renderings_equal_those_of_the_families_templates(revision: str) -> None:
    """trl has copies of the templates, with which it recognises models."""
    trl, transformers = map(importlib.util.find_spec, ("trl", "transformers"))
    if trl is None or trl.origin is None or transformers is None:
        pytest.skip("the extra train is not installed")
    from transformers.utils.chat_template_utils import render_jinja_template

    file, arguments = REVISIONS[revision]
    path = Path(trl.origin).parent / "chat_templates" / file
    if not path.exists():
        pytest.skip("this release of trl has no such template")
    name = revision.partition(" ")[0]
    theirs_has = json.loads(json.dumps(CALLS))
    for message in theirs_has:
        for made in message.get("tool_calls", ()):
            made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    for start in (0, 1):
        for end in range(2, len(CALLS) + 1):
            for tools in ([], [ACT]):
                for_reply = CALLS[end - 1]["role"] != "assistant"
                (theirs,), _ = render_jinja_template(
                    [theirs_has[start:end]],
                    tools=tools or None,
                    chat_template=path.read_text(encoding="utf-8"),
                    add_generation_prompt=for_reply,
                    **arguments,
                )
                ours = text_of(CALLS[start:end], name, for_reply=for_reply, tools=tools)
                if name == "qwen3":
                    ours, theirs = (text.replace(THOUGHT, "") for text in (ours, theirs))
                assert ours == theirs


@pytest.mark.parametrize("name", [name for name in templates() if name not in WITH_TOOLS])
def test_templates_without_tools_say_which_have_them(name: str) -> None:
    able = "plain, llama-3.1, qwen2.5, qwen3"
    for messages, tools in ((chat("u"), [TOOL]), ([user("u"), calling(call("x"))], [])):
        with pytest.raises(UnknownNameError, match=f"no tools in chat template .{name}.*: {able}"):
            pieces(messages, name, tools=tools)


@pytest.mark.parametrize(
    "messages",
    [
        [user("u"), calling(call("x")), user("v")],
        [user("u"), calling(call("x")), {"role": "assistant", "content": "x"}],
        [user("u"), calling(call("x")), result("1"), result("2")],
        [user("u"), {"role": "assistant", "content": "x"}, result("1")],
        [{**user("u"), "tool_calls": [call("x")]}],
    ],
)
def test_each_call_has_a_result(messages: list[Message]) -> None:
    with pytest.raises(ValueError, match="a tool's result for each tool call, got"):
        pieces(messages)


def test_a_chat_does_not_end_between_two_results() -> None:
    two = calling(call("x"), call("y", "2"))
    with pytest.raises(ValueError, match="ends between the results"):
        pieces([user("u"), two, result("1")])
    assert pieces([user("u"), two, result("1"), result("2")])


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[0] in WITH_TOOLS])
def test_the_mask_covers_calls_but_no_results(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(name, kind)
    form = find_template(name)
    ids, mask = encode(CALLS[:-1], tokenizer, name, tools=[TOOL])
    own = [i for i, is_agent in zip(ids, mask, strict=True) if is_agent]
    written = [piece.text for piece in pieces(CALLS[:-1], name, tools=[TOOL]) if piece.is_agent]
    assert tokenizer.decode(own, skip_special_tokens=False).replace(" ", "") == (
        "".join(written).replace(" ", "")
    )
    key = "parameters" if name == "llama-3.1" else "arguments"
    assert [text.count(f'"{key}": {{"action": ') for text in written] == [1, 0, 1]
    assert all(text.endswith(form.end) for text in written)
    ends = [m for i, m in zip(ids, mask, strict=True) if i == tokenizer.token_to_id(form.end)]
    assert sum(ends) == 3
    assert len(re.findall("1+", "".join(map(str, mask)))) == 3  # a run for each of its messages


@st.composite
def conversations(draw: st.DrawFn) -> tuple[str, list[Message]]:
    """A template with tools, and a chat of odd texts, calls and results."""
    name = draw(st.sampled_from(WITH_TOOLS))
    most = 1 if find_template(name).one_call else 2
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(ODD)})
    messages.append(user(draw(ODD)))
    for _ in range(draw(st.integers(1, 3))):
        calls = [
            {
                "id": str(n),
                "type": "function",
                "function": {"name": draw(ODD), "arguments": draw(ODD)},
            }
            for n in range(draw(st.integers(0, most)))
        ]
        messages.append(calling(*calls, content=draw(ODD)))  # type: ignore[arg-type]
        messages += [result(draw(ODD), made["id"]) for made in messages[-1]["tool_calls"]]
        if not calls or draw(st.booleans()):
            messages.append(user(draw(ODD)))
    return name, messages


def beginnings(messages: Sequence[Message]) -> Iterator[tuple[list[Message], bool]]:
    """The chats that a chat continues, each first without and then with the opening of a reply."""
    roles = [message["role"] for message in messages]
    for n, (role, following) in enumerate(zip(roles, [*roles[1:], ""], strict=True), start=1):
        if role != "system" and (role, following) != ("tool", "tool"):
            yield list(messages[:n]), False
            if role != "assistant" and following != "user":
                yield list(messages[:n]), True


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(made=conversations(), listed=st.booleans())
def test_calls_of_arbitrary_texts_keep_the_properties(
    kind: str, made: tuple[str, list[Message]], listed: bool
) -> None:
    name, messages = made
    tokenizer = tokenizer_of(name, kind)
    form = find_template(name)
    tools = [TOOL] if listed else []
    controls = {tokenizer.token_to_id(tag) for tag in (*form.special, *(form.call_tags or ()))}

    def controls_of(chat: Sequence[Message], for_reply: bool) -> list[int]:
        ids = encode(chat, tokenizer, name, for_reply=for_reply, tools=tools).ids
        return [i for i in ids if i in controls]

    before: list[int] = []
    for start, for_reply in beginnings(messages):
        ids, mask = encode(start, tokenizer, name, for_reply=for_reply, tools=tools)
        assert len(ids) == len(mask)
        blank = [plain_copy(message) for message in start]
        assert controls_of(start, for_reply) == controls_of(blank, for_reply)
        assert ids[: len(before)] == before
        before = ids


def plain_copy(message: Message) -> Message:
    """The message with other texts."""
    calls = [
        {**made, "function": {"name": "x", "arguments": "{}"}}
        for made in message.get("tool_calls", ())
    ]
    return {**message, "content": "x", "tool_calls": calls}  # type: ignore[typeddict-item]


def test_markup_in_calls_and_tools_is_broken_up() -> None:
    odd: Message = calling(call("<|im_end|></tool_call>"))
    tool: Tool = {"type": "function", "function": {"name": "</tools>", "enum": ["<|im_start|>"]}}
    text = text_of([user("u"), odd, result("</tool_response>")], "qwen2.5", tools=[tool])
    assert '{"action": "< |im_end|>< /tool_call>"}' in text
    assert "\n< /tool_response>\n</tool_response>" in text
    assert '{"name": "< /tools>", "enum": ["< |im_start|>"]}' in text
    assert text_of(chat('{"name": "act"}'), "plain") == '<|user|>{ "name": "act"}<|end|>'
