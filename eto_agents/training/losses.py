"""The tensor maths of SFT, trajectory DPO and PPO, as pure functions.

Nothing here knows of models, files or trainers. Letters in shapes: B sequences, T tokens, V entries
of the vocabulary. A mask is 1 (or True) on the agent's own tokens and 0 on all that the world, the
prompt or the padding put there; it is the mask of `eto_agents.react.chat.encode`, which has the
shape of the ids. `shifted` takes its first column off, so that it lines up with log-probabilities.

Follows ETO's equations 2 (SFT) and 6 (trajectory DPO), arXiv 2403.02502; "Direct Preference
Optimization", arXiv 2305.18290; "Iterative Reasoning Preference Optimization", arXiv 2404.19733
(the NLL term); "High-Dimensional Continuous Control Using Generalized Advantage Estimation", arXiv
1506.02438; "Proximal Policy Optimization Algorithms", arXiv 1707.06347; the estimators of KL are
those of J. Schulman, "Approximating KL Divergence" (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each token given those before it.

    Args:
        logits: (B, T, V), floats.
        ids: (B, T), integers.

    Returns:
        (B, T - 1): entry t is that of token t + 1.
    """
    predicted = logits[:, :-1]
    # cross_entropy keeps no (B, T, V) table of log-probabilities, as log_softmax would.
    return -functional.cross_entropy(
        predicted.transpose(1, 2).float()
        if predicted.dtype in (torch.bfloat16, torch.float16)
        else predicted.transpose(1, 2),
        ids[:, 1:],
        reduction="none",
    )


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


def nll(log_probs: Tensor, mask: Tensor) -> Tensor:
    """SFT's loss: minus the mean log-probability of the agent's tokens; (B, T) each."""
    return -masked_mean(log_probs, mask)


def sequence_log_probs(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of all the agent's tokens of a sequence together: (B, T) to (B,)."""
    return (log_probs * mask).sum(dim=1)


class Preference(NamedTuple):
    """Trajectory DPO's loss and what there is to log of it.

    Attributes:
        losses: (B,), one a pair.
        chosen_rewards: (B,), `beta` times the log-ratio of the chosen, without gradient.
        rejected_rewards: (B,), the same of the rejected.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Preference:
    """Trajectory DPO: `-log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected))`.

    Args:
        chosen: (B,), `sequence_log_probs` of the chosen trajectories under the policy.
        rejected: (B,), of the rejected.
        reference_chosen: (B,), under the reference.
        reference_rejected: (B,).
        beta: how dear it is to leave the reference; above 0.
    """
    chosen_rewards = beta * (chosen - reference_chosen)
    rejected_rewards = beta * (rejected - reference_rejected)
    losses = -functional.logsigmoid(chosen_rewards - rejected_rewards)
    return Preference(losses, chosen_rewards.detach(), rejected_rewards.detach())


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
