"""SFT: it learns, goes on after a kill to the bit, and says what it cannot do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.collection import read_collection
from eto_agents.settings import SettingsError
from eto_envs.errors import CorruptDataError, DataNotFoundError

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch
from eto_agents.training.stage import StageMismatchError

from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.training.rows import EmptyDataError, build_rows
from eto_agents.training.sft import SFTSettings, open_model, sft
from tests.agents.training.episodes import episode, nano, write

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 by a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def told(tmp_path: Path) -> SFTSettings:
    data = write(tmp_path / "data", [episode(n, n_steps=1 + n % 3) for n in range(8)])
    return SFTSettings(
        data=(data,),
        out=tmp_path / "out",
        model="tiny:nano",
        vocab_size=400,
        epochs=5,
        batch_size=4,
        micro_batch_size=2,
        learning_rate=3e-3,
        save_every=3,
        log_every=2,
        device="cpu",
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(str(folder), device="cpu").model.state_dict()
    return state


def test_a_stage_learns_and_keeps_what_it_promises(told: SFTSettings) -> None:
    result = sft(told)
    assert result["n_steps"] == 10
    assert result["n_trajectories"] == 8
    assert 0 < result["n_trained_tokens"] < result["n_tokens"]
    assert result["last_loss"] < result["first_loss"] - 1
    names = {"config.json", "inputs.json", "metrics.jsonl", "result.json", "checkpoint"}
    assert {file.name for file in told.out.iterdir() if file.name[0] != "."} == names
    records = [json.loads(line) for line in (told.out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 4, 6, 8, 10]
    assert records[-1]["learning_rate"] < records[2]["learning_rate"] <= 3e-3
    read = load_checkpoint(str(told.out / "checkpoint"), device="cpu")
    assert (read.template, read.prompts, read.with_example) == ("plain", "brief", False)
    before = (told.out / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert sft(told) == result  # complete: nothing is trained again
    assert (told.out / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before


KILL = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from eto_agents.training import sft as stage, trainer
class Killed(trainer.RowTrainer):
    def training_step(self, *arguments, **named):
        if self.state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(*arguments, **named)
trainer.RowTrainer = Killed
stage.sft({settings})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "muon+adamw", "tokens_per_step": 150, "world_weight": 0.2}],
    ids=["paper", "tiny"],
)
def test_a_killed_run_ends_with_the_same_weights(
    told: SFTSettings, tmp_path: Path, changes: Any
) -> None:
    told = replace(told, **changes)
    undisturbed = sft(replace(told, out=tmp_path / "undisturbed"))
    text = repr(told).replace("PosixPath", "Path").replace("SFTSettings", "stage.SFTSettings")
    for step in (4, 8):  # in the middle of an epoch, between two saved states; and once more
        program = KILL.format(step=step, settings=text)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        assert done.returncode == -9, done.stderr.decode()
        assert not (told.out / "result.json").exists()
    resumed = sft(told)
    differing = {"wall_s"}
    assert {k: v for k, v in resumed.items() if k not in differing} == {
        k: v for k, v in undisturbed.items() if k not in differing
    }
    one, other = weights(told.out / "checkpoint"), weights(tmp_path / "undisturbed" / "checkpoint")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_lora_trains_an_adapter_of_a_checkpoint(told: SFTSettings, tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_checkpoint(nano([episode(n) for n in range(3)]), base)
    before = weights(base)
    result = sft(replace(told, model=str(base), lora_rank=4, learning_rate=1e-2))
    assert 0 < result["n_trained_parameters"] < 0.5 * result["n_parameters"]
    files = {file.name for file in (told.out / "checkpoint").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "eto.json"} <= files
    assert "model.safetensors" not in files
    after = weights(told.out / "checkpoint")
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert all(torch.equal(weights(base)[name], before[name]) for name in before)


def test_micro_batches_do_not_change_what_is_learnt(told: SFTSettings, tmp_path: Path) -> None:
    trained = []
    for n in (1, 4):
        out = tmp_path / f"micro-{n}"
        sft(replace(told, micro_batch_size=n, out=out, epochs=1, save_every=0))
        trained.append(weights(out / "checkpoint"))
    assert all(torch.allclose(v, trained[1][k], atol=1e-4) for k, v in trained[0].items())


def test_the_worlds_tokens_have_the_weight_that_is_asked_for(
    told: SFTSettings, tmp_path: Path
) -> None:
    """One step from the same weights; the loss before it is known by hand."""
    once = replace(told, epochs=1, batch_size=8, micro_batch_size=2, save_every=0)
    episodes = list(read_collection(told.data[0]).kept)
    made = open_model(episodes, once)
    agent = world = 0.0
    n_agent = 0
    for ids, mask in build_rows(episodes, made, world=once.world).rows:
        with torch.no_grad():
            logits = made.model(torch.tensor([ids])).logits[0, :-1].double()
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        is_agent = torch.tensor(mask[1:]).bool()
        agent += float(nll[is_agent].sum())
        world += float(nll[~is_agent].sum())
        n_agent += sum(mask)
    for weight in (0.0, 0.25, 1.0):
        settings = replace(once, world_weight=weight, out=tmp_path / f"{weight}", log_every=1)
        assert sft(settings)["last_loss"] == pytest.approx(
            (agent + weight * world) / n_agent, rel=1e-3
        )


def test_there_must_be_something_to_learn_from(told: SFTSettings, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        sft(replace(told, data=(tmp_path / "nothing",)))
    empty = write(tmp_path / "empty", [])
    with pytest.raises(EmptyDataError, match="no trajectories"):
        sft(replace(told, data=(empty,)))
    failed = write(tmp_path / "failed", [episode(0, score=0.0), episode(1, status="agent_error")])
    with pytest.raises(EmptyDataError):
        sft(replace(told, data=(failed,), min_score=0.5, out=tmp_path / "x"))
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(CorruptDataError, match="line 1"):
        sft(replace(told, data=(tmp_path / "bad.jsonl",), out=tmp_path / "y"))


def test_other_data_and_settings_need_another_folder(told: SFTSettings) -> None:
    sft(replace(told, epochs=1))
    with pytest.raises(StageMismatchError, match="epochs"):
        sft(told)
    write(told.data[0], [episode(99)])
    with pytest.raises(StageMismatchError, match="other inputs"):
        sft(replace(told, epochs=1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"lora_rank": -1}, "lora_rank must be at least 0"),
        ({"batch_size": 6, "micro_batch_size": 4}, "must be a multiple"),
    ],
)
def test_settings_are_checked(told: SFTSettings, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(told, **changed)


def test_a_schedule_can_hold_the_learning_rate_before_it_falls(
    told: SFTSettings, tmp_path: Path
) -> None:
    settings = replace(told, schedule="warmup_stable_decay", warmup=0.1, log_every=1)
    sft(replace(settings, out=tmp_path / "held"))
    lines = (tmp_path / "held" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] / told.learning_rate for line in lines]
    assert rates == pytest.approx([0, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_steps_can_be_measured_in_tokens(
    told: SFTSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_agents.training.trainer import TokenBatches

    lengths = [10 + (7 * n) % 50 for n in range(600)] + [500]
    batches = TokenBatches(lengths, 120, 0, 3)
    first, again = list(batches), list(batches)
    assert first == again
    assert [600] in first  # a longer row is not lost
    assert list(TokenBatches(lengths, 120, 1, 3)) != first
    together = set()
    for epoch in range(3):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches)
        assert sorted(row for batch in found for row in batch) == list(range(601))
        assert all(max(lengths[row] for row in b) * len(b) <= 120 for b in found if b != [600])
        together.add(frozenset(map(frozenset, found)))
    assert len(together) == 3

    asked = set()
    own = TokenBatches.__iter__

    def note(self: TokenBatches) -> Any:
        asked.add(self._epoch)
        return own(self)

    monkeypatch.setattr(TokenBatches, "__iter__", note)
    settings = replace(told, tokens_per_step=150, epochs=2, save_every=0)
    result = sft(replace(settings, out=tmp_path / "tokens"))
    assert asked == {0, 1}  # the trainer tells it the epoch
    assert result["n_steps"] % 2 == 0
    assert result["last_loss"] < result["first_loss"]
