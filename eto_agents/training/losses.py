"""The tensor maths of PPO, as pure functions.

Nothing here knows of models, files or trainers; SFT's and DPO's losses are TRL's. In shapes, B is
sequences and T tokens. A mask is 1 (or True) on the agent's own tokens and 0 on all that the
environment, the prompt or the padding put there; it is the mask of `eto_agents.react.chat.encode`,
which has the shape of the ids. `shifted` drops its first column, so that it lines up with
log-probabilities.

Follows "High-Dimensional Continuous Control Using Generalized Advantage Estimation", arXiv
1506.02438; "Proximal Policy Optimization Algorithms", arXiv 1707.06347; the estimator of KL is one
of J. Schulman's, "Approximating KL Divergence" (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eto_envs.errors import EtoError


def shifted(mask: Tensor) -> Tensor:
    """A mask of (B, T) tokens as a mask of (B, T - 1) log-probabilities."""
    return mask[:, 1:]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions of the mask, a scalar.

    Raises:
        ValueError: the mask is empty.
    """
    n = mask.sum()
    if not n:
        raise ValueError("no token of the agent's own in this batch: the mask is all 0")
    return (values * mask).sum() / n


class DivergedError(EtoError):
    """A loss is not finite."""


class Advantages(NamedTuple):
    """What GAE gives.

    Attributes:
        advantages: (B, T), 0 off the mask.
        returns: (B, T), advantages plus values: what the values should have been; 0 off the mask.
    """

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> Advantages:
    """Generalised advantage estimation over the agent's tokens, as if no others were there.

    The token that follows the agent's last one in a turn is its first one in the next turn:
    neither discount nor trace decays over what the world writes. After a sequence's last token of
    the agent's the value is 0.

    Args:
        rewards: (B, T), what each token earned; read on the mask alone.
        values: (B, T), the critic's estimate before each token.
        mask: (B, T).
        gamma: discount from one token of the agent's to the next, in [0, 1].
        lam: GAE's lambda, in [0, 1].
    """
    mask = mask.bool()
    n_tokens = mask.sum(dim=1)
    # The agent's tokens moved to the left, in order: the scan is as long as the longest of them.
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, : int(n_tokens.max())]
    is_token = torch.arange(order.shape[1], device=mask.device)[None] < n_tokens[:, None]
    earned = rewards.gather(1, order) * is_token
    value = values.gather(1, order) * is_token
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    errors = (earned + gamma * following - value) * is_token
    advantage = torch.zeros_like(errors)
    carried = torch.zeros_like(errors[:, 0]) if errors.shape[1] else errors.sum(dim=1)
    for t in range(errors.shape[1] - 1, -1, -1):
        carried = errors[:, t] + gamma * lam * carried
        advantage[:, t] = carried
    advantages = torch.zeros_like(values).scatter(1, order, advantage * is_token)
    returns = torch.zeros_like(values).scatter(1, order, (advantage + value) * is_token)
    return Advantages(advantages, returns)


class Clipped(NamedTuple):
    """PPO's objective and what there is to log of it.

    Attributes:
        loss: scalar, to be minimised.
        clip_fraction: share of the agent's tokens at which the clipped branch was taken.
        kl: mean of `kl_to` from the old policy to the new one.
    """

    loss: Tensor
    clip_fraction: Tensor
    kl: Tensor


def ppo(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Clipped:
    """PPO's clipped surrogate, averaged over the agent's tokens; (B, T) each.

    Args:
        log_probs: under the policy, with gradient.
        old_log_probs: as the tokens were sampled.
        advantages: of each token.
        mask: the agent's tokens.
        clip: how far the ratio counts, above 0.
    """
    # Off the mask the difference is set to 0: exp() of what is not looked at must not overflow.
    difference = torch.where(mask.bool(), log_probs - old_log_probs, 0.0)
    ratio = difference.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -masked_mean(torch.minimum(unclipped, clipped), mask)
    with torch.no_grad():
        fraction = masked_mean((clipped < unclipped).to(loss.dtype), mask)
        kl = masked_mean(kl_to(old_log_probs, log_probs, mask), mask)
    return Clipped(loss, fraction, kl)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None = None
) -> Tensor:
    """Half the mean squared error of the critic, the worse of clipped and not; (B, T) each."""
    error = (values - returns) ** 2
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns) ** 2)
    return 0.5 * masked_mean(error, mask)


def kl_to(log_probs: Tensor, other_log_probs: Tensor, mask: Tensor) -> Tensor:
    """KL from the policy that sampled the tokens to another one, by token: (B, T).

    The estimator `exp(d) - 1 - d` with `d = other - own`: never negative, unbiased, of low
    variance; 0 off the mask.
    """
    difference = torch.where(mask.bool(), other_log_probs - log_probs, 0.0)
    return torch.expm1(difference) - difference
