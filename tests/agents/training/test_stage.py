"""Stages: claimed, refused, resumed and complete."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from eto_agents.training.stage import Stage, StageMismatchError, hash_input
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError


@dataclass(frozen=True)
class Told:
    out: Path
    epochs: int = 3
    report_to: str = "none"


def test_a_stage_is_complete_when_its_result_is_written(tmp_path: Path) -> None:
    told = Told(tmp_path)
    with Stage(tmp_path, told, {"data": "a"}) as stage:
        assert stage.result is None
        stage.log({"step": 1, "loss": 2.0})
        stage.finish({"n_steps": 1})
    names = {"config.json", "inputs.json", "metrics.jsonl", "result.json"}
    assert names <= {file.name for file in tmp_path.iterdir()}
    with Stage(tmp_path, replace(told, report_to="all"), {"data": "a"}) as again:
        assert again.result == {"n_steps": 1}


def test_other_settings_and_inputs_are_refused(tmp_path: Path) -> None:
    with Stage(tmp_path, Told(tmp_path), {"data": "a"}):
        pass
    with (
        pytest.raises(StageMismatchError, match=r"epochs 3 \(now 4\)"),
        Stage(tmp_path, Told(tmp_path, epochs=4), {"data": "a"}),
    ):
        pass
    for inputs in ({"data": "b"}, {}, {"data": "a", "more": "c"}):
        with (
            pytest.raises(StageMismatchError, match=r"other inputs: (data|more) changed"),
            Stage(tmp_path, Told(tmp_path), inputs),
        ):
            pass
    with Stage(tmp_path, Told(tmp_path), {"data": "a"}):  # a refusal leaves nothing locked
        pass


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Stage(tmp_path, Told(tmp_path), {}),
        pytest.raises(DataError, match="another process is at work"),
        Stage(tmp_path, Told(tmp_path), {}),
    ):
        pass
    with Stage(tmp_path, Told(tmp_path), {}) as stage:
        monkeypatch.setenv("RANK", "1")  # of several that were launched together
        with Stage(tmp_path, Told(tmp_path), {}) as other:
            other.log({"step": 1})
            other.finish({"score": 0.0})
            assert not stage.metrics()
            assert stage.result is None
            stage.finish({"score": 1.0})
            other.wait()
            assert other.result == {"score": 1.0}


def test_what_is_done_again_is_logged_once(tmp_path: Path) -> None:
    with Stage(tmp_path, Told(tmp_path), {}) as stage:
        for step in (1, 2, 3):
            stage.log({"step": step})
        with (tmp_path / "metrics.jsonl").open("a") as lines:
            lines.write('{"step": 4, "lo')  # a kill in the middle of a line
        assert [record["step"] for record in stage.metrics()] == [1, 2, 3]
        stage.rewind(2)
        stage.log({"step": 3})
        assert [record["step"] for record in stage.metrics()] == [1, 2, 3]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with Stage(tmp_path, Told(tmp_path), {}) as stage:
        (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
        with pytest.raises(CorruptDataError, match=r"metrics.jsonl is damaged"):
            stage.metrics()
        (tmp_path / "result.json").write_text("[]")
        with pytest.raises(CorruptDataError, match="not a JSON object"):
            _ = stage.result


def test_hashes_follow_what_counts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "episodes.jsonl").write_text("a\n")
    first = hash_input(run)
    (run / "report.md").write_text("x")
    assert hash_input(run) == first == hash_input(run / "episodes.jsonl")
    (run / "episodes.jsonl").write_text("b\n")
    assert hash_input(run) != first
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    before = hash_input(model)
    (model / "eto.json").write_text("{}")
    assert hash_input(model) != before
    with pytest.raises(DataNotFoundError):
        hash_input(tmp_path / "nothing")
