"""Muon and AdamW behind one interface: which parameters get what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eto_agents.training.muon import MuonAdamW

pytestmark = pytest.mark.torch


def model() -> nn.Module:
    return nn.ModuleDict(
        {"embed": nn.Embedding(4, 8), "layer": nn.Linear(8, 8), "norm": nn.LayerNorm(8)}
    )


def test_norms_and_biases_are_not_decayed() -> None:
    net = model()
    optimizer = MuonAdamW(net.named_parameters(), learning_rate=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)  # only the decay moves anything
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"embed.weight", "layer.weight"}


def test_beta2_is_the_one_that_was_given() -> None:
    for beta2 in (0.9, 0.98):
        optimizer = MuonAdamW(model().named_parameters(), learning_rate=0.1, adam_beta2=beta2)
        betas = {group["betas"] for group in optimizer.param_groups if "betas" in group}
        assert betas == {(0.9, beta2)}


def test_a_schedule_reaches_both_optimizers_and_states_are_restored() -> None:
    torch.manual_seed(0)
    net = model()
    optimizer = MuonAdamW(net.named_parameters(), learning_rate=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    other = MuonAdamW(model().named_parameters(), learning_rate=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert all(group["lr"] == 0.0 for group in other.param_groups)
