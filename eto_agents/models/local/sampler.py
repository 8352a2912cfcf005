"""Drawing tokens for many conversations at once, and knowing where each reply ends.

What is drawn for a conversation depends on its own seed alone. Nothing here reads a model: a
`Reader` (`eto_agents.models.local.runner`) gives logits for the tokens that it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eto_agents.models.base import Sampling
from eto_agents.models.local.runner import Reader

_ENDS, _MAY_STOP = 1, 2


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was sampled for one conversation.

    Attributes:
        text: the reply, without what ended it.
        token_ids: its tokens, the one that ends the turn included; of a text that a stop cut,
            those that lie before the stop as a whole.
        log_probs: of the tokens, by the model's own distribution (at temperature 1, of all
            tokens), whatever the temperature and top_p they were drawn with.
        finish_reason: ``"stop"`` or ``"length"``.
        n_read: how many sampled tokens the reader has read (the last one drawn it has not).
        drawn: all that were drawn, those of the stop included.
    """

    text: str
    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    n_read: int
    drawn: list[int]


class Vocabulary:
    """What the sampler knows of tokens.

    Args:
        tokenizer: a tokenizer of `transformers`.
        size: how many tokens the model has logits for.
        end_ids: tokens that end a turn.
    """

    def __init__(self, tokenizer: Any, size: int, end_ids: Sequence[int]) -> None:
        """Take the tokenizer."""
        self._tokenizer = tokenizer
        self._size = size
        self.end_ids = frozenset(end_ids)
        self._tables: dict[tuple[str, ...], Tensor] = {}
        self._texts: list[str] | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def table(self, stop: tuple[str, ...]) -> Tensor:
        """For every token, uint8: 1 if it ends a turn, 2 if a stop's last character is in it."""
        if stop not in self._tables:
            may_stop = np.zeros(self._size, bool)
            for last in {text[-1] for text in stop if text}:
                # Other characters may be spread over tokens, or be lost at a token's edges.
                if "!" <= last <= "~":
                    may_stop |= np.array([last in text for text in self._token_texts()])
                else:
                    may_stop[:] = True
            table = may_stop.astype(np.uint8) * _MAY_STOP
            table[[token for token in self.end_ids if token < self._size]] = _ENDS
            self._tables[stop] = torch.from_numpy(table)
        return self._tables[stop]

    def _token_texts(self) -> list[str]:
        if self._texts is None:
            n_known = min(self._size, len(self._tokenizer))
            known = [self.decode([token]) for token in range(n_known)]
            self._texts = known + [""] * (self._size - n_known)
        return self._texts


def continue_all(
    reader: Reader,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    sampling: Sampling,
    seeds: Sequence[int] | None,
    vocabulary: Vocabulary,
) -> tuple[list[Sampled], list[int]]:
    """Continue every prompt until it ends.

    Args:
        reader: what reads.
        prompts: token ids; at least one each.
        budgets: the most tokens for each.
        sampling: how to draw; its `max_tokens` is not looked at.
        seeds: one for each prompt; without them draws differ from run to run.
        vocabulary: of the tokenizer.

    Returns:
        What was sampled for each, and how many tokens of each prompt had not to be read.
    """
    known = reader.begin(prompts, max(budgets))
    numbers = [number for number, _ in known]
    replies = _Replies(numbers, budgets, sampling.stop, vocabulary)
    draw = _drawing(sampling, seeds, budgets)
    tokens = torch.tensor([prompts[number][-1] for number in numbers])
    n_steps = 0
    while True:
        logits = reader.step(tokens, replies.live)
        tokens, log_probs = draw(logits, replies.numbers, n_steps)
        n_steps += 1
        n_live = replies.add(tokens, log_probs)
        if not n_live:
            break
        # Fewer rows are faster, but moving them costs about as much as a token.
        if n_live <= len(replies.numbers) // 2:
            order = reader.keep(replies.live.nonzero()[:, 0].tolist())
            replies.keep(order)
            tokens = tokens[torch.tensor(order, device=tokens.device)]
    sampled = replies.results()
    reader.end(
        [
            [*prompt, *reply.drawn[: reply.n_read]]
            for prompt, reply in zip(prompts, sampled, strict=True)
        ]
    )
    n_known = [0] * len(prompts)
    for number, n in known:
        n_known[number] = n
    return sampled, n_known


