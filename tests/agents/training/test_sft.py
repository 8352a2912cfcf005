"""SFT: it learns, resumes bit for bit, and explains what it refuses."""

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

from eto_agents.settings import SFT, SettingsError
from eto_agents.trajectory import Trajectory
from eto_envs.errors import DataNotFoundError

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch

from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint
from eto_agents.runs import RunMismatchError
from eto_agents.training.rows import EmptyDataError, build_rows
from eto_agents.training.sft import TokenBatches, open_model, sft
from tests.agents.training.episodes import episode, nano, write

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 uses a name that transformers 5.23 deprecates.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


EXPERTS: list[Trajectory] = [episode(n, n_steps=1 + n % 3) for n in range(8)]
QUICK = SFT(
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


def test_a_run_learns_and_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained, result = sft("tiny:nano", EXPERTS, QUICK, out=out)
    assert trained == out / "checkpoint"
    assert result["n_steps"] == 10
    assert result["n_trajectories"] == 8
    assert 0 < result["n_trained_tokens"] < result["n_tokens"]
    assert result["last_loss"] < result["first_loss"] - 1
    names = {"run.json", "metrics.jsonl", "result.json", "checkpoint"}
    assert {file.name for file in out.iterdir() if file.name[0] != "."} == names
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 4, 6, 8, 10]
    assert records[-1]["learning_rate"] < records[2]["learning_rate"] <= 3e-3
    read = load_checkpoint(str(trained), device="cpu")
    assert (read.template, read.prompts, read.with_example) == ("plain", "brief", False)
    before = (trained / "model.safetensors").stat().st_mtime_ns
    again = sft("tiny:nano", EXPERTS, QUICK, out=out)
    assert again == (trained, result)  # complete: nothing is trained again
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


KILL = """
import os, signal, torch
from pathlib import Path
torch.set_num_threads(1)
from eto_agents.settings import SFT, SettingsError
from eto_agents.store import TrajectoryStore
from eto_agents.training import sft
class Killed(sft.RowTrainer):
    def training_step(self, *arguments, **named):
        if self.state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(*arguments, **named)
sft.RowTrainer = Killed
experts = list(TrajectoryStore(Path({experts!r})).read())
sft.sft("tiny:nano", experts, {settings!r}, out=Path({out!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "muon+adamw", "batch_tokens": 150, "world_weight": 0.2}],
    ids=["paper", "tiny"],
)
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, changes: Any) -> None:
    settings = replace(QUICK, **changes)
    whole = sft("tiny:nano", EXPERTS, settings, out=tmp_path / "undisturbed")
    out = tmp_path / "out"
    experts = str(write(tmp_path / "data", EXPERTS) / "episodes.jsonl")
    for step in (4, 8):  # in the middle of an epoch, between two saved states; and once more
        program = KILL.format(step=step, experts=experts, settings=settings, out=str(out))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        assert done.returncode == -9, done.stderr.decode()
        assert not (out / "result.json").exists()
    resumed = sft("tiny:nano", EXPERTS, settings, out=out)
    differing = {"wall_s"}
    assert {k: v for k, v in resumed.result.items() if k not in differing} == {
        k: v for k, v in whole.result.items() if k not in differing
    }
    one, other = weights(resumed.checkpoint), weights(whole.checkpoint)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_lora_trains_an_adapter_of_a_checkpoint(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_checkpoint(nano([episode(n) for n in range(3)]), base)
    before = weights(base)
    settings = replace(QUICK, lora_rank=4, learning_rate=1e-2)
    trained, result = sft(base, EXPERTS, settings, out=tmp_path / "out")
    assert 0 < result["n_trained_parameters"] < 0.5 * result["n_parameters"]
    files = {file.name for file in trained.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "eto.json"} <= files
    assert "model.safetensors" not in files
    after = weights(trained)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert all(torch.equal(weights(base)[name], before[name]) for name in before)


def test_micro_batches_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    trained = []
    for n in (1, 4):
        settings = replace(QUICK, micro_batch_size=n, epochs=1, save_every=0)
        out = tmp_path / f"micro-{n}"
        trained.append(weights(sft("tiny:nano", EXPERTS, settings, out=out).checkpoint))
    assert all(torch.allclose(v, trained[1][k], atol=1e-4) for k, v in trained[0].items())


def test_world_weight_weights_the_environments_tokens(tmp_path: Path) -> None:
    """The first step's loss is compared with one computed by hand."""
    once = replace(QUICK, epochs=1, batch_size=8, micro_batch_size=2, save_every=0)
    made = open_model("tiny:nano", EXPERTS, once)
    agent = world = 0.0
    n_agent = 0
    for ids, mask in build_rows(EXPERTS, made).rows:
        with torch.no_grad():
            logits = made.model(torch.tensor([ids])).logits[0, :-1].double()
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        is_agent = torch.tensor(mask[1:]).bool()
        agent += float(nll[is_agent].sum())
        world += float(nll[~is_agent].sum())
        n_agent += sum(mask)
    for weight in (0.0, 0.25, 1.0):
        settings = replace(once, world_weight=weight, log_every=1)
        _, result = sft("tiny:nano", EXPERTS, settings, out=tmp_path / f"{weight}")
        assert result["last_loss"] == pytest.approx((agent + weight * world) / n_agent, rel=1e-3)


