"""Tiny language models, built and trained from scratch on a laptop's CPU.

They are Llamas (Touvron et al. 2023) with a byte-level BPE tokenizer trained on the texts they will
read. The tokenizer makes easy what an agent does most, which is to compare words and to copy them.
An object is the same token in the goal, on a page and in an action (``mug``, whatever its number).
An item code that occurs repeatedly is one token, because a model of this size does not learn in
minutes to copy ten characters one by one. So is a frequent phrase of the world's templates
(``, you see a``), which carries no information: an episode has a quarter fewer tokens, and what
must be compared is closer together. Training is `eto_agents.training`'s part.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from eto_agents.models.checkpoint import Checkpoint
from eto_agents.react.chat import find_template
from eto_envs.errors import UnknownNameError, require

MAX_CONTEXT_TOKENS: Final = 4096
"""The longest context of a tiny model; ETO trains and evaluates with the same."""

# In this order: WebShop's separator, with a space that precedes a code (the text was split at codes
# before, so the space is at its end); words; numbers; punctuation; white space.
WORDS_AND_NUMBERS: Final = r" ?\[SEP\](?: $)?| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+"
"""The pieces in which a new tiny model reads a text."""
_LONGEST_PHRASE: Final = 12  # pieces
_MOST_TEXTS: Final = 4000  # searched for phrases
_CODE: Final = re.compile(r"\b(?=[A-Z0-9]*[0-9])(?=[A-Z0-9]*[A-Z])[A-Z0-9]{6,}\b")


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a model.

    Attributes:
        width: hidden size.
        n_layers: number of layers.
        n_heads: number of attention heads, of `width` / `n_heads` channels each.
        feed_forward: hidden size of the feed-forward blocks.
    """

    width: int
    n_layers: int
    n_heads: int
    feed_forward: int


SIZES: Final[Mapping[str, Size]] = {
    "nano": Size(64, 2, 2, 192),
    "micro": Size(96, 3, 3, 256),
    "small": Size(128, 4, 4, 352),
    "medium": Size(256, 6, 8, 704),
}
"""About 0.3, 0.6, 1.2 and 5.6 million parameters with a vocabulary of 3,000.

A head has 32 channels in all of them: vLLM runs no model on a CPU whose heads have fewer.
"""


def make_tiny(
    texts: Iterable[str],
    *,
    size: str = "small",
    vocab_size: int = 2000,
    template: str = "plain",
    prompts: str = "brief",
    seed: int = 0,
) -> Checkpoint:
    """Create an untrained model, with a tokenizer trained on texts.

    Args:
        texts: what the model will read, such as the messages of expert episodes.
        size: one of `SIZES`.
        vocab_size: number of tokens, without those of item codes: each code that occurs more than
            once is an additional token.
        template: the chat template.
        prompts: the prompts it will be trained with.
        seed: of the weights; the same seed and texts give the same model. The global generator of
            torch is left unchanged.

    Raises:
        UnknownNameError: no such size or template.
        ValueError: there are no texts, or `vocab_size` is too small for the 256 bytes.
        MissingExtraError: a package for it is not installed.
    """
    if size not in SIZES:
        raise UnknownNameError("size", size, SIZES)
    require("transformers", extra="train")
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, template=template)
    model = make_model(SIZES[size], tokenizer, seed)
    return Checkpoint(model, tokenizer, template, prompts, with_example=False)


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int = 2000,
    template: str = "plain",
    pieces: str = WORDS_AND_NUMBERS,
    min_share: float = 0.03,
    codes: bool = True,
) -> Any:
    """A byte-level BPE tokenizer of `transformers` for a template; see `make_tiny`.

    Args:
        texts: the texts to train it on.
        vocab_size: number of tokens, without those of item codes.
        template: the chat template.
        codes: whether each item code that occurs more than once is an additional token.
        pieces: a regular expression of the pieces of a text; no token but a phrase is longer.
        min_share: share of the texts that contain a phrase which becomes a token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    form = find_template(template)
    special = ["<|pad|>", *form.special]
    if vocab_size < 256 + len(special):
        raise ValueError(f"vocab_size must be at least {256 + len(special)}, got {vocab_size}")
    whole = list(texts)
    if not any(whole):
        raise ValueError("there are no texts to train a tokenizer on: give expert episodes")
    phrases = [
        re.escape(phrase) + (r"(?![A-Za-z])" if phrase[-1].isalpha() else "")
        for phrase in _phrases(whole, pieces, min_share)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join([*phrases, pieces])), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    parts = (part for text in whole for part in _CODE.split(text))  # as the tokenizer splits them
    tokenizer.train_from_iterator(parts, trainer)
    if codes:
        tokenizer.add_tokens(_codes(whole))
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token=form.end,
        model_max_length=MAX_CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def _phrases(texts: Sequence[str], pieces: str, min_share: float) -> list[str]:
    """Phrases that many of the texts contain, without numbers and numbered objects.

    They are sorted by length, longest first: the tokenizer takes the first that matches.
    """
    sample = random.Random(0).sample(texts, min(len(texts), _MOST_TEXTS))
    texts_in_pieces = [re.findall(pieces, text) for text in sample]
    numbered = {
        piece
        for of_text in texts_in_pieces
        for piece, following in pairwise(of_text)
        if piece.strip().isalpha() and following.strip().isdigit()
    }
    counts: Counter[str] = Counter()  # of the texts with a phrase
    for of_text in texts_in_pieces:
        phrases = set()
        for start in range(len(of_text)):
            phrase = ""
            for n_before, piece in enumerate(of_text[start : start + _LONGEST_PHRASE]):
                if piece in numbered or "[SEP]" in piece or any(c.isdigit() for c in piece):
                    break
                phrase += piece
                if n_before:
                    phrases.add(phrase)
        counts.update(phrases)
    common = [phrase for phrase, count in counts.items() if count >= min_share * len(sample)]
    return sorted(common, key=lambda phrase: (-len(phrase), phrase))


def _codes(texts: Iterable[str]) -> list[str]:
    """Item codes that occur more than once, sorted."""
    counts = Counter(code for text in texts for code in _CODE.findall(text))
    return sorted(code for code, count in counts.items() if count > 1)


def make_model(size: Size, tokenizer: Any, seed: int) -> Any:
    """An untrained model for a tokenizer; see `make_tiny`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=size.n_heads,
        max_position_embeddings=MAX_CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    return model.eval()
