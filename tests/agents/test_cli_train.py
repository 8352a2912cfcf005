"""`eto train`: flags over a file over the defaults, and errors a person can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from eto_agents.cli import main
from eto_agents.cli.train import with_config
from eto_envs.errors import DataNotFoundError, UnknownNameError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sft.toml"
    path.write_text('epochs = 2\ndata = ["a", "b"]\nquiet = true\nlearning_rate = 1e-3\n')
    return path


def test_a_file_becomes_flags_and_flags_win(config: Path) -> None:
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


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sft", "--out", "x"], 1, "no data: name folders of `eto collect`"),
        (["sft", "--data", "nothing"], 1, "nothing at nothing"),
        (["sft", "--epochs", "0"], 2, "epochs must be positive"),
        (["rft", "--data", "nothing"], 1, "no explorer"),
        (["sft", "--config", "no.toml"], 1, "no settings file at no.toml"),
    ],
)
def test_mistakes(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        main(["train", *arguments])
    assert exited.value.code == code
    printed = capsys.readouterr()
    assert message in " ".join((printed.err + printed.out).replace("│", " ").split())
