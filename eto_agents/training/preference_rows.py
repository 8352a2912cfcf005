"""Pairs of trajectories as token ids and loss masks: the rows that trajectory DPO trains on.

A row holds the common beginning of both sides (instruction, task, shared steps) once, and the rest
of each side with its mask, which is 0 on the environment's turns. A pair that is too long is
dropped and counted, or raises an error; it is never truncated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from eto_agents.models.checkpoint import acting
from eto_agents.react.chat import Encoded, encode
from eto_agents.react.tools import ACT, uses_tools
from eto_agents.training.episodes import turns_of
from eto_agents.training.pairs import NoPairsError, Pair
from eto_agents.training.rows import TooLong, chat_of, encode_trajectory, protocol_of
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint
    from eto_agents.preference import PreferencePair


class PreferenceRow(TypedDict):
    """An encoded pair; its fields are the columns of the dataset that TRL gets.

    Attributes:
        prompt_ids: token ids of the common beginning.
        chosen_ids: token ids of the rest of the chosen side.
        chosen_mask: 1 on the agent's tokens of `chosen_ids`, else 0; same length.
        rejected_ids: token ids of the rest of the rejected side.
        rejected_mask: 1 on the agent's tokens of `rejected_ids`, else 0; same length.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    chosen_mask: list[int]
    rejected_ids: list[int]
    rejected_mask: list[int]