def test_missing_data_and_models_are_errors(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="no trajectories"):
        sft("tiny:nano", [], QUICK, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(EmptyDataError, match=r"all 8 have more than 9 tokens"):
        sft("tiny:nano", EXPERTS, replace(QUICK, max_length=9), out=tmp_path / "long")
    with pytest.raises(DataNotFoundError, match=r"no checkpoint .*nothing"):
        sft(tmp_path / "nothing", EXPERTS, QUICK, out=tmp_path / "out")


def test_other_data_settings_and_models_are_refused(tmp_path: Path) -> None:
    save_checkpoint(nano(EXPERTS), tmp_path / "model")
    once, out = replace(QUICK, epochs=1), tmp_path / "out"
    sft(tmp_path / "model", EXPERTS, once, out=out)
    with pytest.raises(RunMismatchError, match="epochs"):
        sft(tmp_path / "model", EXPERTS, QUICK, out=out)
    with pytest.raises(RunMismatchError, match="different inputs: experts"):
        sft(tmp_path / "model", [episode(99)], once, out=out)
    save_checkpoint(nano(EXPERTS[:1]), tmp_path / "model")
    with pytest.raises(RunMismatchError, match="different inputs: model"):
        sft(tmp_path / "model", EXPERTS, once, out=out)


def test_the_learning_rate_can_be_constant_before_it_decays(tmp_path: Path) -> None:
    settings = replace(QUICK, lr_schedule="warmup_stable_decay", warmup_ratio=0.1, log_every=1)
    sft("tiny:nano", EXPERTS, settings, out=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] / settings.learning_rate for line in lines]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_batches_by_number_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [10 + (7 * n) % 50 for n in range(600)] + [500]
    batches = TokenBatches(lengths, 120, 0, 3)
    first, again = list(batches), list(batches)
    assert first == again
    assert [600] in first  # a longer row is not lost
    assert list(TokenBatches(lengths, 120, 1, 3)) != first
    compositions = set()
    for epoch in range(3):
        batches.set_epoch(epoch)
        rows = list(batches)
        assert len(rows) == len(batches)
        assert sorted(row for batch in rows for row in batch) == list(range(601))
        assert all(max(lengths[row] for row in b) * len(b) <= 120 for b in rows if b != [600])
        compositions.add(frozenset(map(frozenset, rows)))
    assert len(compositions) == 3

    epochs = set()
    own = TokenBatches.__iter__

    def spy(self: TokenBatches) -> Any:
        epochs.add(self._epoch)
        return own(self)

    monkeypatch.setattr(TokenBatches, "__iter__", spy)
    settings = replace(QUICK, batch_tokens=150, epochs=2, save_every=0)
    _, result = sft("tiny:nano", EXPERTS, settings, out=tmp_path)
    assert epochs == {0, 1}  # the trainer sets the epoch
    assert result["n_steps"] % 2 == 0
    assert result["last_loss"] < result["first_loss"]


def test_batch_tokens_needs_a_single_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="batch_tokens supports a single process only"):
        sft("tiny:nano", EXPERTS, replace(QUICK, batch_tokens=150), out=tmp_path)
