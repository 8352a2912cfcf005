"""Pairs of trajectories as token ids and masks, the rows that trajectory DPO trains on.

A row has what both sides begin with (instruction, task, shared steps) once, and each side's rest
with its mask; the world's turns have mask 0. A pair that is too long for the model is dropped and
counted, or an error; never cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from eto_agents.react.chat import Encoded, encode
from eto_agents.training.episodes import turns_of
from eto_agents.training.pairs import NoPairsError, Pair
from eto_agents.training.rows import TooLong, chat_of, encode_trajectory
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint
    from eto_agents.preference import PreferencePair


class PreferenceRow(TypedDict):
    """A pair as tokens; the columns that `eto_agents.training.dpo` gives TRL.

    Attributes:
        prompt_ids: what both sides begin with.
        chosen_ids: the rest of the better side.
        chosen_mask: as long as `chosen_ids`; 1 on the agent's tokens.
        rejected_ids: the rest of the worse side.
        rejected_mask: as long as `rejected_ids`.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    chosen_mask: list[int]
    rejected_ids: list[int]
    rejected_mask: list[int]


@dataclass(frozen=True, slots=True)
class PreferenceRows:
    """Rows, and what was left out.

    Attributes:
        rows: in the order of the pairs.
        n_too_long: pairs that were dropped because a side has too many tokens.
    """

    rows: list[PreferenceRow]
    n_too_long: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens of both sides of all rows."""
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
    """Rows of pairs of trajectories, or of pairs read from a file.

    Args:
        pairs: what to encode.
        checkpoint: whose tokenizer, template and prompts.
        max_length: the most a side has, prompt included; at most, and by default, what the model
            can read.
        too_long: what becomes of a pair with a longer side.
        world: whose prompt; by default the one the trajectories tell.

    Raises:
        NoPairsError: nothing is left.
        DataError: a pair is too long and `too_long` is ``"error"``, or its sides do not begin
            alike.
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
                f"a pair of task {pair.task_id!r} has {longest} tokens, allowed are {max_length}: "
                "raise max_length, or drop such pairs (too_long='drop')"
            )
        else:
            n_too_long += 1
    if not rows:
        raise NoPairsError(
            f"no pair is left to train on ({n_too_long} have more than {max_length} tokens)"
            if n_too_long
            else "no pair is left to train on: none was given"
        )
    return PreferenceRows(rows, n_too_long)


def encode_pair(pair: Pair, checkpoint: Checkpoint, *, world: str | None = None) -> PreferenceRow:
    """A pair's tokens; turns that both sides share belong to the prompt.

    Raises:
        DataError: the sides do not begin alike.
    """
    chosen = encode_trajectory(pair.chosen, checkpoint, world=world)
    rejected = encode_trajectory(pair.rejected, checkpoint, world=world)
    return _row(chosen, rejected, pair.n_shared, pair.task_id)


def lengths(row: PreferenceRow) -> tuple[int, int]:
    """Tokens of the chosen and of the rejected side, the prompt included in each."""
    n_prompt = len(row["prompt_ids"])
    return n_prompt + len(row["chosen_ids"]), n_prompt + len(row["rejected_ids"])


def _encode(pair: PreferencePair, checkpoint: Checkpoint) -> PreferenceRow:
    sides = [
        encode(
            [*pair.prompt, *side],
            checkpoint.tokenizer,
            checkpoint.template,
            first_trained=len(pair.prompt),
        )
        for side in (pair.chosen, pair.rejected)
    ]
    return _row(sides[0], sides[1], 0, pair.task_id)


def _row(chosen: Encoded, rejected: Encoded, n_shared: int, task_id: str) -> PreferenceRow:
    start = _start_of_turn(chosen.mask, n_shared)
    if start != _start_of_turn(rejected.mask, n_shared) or (
        chosen.ids[:start] != rejected.ids[:start]
    ):
        raise DataError(
            f"the two sides of a pair of task {task_id!r} do not begin alike: they are of "
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
    """Where the agent's turn of that number begins."""
    turns = list(turns_of(mask))
    if turn >= len(turns):
        raise DataError(f"a trajectory has {len(turns)} turns of the agent's, not {turn + 1}")
    return turns[turn][0]


def as_preference(
    pair: Pair, checkpoint: Checkpoint, *, world: str | None = None
) -> PreferencePair:
    """A pair of trajectories as the chats that the model reads, for a file."""
    from eto_agents.preference import PreferencePair

    chosen, first = chat_of(pair.chosen, checkpoint, world=world)
    rejected, _ = chat_of(pair.rejected, checkpoint, world=world)
    start = first + 2 * pair.n_shared
    return PreferencePair(
        prompt=chosen[:start],
        chosen=chosen[start:],
        rejected=rejected[start:],
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
