"""Trajectories as token ids and loss masks: the rows that every trainer gets.

A row is the chat that the model reads and writes when it plays (`eto_agents.react.context`), up to
its last reply, encoded by the renderer that inference uses as well (`eto_agents.react.chat`). The
loss is on the agent's tokens only (the paper's equation 2), tool calls included. A row that is too
long is dropped and counted, or raises an error; it is never truncated. Batching is left to the
trainers.

The chat is rebuilt from the agent's replies and from the prompts and the protocol that the model is
trained with, and will play with, whatever the episode was played with. The replies of an agent that
had tools are taken from the recorded conversation; all others from the steps, so that experts'
episodes, which hold no conversation, can be trained on as well, in both protocols.

Differs from the reference: the acknowledgement of the instruction and the worked example are not
trained on, since they are the same in every row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from eto_agents.console import report
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.control_tokens import decode_known, end_ids, ids_in_context, without_end
from eto_agents.react.chat import Encoded, encode
from eto_agents.react.context import transcript
from eto_agents.react.prompts import Prompt, load_prompts, prompt_key_of
from eto_agents.react.protocols import call_of
from eto_agents.react.tool_calls import is_written_as, written_as
from eto_agents.react.tools import ACT, had_tools
from eto_agents.settings import ProtocolName
from eto_agents.trajectory import Message, Step, Tool, Trajectory, reply_indices
from eto_envs.errors import DataError, UnknownNameError

TooLong = Literal["drop", "error"]
"""What to do with a row that has too many tokens: drop and count it, or raise an error."""


class EmptyDataError(DataError):
    """There is nothing to train on."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Encoded trajectories to train on.

    Attributes:
        rows: one row per trajectory, in order, without those that are too long.
        n_too_long: number of trajectories that were dropped because of their length.
        max_length: maximum number of tokens of a row.
    """

    rows: list[Encoded]
    n_too_long: int
    max_length: int

    @property
    def n_tokens(self) -> int:
        """Total number of tokens."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def n_trained_tokens(self) -> int:
        """Number of tokens with mask 1, on which the loss is computed."""
        return sum(sum(row.mask) for row in self.rows)

    @property
    def sha256(self) -> str:
        """SHA-256 of all ids and masks."""
        digest = hashlib.sha256()
        for ids, mask in self.rows:
            digest.update(f"{ids}{mask}".encode())
        return digest.hexdigest()


class Chat(NamedTuple):
    """The chat of an episode.

    Attributes:
        messages: the messages, up to the agent's last reply.
        replies: for each step, the index of the agent's message.
        tools: what the agent could call.
    """

    messages: list[Message]
    replies: list[int]
    tools: tuple[Tool, ...] = ()


def encode_trajectory(
    trajectory: Trajectory,
    checkpoint: Checkpoint,
    *,
    world: str | None = None,
) -> Encoded:
    """Encode an episode as the model reads and writes it.

    Replies that the model itself sampled keep the token ids with which they were sampled, provided
    that this tokenizer decodes them to the same text.

    Args:
        trajectory: the episode.
        checkpoint: provides the tokenizer, the chat template, the prompts and the protocol; if it
            has no protocol, that of the episode is used.
        world: the world whose prompt is used; by default the trajectory's.

    Raises:
        EmptyDataError: the episode has no steps, or replies are missing in its conversation.
        DataError: the agent called tools, and the checkpoint acts with ``"thought"``.
        UnknownNameError: there is no prompt for the world, or the template has no tools.
        SettingsError: there are tools, and the prompt asks for actions as text.
    """
    if not trajectory.steps:
        raise EmptyDataError(
            f"the episode of task {trajectory.task_id!r} has no steps to train on: leave it out"
        )
    chat = chat_of(trajectory, checkpoint, world=world)
    ends = end_ids(checkpoint.model, checkpoint.tokenizer, checkpoint.template)
    sampled = {}
    for step, index in zip(trajectory.steps, chat.replies, strict=True):
        message = chat.messages[index] if chat.tools else None
        ids = _ids_as_sampled(step, message, checkpoint, ends)
        if ids is not None:
            sampled[index] = ids
    return encode(
        chat.messages,
        checkpoint.tokenizer,
        checkpoint.template,
        first_trained=chat.replies[0],
        sampled=sampled,
        tools=chat.tools,
    )


def _ids_as_sampled(
    step: Step, message: Message | None, checkpoint: Checkpoint, ends: Sequence[int]
) -> list[int] | None:
    """The ids that a reply was sampled as, if this tokenizer has them for the same text.

    Args:
        step: the agent's step.
        message: its message, if it had tools: what it wrote is then not `step.text` alone.
        checkpoint: provides the tokenizer and the chat template.
        ends: tokens that end a turn.
    """
    if not step.token_ids:
        return None
    text = step.text
    if message is not None:
        known = decode_known(checkpoint.tokenizer, without_end(step.token_ids, ends))
        is_whole = known is not None and is_written_as(message, known, checkpoint.template)
        text = str(known) if is_whole else written_as(message, checkpoint.template)
    return ids_in_context(step.token_ids, text, checkpoint.tokenizer, ends) if text else None


