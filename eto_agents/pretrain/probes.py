"""What a base model can copy: the measures by which ``tiny-base`` is judged.

Every probe is a page or a room that the model has not seen, with names drawn anew, and the
beginning of an action. The model completes it greedily, and is right if it writes exactly what the
page has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from eto_agents.pretrain.renaming import CODE, Names, Renaming
from eto_agents.react.chat import encode
from eto_agents.trajectory import Message

_THING = re.compile(r"\ba ([a-z]+) ([0-9]+)\b")


class Probe(NamedTuple):
    """A chat, the beginning of the reply, and what has to follow.

    Attributes:
        chat: the chat, up to what the agent replies to.
        beginning: of the reply.
        answer: the text that has to follow.
        ends: whether the reply has to end after it.
    """

    chat: list[Message]
    beginning: str
    answer: str
    ends: bool = True


def code_probes(
    rng: np.random.Generator, chats: Sequence[Sequence[Message]], names: Names, n: int
) -> Iterator[Probe]:
    """Pages of search results with a click on one of the products, begun by its first letters."""
    for chat in _renamed(rng, chats, names, numbers=False):
        for at, message in enumerate(chat):
            codes = CODE.findall(message["content"]) if message["role"] == "user" else []
            if len(set(codes)) < 2:
                continue
            code = codes[int(rng.integers(len(codes)))]
            others = [other for other in set(codes) if other != code]
            n_shared = max(_n_shared(code, other) for other in others)
            beginning = code[: n_shared + 1]
            yield Probe(chat[: at + 1], f"Action: click[{beginning}", code[len(beginning) :] + "]")
            n -= 1
            break
        if not n:
            return


def number_probes(
    rng: np.random.Generator, chats: Sequence[Sequence[Message]], names: Names, n: int
) -> Iterator[Probe]:
    """Rooms with an action on a thing of the last observation, whose number is missing."""
    for chat in _renamed(rng, chats, names, numbers=True):
        for at in rng.permutation(range(2, len(chat))):
            message = chat[at]
            things = _THING.findall(message["content"]) if message["role"] == "user" else []
            kinds = [kind for kind, _ in things]
            single = [thing for thing in things if kinds.count(thing[0]) == 1]
            if not single:
                continue
            kind, number = single[int(rng.integers(len(single)))]
            if at == 2:
                yield Probe(chat[: at + 1], f"Action: go to {kind}", f" {number}")
            else:
                yield Probe(chat[: at + 1], f"Action: take {kind}", f" {number} from", ends=False)
            n -= 1
            break
        if not n:
            return


def _renamed(
    rng: np.random.Generator, chats: Sequence[Sequence[Message]], names: Names, *, numbers: bool
) -> Iterator[list[Message]]:
    for place in rng.permutation(len(chats)):
        yield Renaming(rng, names, words=0.0, numbers=numbers).apply(chats[place])


def _n_shared(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, probes: Sequence[Probe]) -> float:
    """Share of the probes that the model completes exactly, by greedy decoding."""
    n_right = 0
    for probe in probes:
        opened = encode(probe.chat, tokenizer, for_reply=True).ids
        before = tokenizer.encode(probe.beginning, add_special_tokens=False)
        answer = tokenizer.encode(probe.beginning + probe.answer, add_special_tokens=False)
        answer = answer[len(before) :] + [tokenizer.eos_token_id] * probe.ends
        ids = torch.tensor([opened + before + answer])
        predicted = model(input_ids=ids).logits[0, -len(answer) - 1 : -1].argmax(-1)
        n_right += predicted.tolist() == answer  # greedy decoding would write the same
    return n_right / max(1, len(probes))


def measure(
    model: Any, tokenizer: Any, chats: Mapping[str, Sequence[Sequence[Message]]], n: int = 100
) -> dict[str, float]:
    """The accuracies of a base model.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        chats: the chats of worlds that it was not trained on.
        n: number of probes of each kind.
    """
    model.eval()
    rng = np.random.default_rng(1)
    makers = {"webshop": ("code", code_probes), "alfworld": ("number", number_probes)}
    result = {}
    for world, (kind, make) in makers.items():
        probes = list(make(rng, chats[world], Names.of(chats[world]), n))
        result[kind] = accuracy(model, tokenizer, probes)
    model.train()
    return result
