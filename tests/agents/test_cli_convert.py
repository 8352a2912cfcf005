"""`eto collect`, `eto export` and `eto import`, run as a user would run them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from eto_agents.cli import main
from eto_agents.collection import read_collection
from eto_agents.formats.preference import write_eto_preference
from eto_agents.preference import read_pairs, write_pairs
from eto_agents.runs import RunRecord
from eto_envs.errors import CorruptDataError
from tests.agents.formats.test_preference import PAIRS


def eto(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collection")
    command = ("collect", "--env", "ETO-WebShop-v0", "--dataset", "mini", "--thoughts")
    eto(*command, "--n-tasks", 5, "--out", out, "--quiet")
    return out


def test_collect_prints_what_it_selected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("collect", "--env", "ETO-ALFWorld-v0", "--dataset", "mini", "--policy", "random")
    out = tmp_path / "c"
    eto(*command, "--n-tasks", 3, "--max-steps", 2, "--out", out, "--thought-style", "brief")
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "0 of 3 episodes selected (score at least 0.7)"
    assert lines[1:3] == ["  3 left out: below min_score", "  score 0.0 to 0.1      3 episodes"]
    assert lines[-1] == f"written to {out}"
    assert "train: 3/3 episodes" in captured.err
    assert (
        json.loads((out / "run.json").read_text())["settings"]["policy_provenance"]["thoughts"]
        == "brief"
    )
    with pytest.raises(SystemExit) as stop:
        eto("export", "messages", out, tmp_path / "x.jsonl")
    assert stop.value.code == 1
    assert "no episode of" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("name", ["eto-sft", "llama-factory-sft", "messages"])
def test_trajectories_survive_export_and_import(
    name: str, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x_sft.json"
    eto("export", name, collection, target, "--prompts", "brief")
    assert f"5 episodes written to {target}" in capsys.readouterr().out
    eto("import", name, target, tmp_path / "back", "--dataset", "mini")
    assert "5 episodes written to" in capsys.readouterr().out
    ours, theirs = read_collection(collection).selected, read_collection(tmp_path / "back").selected
    for one, other in zip(ours, theirs, strict=True):
        assert [s.text for s in one.steps] == [s.text for s in other.steps]
        assert (one.task_id, one.score, one.dataset) == (other.task_id, other.score, other.dataset)
    again = tmp_path / "again.json"
    eto("export", name, tmp_path / "back", again, "--prompts", tmp_path / "back/prompt.toml")
    first, second = target.read_text(), again.read_text()
    assert first == second


@pytest.mark.parametrize("name", ["eto-preference", "llama-factory-ranking", "trl"])
def test_pairs_survive_export_and_import(name: str, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    eto("export", name, tmp_path, tmp_path / "x.json")
    eto("import", name, tmp_path / "x.json", tmp_path / "back.jsonl")
    assert list(read_pairs(tmp_path / "back.jsonl")) == PAIRS


def test_pairs_without_a_lesson_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, *_ = PAIRS
    same = dataclasses.replace(good, rejected=good.chosen)
    reversed_ = dataclasses.replace(good, chosen_score=0.25, rejected_score=0.5)
    write_eto_preference(tmp_path / "x.json", [good, same, reversed_, same])
    eto("import", "eto-preference", tmp_path / "x.json", tmp_path / "y.jsonl")
    assert list(read_pairs(tmp_path / "y.jsonl")) == [good]
    said = "1 pairs written to .*; left out: 2 of which both sides are the same, 1 of which the"
    assert re.search(said, capsys.readouterr().out)
    write_eto_preference(tmp_path / "x.json", [same])
    with pytest.raises(SystemExit, match="1"):
        eto("import", "eto-preference", tmp_path / "x.json", tmp_path / "z.jsonl")
    assert "has no pair to learn from" in capsys.readouterr().err
    for pair, message in ((same, "both sides are the same"), (reversed_, "has the higher score")):
        write_pairs(tmp_path / "pairs.jsonl", [good, pair])
        with pytest.raises(CorruptDataError, match=rf"pairs\.jsonl, line 2: .*{message}"):
            list(read_pairs(tmp_path / "pairs.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("export", "eto-sft", "{c}", "{t}", "--with-example"), 2, "'messages' does"),
        (("export", "eto-sft", "{t}", "{t}"), 1, "no episodes at"),
        (("export", "trl", "{c}", "{t}"), 1, "no preference pairs at"),
        (("export", "eto-sft", "{c}", "{t}", "--min-score", "2"), 2, "no min_score 2.0"),
        (("export", "eto-sft", "{c}", "{t}", "--splits", "seen"), 1, "no episode of"),
        (("import", "eto-sft", "{t}", "{t}"), 1, "there is no file"),
        (
            ("import", "messages", "{c}/episodes.jsonl", "{t}"),
            1,
            "'messages' is no list of messages",
        ),
        (("import", "messages", "{lines}", "{t}"), 1, "line 1: 'n_prompt' is None"),
    ],
)
def test_errors_name_the_mistake(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello"}]}) + "\n")
    with pytest.raises(SystemExit) as stop:
        eto(*(a.format(c=collection, t=tmp_path / "target", lines=lines) for a in arguments))
    assert stop.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_the_prompts_recorded_in_a_run_are_the_default(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "episodes.jsonl").write_text((collection / "episodes.jsonl").read_text())
    settings = {"policy_provenance": {"prompts": "brief"}}
    RunRecord("episodes", settings, {}).save(run)
    eto("export", "messages", run, tmp_path / "x.jsonl")
    first = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert first["messages"][0]["content"].startswith("WebShop. Actions:")
    RunRecord("episodes", {"policy_provenance": {"prompts": "file"}}, {}).save(run)
    with pytest.raises(SystemExit):
        eto("export", "messages", run, tmp_path / "x.jsonl")
    assert "Give --prompts FILE" in capsys.readouterr().err
