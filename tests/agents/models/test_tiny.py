"""Tiny models: what is one token, and that seed and texts determine a model."""

from __future__ import annotations

import importlib.util

import pytest

from eto_agents.react.chat import encode, find_template
from eto_envs.errors import UnknownNameError

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch

from eto_agents.models.tiny import SIZES, make_tiny, train_tokenizer

pytestmark = pytest.mark.torch

_THINGS = ("apple", "book", "candle", "dish", "egg", "fork", "glove", "hat", "iron", "jar")
TEXTS = [
    *(f"Here is {thing} {n}, so to say. Take it." for n, thing in enumerate(_THINGS) for _ in "ab"),
    "Instruction: [SEP] a red mug [SEP] B07XDRVVYM [SEP] Red Mug [SEP] $10.50 [SEP] red [SEP] blue",
    "Action: click[B07XDRVVYM]",
    "Action: click[red]",
    "You see a drawer 3, and a drawer 12.\nYour task is to: put a mug in drawer.",
    "Action: open drawer 3",
] * 20
"""Many share a phrase; the others have no frequent one."""


def parts(text: str) -> list[str]:
    tokenizer = train_tokenizer(TEXTS, vocab_size=600)
    return [tokenizer.decode([i]) for i in tokenizer.encode(text, add_special_tokens=False)]


def test_words_are_the_same_tokens_in_goals_pages_and_actions() -> None:
    page, action = parts(" [SEP] B07XDRVVYM [SEP] Red"), parts("Action: click[B07XDRVVYM]")
    assert page[:3] == [" [SEP] ", "B07XDRVVYM", " [SEP]"]
    assert "B07XDRVVYM" in action
    assert " red" in parts("a red mug")
    assert " red" in parts("$10.50 [SEP] red [SEP] blue")
    assert " drawer" in parts("in drawer.")
    for text in ("see a drawer 3, and", "Action: open drawer 3"):
        tokens = parts(text)
        assert tokens[tokens.index(" drawer") + 1] == " 3"


def test_a_phrase_of_a_template_is_one_token_without_objects() -> None:
    assert parts("Here is hat 7, so to say. Take it.") == [
        "Here is",
        " hat",
        " 7",
        ", so to say. Take it.",
    ]
    cut = parts("Here is hat 7, so to say. Take items.")
    assert not any("Take it" in part for part in cut)  # a phrase ends where its last word ends


@pytest.mark.parametrize("text", ["B09ABCDEF1 für 3 €\n\n \t<|end|>", "drawer 3.5", "\ud7ff 漢字"])
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=600)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens_of_the_template_are_single_tokens() -> None:
    checkpoint = make_tiny(TEXTS, size="nano", vocab_size=400, template="qwen2.5")
    assert checkpoint.tokenizer.eos_token == find_template("qwen2.5").end
    encoded = encode([{"role": "user", "content": "mug"}], checkpoint.tokenizer, "qwen2.5")
    assert max(encoded.ids) < checkpoint.model.config.vocab_size == len(checkpoint.tokenizer)


def test_a_model_depends_on_seed_and_texts_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models = [make_tiny(TEXTS, size="nano", vocab_size=400, seed=s).model for s in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    first, same, other = (next(model.parameters()) for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_sizes_grow() -> None:
    models = [make_tiny(TEXTS, size=size, vocab_size=400).model for size in SIZES]
    assert {model.config.head_dim for model in models} == {32}
    n_parameters = [sum(p.numel() for p in model.parameters()) for model in models]
    assert n_parameters == sorted(n_parameters)
    assert n_parameters[0] < 300_000 < 5_000_000 < n_parameters[-1] * 1.2


def test_mistakes_are_named() -> None:
    with pytest.raises(UnknownNameError, match="no size 'huge'"):
        make_tiny(TEXTS, size="huge")
    with pytest.raises(ValueError, match="no texts"):
        make_tiny([""])
    with pytest.raises(ValueError, match="at least 261"):
        make_tiny(TEXTS, vocab_size=100)