def chat_of(
    trajectory: Trajectory,
    checkpoint: Checkpoint,
    *,
    world: str | None = None,
) -> Chat:
    """The chat of an episode.

    Args:
        trajectory: the episode.
        checkpoint: provides the prompts and the protocol, as in `encode_trajectory`.
        world: the world whose prompt is used; by default the trajectory's.

    Raises:
        EmptyDataError: as in `encode_trajectory`.
        DataError: as in `encode_trajectory`.
        UnknownNameError: as in `encode_trajectory`.
        SettingsError: as in `encode_trajectory`.
    """
    prompts = _prompts(checkpoint.prompts)
    world = world or prompt_key_of(trajectory)
    if world not in prompts:
        raise UnknownNameError("prompt for world", world, prompts, "Give world= or other prompts.")
    with_tools = in_calls(trajectory, checkpoint)
    messages = transcript(
        prompts[world],
        trajectory.initial_observation,
        trajectory.steps,
        with_example=checkpoint.with_example,
        replies=_replies_with_calls(trajectory) if with_tools else None,
    )
    replies = reply_indices(messages, len(trajectory.steps))
    end = replies[-1] + 1 if replies else len(messages)
    return Chat(messages[:end], replies, (ACT,) if with_tools else ())


def in_calls(trajectory: Trajectory, checkpoint: Checkpoint) -> bool:
    """Whether an episode is encoded for an agent that calls tools.

    Raises:
        DataError: its agent called tools, and the checkpoint acts with ``"thought"``.
    """
    had = had_tools(trajectory)
    if had and checkpoint.protocol == "thought":
        raise DataError(
            f"the agent of task {trajectory.task_id!r} called tools, and the model is trained with "
            "the protocol 'thought': choose the protocol 'tool', or other trajectories"
        )
    return had or checkpoint.protocol == "tool"


def protocol_of(trajectories: Iterable[Trajectory]) -> ProtocolName | None:
    """The protocol in which episodes were played; None if their agents held no conversation."""
    protocol: ProtocolName | None = None
    for trajectory in trajectories:
        if had_tools(trajectory):
            return "tool"
        if trajectory.messages:
            protocol = "thought"
    return protocol


def _replies_with_calls(trajectory: Trajectory) -> list[Message]:
    """The message with which the agent took each step; for an agent without tools, as calls."""
    if had_tools(trajectory) and trajectory.messages:
        if len(trajectory.replies) < len(trajectory.steps):
            raise EmptyDataError(
                f"the conversation of task {trajectory.task_id!r} was recorded with "
                f"{len(trajectory.replies)} replies for {len(trajectory.steps)} steps: leave it out"
            )
        return trajectory.replies
    replies: list[Message] = []
    for number, step in enumerate(trajectory.steps, start=1):
        reply: Message = {"role": "assistant", "content": step.thought}
        if step.action:
            reply["tool_calls"] = [call_of(step.action, f"call-{number}")]
        else:
            reply["content"] = step.text
        replies.append(reply)
    return replies


def texts_of(
    trajectories: Iterable[Trajectory],
    *,
    prompts: str = "brief",
    world: str | None = None,
    protocol: ProtocolName | None = None,
) -> list[str]:
    """All messages of the trajectories' chats, without worked examples, to train a tokenizer on."""
    reader = Checkpoint(None, None, "plain", prompts, with_example=False, protocol=protocol)
    chats = (chat_of(trajectory, reader, world=world).messages for trajectory in trajectories)
    return [
        written_as(message, "plain") if message.get("tool_calls") else message["content"]
        for chat in chats
        for message in chat
    ]


def build_rows(
    trajectories: Sequence[Trajectory],
    checkpoint: Checkpoint,
    *,
    max_length: int = 4096,
    too_long: TooLong = "drop",
    world: str | None = None,
) -> Rows:
    """Encode many episodes.

    Args:
        trajectories: the episodes.
        checkpoint: the model to be trained.
        max_length: maximum number of tokens of a row; the model's context length is a limit too.
        too_long: whether longer rows are dropped and counted, or raise an error.
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
                f"the episode of task {trajectory.task_id!r} has {len(row.ids)} tokens, more than "
                f"{limit}: raise max_length, or drop such episodes (too_long='drop')"
            )
    if not rows:
        n = len(trajectories)
        why = f"all {n} have more than {limit} tokens (up to {longest})" if n else "none were given"
        raise EmptyDataError(f"no trajectories to train on: {why}")
    return Rows(rows, len(trajectories) - len(rows), limit)


@functools.lru_cache(maxsize=8)
def _prompts(source: str) -> Mapping[str, Prompt]:
    return load_prompts(source)


IGNORED: Final = -100
"""The label of a token that PyTorch's cross entropy, and so TRL's loss, leaves out."""


def labels_of(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """The ids where the mask is 1, elsewhere `IGNORED`."""
    return [token if is_agent else IGNORED for token, is_agent in zip(ids, mask, strict=True)]


def by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Group sequences of similar length into batches of limited size, short sequences first.

    Args:
        lengths: number of tokens of each sequence.
        max_tokens: maximum number of tokens of a batch, padding included; a sequence that is longer
            forms a batch by itself.

    Yields:
        The indices of each batch's sequences.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In ascending order the newest sequence is the longest: all are padded to its length.
        if batch and lengths[i] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
