"""The renderer, token by token, with byte-level and SentencePiece tokenizers."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_agents.react.chat import Encoded, encode, find_template, pieces, templates
from eto_agents.react.prompts import load_prompts
from eto_agents.trajectory import Message
from eto_envs.errors import UnknownNameError

if importlib.util.find_spec("tokenizers") is None or importlib.util.find_spec("jinja2") is None:
    pytest.skip("tokenizers and jinja2 are not installed", allow_module_level=True)

KINDS = ("bytes", "sentencepiece", "sentencepiece-legacy")
CASES = [(name, kind) for name in templates() for kind in KINDS]


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
    return make_tokenizer(kind, find_template(name).special)


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
SMOL = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
DOCUMENTED = {
    "plain": "<|user|>u1<|end|><|assistant|>a1<|end|><|user|>u2<|end|><|assistant|>",
    "llama-2": "<s>[INST] u1 [/INST] a1 </s><s>[INST] u2 [/INST]",
    "llama-3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nu1<|eot_id|>"
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
    "mistral": "<s>[INST] S\n\nu1 [/INST]",
    "mistral-v3": "<s>[INST] S\n\nu1[/INST]",
    "qwen2.5": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "smollm2": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n"
    "<|im_start|>assistant\n",
}


def text_of(messages: Sequence[Message], name: str, *, for_reply: bool = False) -> str:
    return "".join(piece.text for piece in pieces(messages, name, for_reply=for_reply))


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
FRAGMENTS += ("[/INST]", "<<SYS>>", "<think>", "<|im_end|>", "<|end|>", "<|eot_id|>")
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
        (["user", "assistant"], True),
    ],
)
def test_roles_out_of_order_are_refused(roles: list[str], for_reply: bool) -> None:
    messages: list[Message] = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(ValueError, match=r"roles must be|the last message must be the user's"):
        pieces(messages, for_reply=for_reply)
