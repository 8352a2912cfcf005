"""Sampling replies for a batch of prompts, and deciding where each one ends.

A reply depends on its own prompt and seed alone, not on the rest of the batch. The model itself is
run by a `Runner` (`eto_agents.models.local.runner`), which gives logits for the tokens drawn here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eto_agents.models.base import Sampling, find_stop
from eto_agents.models.control_tokens import decode, n_tokens_before, without_tokens
from eto_agents.models.local.runner import Runner

_ENDS_TURN, _MAY_COMPLETE_STOP = 1, 2


@dataclass(frozen=True, slots=True)
class SampledReply:
    """What was sampled for one prompt.

    Attributes:
        text: the reply, without the end token or the stop that ended it.
        token_ids: its tokens, the end token included. Where a stop ended it: the tokens that lie
            before the stop completely.
        log_probs: natural-log probabilities of `token_ids` under the model's own distribution
            (temperature 1, all tokens but control tokens), whatever they were sampled with.
        finish_reason: ``"stop"`` or ``"length"``.
        drawn_ids: all tokens that were drawn, those of the stop included.
        n_computed: how many of `drawn_ids` the model was run over: all but the last.
    """

    text: str
    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    drawn_ids: list[int]
    n_computed: int


class Vocabulary:
    """What sampling has to know of tokens: their texts, and which ones can end a reply.

    Attributes:
        end_ids: the end tokens.

    Args:
        tokenizer: a tokenizer of `transformers`.
        size: number of tokens that the model has logits for.
        end_ids: tokens that end a turn.
        control_ids: tokens that are never drawn.
        control_ids_with_tools: the same where the model has tools.
    """

    def __init__(
        self,
        tokenizer: Any,
        size: int,
        end_ids: Sequence[int],
        control_ids: Sequence[int] = (),
        control_ids_with_tools: Sequence[int] = (),
    ) -> None:
        """Take the tokenizer; see the class."""
        self._tokenizer = tokenizer
        self._size = size
        self.end_ids = frozenset(end_ids)
        # For sampling without tools, and with tools.
        self._control_ids = [
            torch.tensor(list(ids), dtype=torch.long)
            for ids in (control_ids, control_ids_with_tools)
        ]
        self._flags: dict[tuple[str, ...], Tensor] = {}
        self._texts: list[str] | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special tokens included."""
        return decode(self._tokenizer, ids)

    def n_before(self, ids: Sequence[int], cut: int) -> int:
        """How many tokens of a text lie before a place in it completely."""
        return n_tokens_before(self._tokenizer, ids, cut)

    def without_control(self, logits: Tensor, *, with_tools: bool) -> Tensor:
        """Logits (rows, vocabulary) without those of control tokens; see `without_tokens`."""
        return without_tokens(logits, self._control_ids[with_tools])

    def flags(self, stop: tuple[str, ...]) -> Tensor:
        """Which tokens may end a reply, (vocabulary,) uint8.

        1 marks end tokens, 2 tokens whose text has the last character of a stop: only after those
        the reply is decoded and searched for stops.
        """
        if stop not in self._flags:
            may_complete = np.zeros(self._size, bool)
            for last in {text[-1] for text in stop if text}:
                # Other characters may be spread over several tokens, or be missing in the text of
                # a token that is decoded alone (as the space at its beginning is).
                if "!" <= last <= "~":
                    may_complete |= np.array([last in text for text in self._token_texts()])
                else:
                    may_complete[:] = True
            flags = may_complete.astype(np.uint8) * _MAY_COMPLETE_STOP
            flags[[token for token in self.end_ids if token < self._size]] = _ENDS_TURN
            self._flags[stop] = torch.from_numpy(flags)
        return self._flags[stop]

    def _token_texts(self) -> list[str]:
        if self._texts is None:
            # A model may have more logits than its tokenizer has tokens.
            n_known = min(self._size, len(self._tokenizer))
            known = [self.decode([token]) for token in range(n_known)]
            self._texts = known + [""] * (self._size - n_known)
        return self._texts


