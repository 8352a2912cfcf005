"""Played episodes as what policy-gradient methods learn from: tokens, log-probabilities, rewards.

The tokens are those that the policy sampled, and so are their log-probabilities; a step's reward is
on the last token of its turn that was sampled. PPO and GRPO are built on it.
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
    """An episode as tokens; all lists have one entry a token.

    Attributes:
        ids: the whole conversation.
        mask: 1 on the tokens that the agent sampled, else 0.
        log_probs: what they had when they were sampled; 0 elsewhere.
        rewards: a step's reward on the last token of its turn; 0 elsewhere.
        n_prompt: tokens before the agent's first.
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
    """The tokens of an episode that a policy with local sampling played.

    The end of a turn that the renderer had to add, because the policy was cut off before it, is
    read by what follows but was not sampled: its mask is 0.

    Args:
        trajectory: the episode.
        checkpoint: whose tokenizer, template and prompts.
        world: whose prompt; by default the one the trajectory tells.

    Returns:
        The tokens; None where the chat does not have those that were sampled: a turn that was
        stopped in the middle of a token, or in which the template's own tokens were written, which
        are read as the text they are afterwards.

    Raises:
        DataError: the episode does not tell what was sampled.
    """
    encoded = encode_trajectory(trajectory, checkpoint, world=world)
    turns = list(turns_of(encoded.mask))
    if len(turns) != len(trajectory.steps):
        raise DataError(
            f"the episode of task {trajectory.task_id!r} has {len(trajectory.steps)} steps and "
            f"{len(turns)} turns of tokens"
        )
    form = find_template(checkpoint.template)
    reserved = set(checkpoint.tokenizer.convert_tokens_to_ids(list(form.special)))
    mask = [0] * len(encoded.ids)
    log_probs = [0.0] * len(encoded.ids)
    rewards = [0.0] * len(encoded.ids)
    for (start, end), step in zip(turns, trajectory.steps, strict=True):
        if not step.token_ids or step.log_probs is None:
            raise DataError(
                f"the episode of task {trajectory.task_id!r} does not tell the tokens and log-"
                "probabilities that were sampled: play it with a local model (hf:…)"
            )
        last = start + len(step.log_probs)
        said = list(step.token_ids)
        if last > end or encoded.ids[start:last] != said or reserved.intersection(said[:-1]):
            return None
        mask[start:last] = [1] * (last - start)
        log_probs[start:last] = step.log_probs
        rewards[last - 1] = step.reward
    return Sample(encoded.ids, mask, log_probs, rewards, turns[0][0], trajectory.score)


def turns_of(mask: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where each of the agent's turns begins and ends; between two there is always the world."""
    start = -1
    for position, now in enumerate([*mask, 0]):
        if now and start < 0:
            start = position
        elif not now and start >= 0:
            yield start, position
            start = -1
