"""Trajectories as token ids and masks, the rows that every trainer here gets.

A row is the chat that the model reads and writes when it plays (`eto_agents.react.context`), cut
after its last own text, encoded by the one renderer (`eto_agents.react.chat`). The loss is on the
agent's tokens alone (the paper's equation 2). A row that is too long is dropped and counted, or an
error; none is ever cut. Batches are the trainers' part.

Differs from the reference: the acknowledgement of the instruction and the worked example are read,
not trained on; they are the same in every row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eto_agents.console import report
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.react.chat import Encoded, encode, find_template
from eto_agents.react.context import transcript
from eto_agents.react.prompts import Prompt, load_prompts, prompt_key_of
from eto_agents.trajectory import Message, Trajectory
from eto_envs.errors import DataError, UnknownNameError

TooLong = Literal["drop", "error"]
"""What to do with a row that has too many tokens."""


class EmptyDataError(DataError):
    """There is nothing to train on."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a model is trained on.

    Attributes:
        rows: one for each trajectory that was kept, in their order.
        n_too_long: how many were dropped for their length.
        max_length: the most tokens a row was allowed.
    """

    rows: list[Encoded]
    n_too_long: int
    max_length: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def n_trained_tokens(self) -> int:
        """Tokens that the loss is on."""
        return sum(sum(row.mask) for row in self.rows)

    @property
    def sha256(self) -> str:
        """SHA-256 of all ids and masks."""
        digest = hashlib.sha256()
        for ids, mask in self.rows:
            digest.update(f"{ids}{mask}".encode())
        return digest.hexdigest()


def encode_trajectory(
    trajectory: Trajectory, checkpoint: Checkpoint, *, world: str | None = None
) -> Encoded:
    """One episode as the model reads and writes it.

    What the model itself sampled keeps the tokens it had then, if they are this tokenizer's.

    Args:
        trajectory: the episode.
        checkpoint: whose tokenizer, template and prompts are used.
        world: whose prompt; by default the one the trajectory tells.

    Raises:
        EmptyDataError: the agent did nothing.
        UnknownNameError: there is no prompt for the world, or it cannot be told.
    """
    if not trajectory.steps:
        raise EmptyDataError(f"nothing was done in task {trajectory.task_id!r}: leave it out")
    messages, first_trained = chat_of(trajectory, checkpoint, world=world)
    steps = range(len(trajectory.steps))
    sampled = {
        first_trained + 2 * n: ids
        for n in steps
        if (ids := _sampled_ids(trajectory, n, checkpoint)) is not None
    }
    return encode(
        messages,
        checkpoint.tokenizer,
        checkpoint.template,
        first_trained=first_trained,
        sampled=sampled,
    )


def chat_of(
    trajectory: Trajectory, checkpoint: Checkpoint, *, world: str | None = None
) -> tuple[list[Message], int]:
    """The chat that a row is made of, and the position of the agent's first own message in it.

    Raises:
        UnknownNameError: as in `encode_trajectory`.
    """
    prompts = _prompts(checkpoint.prompts)
    world = world or prompt_key_of(trajectory)
    if world not in prompts:
        raise UnknownNameError("prompt for world", world, prompts, "Give world= or other prompts.")
    prompt = prompts[world]
    messages = transcript(
        prompt,
        trajectory.initial_observation,
        trajectory.steps,
        with_example=checkpoint.with_example,
    )
    head = prompt.head(with_example=checkpoint.with_example)
    return messages[:-1], len(head) + 1


def texts_of(
    trajectories: Iterable[Trajectory], *, prompts: str = "brief", world: str | None = None
) -> list[str]:
    """Every message of the chats without worked examples, for `eto_agents.models.tiny`."""
    reader = Checkpoint(None, None, "plain", prompts, with_example=False)
    chats = (chat_of(trajectory, reader, world=world)[0] for trajectory in trajectories)
    return [message["content"] for chat in chats for message in chat]


def build_rows(
    trajectories: Sequence[Trajectory],
    checkpoint: Checkpoint,
    *,
    max_length: int = 4096,
    too_long: TooLong = "drop",
    world: str | None = None,
) -> Rows:
    """Rows of many episodes.

    Args:
        trajectories: the episodes.
        checkpoint: the model that will be trained.
        max_length: the most a row may have, at most what the model can read.
        too_long: drop and count longer rows, or raise.
        world: see `encode_trajectory`.

    Raises:
        EmptyDataError: no row is left.
        DataError: a row is too long and `too_long` is ``"error"``.
        ValueError: `max_length` is not positive.
        UnknownNameError: see `encode_trajectory`.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be positive, got {max_length}")
    limit = min(max_length, getattr(checkpoint.model.config, "max_position_embeddings", max_length))
    rows, longest = [], 0
    for n_done, trajectory in enumerate(trajectories):
        report("tokenising", n_done, len(trajectories), "trajectories")
        row = encode_trajectory(trajectory, checkpoint, world=world)
        longest = max(longest, len(row.ids))
        if len(row.ids) <= limit:
            rows.append(row)
        elif too_long == "error":
            raise DataError(
                f"task {trajectory.task_id!r} has {len(row.ids)} tokens, {limit} are allowed"
            )
    if not rows:
        n = len(trajectories)
        why = f"all {n} have more than {limit} tokens (up to {longest})" if n else "none were kept"
        raise EmptyDataError(f"no trajectories to train on: {why}")
    return Rows(rows, len(trajectories) - len(rows), limit)


@functools.lru_cache(maxsize=8)
def _prompts(source: str) -> Mapping[str, Prompt]:
    return load_prompts(source)


def _sampled_ids(trajectory: Trajectory, n: int, checkpoint: Checkpoint) -> Sequence[int] | None:
    """The ids of a step's text as sampled, if this tokenizer reads that text out of them."""
    step = trajectory.steps[n]
    if not step.token_ids or not step.text:
        return None
    tokenizer = checkpoint.tokenizer
    end = tokenizer.convert_tokens_to_ids(find_template(checkpoint.template).end)
    ids = step.token_ids[:-1] if step.token_ids[-1] == end else step.token_ids
    if max(ids, default=0) >= len(tokenizer) or tokenizer.decode(ids) != step.text:
        return None
    return step.token_ids


def by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Positions in batches, short sequences first.

    Args:
        lengths: tokens of each sequence.
        max_tokens: the most tokens of a batch, padding included; a sequence that is longer by
            itself is a batch of its own.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[position] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
