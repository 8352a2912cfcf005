"""Control tokens: those that structure a chat and are no part of a message.

A reply may end with one, and contains no other, except for those around tool calls where the model
has tools. If a model could write "<|user|>" in the middle of a reply, it would forge messages; and
the reply, whose text is read as plain text afterwards, would be learned from in another context
than the one in which it was sampled. So playing and training exclude these tokens from the model's
distribution alike, which keeps their log-probabilities equal.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from eto_agents.react.chat import find_template

if TYPE_CHECKING:
    from torch import Tensor


def end_ids(model: Any, tokenizer: Any, template: str) -> list[int]:
    """Tokens that end a turn, by the template, the tokenizer and the model's configs; sorted."""
    end = find_template(template).end
    ends = {tokenizer.encode(end, add_special_tokens=False)[0], tokenizer.eos_token_id}
    for config in (model.config, getattr(model, "generation_config", None)):
        own = getattr(config, "eos_token_id", None)
        ends.update(own if isinstance(own, list | tuple) else [own])
    return sorted(int(end) for end in ends if end is not None)


def control_ids(
    model: Any, tokenizer: Any, template: str, *, with_tools: bool = False
) -> list[int]:
    """Tokens that no reply contains: all special ones but those that end a turn; sorted.

    These are the template's, its markup as far as the tokenizer has tokens for it, and those that
    the tokenizer marks as special. Tokens for which the model has no logits are left out.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        template: its chat template.
        with_tools: whether replies may contain the tokens around tool calls.
    """
    form = find_template(template)
    added = tokenizer.added_tokens_decoder
    written = {*form.special, *form.markup, *(form.call_tags or ())}
    special = {
        *tokenizer.convert_tokens_to_ids(list(form.special)),
        *tokenizer.all_special_ids,
        *(i for i, token in added.items() if token.special or token.content in written),
    }
    allowed = set(end_ids(model, tokenizer, template))
    if with_tools:
        tags = set(form.call_tags or ())
        allowed |= {i for i, token in added.items() if token.content in tags}
    n_logits = int(model.config.get_text_config().vocab_size)
    return sorted(token for token in special - allowed if token < n_logits)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, special tokens included."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def ids_in_context(
    sampled: Sequence[int], text: str, tokenizer: Any, ends: Container[int]
) -> list[int] | None:
    """Token ids of a reply in the chats that continue it, without the end of the turn.

    Args:
        sampled: the tokens that the reply was sampled as.
        text: the reply. A stop may begin inside a token; then it is longer than the tokens before.
        tokenizer: the model's tokenizer.
        ends: tokens that end a turn.

    Returns:
        The sampled tokens and those of the rest of the text; None if the tokenizer does not decode
        the sampled tokens to the beginning of the text, because another one was used.
    """
    ids = without_end(sampled, ends)
    known = decode_known(tokenizer, ids)
    if known is None or not text.startswith(known):
        return None
    rest = text[len(known) :]
    return ids + tokenizer.encode(rest, add_special_tokens=False) if rest else ids


def n_tokens_before(tokenizer: Any, ids: Sequence[int], cut: int) -> int:
    """How many tokens of a text lie before a place in it completely."""
    n_whole = len(ids)
    while n_whole and len(decode(tokenizer, ids[:n_whole])) > cut:
        n_whole -= 1
    return n_whole


def without_end(sampled: Sequence[int], ends: Container[int]) -> list[int]:
    """The tokens of a reply without the one that ended the turn."""
    return list(sampled[:-1] if sampled and sampled[-1] in ends else sampled)


def decode_known(tokenizer: Any, ids: Sequence[int]) -> str | None:
    """The text of tokens; None if the tokenizer does not have all of them."""
    return decode(tokenizer, ids) if max(ids, default=0) < len(tokenizer) else None


def without_tokens(logits: Tensor, ids: Tensor) -> Tensor:
    """Exclude tokens from a distribution.

    Args:
        logits: (…, V), one logit for each token of the vocabulary.
        ids: (n,), the tokens to exclude.

    Returns:
        The logits in float32, with the lowest finite number at `ids`, whose probability is then 0.
        (Minus infinity would become 0 times infinity in an entropy.)
    """
    import torch

    logits = logits.float()
    return logits.index_fill(-1, ids.to(logits.device), torch.finfo(logits.dtype).min)
