from __future__ import annotations

from pathlib import Path

import pytest
from eto_agents.cli.preference import iteration_table

from eto_agents.cli import main
from eto_agents.models.checkpoints import save_checkpoint
from eto_agents.preference import PreferencePair, write_pairs
from eto_agents.training.eto import Iteration, Outcome
from tests.agents.training.worlds import undecided


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
         "--n-epochs", "1", "--device", "cpu"]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "n_pairs" in printed
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").is_file()


def test_pairs_that_are_not_there_are_a_short_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["train", "dpo", "--pairs", str(tmp_path / "no"), "--model", "x", "--out", "y"])
    assert done.value.code == 1
    assert "nothing at" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eto", "dpo", "ppo"])
def test_help_names_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["train", command, "--help"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    wanted = {"eto": "--dpo.beta", "dpo": "--beta", "ppo": "--kl-weight"}[command]
    assert wanted in printed


def test_the_table_has_a_row_an_iteration() -> None:
    start = Iteration(0, "sft", None, {}, 0.5, {"seen": 0.6}, {})
    first = Iteration(1, "dpo", 0.55, {"win": 1, "tie": 2, "lose": 3, "pairs": 4}, 0.625, {}, {})
    table = iteration_table(Outcome("dpo", 1, [start, first]))
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["iteration"] == ["0", "1 *"]
    assert columns["win / tie / lose"] == ["", "1 / 2 / 3"]
    assert columns["explored"] == ["", "0.550"]
    assert columns["dev"] == ["0.500", "0.625"]
    assert columns["seen"] == ["0.600", ""]
