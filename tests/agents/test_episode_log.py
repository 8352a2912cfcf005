"""The episodes of a run are read as far as they go; a damaged line is named, not skipped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_agents.collection import read_collection
from eto_agents.episode_log import labelled, read_log
from eto_agents.evaluation.harness import evaluate
from eto_agents.store import TrajectoryStore
from eto_envs.errors import CorruptDataError, DataNotFoundError
from tests.agents.report.logs import rewrite
from tests.toy import CORRIDOR


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    evaluate("random", CORRIDOR, ("seen",), out=folder, seeds=(0, 1))
    return folder


def test_an_episode_played_again_replaces_the_first(run: Path) -> None:
    log = run / "episodes.jsonl"
    first = next(TrajectoryStore(log).read())
    with TrajectoryStore(log) as store:
        store.append(dataclasses.replace(first, score=0.5, success=False))
    scores = {t.key: t.score for t in read_log(run).episodes}
    assert scores[first.key] == 0.5
    assert len(scores) == 10


def test_a_log_alone_will_do(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "episodes.jsonl", tmp_path / "log.jsonl")
    assert len(read_log(tmp_path / "log.jsonl").episodes) == 10


def _nan_score(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["score"] = float("nan")


def _infinite_usage(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["usage"] = {"cost_usd": float("inf")}


def _other_schema(n: int, record: dict[str, Any]) -> None:
    record["schema"] = 9 if n == 4 else record["schema"]


def _number_for_text(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["observation"] = 7


def _high_score(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["score"] = 100


def _terms_as_list(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["reward_terms"] = [1]


def _flag_for_score(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["score"] = True


def _no_status(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        del record["status"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_nan_score, "score is nan"),
        (_infinite_usage, "step 1: cost_usd is inf"),
        (_other_schema, "schema 9"),
        (_number_for_text, "step 1: observation is 7, not a string"),
        (_high_score, r"score is 100, not a number in \[0, 1\]"),
        (_terms_as_list, "reward_terms"),
        (_flag_for_score, r"step 1: score is True, not a number in \[0, 1\]"),
        (_no_status, "status"),
    ],
)
def test_damage_is_named_with_file_and_line(
    run: Path, change: Callable[[int, dict[str, Any]], None], says: str
) -> None:
    rewrite(run, change)
    with pytest.raises(CorruptDataError, match=rf"episodes\.jsonl, line 4: .*{says}"):
        read_log(run)


def test_bytes_that_are_no_text_are_named_with_their_line(run: Path) -> None:
    log = run / "episodes.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"env_id": "\xff\xfe"}\n'
    log.write_bytes(b"".join(lines))
    with pytest.raises(CorruptDataError, match=r"episodes\.jsonl, line 3: not UTF-8"):
        read_log(run)


def test_a_damaged_run_json_is_named(run: Path) -> None:
    (run / "run.json").write_text('{\n"env_id": ')
    with pytest.raises(CorruptDataError, match=r"run\.json, line 2"):
        read_log(run)


def test_two_runs_in_one_log_are_told(run: Path) -> None:
    def change(number: int, record: dict[str, Any]) -> None:
        record["policy"] = "stranger" if number == 4 else record["policy"]

    rewrite(run, change)
    with pytest.raises(CorruptDataError, match=r"line 4: its policy is 'stranger'.*two runs"):
        read_log(run)
    assert len(read_log(run / "episodes.jsonl").episodes) == 10  # the log alone claims nothing


def test_an_import_may_come_from_several_sources(run: Path) -> None:
    def change(number: int, record: dict[str, Any]) -> None:
        record["policy"] = f"agent {number}"

    rewrite(run, change)
    with pytest.raises(CorruptDataError, match="two runs are mixed here"):
        read_log(run)
    assert len(read_log(run, may_mix=True).episodes) == 10
    collection = read_collection(run, min_score=0.0)
    assert len(collection.scores) == 10
    rewrite(run, _nan_score)
    with pytest.raises(CorruptDataError, match="line 4: score is nan"):
        read_collection(run)


def test_conversations_are_read_on_request(run: Path) -> None:
    messages = [{"role": "user", "content": "Go east."}]

    def change(_: int, record: dict[str, Any]) -> None:
        record["messages"] = messages

    rewrite(run, change)
    assert all(episode.messages == [] for episode in read_log(run).episodes)
    with_messages = read_log(run, keep_messages=lambda _: True).episodes
    assert all(episode.messages == messages for episode in with_messages)
    assert read_collection(run, min_score=0.0).selected[0].messages == messages


def test_how_far_a_run_is(run: Path) -> None:
    log = read_log(run)
    assert (log.label, log.n_planned, log.is_finished) == ("random", {"seen": 10}, True)
    record = json.loads((run / "run.json").read_text())
    record["facts"]["n_planned"] = {"seen": "ten"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "results.json").unlink()
    log = read_log(run, "agent")
    assert (log.label, log.n_planned, log.is_finished) == ("agent", None, False)


def test_names(tmp_path: Path) -> None:
    assert labelled("mine=runs/x") == (Path("runs/x"), "mine")
    assert labelled("runs/x") == (Path("runs/x"), "")
    odd = tmp_path / "lr=1e-6"
    odd.mkdir()
    assert labelled(str(odd)) == (odd, "")


def test_nothing_to_read(run: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no episodes at .*`eto collect --out .*eto eval"):
        read_log(run / "nowhere")
    log = run / "episodes.jsonl"
    log.write_bytes(log.read_bytes()[:40])
    with pytest.raises(DataNotFoundError, match="no complete episode"):
        read_log(run)
