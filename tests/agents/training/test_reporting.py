"""Every training method reports its metrics to trackers, each step once, also if interrupted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.runs import RunFolder
from eto_agents.settings import DPO, ETO, GRPO, PPO, RFT, SFT
from eto_agents.training.dpo import dpo
from eto_agents.training.eto import eto
from eto_agents.training.grpo import grpo
from eto_agents.training.pairs import Pair
from eto_agents.training.ppo import ppo
from eto_agents.training.rft import rft
from eto_agents.training.sft import sft
from eto_envs.errors import MissingExtraError
from tests.agents.trackers import tensorboard_config, tensorboard_scalars
from tests.agents.training.worlds import BANDIT, WORLD, episode, undecided

pytest.importorskip("tensorboard")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]

TENSORBOARD: Any = {"report_to": ("tensorboard",)}
ALL: Any = {**TENSORBOARD, "save_every": 2, "device": "cpu"}
PLAYING: Any = {"env": BANDIT, "world": WORLD, "n_envs": 16, "max_new_tokens": 6}
TUNING: Any = {**ALL, "epochs": 2, "batch_size": 4, "learning_rate": 1e-3}
ON_POLICY: Any = {**ALL, **PLAYING, "n_updates": 4, "n_episodes": 8, "learning_rate": 1e-3}
EXPERTS = [episode("b", task_id=f"t{i}") for i in range(8)]
LEARN = DPO(**TUNING | {"report_to": ()})
LOOP: Any = {**TENSORBOARD, **PLAYING, "iterations": 1, "dev_tasks": 2, "dpo": LEARN}
METHODS: dict[str, Callable[[Path, Path], Any]] = {
    "sft": lambda model, out: sft(
        model, EXPERTS, SFT(**TUNING, world=WORLD, micro_batch_size=2, log_every=1), out=out
    ),
    "rft": lambda model, out: rft(
        model,
        EXPERTS,
        RFT(**TUNING | PLAYING, micro_batch_size=2, log_every=1, n_samples=1),
        explorer=model,
        out=out,
    ),
    "dpo": lambda model, out: dpo(
        model,
        [Pair(e, episode("a", task_id=e.task_id)) for e in EXPERTS],
        DPO(**TUNING, world=WORLD),
        out=out,
    ),
    "ppo": lambda model, out: ppo(model, PPO(**ON_POLICY, epochs=1, n_minibatches=1), out=out),
    "grpo": lambda model, out: grpo(model, GRPO(**ON_POLICY, n_samples=4), out=out),
    "eto": lambda model, out: list(
        eto(model, EXPERTS, ETO(**LOOP, n_samples=3, temperature=1.0), out=out)
    ),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("reporting")
    save_checkpoint(undecided(folder), folder / "start")
    return folder / "start"


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_reports_every_step_once(
    method: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunFolder.log

    def stop(run: RunFolder, record: Mapping[str, Any]) -> None:
        log(run, record)
        if record["step"] == 3:  # the last saved state is that of step 2
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            METHODS[method](start, tmp_path)
    METHODS[method](start, tmp_path)

    run = tmp_path / "iteration-1" / "dpo" if method == "eto" else tmp_path
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = {(name, line["step"]): n for line in lines for name, n in line.items()}
    expected = {key: n for key, n in numbers.items() if key[0] != "step" and n is not None}
    scalars = [(name, *point) for name, own in tensorboard_scalars(run).items() for point in own]
    assert sorted((name, step) for name, step, _ in scalars) == sorted(expected)
    for name, step, value in scalars:
        if name in ("loss", "learning_rate", "rewards/margins", "score", "policy_loss"):
            assert value == pytest.approx(expected[name, step], rel=1e-5), name
    (config,) = tensorboard_config(run)
    assert config["kind"] == ("dpo" if method == "eto" else method)
    assert config["learning_rate"] == 1e-3


def test_eto_reports_its_iterations(start: Path, tmp_path: Path) -> None:
    settings = ETO(**LOOP, n_samples=3, temperature=1.0)
    done = list(eto(start, EXPERTS, settings, out=tmp_path))
    scalars = tensorboard_scalars(tmp_path)
    assert scalars["dev"] == [(i.number, pytest.approx(i.dev)) for i in done]
    assert scalars["explored"] == [(1, pytest.approx(done[1].explored))]
    assert scalars["pairs"] == [(1, done[1].counts["pairs"])]
    assert scalars["dpo/accuracy"] == [(1, pytest.approx(done[1].learning["accuracy"]))]
    (config,) = tensorboard_config(tmp_path)
    assert (config["kind"], config["dpo.learning_rate"]) == ("eto", 1e-3)
    assert list(eto(start, EXPERTS, settings, out=tmp_path)) == done
    assert tensorboard_scalars(tmp_path) == scalars


def test_a_missing_tracker_is_noticed_before_anything_is_played(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = ETO(**LOOP | {"report_to": ("wandb",)})
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        next(eto(start, EXPERTS, settings, out=tmp_path))
    assert list(tmp_path.iterdir()) == []
