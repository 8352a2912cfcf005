"""Episodes as tokens, log-probabilities and rewards, for policy-gradient methods (PPO, GRPO).

Token ids and log-probabilities are those with which the policy sampled; a step's reward is placed
on the last sampled token of its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eto_agents.react.chat import find_template
from eto_agents.training.rows import encode_trajectory
from eto_agents.trajectory import Trajectory
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
    """

    ids: list[int]
    mask: list[int]
    log_probs: list[float]
    rewards: list[float]
    n_prompt: int
    score: float


def sample_of(
    trajectory: Trajectory, checkpoint: Checkpoint, *, world: str | None = None
) -> Sample | None:
    """Encode an episode that was played with a local model.

    If the policy was cut off before the end of its turn, the renderer adds the end-of-turn token;
    it was not sampled, so its mask is 0.

    Args:
        trajectory: the episode.
        checkpoint: provides the tokenizer, the chat template and the prompts.
        world: the world whose prompt is used; by default the trajectory's.

    Returns:
        The encoded episode. None if the encoded chat does not contain the sampled tokens: a reply
        was stopped in the middle of a token, or contains the template's special tokens, which are
        encoded as plain text afterwards.

    Raises:
        DataError: the episode lacks the sampled tokens or their log-probabilities.
    """
    encoded = encode_trajectory(trajectory, checkpoint, world=world)
    turns = list(turns_of(encoded.mask))
    if len(turns) != len(trajectory.steps):
        raise DataError(
            f"the episode of task {trajectory.task_id!r} has {len(trajectory.steps)} steps, but "
            f"{len(turns)} turns in its encoded chat"
        )
    template = find_template(checkpoint.template)
    special_ids = set(checkpoint.tokenizer.convert_tokens_to_ids(list(template.special)))
    mask = [0] * len(encoded.ids)
    log_probs = [0.0] * len(encoded.ids)
    rewards = [0.0] * len(encoded.ids)
    for (start, end), step in zip(turns, trajectory.steps, strict=True):
        if not step.token_ids or step.log_probs is None:
            raise DataError(
                f"the episode of task {trajectory.task_id!r} has no sampled tokens and "
                "log-probabilities: play it with a local model (hf:…)"
            )
        # [start, end) is the turn in the encoded chat, [start, stop) the part that was sampled.
        stop = start + len(step.log_probs)
        sampled = list(step.token_ids)
        if stop > end or encoded.ids[start:stop] != sampled:
            return None
        if special_ids.intersection(sampled[:-1]):  # the last one may be the end of the turn
            return None
        mask[start:stop] = [1] * (stop - start)
        log_probs[start:stop] = step.log_probs
        rewards[stop - 1] = step.reward
    return Sample(encoded.ids, mask, log_probs, rewards, turns[0][0], trajectory.score)


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
