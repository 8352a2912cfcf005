from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eto_agents.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from eto_agents.preference import read_pairs, write_pairs
from eto_agents.runs import RunMismatchError
from eto_agents.settings import DPO, SettingsError
from eto_agents.training.dpo import (
    SortedWithinUpdates,
    TrajectoryCollator,
    TrajectoryDPOTrainer,
    WrongReferenceError,
    _config,
    _micro_batch,
    dpo,
    n_updates,
    train_dpo,
)
from eto_agents.training.losses import DivergedError
from eto_agents.training.pairs import NoPairsError, Pair, step_pairs
from eto_agents.training.preference_rows import (
    PreferenceRows,
    as_preference,
    encode_pairs,
    lengths,
)
from eto_envs.errors import DataError
from tests.agents.training.worlds import DOORS, WORLD, episode, undecided

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

QUICK = DPO(learning_rate=1e-3, epochs=1, batch_size=4, save_every=0, warmup_ratio=0, device="cpu")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("start")
    save_checkpoint(undecided(folder, DOORS), folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture
def checkpoint(start: Path) -> Checkpoint:
    return load_checkpoint(str(start), device="cpu")


def some_pairs(n: int = 8) -> list[Pair]:
    """Pairs of different length: one or two letters."""
    kinds = [("bb", "a"), ("ab", "ba"), ("aa", "b"), ("bb", "ab")]
    return [
        Pair(*(episode(letters, DOORS, f"t{i}") for letters in kinds[i % len(kinds)]))
        for i in range(n)
    ]


def rows_of(checkpoint: Checkpoint, pairs: list[Pair], **arguments: Any) -> PreferenceRows:
    return encode_pairs(pairs, checkpoint, world=WORLD, **arguments)


def by_hand(checkpoint: Checkpoint, data: PreferenceRows) -> dict[str, list[list[float]]]:
    """Log-probabilities of each of the agent's tokens, one sequence at a time, in float64."""
    model = copy.deepcopy(checkpoint.model).double()
    log_probs: dict[str, list[list[float]]] = {"chosen": [], "rejected": []}
    for row in data.rows:
        for side in log_probs:
            ids = row["prompt_ids"] + row[f"{side}_ids"]  # type: ignore[literal-required]
            mask = [0] * len(row["prompt_ids"]) + row[f"{side}_mask"]  # type: ignore[literal-required]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0]
            table = logits.log_softmax(-1)
            own = [t for t in range(1, len(ids)) if mask[t]]
            log_probs[side].append([float(table[t - 1, ids[t]]) for t in own])
    return log_probs


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def train(
    checkpoint: Checkpoint, data: PreferenceRows, settings: DPO, folder: Path
) -> tuple[Checkpoint, list[Mapping[str, float]]]:
    log: list[Mapping[str, float]] = []
    trained, _ = train_dpo(
        checkpoint, data, settings, folder, on_metrics=lambda _, metrics: log.append(metrics)
    )
    return trained, log


def test_rows_train_on_the_agents_tokens_only(checkpoint: Checkpoint) -> None:
    (row,) = rows_of(checkpoint, some_pairs(1)).rows
    read = checkpoint.tokenizer.decode
    own = [t for t, m in zip(row["chosen_ids"], row["chosen_mask"], strict=True) if m]
    assert read(own) == "Action: b<|end|>Action: b<|end|>"
    assert "You said b." in read(row["chosen_ids"])  # read, but not trained on
    assert read(row["prompt_ids"]).endswith("Say a or b.<|end|><|assistant|>")
    assert row["chosen_mask"][-1] == row["rejected_mask"][-1] == 1  # both end with the agent


def test_a_step_pair_has_the_shared_turns_in_its_prompt(checkpoint: Checkpoint) -> None:
    expert = episode("bb", DOORS)
    own = {expert.task_id: list(episode("ba", DOORS).steps)}
    data = rows_of(checkpoint, step_pairs([expert], own).pairs)
    read = checkpoint.tokenizer.decode
    (row,) = data.rows
    assert "You said b." in read(row["prompt_ids"])
    assert read(row["chosen_ids"]) == "Action: b<|end|>"
    assert read(row["rejected_ids"]) == "Action: a<|end|>"


def test_a_file_of_pairs_gives_the_same_rows(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pairs = some_pairs()
    write_pairs(tmp_path / "pairs", (as_preference(p, checkpoint, world=WORLD) for p in pairs))
    read = encode_pairs(read_pairs(tmp_path / "pairs"), checkpoint)
    assert read.rows == rows_of(checkpoint, pairs).rows


def test_pairs_that_are_too_long_are_dropped_and_counted_or_an_error(
    checkpoint: Checkpoint,
) -> None:
    pairs = some_pairs(4)
    longest = sorted(max(lengths(row)) for row in rows_of(checkpoint, pairs).rows)
    fitting = rows_of(checkpoint, pairs, max_length=longest[0])
    assert len(fitting.rows) + fitting.n_too_long == 4
    assert fitting.n_too_long == sum(n > longest[0] for n in longest)
    with pytest.raises(DataError, match="raise max_length, or drop"):
        rows_of(checkpoint, pairs, max_length=3, too_long="error")
    with pytest.raises(NoPairsError, match="4 have more than 3 tokens"):
        rows_of(checkpoint, pairs, max_length=3)
    with pytest.raises(NoPairsError, match="none were given"):
        rows_of(checkpoint, [])


def test_sides_of_different_tasks_are_refused(checkpoint: Checkpoint) -> None:
    other = episode("a", DOORS, initial_observation="Something else.")
    with pytest.raises(DataError, match="begin differently"):
        rows_of(checkpoint, [Pair(episode("bb", DOORS), other)])


def test_the_collator_masks_the_environments_tokens(checkpoint: Checkpoint) -> None:
    data = rows_of(checkpoint, some_pairs(3))
    pad = checkpoint.tokenizer.pad_token_id
    batch = TrajectoryCollator(pad_token_id=pad)(data.rows)
    sides = [(row, side) for side in ("chosen", "rejected") for row in data.rows]
    for i, (row, side) in enumerate(sides):
        mask = [0] * len(row["prompt_ids"]) + row[f"{side}_mask"]  # type: ignore[literal-required]
        assert batch["completion_mask"][i, : len(mask)].tolist() == mask
        assert not batch["completion_mask"][i, len(mask) :].any()


@pytest.mark.parametrize("nll_weight", [0.0, 0.3])
def test_log_probs_and_loss_equal_those_computed_by_hand(
    checkpoint: Checkpoint, tmp_path: Path, nll_weight: float
) -> None:
    data = rows_of(checkpoint, some_pairs(4))
    settings = DPO(
        learning_rate=1e-3, epochs=2, batch_size=4, save_every=0, warmup_ratio=0,
        nll_weight=nll_weight, lr_schedule="constant_with_warmup",
    )  # fmt: skip
    before = by_hand(checkpoint, data)
    once, log = train(
        copy.deepcopy(checkpoint), data, replace(settings, epochs=1), tmp_path / "once"
    )
    for side, rows in before.items():
        assert log[0][f"logps/{side}"] == pytest.approx(mean([sum(r) for r in rows]), abs=1e-4)
    nll = -mean([x for row in before["chosen"] for x in row])
    assert log[0]["loss"] == pytest.approx(math.log(2) + nll_weight * nll, abs=1e-4)
    # The second update's loss, from the policy after the first.
    after = by_hand(once, data)
    rewards = {
        side: [
            0.1 * (sum(now) - sum(then))
            for now, then in zip(after[side], before[side], strict=True)
        ]
        for side in ("chosen", "rejected")
    }
    margins = [c - r for c, r in zip(rewards["chosen"], rewards["rejected"], strict=True)]
    preference = mean([-math.log(1 / (1 + math.exp(-margin))) for margin in margins])
    nll = -mean([x for row in after["chosen"] for x in row])
    _, log = train(checkpoint, data, settings, tmp_path / "twice")
    assert log[1]["loss"] == pytest.approx(preference + nll_weight * nll, abs=1e-4)
    for side, by_pair in rewards.items():
        assert log[1][f"rewards/{side}"] == pytest.approx(mean(by_pair), abs=1e-4)
    assert log[1]["rewards/margins"] == pytest.approx(mean(margins), abs=1e-4)
    assert log[1]["chosen_drop_nats"] == pytest.approx(-log[1]["rewards/chosen"] / 0.1, abs=1e-4)


def test_without_the_preference_loss_the_chosen_side_is_imitated(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, some_pairs(4))
    settings = replace(QUICK, batch_size=4, preference_weight=0.0, nll_weight=1.0)
    nll = -mean([x for row in by_hand(checkpoint, data)["chosen"] for x in row])
    _, log = train(checkpoint, data, settings, tmp_path)
    assert log[0]["loss"] == pytest.approx(nll, abs=1e-4)
    with pytest.raises(SettingsError, match="must not both be 0"):
        replace(QUICK, preference_weight=0.0, nll_weight=0.0)


def test_accuracies_begin_with_the_first_update_that_can_differ(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, some_pairs(8))
    _, log = train(checkpoint, data, replace(QUICK, batch_size=4, epochs=1), tmp_path)
    assert ["rewards/accuracies" in metrics for metrics in log] == [False, True]


def test_micro_batches_give_the_same_result_as_the_batch(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, some_pairs())
    whole, _ = train(copy.deepcopy(checkpoint), data, QUICK, tmp_path / "whole")
    parts = replace(QUICK, micro_batch_tokens=80)
    assert _micro_batch(parts, max(max(lengths(row)) for row in data.rows), 1) == 1
    split, _ = train(checkpoint, data, parts, tmp_path / "split")
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_chosen_side_becomes_likelier_than_the_rejected_side(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, [Pair(episode("bb", DOORS), episode("aa", DOORS))] * 8)
    settings = replace(QUICK, epochs=4)
    before, trained = by_hand(checkpoint, data), train(checkpoint, data, settings, tmp_path)
    after = by_hand(trained[0], data)
    gaps = [sum(t["chosen"][0]) - sum(t["rejected"][0]) for t in (before, after)]
    assert gaps[1] > gaps[0] + 2  # nats
    assert trained[1][-1]["rewards/accuracies"] == 1.0
    assert "forward" not in vars(trained[0].model)  # TRL's head was removed
    assert not trained[0].model.training


def test_lora_is_merged_before_and_after(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = copy.deepcopy(checkpoint.model)
    tuned = get_peft_model(checkpoint.model, LoraConfig(r=2, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted = Checkpoint(
        tuned, checkpoint.tokenizer, checkpoint.template, checkpoint.prompts, False
    )
    data = rows_of(checkpoint, some_pairs(4))
    expected = by_hand(adapted, data)["chosen"]
    settings = replace(QUICK, lora_rank=2)
    trained, log = train(adapted, data, settings, tmp_path)
    # The reference is the tuned model and not its base.
    assert log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert log[0]["logps/chosen"] == pytest.approx(mean([sum(r) for r in expected]), abs=1e-3)
    assert not any("lora" in name for name, _ in trained.model.named_parameters())
    assert [n for n, _ in trained.model.named_parameters()] == [
        n for n, _ in base.named_parameters()
    ]


def test_a_falling_chosen_log_probability_is_warned_about(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The two sides are almost the same, so pushing one down pushes the other down, too.
    pairs = [Pair(episode("ab", DOORS), episode("aa", DOORS))] * 4
    data = rows_of(checkpoint, pairs)
    settings = replace(QUICK, learning_rate=3e-2, epochs=8, alarm_nats=1)
    with caplog.at_level(logging.WARNING):
        _, log = train(checkpoint, data, settings, tmp_path)
    assert max(metrics["chosen_drop_nats"] for metrics in log) > 1
    warnings = [r.message for r in caplog.records if "has fallen by" in r.message]
    assert len(warnings) == 1
    assert "raise nll_weight" in warnings[0]


def test_a_loss_that_is_not_finite_stops_training_and_saves_the_batch(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(checkpoint.model.parameters()).fill_(float("nan"))
    data = rows_of(checkpoint, some_pairs(4))
    with pytest.raises(DivergedError, match=r"not finite at update 0.*bad_batch\.json"):
        train(checkpoint, data, QUICK, tmp_path)
    batch = json.loads((tmp_path / "bad_batch.json").read_text())
    assert len(batch["input_ids"]) == 8


def test_a_reference_other_than_the_initial_policy_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, some_pairs(4))
    trainer = TrajectoryDPOTrainer(
        rows=data.rows,
        settings=QUICK,
        folder=tmp_path,
        model=checkpoint.model,
        args=_config(checkpoint.model, data, QUICK, tmp_path, {}),
        processing_class=checkpoint.tokenizer,
        data_collator=TrajectoryCollator(pad_token_id=checkpoint.tokenizer.pad_token_id),
    )
    with torch.no_grad():
        for weight in checkpoint.model.parameters():
            weight.mul_(1.05)
    with pytest.raises(WrongReferenceError, match="not the policy at the start of training"):
        trainer.train()


def test_an_interrupted_run_ends_with_the_same_weights(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, some_pairs(12))
    settings = replace(QUICK, epochs=2, save_every=2)
    whole, _ = train(copy.deepcopy(checkpoint), data, settings, tmp_path / "whole")

    def kill(update: int, _: Mapping[str, float]) -> None:
        if update == 5:  # between two saved states
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dpo(copy.deepcopy(checkpoint), data, settings, tmp_path / "cut", on_metrics=kill)
    starts: list[int] = []
    again, _ = train_dpo(checkpoint, data, settings, tmp_path / "cut", on_start=starts.append)
    assert starts == [4]
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_pairs_are_shuffled_between_updates_and_sorted_within() -> None:
    sampler = SortedWithinUpdates([5, 1, 4, 2, 3, 9, 8], 3, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    for order in orders:
        assert sorted(order) == list(range(7))
        for start in (0, 3, 6):
            window = [[5, 1, 4, 2, 3, 9, 8][i] for i in order[start : start + 3]]
            assert window == sorted(window)


def test_a_complete_run_is_not_repeated_and_refuses_changes(start: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(start), device="cpu")
    pairs = some_pairs()
    trained, result = dpo(start, pairs, QUICK, out=tmp_path / "dpo")
    assert trained == tmp_path / "dpo" / "checkpoint"
    assert (result["n_pairs"], result["n_too_long"], result["n_updates"]) == (8, 0, 2)
    assert not (tmp_path / "dpo" / "work").exists()
    written = (trained / "model.safetensors").stat().st_mtime_ns
    # The second call only reads the result.
    assert dpo(start, pairs, QUICK, out=tmp_path / "dpo") == (trained, result)
    assert (trained / "model.safetensors").stat().st_mtime_ns == written
    after = load_checkpoint(str(trained), device="cpu")
    assert after.prompts == checkpoint.prompts
    assert not all(
        torch.equal(a, b)
        for a, b in zip(after.model.parameters(), checkpoint.model.parameters(), strict=True)
    )
    log = (tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in log]
    assert steps[:2] == [1, 2]
    with pytest.raises(RunMismatchError, match="pairs"):
        dpo(start, some_pairs(4), QUICK, out=tmp_path / "dpo")
    with pytest.raises(RunMismatchError, match=r"beta 0\.1 \(now 0\.2\)"):
        dpo(start, pairs, replace(QUICK, beta=0.2), out=tmp_path / "dpo")
    save_checkpoint(after, tmp_path / "other")
    with pytest.raises(RunMismatchError, match="model"):
        dpo(tmp_path / "other", pairs, QUICK, out=tmp_path / "dpo")


def test_training_on_pairs_from_a_file_gives_the_same_weights(
    start: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    pairs = some_pairs(4)
    write_pairs(tmp_path / "pairs", (as_preference(p, checkpoint, world=WORLD) for p in pairs))
    of_file = dpo(start, list(read_pairs(tmp_path / "pairs")), QUICK, out=tmp_path / "file")
    direct = dpo(start, pairs, QUICK, out=tmp_path / "direct")
    assert of_file.result["rows_sha256"] == direct.result["rows_sha256"]
    name = "model.safetensors"
    assert (of_file.checkpoint / name).read_bytes() == (direct.checkpoint / name).read_bytes()


def test_the_learning_rate_can_be_constant_before_it_decays(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = rows_of(checkpoint, some_pairs(8))
    settings = replace(QUICK, epochs=5, lr_schedule="warmup_stable_decay", warmup_ratio=0.1)
    _, log = train(checkpoint, data, settings, tmp_path)
    rates = [metrics["learning_rate"] / settings.learning_rate for metrics in log]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_n_updates_includes_the_incomplete_last_batch() -> None:
    assert n_updates(33, DPO(batch_size=32, epochs=3)) == 6
