"""What the methods that TRL trains share: fingerprints of data, states to resume from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.preference import PreferencePair
from eto_agents.training.pairs import Pair
from eto_agents.training.trl import (
    fingerprint,
    lora_config,
    merged,
    model_hash,
    newest_state,
    step_of,
)
from eto_agents.trajectory import Trajectory
from tests.agents.training.episodes import episode, nano

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def some() -> list[Trajectory]:
    return [episode(n) for n in range(3)]


def preference(action: str) -> PreferencePair:
    return PreferencePair(
        prompt=[{"role": "user", "content": "Say a or b."}],
        chosen=[{"role": "assistant", "content": f"Action: {action}"}],
        rejected=[{"role": "assistant", "content": "Action: a"}],
        chosen_score=1.0,
        rejected_score=0.0,
        task_id="t0",
    )


def test_equal_episodes_have_one_fingerprint() -> None:
    assert fingerprint(some()) == fingerprint(some()) == fingerprint(iter(some()))
    assert len(fingerprint(some())) == 64
    reread = [Trajectory.from_json(e.to_json()) for e in some()]
    assert fingerprint(reread) == fingerprint(some())


def test_a_fingerprint_changes_with_the_data() -> None:
    first, second, third = some()
    shouted = [replace(s, action=s.action.upper()) for s in second.steps]
    others = [
        [],
        [first, second],
        [first, third, second],
        [first, second, third, third],
        [first, replace(second, score=0.5), third],
        [first, replace(second, seed=1), third],
        [first, replace(second, steps=shouted), third],
        [first, replace(second, steps=second.steps[:1]), third],
    ]
    seen = [fingerprint(some()), *map(fingerprint, others)]
    assert len(set(seen)) == len(seen)


def test_a_fingerprint_of_pairs_has_both_sides_and_what_they_share() -> None:
    good, bad = episode(0), episode(0, n_steps=3, score=0.5)
    pairs = [
        Pair(good, bad),
        Pair(bad, good),
        Pair(good, bad, 1),
        Pair(good, good),
        Pair(bad, bad),
        preference("b"),
        preference("c"),
    ]
    seen = [fingerprint([pair]) for pair in pairs]
    assert len(set(seen)) == len(seen)
    assert fingerprint([Pair(episode(0), episode(0, n_steps=3, score=0.5))]) == seen[0]
    assert fingerprint([preference("b")]) == seen[5]
    assert fingerprint(pairs[:2]) != fingerprint(pairs[1::-1])
    assert fingerprint([Pair(good, bad)]) != fingerprint([good, bad])


def test_the_newest_whole_state_is_resumed_from(tmp_path: Path) -> None:
    assert newest_state(tmp_path) is None
    assert newest_state(tmp_path / "nothing") is None
    assert step_of(None) == 0
    for step, text in ((9, "{\n}\n"), (10, "{\n}\n"), (11, '{\n "epo')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-12").mkdir()  # an interruption before its last file
    state = newest_state(tmp_path)
    assert state == tmp_path / "checkpoint-10"  # by number, not by name
    assert step_of(state) == 10


def test_a_folder_has_a_hash_and_a_name_on_the_hub_none(tmp_path: Path) -> None:
    save_checkpoint(nano(some()), tmp_path / "model")
    first = model_hash(tmp_path / "model")
    assert first == model_hash(str(tmp_path / "model"))
    assert first.keys() == {"model"}
    (tmp_path / "model" / "eto.json").write_text("{}")
    assert model_hash(tmp_path / "model") != first
    assert model_hash("Qwen/Qwen2.5-0.5B-Instruct") == {}
    assert model_hash("tiny:nano") == {}


def test_an_adapter_is_merged_into_the_weights(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    save_checkpoint(nano(some()), tmp_path / "model")
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
