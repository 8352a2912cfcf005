"""`eto train`: flags, a settings file and the defaults; error messages; what is printed."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import tyro

from eto_agents.cli import main
from eto_agents.cli.train import COMMANDS, iteration_table, with_config
from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.preference import PreferencePair, write_pairs
from eto_envs.errors import DataNotFoundError, UnknownNameError

if importlib.util.find_spec("trl") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

from eto_agents.training.eto import Iteration
from tests.agents.training.worlds import undecided


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sft.toml"
    path.write_text('epochs = 2\ndata = ["a", "b"]\nquiet = true\nlearning_rate = 1e-3\n')
    return path


def test_flags_override_a_settings_file(config: Path) -> None:
    expanded = with_config(["train", "sft", "--epochs", "5", "--config", str(config), "--no-quiet"])
    assert expanded == [
        *("train", "sft", "--data", "a", "b", "--learning-rate", "0.001"),
        *("--epochs", "5", "--no-quiet"),
    ]
    assert with_config(["eval", "--config", "x"]) == ["eval", "--config", "x"]
    with pytest.raises(DataNotFoundError):
        with_config(["train", "sft", "--config", "nothing.toml"])
    with pytest.raises(UnknownNameError):
        with_config(["train", "sft", "--config"])


def test_tables_of_a_file_become_flags_with_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "eto.toml"
    path.write_text(
        "iterations = 1\n[dpo]\nbeta = 0.5\nepochs = 2\nactivation_checkpointing = true\n"
    )
    given = ["--dpo.epochs", "3", "--dpo.no-activation-checkpointing"]
    expanded = with_config(["train", "eto", "--config", str(path), *given])
    assert expanded == ["train", "eto", "--iterations", "1", "--dpo.beta", "0.5", *given]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_file_can_have_every_setting(command: str, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    @functools.wraps(COMMANDS[command])
    def received(**arguments: Any) -> None:
        seen.update(arguments)

    hints = typing.get_type_hints(COMMANDS[command])
    settings = next(hint for hint in hints.values() if dataclasses.is_dataclass(hint))()
    changes = {"with_example": False, "dev_tasks": 3, "keep_best": True, "seed": 5}
    changes |= {"activation_checkpointing": True, "report_to": ("wandb", "tensorboard")}
    fields = {field.name for field in dataclasses.fields(settings)}
    settings = dataclasses.replace(settings, **{k: v for k, v in changes.items() if k in fields})
    path = tmp_path / "settings.toml"
    path.write_text(toml_of(dataclasses.asdict(settings)))
    arguments = with_config(["train", command, "--config", str(path)])[2:]
    required = {"sft": [], "rft": ["--explorer", "x"], "dpo": ["--pairs", "x", "--model", "x"]}
    tyro.cli(received, args=[*arguments, *required.get(command, ["--model", "x"])])
    assert seen["settings"] == settings


def toml_of(record: dict[str, Any]) -> str:
    """A record as TOML: None is left out, tables come last."""
    values = {key: value for key, value in record.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(v)}" for key, v in values.items() if v is not None]
    for key, value in record.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", toml_of(value)]
    return "\n".join(lines) + "\n"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything that was printed, without tyro's frames and line breaks."""
    printed = capsys.readouterr()
    return " ".join((printed.err + printed.out).replace("│", " ").split())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sft", "--out", "x"], 1, "no training data: give --data a folder written by"),
        (["sft", "--data", "nothing"], 1, "no episodes at nothing: run `eto"),
        (["sft", "--epochs", "0"], 2, "epochs must be above 0, got 0"),
        (["eto", "--model", "x", "--dpo.beta", "0"], 2, "beta must be above 0, got 0"),
        (["grpo", "--model", "x", "--n-samples", "1"], 2, "n_samples 1, which is at least 2"),
        (["rft", "--data", "nothing"], 2, "Missing from eto train rft: --explorer"),
        (["rft", "--explorer", "x"], 1, "no training data: give --data a folder written by"),
        (["sft", "--config", "no.toml"], 1, "there is no file no.toml"),
        (["dpo", "--pairs", "no", "--model", "x", "--out", "y"], 1, "no preference pairs at no"),
    ],
)
def test_errors_name_the_mistake(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        main(["train", *arguments])
    assert exited.value.code == code
    assert message in shown(capsys)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_of_a_file_suggests_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sft.toml"
    path.write_text("learning_rat = 1e-3\n")
    with pytest.raises(SystemExit) as exited:
        main(["train", "sft", "--config", str(path)])
    assert exited.value.code == 2
    printed = shown(capsys)
    assert "--learning-rat" in printed
    assert "--learning-rate" in printed  # the nearest flag there is


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_dpo_on_a_file_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "model")
    pair = PreferencePair(
        prompt=[{"role": "user", "content": "Say a or b."}],
        chosen=[{"role": "assistant", "content": "Action: b"}],
        rejected=[{"role": "assistant", "content": "Action: a"}],
        chosen_score=1.0,
        rejected_score=0.0,
        task_id="t0",
    )
    write_pairs(tmp_path / "pairs.jsonl", [pair] * 3)
    main(
        ["train", "dpo", "--pairs", str(tmp_path / "pairs.jsonl"), "--model",
         str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--batch-size", "2",
         "--epochs", "1", "--device", "cpu"]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "n_pairs" in printed
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.torch
@pytest.mark.slow
def test_only_one_of_two_processes_evaluates_and_prints(tmp_path: Path) -> None:
    world = ("--env", "ETO-WebShop-v0", "--dataset", "mini")
    data, start, out = (str(tmp_path / name) for name in ("experts", "sft", "eto"))
    main(["collect", *world, "--n-tasks", "4", "--out", data, "--quiet"])
    settings = ("--vocab-size", "600", "--epochs", "1", "--device", "cpu", "--quiet")
    main(["train", "sft", "--data", data, "--model", "tiny:nano", "--out", start, *settings])
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    loop = ("--iterations", "1", "--max-new-tokens", "16", "--splits", "seen")
    loop += ("--n-eval-tasks", "2", "--dpo.batch-size", "2", "--dpo.epochs", "1")
    command = ("train", "eto", *world, "--data", data, "--model", f"{start}/checkpoint", *loop)
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.agents.training.cli", *command, "--out", out],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("result: iteration 1,") == 1
    for number in (0, 1):
        evaluation = tmp_path / "eto" / f"iteration-{number}" / "evaluation"
        results = json.loads((evaluation / "results.json").read_text())
        assert results["splits"]["seen"]["n_episodes"] == 2


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("sft", "--micro-batch-size"),
        ("rft", "--n-samples"),
        ("dpo", "--beta"),
        ("ppo", "--kl-weight"),
        ("grpo", "--n-samples"),
        ("eto", "--dpo.beta"),
    ],
)
def test_help_names_every_setting(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["train", command, "--help"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert flag in printed
    assert f"For example:\n    eto train {command}" in printed


def test_the_table_has_a_row_per_iteration() -> None:
    start = Iteration(0, "sft", None, 0, {}, 0.5, {})
    counts = {"win": 1, "tie": 2, "lose": 3, "pairs": 4}
    first = Iteration(1, "dpo", 0.55, 6, counts, 0.625, {})
    table = iteration_table([start, first], [{"seen": 0.6}, {}], best=1)
    columns = {str(column.header): list(map(str, column.cells)) for column in table.columns}
    assert columns["iteration"] == ["0", "1 *"]
    assert columns["pairs"] == ["", "4"]
    assert columns["win / tie / lose"] == ["", "1 / 2 / 3"]
    assert columns["explored"] == ["", "0.550"]
    assert columns["dev"] == ["0.500", "0.625"]
    assert columns["seen"] == ["0.600", ""]