def sample_replies(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    sampling: Sampling,
    seeds: Sequence[int] | None,
    vocabulary: Vocabulary,
    *,
    with_tools: bool = False,
) -> tuple[list[SampledReply], list[int]]:
    """Continue prompts, all in one batch, until every reply has ended.

    Args:
        runner: runs the model.
        prompts: token ids; at least one each.
        budgets: the most tokens of each reply.
        sampling: how to sample; `budgets` take the place of its `max_tokens`.
        seeds: one for each prompt; without them replies differ from run to run.
        vocabulary: the model's.
        with_tools: whether replies may contain the tokens around tool calls.

    Returns:
        The replies, and how many tokens of each prompt were cached.
    """
    prefilled = runner.prefill(prompts, max(budgets))
    replies = _Replies([row.prompt for row in prefilled], budgets, sampling.stop, vocabulary)
    draw = _make_draw(sampling, seeds, budgets)
    # The token that each row is run over next, (rows,); at first the last one of its prompt.
    tokens = torch.tensor([prompts[row.prompt][-1] for row in prefilled])
    n_steps = 0
    while True:
        logits = vocabulary.without_control(
            runner.decode(tokens, replies.active), with_tools=with_tools
        )
        tokens, log_probs = draw(logits, replies.indices, n_steps)
        n_steps += 1
        n_active = replies.append(tokens, log_probs)
        if not n_active:
            break
        # A smaller batch is faster, but moving its rows costs about as much as a step.
        if n_active <= len(replies.indices) // 2:
            order = runner.select(replies.active.nonzero()[:, 0].tolist())
            replies.select(order)
            tokens = tokens[torch.tensor(order, device=tokens.device)]
    sampled = replies.results()
    runner.finish(
        [
            [*prompt, *reply.drawn_ids[: reply.n_computed]]
            for prompt, reply in zip(prompts, sampled, strict=True)
        ]
    )
    n_cached = [0] * len(prompts)
    for row in prefilled:
        n_cached[row.prompt] = row.n_cached
    return sampled, n_cached


class _Replies:
    """The replies of a batch while they are sampled.

    Tokens and log-probabilities are (prompts, steps). Rows are those of the runner's batch, which
    shrinks while replies end.

    Attributes:
        indices: for each row, the index of its prompt.
        active: (rows,), bool; False once the row's reply has ended.
    """

    def __init__(
        self,
        indices: list[int],
        budgets: Sequence[int],
        stop: tuple[str, ...],
        vocabulary: Vocabulary,
    ) -> None:
        self.indices = indices
        self.active = torch.ones(len(indices), dtype=torch.bool)
        self._n_active = len(indices)
        self._budgets = list(budgets)
        self._next_budget = min(budgets)
        self._stop = tuple(text for text in stop if text)
        self._vocabulary = vocabulary
        self._flags = vocabulary.flags(self._stop)  # (vocabulary,)
        self._indices = torch.tensor(indices)  # (rows,)
        self._tokens = torch.zeros(len(indices), max(budgets), dtype=torch.long)
        self._log_probs = torch.zeros(len(indices), max(budgets))
        self._n_steps = 0
        # Of each reply that has ended: its number of tokens, and where a stop begins in its text.
        self._ended: dict[int, tuple[int, int | None]] = {}

    def append(self, tokens: Tensor, log_probs: Tensor) -> int:
        """Append a token to each row's reply.

        Args:
            tokens: (rows,), the tokens.
            log_probs: (rows,), their log-probabilities.

        Returns:
            The number of active rows.
        """
        self._move_to(tokens.device)
        # Rows that have ended are written, too: what lies behind a reply's end is cut off later.
        self._tokens[self._indices, self._n_steps] = tokens
        self._log_probs[self._indices, self._n_steps] = log_probs
        self._n_steps += 1
        flags = self._flags[tokens] * self.active  # (rows,)
        if flags.any():  # the one point in a step that waits for the device
            for row, flag in enumerate(flags.tolist()):
                if flag == _ENDS_TURN:
                    self._end(row, None)
                elif flag == _MAY_COMPLETE_STOP:
                    cut = self._find_stop(self.indices[row])
                    if cut is not None:
                        self._end(row, cut)
        if self._n_steps >= self._next_budget:
            self._end_at_budget()
        return self._n_active

    def select(self, order: Sequence[int]) -> None:
        """Shrink the batch; `order` gives the old row of each new one."""
        rows = torch.tensor(order, device=self.active.device)
        self.indices = [self.indices[row] for row in order]
        self.active, self._indices = self.active[rows], self._indices[rows]

    def results(self) -> list[SampledReply]:
        """The replies, by prompt."""
        rows = zip(self._tokens.tolist(), self._log_probs.tolist(), strict=True)
        return [self._result(index, *row) for index, row in enumerate(rows)]

    def _result(self, index: int, drawn: list[int], log_probs: list[float]) -> SampledReply:
        n_drawn, cut = self._ended[index]
        drawn = drawn[:n_drawn]
        if cut is not None:
            n_whole, text = self._cut(drawn, cut)
            reason = "stop"
        else:
            n_whole = n_drawn
            has_end = drawn[-1] in self._vocabulary.end_ids
            text = self._vocabulary.decode(drawn[:-1] if has_end else drawn)
            reason = "stop" if has_end else "length"
        return SampledReply(text, drawn[:n_whole], log_probs[:n_whole], reason, drawn, n_drawn - 1)

    def _move_to(self, device: torch.device) -> None:
        if self._tokens.device != device:
            for name in ("active", "_flags", "_indices", "_tokens", "_log_probs"):
                setattr(self, name, getattr(self, name).to(device))

    def _end_at_budget(self) -> None:
        for row, index in enumerate(self.indices):
            if index not in self._ended and self._n_steps >= self._budgets[index]:
                self._end(row, None)
        left = [self._budgets[index] for index in self.indices if index not in self._ended]
        self._next_budget = min(left, default=0)

    def _end(self, row: int, cut: int | None) -> None:
        self._ended[self.indices[row]] = self._n_steps, cut
        self.active[row] = False
        self._n_active -= 1

    def _find_stop(self, index: int) -> int | None:
        """Where the first stop begins in a reply's text."""
        text = self._vocabulary.decode(self._tokens[index, : self._n_steps].tolist())
        return find_stop(text, self._stop)

    def _cut(self, drawn: list[int], cut: int) -> tuple[int, str]:
        """How many tokens lie before a stop completely, and the text before it."""
        return self._vocabulary.n_before(drawn, cut), self._vocabulary.decode(drawn)[:cut]


