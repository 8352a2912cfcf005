"""Shared by the methods that TRL trains: states to resume from, and LoRA adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint
from eto_agents.training.trl import (
    begin_above_zero,
    lora_config,
    merged,
    newest_state,
    step_of,
)
from tests.agents.training.episodes import episode, nano

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def test_training_resumes_from_the_newest_complete_state(tmp_path: Path) -> None:
    assert newest_state(tmp_path) is None
    assert newest_state(tmp_path / "nothing") is None
    assert step_of(None) == 0
    for step, text in ((9, "{\n}\n"), (10, "{\n}\n"), (11, '{\n "epo')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-12").mkdir()  # interrupted before the last file was written
    state = newest_state(tmp_path)
    assert state == tmp_path / "checkpoint-10"  # by number, not by name
    assert step_of(state) == 10


def test_a_warm_up_begins_above_zero_and_then_follows_the_schedule() -> None:
    from transformers import get_cosine_schedule_with_warmup

    def rates(n_warmup: int, is_shifted: bool) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = get_cosine_schedule_with_warmup(optimizer, n_warmup, 10)
        if is_shifted:
            scheduler = begin_above_zero(scheduler, n_warmup)
        seen = []
        for _ in range(10):
            seen.append(scheduler.get_last_lr()[0])
            assert optimizer.param_groups[0]["lr"] == seen[-1]
            optimizer.step()
            scheduler.step()
        return seen

    assert rates(3, is_shifted=False)[0] == 0
    assert rates(3, is_shifted=True)[:3] == pytest.approx([0.5, 1.0, 1.5])
    assert rates(3, is_shifted=True)[3:] == rates(3, is_shifted=False)[3:]
    assert rates(0, is_shifted=True) == rates(0, is_shifted=False)


def test_an_adapter_is_merged_into_the_weights(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    save_checkpoint(nano([episode(0)]), tmp_path / "model")
    plain = load_checkpoint(str(tmp_path / "model"), device="cpu").model
    assert merged(plain) is plain
    assert lora_config(0) is None
    config = lora_config(2)
    assert (config.r, config.lora_alpha, lora_config(2, 3).lora_alpha) == (2, 4, 3)
    ids = torch.tensor([[5, 6, 7, 8]])
    adapted = peft.get_peft_model(plain, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
        expected = adapted(input_ids=ids).logits
        model = merged(adapted)
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)
    assert not any("lora" in name for name, _ in model.named_parameters())