class _Replies:
    """Replies in the making; rows are the reader's, numbers the prompts'."""

    def __init__(
        self,
        numbers: list[int],
        budgets: Sequence[int],
        stop: tuple[str, ...],
        vocabulary: Vocabulary,
    ) -> None:
        self.numbers = numbers
        self.live = torch.ones(len(numbers), dtype=torch.bool)
        self._n_live = len(numbers)
        self._budgets = list(budgets)
        self._next_budget = min(budgets)
        self._stop = tuple(text for text in stop if text)
        self._vocabulary = vocabulary
        self._table = vocabulary.table(self._stop)
        self._numbers = torch.tensor(numbers)
        self._tokens = torch.zeros(len(numbers), max(budgets), dtype=torch.long)
        self._log_probs = torch.zeros(len(numbers), max(budgets))
        self._n_steps = 0
        self._done: dict[int, tuple[int, int | None]] = {}  # tokens, and where the text is cut

    def add(self, tokens: Tensor, log_probs: Tensor) -> int:
        """Take a token a row; how many rows go on."""
        self._move_to(tokens.device)
        self._tokens[self._numbers, self._n_steps] = tokens
        self._log_probs[self._numbers, self._n_steps] = log_probs
        self._n_steps += 1
        flags = self._table[tokens] * self.live
        if flags.any():
            for row, flag in enumerate(flags.tolist()):
                if flag == _ENDS:
                    self._finish(row, None)
                elif flag == _MAY_STOP:
                    cut = self._find_stop(self.numbers[row])
                    if cut is not None:
                        self._finish(row, cut)
        if self._n_steps >= self._next_budget:
            self._stop_at_budget()
        return self._n_live

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows."""
        rows = torch.tensor(order, device=self.live.device)
        self.numbers = [self.numbers[row] for row in order]
        self.live, self._numbers = self.live[rows], self._numbers[rows]

    def results(self) -> list[Sampled]:
        """What was sampled, by prompt."""
        rows = zip(self._tokens.tolist(), self._log_probs.tolist(), strict=True)
        return [self._result(number, *row) for number, row in enumerate(rows)]

    def _result(self, number: int, drawn: list[int], log_probs: list[float]) -> Sampled:
        n_drawn, cut = self._done[number]
        drawn = drawn[:n_drawn]
        if cut is not None:
            n_kept, text = self._cut(drawn, cut)
            reason = "stop"
        else:
            n_kept = n_drawn
            is_ended = drawn[-1] in self._vocabulary.end_ids
            text = self._vocabulary.decode(drawn[:-1] if is_ended else drawn)
            reason = "stop" if is_ended else "length"
        return Sampled(text, drawn[:n_kept], log_probs[:n_kept], reason, n_drawn - 1, drawn)

    def _move_to(self, device: torch.device) -> None:
        if self._tokens.device != device:
            for name in ("live", "_table", "_numbers", "_tokens", "_log_probs"):
                setattr(self, name, getattr(self, name).to(device))

    def _stop_at_budget(self) -> None:
        for row, number in enumerate(self.numbers):
            if number not in self._done and self._n_steps >= self._budgets[number]:
                self._finish(row, None)
        left = [self._budgets[n] for n in self.numbers if n not in self._done]
        self._next_budget = min(left, default=0)

    def _finish(self, row: int, cut: int | None) -> None:
        self._done[self.numbers[row]] = self._n_steps, cut
        self.live[row] = False
        self._n_live -= 1

    def _find_stop(self, number: int) -> int | None:
        """Where the first stop begins in a reply."""
        text = self._vocabulary.decode(self._tokens[number, : self._n_steps].tolist())
        found = [at for at in map(text.find, self._stop) if at >= 0]
        return min(found, default=None)

    def _cut(self, drawn: list[int], cut: int) -> tuple[int, str]:
        """How many tokens lie before a stop as a whole, and the text before it."""
        whole = self._vocabulary.decode(drawn)
        n_kept = len(drawn) - 1
        while n_kept and len(self._vocabulary.decode(drawn[:n_kept])) > cut:
            n_kept -= 1
        return n_kept, whole[:cut]


Draw = Callable[[Tensor, Sequence[int], int], tuple[Tensor, Tensor]]
"""Logits (rows, vocabulary), the rows' prompts, and the step: tokens and log-probabilities."""


def _drawing(sampling: Sampling, seeds: Sequence[int] | None, budgets: Sequence[int]) -> Draw:
    if sampling.temperature == 0:
        return lambda logits, _, __: _with_log_probs(logits.float(), logits.argmax(-1))
    if seeds is None:
        entropy = random.SystemRandom()
        seeds = [entropy.getrandbits(63) for _ in budgets]
    uniform = np.zeros((len(budgets), max(budgets)))
    for number, (seed, n_tokens) in enumerate(zip(seeds, budgets, strict=True)):
        uniform[number, :n_tokens] = np.random.default_rng(seed).random(n_tokens)
    table = torch.from_numpy(uniform)

    def draw(logits: Tensor, numbers: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        at = table[torch.tensor(numbers), step].to(logits.device)
        return _with_log_probs(logits, invert(logits / sampling.temperature, at, sampling.top_p))

    return draw


def invert(logits: Tensor, at: Tensor, top_p: float) -> Tensor:
    """The tokens at which the distributions' cumulative sums pass `at`.

    Args:
        logits: (rows, vocabulary), float32.
        at: (rows,), float64, uniform in [0, 1).
        top_p: tokens are drawn from the likeliest whose sum first reaches it.
    """
    order = None
    probabilities = logits.softmax(-1)
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.double().cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    sums = probabilities.double().cumsum(-1)
    position = torch.searchsorted(sums, (at * sums[:, -1])[:, None], right=True)
    # Rounding may lead past the last token that has a share.
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1, keepdim=True)
    position = torch.minimum(position, last)
    return (position if order is None else order.gather(-1, position))[:, 0]


def _with_log_probs(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return tokens, chosen - logits.logsumexp(-1)
