"""Collections: narrated runs that resume, and the selection of episodes to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tests.toy
from eto_agents.cli.collect import describe
from eto_agents.collect import collect
from eto_agents.collection import read_collection
from eto_agents.evaluation.harness import Progress
from eto_agents.store import TrajectoryStore
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError, UnknownNameError

MINI = {"dataset": "mini"}


class Walker:
    """Walks three rooms and then stands still, so that it fails in longer corridors."""

    name = "walker"

    def reset(self, task: Any, seed: int) -> None:
        self.n = 0

    def act(self, observation: str, info: dict[str, Any]) -> str:
        self.n += 1
        return "east" if self.n <= 3 else "stand"


def test_episodes_that_score_too_low_are_stored_but_not_selected(tmp_path: Path) -> None:
    got = collect(Walker, tests.toy.CORRIDOR, out=tmp_path, min_score=0.7)
    assert [t.task_id for t in got.selected] == ["room2", "room3", "room4"]
    assert sorted(got.scores) == [0.5, 0.6, 0.75, 1.0, 1.0]
    assert got.dropped == {"below min_score": 2}
    assert json.loads((tmp_path / "run.json").read_text())["facts"] == {
        "n_planned": {"train": 5},
        "min_score": 0.7,
    }
    assert len(list(TrajectoryStore(tmp_path / "episodes.jsonl").read())) == 5
    assert [s.text for s in got.selected[0].steps] == ["Action: east"] * 2
    assert describe(got) == [
        "3 of 5 episodes selected (score at least 0.7)",
        "  2 left out: below min_score",
        "  score 1.0             2 episodes",
        "  score 0.7 to 0.8      1 episodes",
        "  score 0.6 to 0.7      1 episodes",
        "  score 0.5 to 0.6      1 episodes",
    ]
    assert len(read_collection(tmp_path, min_score=0.0).selected) == 5
    again = collect(Walker, tests.toy.CORRIDOR, out=tmp_path, min_score=0.6)
    assert len(again.selected) == 4  # nothing was played again
    assert len(list(TrajectoryStore(tmp_path / "episodes.jsonl").read())) == 5


def test_an_interrupted_collection_resumes(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.n_done == 5:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"thoughts": "brief", "n_tasks": 12, "env_args": MINI}
    whole = collect("expert", "ETO-ALFWorld-v0", out=tmp_path / "whole", **arguments)
    with pytest.raises(KeyboardInterrupt):
        collect(
            "expert",
            "ETO-ALFWorld-v0",
            out=tmp_path / "parts",
            n_envs=2,
            progress=stop,
            **arguments,
        )
    stopped = read_collection(tmp_path / "parts")
    assert stopped.min_score == 0.7
    assert 5 <= len(stopped.selected) < 12
    assert set(stopped.dropped) == {"cancelled"}
    parts = collect("expert", "ETO-ALFWorld-v0", out=tmp_path / "parts", **arguments)

    def texts(collection: Any) -> dict[str, list[str]]:
        return {t.task_id: [step.text for step in t.steps] for t in collection.selected}

    assert texts(parts) == texts(whole)
    with pytest.raises(DataError, match=r"policy_provenance.thoughts 'brief' \(now 'none'\)"):
        collect("expert", "ETO-ALFWorld-v0", out=tmp_path / "parts", n_tasks=12, env_args=MINI)


def test_without_a_minimum_score_all_episodes_are_selected(tmp_path: Path) -> None:
    collect(Walker, tests.toy.CORRIDOR, out=tmp_path, min_score=0.7)
    (tmp_path / "run.json").unlink()
    assert len(read_collection(tmp_path / "episodes.jsonl").selected) == 5


def test_errors_name_the_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="eto collect --out"):
        read_collection(tmp_path / "nothing")
    with pytest.raises(UnknownNameError, match=r"min_score 1\.5.*from 0 to 1"):
        collect(Walker, tests.toy.CORRIDOR, out=tmp_path, min_score=1.5)
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(CorruptDataError, match="line 1"):
        read_collection(tmp_path / "bad.jsonl")
    collect(Walker, tests.toy.CORRIDOR, out=tmp_path, n_tasks=1)
    record = json.loads((tmp_path / "run.json").read_text())
    high = json.dumps(record | {"facts": {"min_score": "high"}})
    for text, message in (("{", "not JSON"), ("[]", "not a JSON object"), (high, "'high'")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CorruptDataError, match=rf"run\.json.* {message}"):
            read_collection(tmp_path)
