"""The losses and the advantage estimation of PPO, as pure functions of tensors.

The losses of SFT and DPO are TRL's. In shapes, B is the number of sequences and T the number of
tokens. A mask is 1 (or True) on the agent's tokens and 0 on those of the prompt, the environment
and the padding; it is the mask of `eto_agents.react.chat.encode`, which has the shape of the ids.
`shifted` drops its first column, so that it lines up with log-probabilities.

Follows "High-Dimensional Continuous Control Using Generalized Advantage Estimation", arXiv
1506.02438, and "Proximal Policy Optimization Algorithms", arXiv 1707.06347. The KL estimator is
from J. Schulman, "Approximating KL Divergence" (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eto_envs.errors import EtoError


def shifted(mask: Tensor) -> Tensor:
    """Turn a mask of tokens, (B, T), into a mask of log-probabilities, (B, T - 1).

    The logits at position t predict token t + 1, so log-probability t belongs to token t + 1.
    """
    return mask[:, 1:]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is 1; a scalar.

    Raises:
        ValueError: the mask is 0 everywhere.
    """
    n = mask.sum()
    if not n:
        raise ValueError("this batch has none of the agent's tokens: the mask is 0 everywhere")
    return (values * mask).sum() / n


class DivergedError(EtoError):
    """A loss is infinite or not a number."""


class Advantages(NamedTuple):
    """The result of GAE.

    Attributes:
        advantages: (B, T), 0 where the mask is 0.
        returns: (B, T), advantages plus values, the targets of the critic; 0 where the mask is 0.
    """

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 1.0
) -> Advantages:
    """Generalised advantage estimation over the agent's tokens, skipping all others.

    The successor of the last token of a turn is the first token of the agent's next turn: neither
    the discount nor the trace decays over the environment's tokens. The value after a sequence's
    last agent token is 0.

    Args:
        rewards: (B, T) floats, the reward of each token; ignored where the mask is 0.
        values: (B, T) floats, the critic's estimate of the return from each token on.
        mask: (B, T), 1 on the agent's tokens.
        gamma: discount from one agent token to the next, in [0, 1].
        lam: GAE's lambda, in [0, 1].
    """
    mask = mask.bool()
    n_tokens = mask.sum(dim=1)  # (B,)
    # Compact each row: the agent's tokens move to the left, in order, so that the backward scan
    # below takes N steps, N being the most agent tokens of a row. `order` (B, N) holds their
    # positions in [0, T); rows with fewer tokens are filled up, and `is_token` (B, N) masks those.
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, : int(n_tokens.max())]
    is_token = torch.arange(order.shape[1], device=mask.device)[None] < n_tokens[:, None]
    reward = rewards.gather(1, order) * is_token
    value = values.gather(1, order) * is_token
    next_value = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    # TD errors (B, N): delta_t = r_t + gamma * V_{t+1} - V_t
    errors = (reward + gamma * next_value - value) * is_token
    # A_t = delta_t + gamma * lam * A_{t+1}, from the last token to the first; `running` is (B,).
    advantage = torch.zeros_like(errors)
    running = torch.zeros_like(errors[:, 0]) if errors.shape[1] else errors.sum(dim=1)
    for t in range(errors.shape[1] - 1, -1, -1):
        running = errors[:, t] + gamma * lam * running
        advantage[:, t] = running
    # Back from (B, N) to the tokens' positions in (B, T).
    advantages = torch.zeros_like(values).scatter(1, order, advantage * is_token)
    returns = torch.zeros_like(values).scatter(1, order, (advantage + value) * is_token)
    return Advantages(advantages, returns)


class Clipped(NamedTuple):
    """PPO's policy loss, and metrics to log; all are scalars.

    Attributes:
        loss: the loss to minimise.
        clip_fraction: share of the agent's tokens whose ratio was clipped, in [0, 1].
        kl: mean of `kl_to` from the old policy to the new one, in nats per token.
    """

    loss: Tensor
    clip_fraction: Tensor
    kl: Tensor


def ppo(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Clipped:
    """PPO's clipped surrogate loss, averaged over the agent's tokens; all tensors are (B, T).

    Args:
        log_probs: log-probabilities of the tokens under the policy, with gradient.
        old_log_probs: log-probabilities with which the tokens were sampled.
        advantages: the advantage of each token.
        mask: 1 on the agent's tokens.
        clip: range of the probability ratio, [1 - clip, 1 + clip]; above 0.
    """
    # Where the mask is 0 the difference is set to 0, so that exp() cannot overflow there.
    difference = torch.where(mask.bool(), log_probs - old_log_probs, 0.0)
    ratio = difference.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -masked_mean(torch.minimum(unclipped, clipped), mask)
    with torch.no_grad():
        fraction = masked_mean((clipped < unclipped).to(loss.dtype), mask)
        kl = masked_mean(kl_to(old_log_probs, log_probs, mask), mask)
    return Clipped(loss, fraction, kl)


def kl_to(log_probs: Tensor, other_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Estimate the KL divergence from the sampling policy to another one, per token.

    The estimator is `exp(d) - 1 - d` with `d = other - own`: it is non-negative, unbiased and has a
    low variance.

    Args:
        log_probs: (B, T), under the policy that sampled the tokens.
        other_log_probs: (B, T), under the other policy.
        mask: (B, T), 1 on the agent's tokens.

    Returns:
        (B, T), in nats; 0 where the mask is 0.
    """
    difference = torch.where(mask.bool(), other_log_probs - log_probs, 0.0)
    return torch.expm1(difference) - difference
