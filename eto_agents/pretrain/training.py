"""Pretraining: next-token prediction on strings, exercises and the worlds' texts.

The first steps are on strings of few characters, which are repeated and grow from 8 to 40: a small
transformer learns to copy from them within minutes (induction heads, Olsson et al. 2022), and much
later if they are mixed into other texts from the beginning. Then every step is on one kind of text,
which depends on the seed and the step's number only, so that training resumes exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from eto_agents.pretrain.exercises import draw_exercise
from eto_agents.pretrain.renaming import CODE_CHARACTERS, Names, Renaming
from eto_agents.react.chat import encode
from eto_agents.training.muon import MuonAdamW
from eto_agents.training.rows import IGNORED, labels_of
from eto_agents.training.states import load_state, save_state
from eto_agents.trajectory import Message


@dataclass(frozen=True)
class Pretraining:
    """The settings of pretraining.

    Attributes:
        n_tokens: number of tokens to train on after the first steps, padding included.
        batch_tokens: number of tokens of a step.
        n_string_steps: number of steps on repeated strings at the beginning.
        learning_rate: learning rate after the warm-up.
        n_warmup: steps of linear warm-up.
        decay: share of the tokens over which the learning rate decays linearly at the end.
        weights: how often a step is on each kind of text.
        seed: determines the weights' initial values and the order of everything.
    """

    n_tokens: int = 41_000_000
    batch_tokens: int = 8192
    n_string_steps: int = 1500
    learning_rate: float = 4e-3
    n_warmup: int = 50
    decay: float = 0.25
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "strings": 0.04,
            "exercises": 0.2,
            "webshop": 0.3,
            "alfworld": 0.2,
            "scienceworld": 0.26,
        }
    )
    seed: int = 0

    @property
    def n_steps(self) -> int:
        """The number of steps."""
        return self.n_string_steps + self.n_tokens // self.batch_tokens


class Batches:
    """The batch of every step.

    Args:
        chats: the chats of each world.
        tokenizer: the tokenizer.
        settings: the settings.
    """

    def __init__(
        self,
        chats: Mapping[str, Sequence[Sequence[Message]]],
        tokenizer: Any,
        settings: Pretraining,
    ) -> None:
        """Sort the chats by length, and count words."""
        self._tokenizer = tokenizer
        self._settings = settings
        self._names = {world: Names.of(of_world) for world, of_world in chats.items()}
        others = sorted({w for names in self._names.values() for w in names.others})
        self._all_names = Names(frozenset(), tuple(others))
        self._chats = {
            world: sorted(of_world, key=lambda chat: sum(len(m["content"]) for m in chat))
            for world, of_world in chats.items()
        }
        ids = [tokenizer.encode(c, add_special_tokens=False) for c in CODE_CHARACTERS]
        self._characters = np.array([i for (i,) in ids])

    def kind(self, step: int) -> str:
        """What a step is on."""
        if step < self._settings.n_string_steps:
            return "strings"
        known = {"strings", "exercises", *self._chats}
        kinds = [kind for kind in self._settings.weights if kind in known]
        shares = np.array([self._settings.weights[kind] for kind in kinds])
        rng = np.random.default_rng([self._settings.seed, step, 1])
        return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The ids (B, T) of a step and its labels (B, T), `IGNORED` where there is no loss."""
        rng = np.random.default_rng([self._settings.seed, step])
        kind = self.kind(step)
        if kind == "strings":
            return self._strings(rng, step)
        if kind == "exercises":
            return self._exercises(rng, step)
        return self._texts(rng, kind)

    def _strings(self, rng: np.random.Generator, step: int) -> tuple[Tensor, Tensor]:
        longest = min(8 + step // 30, 40)
        n, gap = int(rng.integers(4, longest + 1)), int(rng.integers(9))
        n_rows = min(64, self._settings.batch_tokens // (2 * n + gap))
        string = rng.choice(self._characters, (n_rows, n))
        between = rng.choice(self._characters, (n_rows, gap))
        ids = torch.from_numpy(np.concatenate([string, between, string], 1))
        labels = ids.clone()
        labels[:, : n + gap] = IGNORED
        return ids, labels

    def _exercises(self, rng: np.random.Generator, step: int) -> tuple[Tensor, Tensor]:
        difficulty = min(1.0, 0.1 + (step - self._settings.n_string_steps) / 1500)
        rows = [
            encode(draw_exercise(rng, self._all_names, difficulty), self._tokenizer)
            for _ in range(4 * self._settings.batch_tokens // 256)
        ]
        rows.sort(key=lambda row: len(row.ids))
        # A window of rows of like lengths, so that there is little padding.
        start = int(rng.integers(len(rows)))
        return self._batch(
            (ids, labels_of(ids, mask)) for ids, mask in rows[start:] + rows[:start][::-1]
        )

    def _texts(self, rng: np.random.Generator, world: str) -> tuple[Tensor, Tensor]:
        chats, names = self._chats[world], self._names[world]
        length = 2048 if rng.random() < 0.2 else 1024
        start = int(rng.integers(len(chats)))

        def rows() -> Iterator[tuple[list[int], list[int]]]:
            for chat in chats[start : start + 64]:
                renaming = Renaming(
                    rng,
                    names,
                    words=float(rng.choice([0.0, 0.3, 0.7])) if world != "scienceworld" else 0.0,
                    numbers=world == "alfworld" and rng.random() < 0.6,
                )
                ids = encode(renaming.apply(chat), self._tokenizer).ids[:length]
                yield ids, ids  # the loss is on everything

        return self._batch(rows())

    def _batch(self, rows: Iterable[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Pad ids and labels of the first rows, as many as a step's tokens allow."""
        chosen: list[tuple[list[int], list[int]]] = []
        longest = 0
        for row in rows:
            longest = max(longest, len(row[0]))
            if chosen and longest * (len(chosen) + 1) > self._settings.batch_tokens:
                break
            chosen.append(row)
        ids = [torch.tensor(of_row) for of_row, _ in chosen]
        labels = [torch.tensor(of_row) for _, of_row in chosen]
        return (
            pad_sequence(ids, batch_first=True),
            pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        )


def loss_of(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels, which are the ids where there is a loss.

    Padding is on the right, where causal attention does not see it.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        is_trained = labels[:, 1:] != IGNORED
        logits = model.lm_head(hidden[is_trained])
    return cross_entropy(logits.float(), labels[:, 1:][is_trained])


def learning_rate(step: int, settings: Pretraining) -> float:
    """The learning rate of a step: linear warm-up, constant, linear decay to a twentieth."""
    n = settings.n_steps
    rest = (n - step) / max(1, settings.decay * n)
    return settings.learning_rate * min(1.0, (step + 1) / settings.n_warmup, max(0.05, rest))


def pretrain(
    model: Any,
    batches: Batches,
    settings: Pretraining,
    folder: Path,
    *,
    log: Callable[[dict[str, Any]], None] = print,
    save_every: int = 100,
) -> None:
    """Train a model; repeating the call resumes it, with the same result.

    Args:
        model: the model, trained in place.
        batches: the batch of every step.
        settings: the settings.
        folder: holds the state.
        log: called whenever the state was saved, with the mean loss of each kind of text since.
        save_every: number of steps after which the state is saved.
    """
    optimizer = MuonAdamW(
        model.named_parameters(), learning_rate=settings.learning_rate, adam_beta2=0.98
    )
    first = load_state(folder, model, optimizer)
    start_s = time.monotonic()
    losses: dict[str, list[float]] = {}
    n_tokens = 0
    model.train()
    for step in range(first, settings.n_steps):
        ids, labels = batches(step)
        loss = loss_of(model, ids, labels)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.step()
        optimizer.zero_grad()
        losses.setdefault(batches.kind(step), []).append(loss.item())
        n_tokens += ids.numel()
        if (step + 1) % save_every == 0 or step + 1 == settings.n_steps:
            wall_s = time.monotonic() - start_s
            save_state(folder, model, optimizer, step + 1)
            log(
                {
                    "step": step + 1,
                    "wall_s": round(wall_s, 1),
                    "tokens_per_s": round(n_tokens / wall_s),
                    "learning_rate": learning_rate(step, settings),
                }
                | {kind: round(sum(of) / len(of), 4) for kind, of in losses.items()}
            )
            losses.clear()
