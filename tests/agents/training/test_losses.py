from __future__ import annotations

import math

import pytest
import torch

from eto_agents.training import losses

pytestmark = pytest.mark.torch


def test_a_shifted_mask_lines_up_with_log_probs() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]])
    assert losses.shifted(mask).tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]


def test_a_masked_mean_is_over_the_agents_tokens_only() -> None:
    values = torch.tensor([[1.0, 2.0, 50.0], [70.0, 6.0, 90.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]])
    assert losses.masked_mean(values, mask).item() == pytest.approx(3.0)


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the agent's tokens"):
        losses.masked_mean(torch.zeros(1, 2), torch.zeros(1, 2))


def plain_gae(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    advantages = [0.0] * len(rewards)
    running = 0.0
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t + 1 < len(values) else 0.0
        running = rewards[t] + gamma * next_value - values[t] + gamma * lam * running
        advantages[t] = running
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_gae_skips_the_environments_tokens(gamma: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8])
    rewards = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    values = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    estimate = losses.gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i in range(3):
        own = mask[i].nonzero()[:, 0].tolist()
        expected = plain_gae(
            [rewards[i, t].item() for t in own], [values[i, t].item() for t in own], gamma, lam
        )
        for tensor, row in zip(estimate, expected, strict=True):
            assert [tensor[i, t].item() for t in own] == pytest.approx(row, abs=1e-12)
            assert not tensor[i][mask[i] == 0].any()


def test_gae_with_lambda_one_and_no_values_is_the_return() -> None:
    rewards = torch.tensor([[0.0, 0.0, 5.0, 1.0]])
    mask = torch.tensor([[1, 1, 0, 1]])
    estimate = losses.gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    assert estimate.returns.tolist() == [[1.0, 1.0, 0.0, 1.0]]  # the 5 is masked out


def test_gae_with_an_empty_mask_is_zero() -> None:
    empty = losses.gae(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2, 3))
    assert not empty.advantages.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 1.0, -1.2),  # an improvement beyond the range is clipped
        (0.5, 1.0, -0.5),
        (0.5, -1.0, 0.8),
        (1.5, -1.0, 1.5),  # a deterioration is not
        (1.1, 2.0, -2.2),
    ],
)
def test_ppo_clips(ratio: float, advantage: float, expected: float) -> None:
    mask = torch.tensor([[1, 0]])
    log_probs = torch.tensor([[math.log(ratio), 1e4]], dtype=torch.float64)
    clipped = losses.ppo(
        log_probs, torch.zeros_like(log_probs), torch.full_like(log_probs, advantage), mask
    )
    assert clipped.loss.item() == pytest.approx(expected)
    assert clipped.clip_fraction.item() == float(
        abs(expected) != pytest.approx(abs(ratio * advantage))
    )


def test_masked_tokens_have_no_gradient() -> None:
    log_probs = torch.tensor([[0.3, 500.0]], requires_grad=True)
    mask = torch.tensor([[1, 0]])
    losses.ppo(log_probs, torch.zeros(1, 2), torch.ones(1, 2), mask, 0.5).loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0, 1] == 0
    assert torch.isfinite(log_probs.grad).all()


def test_kl_to_is_unbiased_and_non_negative() -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64)
    by_token = losses.kl_to(p.log()[None], q.log()[None], torch.ones(1, 3))[0]
    assert (by_token >= 0).all()
    exact = (p * (p / q).log()).sum()
    assert (p * by_token).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    assert not losses.kl_to(p.log()[None], q.log()[None], torch.zeros(1, 3)).any()
