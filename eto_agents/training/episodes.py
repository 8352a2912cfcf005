"""Episodes as tokens, log-probabilities and rewards, for policy-gradient methods (PPO, GRPO).

Token ids and log-probabilities are those with which the policy sampled; a step's reward is placed
on the last sampled token of its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eto_agents.models.control_tokens import end_ids
from eto_agents.training.rows import encode_trajectory, in_calls
from eto_agents.trajectory import PLAYED, Trajectory
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Sample:
    """An episode as tokens; all lists have one entry per token.

    Attributes:
        ids: token ids of the whole conversation.
        mask: 1 on the tokens that the agent sampled, else 0.
        log_probs: log-probabilities with which those tokens were sampled; 0 elsewhere.
        rewards: a step's reward on the last token of its turn; 0 elsewhere.
        n_prompt: number of tokens before the agent's first.
        score: the episode's final score in [0, 1].
        with_tools: whether the agent had tools.
    """

    ids: list[int]
    mask: list[int]
    log_probs: list[float]
    rewards: list[float]
    n_prompt: int
    score: float
    with_tools: bool = False


def can_be_learned_from(trajectory: Trajectory) -> bool:
    """Whether an episode's replies were sampled in the contexts of its encoded chat.

    It was played to its end or limit, and no turns had to be dropped to fit the model's context.
    """
    is_whole = not any(step.usage.get("dropped_turns") for step in trajectory.steps)
    return trajectory.status in PLAYED and bool(trajectory.steps) and is_whole


def sample_of(
    trajectory: Trajectory,
    checkpoint: Checkpoint,
    *,
    world: str | None = None,
) -> Sample:
    """Encode an episode that was played with a local model.

    Tokens of the agent's turns that were not sampled get mask 0: the end of a turn that was cut
    off, or that ended with another token than the template's; and the part of a token before a stop
    that begins inside it. The reward of a turn without any sampled token goes to the one before.

    Args:
        trajectory: the episode.
        checkpoint: as in `encode_trajectory`.
        world: the world whose prompt is used; by default the trajectory's.

    Raises:
        DataError: the episode lacks the sampled tokens or their log-probabilities, or they are
            another tokenizer's.
    """
    encoded = encode_trajectory(trajectory, checkpoint, world=world)
    turns = list(turns_of(encoded.mask))
    if len(turns) != len(trajectory.steps):
        raise DataError(
            f"the episode of task {trajectory.task_id!r} has {len(trajectory.steps)} steps, but "
            f"{len(turns)} turns in its encoded chat"
        )
    mask = [0] * len(encoded.ids)
    log_probs = [0.0] * len(encoded.ids)
    rewards = [0.0] * len(encoded.ids)
    ends = end_ids(checkpoint.model, checkpoint.tokenizer, checkpoint.template)
    last = None  # the agent's last sampled token so far
    for (start, end), step in zip(turns, trajectory.steps, strict=True):
        if step.token_ids is None or step.log_probs is None:
            raise DataError(
                f"the episode of task {trajectory.task_id!r} has no sampled tokens and "
                "log-probabilities: play it with a local model (hf:…)"
            )
        # [start, end) is the turn in the encoded chat, [start, stop) the part that was sampled.
        sampled = list(step.token_ids)
        if sampled and sampled[-1] in ends and sampled[-1] != encoded.ids[end - 1]:
            sampled.pop()
        n = len(sampled)
        stop = start + n
        if stop > end or encoded.ids[start:stop] != sampled:
            raise DataError(
                f"the episode of task {trajectory.task_id!r} was not sampled with the tokenizer "
                "and chat template of this checkpoint"
            )
        mask[start:stop] = [1] * n
        log_probs[start:stop] = step.log_probs[:n]
        last = stop - 1 if n else last
        if last is not None:
            rewards[last] += step.reward
    with_tools = in_calls(trajectory, checkpoint)
    return Sample(encoded.ids, mask, log_probs, rewards, turns[0][0], trajectory.score, with_tools)


def turns_of(mask: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the half-open range [start, end) of each of the agent's turns.

    A turn is a run of ones: between two turns there are always tokens of the environment.
    """
    start = -1
    for position, is_agent in enumerate([*mask, 0]):
        if is_agent and start < 0:
            start = position
        elif not is_agent and start >= 0:
            yield start, position
            start = -1