Draw = Callable[[Tensor, Sequence[int], int], tuple[Tensor, Tensor]]
"""Takes logits (rows, vocabulary), the index of each row's prompt and the number of the step; gives
tokens (rows,) and their log-probabilities (rows,)."""


def _make_draw(sampling: Sampling, seeds: Sequence[int] | None, budgets: Sequence[int]) -> Draw:
    if sampling.temperature == 0:
        return lambda logits, _, __: _with_log_probs(logits, logits.argmax(-1))
    if seeds is None:
        entropy = random.SystemRandom()
        seeds = [entropy.getrandbits(63) for _ in budgets]
    # Random numbers (prompts, steps) in [0, 1), drawn in advance. Each prompt has its own generator
    # on the CPU, so neither the batch nor the device changes them.
    numbers = np.zeros((len(budgets), max(budgets)))
    for index, (seed, n_tokens) in enumerate(zip(seeds, budgets, strict=True)):
        numbers[index, :n_tokens] = np.random.default_rng(seed).random(n_tokens)
    uniform = torch.from_numpy(numbers)

    def draw(logits: Tensor, indices: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        u = uniform[torch.tensor(indices), step].to(logits.device)
        tokens = sample_inverse_cdf(logits / sampling.temperature, u, sampling.top_p)
        return _with_log_probs(logits, tokens)

    return draw


def sample_inverse_cdf(logits: Tensor, u: Tensor, top_p: float) -> Tensor:
    """Inverse transform sampling: the first token at which the cumulative probability exceeds `u`.

    Args:
        logits: (rows, vocabulary), float32.
        u: (rows,), float64, uniform in [0, 1).
        top_p: only the likeliest tokens are drawn, up to the one with which their probability
            first reaches this.

    Returns:
        Tokens (rows,).
    """
    order = None  # (rows, vocabulary), the token at each position, if not the position itself
    probabilities = logits.softmax(-1)
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.double().cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    # In float64: float32 sums over a large vocabulary lose unlikely tokens. `u` is scaled by the
    # total, which is below 1 where top_p has cut tokens off.
    sums = probabilities.double().cumsum(-1)
    position = torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)  # (rows, 1)
    # Rounding may lead beyond the last token that has a probability.
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1, keepdim=True)
    position = torch.minimum(position, last)
    return (position if order is None else order.gather(-1, position))[:, 0]


def _with_log_probs(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (rows,) and their log-probabilities (rows,), from logits (rows, vocabulary)."""
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return tokens, chosen - logits.logsumexp(-1)
