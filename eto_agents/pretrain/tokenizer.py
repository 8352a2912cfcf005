"""The tokenizer of ``tiny-base``: one for all worlds, in which everything can be copied in pieces.

A word that the tokenizer has not seen, a number and an item code are made of pieces that it has
seen: a capital letter that no lower-case letter follows is a token of its own, and so is a digit.
Frequent phrases of the worlds' templates are single tokens, as in `eto_agents.models.tiny`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eto_agents.models.tiny import train_tokenizer

# In this order: WebShop's separator with the spaces around it; characters of codes; words; digits;
# punctuation; white space.
PIECES: Final = r" ?\[SEP\] ?| ?[A-Z](?![a-z])| ?[A-Z]?[a-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+"

VOCAB_SIZE: Final = 2500


def make_tokenizer(texts: Sequence[str]) -> Any:
    """Train the tokenizer on texts of the worlds."""
    return train_tokenizer(texts, vocab_size=VOCAB_SIZE, pieces=PIECES, min_share=0.01, codes=False)