@dataclass(frozen=True, slots=True)
class PreferenceRows:
    """Encoded pairs to train on.

    Attributes:
        rows: one row per pair, in order, without those that are too long.
        n_too_long: number of pairs that were dropped because a side has too many tokens.
    """

    rows: list[PreferenceRow]
    n_too_long: int = 0

    @property
    def n_tokens(self) -> int:
        """Total number of tokens, the prompt counted once for each side."""
        return sum(sum(lengths(row)) for row in self.rows)

    @property
    def sha256(self) -> str:
        """SHA-256 of all rows."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode())
        return digest.hexdigest()


def encode_pairs(
    pairs: Iterable[Pair | PreferencePair],
    checkpoint: Checkpoint,
    *,
    max_length: int | None = None,
    too_long: TooLong = "drop",
    world: str | None = None,
) -> PreferenceRows:
    """Encode pairs of trajectories, or pairs read from a file.

    Args:
        pairs: the pairs.
        checkpoint: provides the tokenizer, the chat template and the prompts.
        max_length: maximum number of tokens of a side, prompt included; the model's context length
            is a limit too, and the default.
        too_long: whether a pair with a longer side is dropped and counted, or raises an error.
        world: the world whose prompt is used; by default the trajectories'.

    Raises:
        NoPairsError: no pair is left.
        DataError: a pair is too long and `too_long` is ``"error"``, or the sides of a pair differ
            in their prompt or shared steps.
    """
    rows: list[PreferenceRow] = []
    n_too_long = 0
    readable = getattr(checkpoint.model.config, "max_position_embeddings", None)
    max_length = min((n for n in (max_length, readable) if n is not None), default=None)
    for pair in pairs:
        if isinstance(pair, Pair):
            row = encode_pair(pair, checkpoint, world=world)
        else:
            row = _encode(pair, checkpoint)
        longest = max(lengths(row))
        if max_length is None or longest <= max_length:
            rows.append(row)
        elif too_long == "error":
            raise DataError(
                f"a pair of task {pair.task_id!r} has {longest} tokens, more than {max_length}: "
                "raise max_length, or drop such pairs (too_long='drop')"
            )
        else:
            n_too_long += 1
    if not rows:
        raise NoPairsError(
            f"no pair is left to train on ({n_too_long} have more than {max_length} tokens)"
            if n_too_long
            else "no pairs to train on: none were given"
        )
    return PreferenceRows(rows, n_too_long)


def encode_pair(pair: Pair, checkpoint: Checkpoint, *, world: str | None = None) -> PreferenceRow:
    """Encode a pair of trajectories; the steps that both sides share become part of the prompt.

    Raises:
        DataError: the sides differ in their prompt or shared steps.
    """
    checkpoint = acting_as_in(checkpoint, [pair])
    chosen = encode_trajectory(pair.chosen, checkpoint, world=world)
    rejected = encode_trajectory(pair.rejected, checkpoint, world=world)
    return _row(chosen, rejected, pair.n_shared, pair.task_id)


def acting_as_in(checkpoint: Checkpoint, pairs: Iterable[Pair | PreferencePair]) -> Checkpoint:
    """The checkpoint with its protocol, or else with the one that pairs were played with.

    Of the two sides of a pair only one may hold a conversation: the other is an expert's.
    """
    if checkpoint.protocol is not None:
        return checkpoint
    protocols = {_protocol_of(pair) for pair in pairs}
    return acting(checkpoint, "tool" if "tool" in protocols else None)


def _protocol_of(pair: Pair | PreferencePair) -> str | None:
    if isinstance(pair, Pair):
        return protocol_of((pair.chosen, pair.rejected))
    return "tool" if uses_tools([*pair.prompt, *pair.chosen, *pair.rejected]) else None


def lengths(row: PreferenceRow) -> tuple[int, int]:
    """Number of tokens of the chosen and of the rejected side, each with the prompt."""
    n_prompt = len(row["prompt_ids"])
    return n_prompt + len(row["chosen_ids"]), n_prompt + len(row["rejected_ids"])


def _encode(pair: PreferencePair, checkpoint: Checkpoint) -> PreferenceRow:
    # Each side is rendered with the whole prompt: a chat template may join the two differently.
    tools = (ACT,) if "tool" in (checkpoint.protocol, _protocol_of(pair)) else ()
    sides = [
        encode(
            [*pair.prompt, *side],
            checkpoint.tokenizer,
            checkpoint.template,
            first_trained=len(pair.prompt),
            tools=tools,
        )
        for side in (pair.chosen, pair.rejected)
    ]
    return _row(sides[0], sides[1], 0, pair.task_id)


def _row(chosen: Encoded, rejected: Encoded, n_shared: int, task_id: str) -> PreferenceRow:
    # Both sides are cut where the agent's first differing turn begins; before it they must have the
    # same ids, since the prompt is stored once.
    start = _start_of_turn(chosen.mask, n_shared)
    if start != _start_of_turn(rejected.mask, n_shared) or (
        chosen.ids[:start] != rejected.ids[:start]
    ):
        raise DataError(
            f"the two sides of a pair of task {task_id!r} begin differently: they belong to "
            "different tasks, datasets or prompts"
        )
    return PreferenceRow(
        prompt_ids=list(chosen.ids[:start]),
        chosen_ids=list(chosen.ids[start:]),
        chosen_mask=list(chosen.mask[start:]),
        rejected_ids=list(rejected.ids[start:]),
        rejected_mask=list(rejected.mask[start:]),
    )


def _start_of_turn(mask: Sequence[int], turn: int) -> int:
    """Index of the first token of the agent's turn number `turn`, counted from 0."""
    turns = list(turns_of(mask))
    if turn >= len(turns):
        raise DataError(f"a trajectory has {len(turns)} agent turns, but {turn + 1} are needed")
    return turns[turn][0]


def as_preference(
    pair: Pair, checkpoint: Checkpoint, *, world: str | None = None
) -> PreferencePair:
    """Convert a pair of trajectories to the chats that the model reads, to be written to a file."""
    from eto_agents.preference import PreferencePair

    checkpoint = acting_as_in(checkpoint, [pair])
    chosen = chat_of(pair.chosen, checkpoint, world=world)
    rejected = chat_of(pair.rejected, checkpoint, world=world)
    start = chosen.replies[pair.n_shared]
    return PreferencePair(
        prompt=chosen.messages[:start],
        chosen=chosen.messages[start:],
        rejected=rejected.messages[start:],
        chosen_score=pair.chosen.score,
        rejected_score=pair.rejected.score,
        task_id=pair.task_id,
        env_id=pair.chosen.env_id,
        dataset=pair.chosen.dataset,
        split=pair.chosen.split,
        tasks_sha256=pair.chosen.tasks_sha256,
        chosen_policy=pair.chosen.policy,
        rejected_policy=pair.rejected.policy,
    )
