"""Rows and columns: which runs are comparable, which are refused, which is marked as the best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_agents.evaluation.comparison import Comparison, average, compare
from eto_agents.evaluation.runs import read_run
from eto_envs.errors import DataError, UnknownNameError
from tests.agents.evaluation.made_runs import made_run, scores_of


def compared(tmp_path: Path, *runs: dict[str, Any]) -> Comparison:
    read = []
    for number, arguments in enumerate(runs):
        scores = arguments.pop("scores")
        label = arguments.pop("label", "")
        read.append(read_run(made_run(tmp_path / f"run{number}", scores, **arguments), label))
    return compare(read)


def noisy(mean: float, seed: int, n: int = 60) -> dict[str, list[float]]:
    values = np.random.default_rng(seed).normal(mean, 0.1, n).clip(0, 1)
    return scores_of(*values.tolist())


def test_worlds_of_one_agent_form_one_row_in_the_papers_order(tmp_path: Path) -> None:
    both = {"unseen": scores_of(0.4), "seen": scores_of(0.2)}
    table = compared(
        tmp_path,
        {"scores": both, "env_id": "ETO-ALFWorld-v0"},
        {"scores": {"seen": scores_of(1.0)}, "env_id": "ETO-WebShop-v0"},
        {"scores": both, "env_id": "ETO-ScienceWorld-v0"},
    )
    assert [row.label for row in table.rows] == ["agent"]
    assert [column.title for column in table.columns] == [
        "WebShop seen",
        "ScienceWorld seen",
        "ScienceWorld unseen",
        "ALFWorld seen",
        "ALFWorld unseen",
    ]
    assert average(table.rows[0]) == pytest.approx((1.0 + 0.2 + 0.4 + 0.2 + 0.4) / 5)


def test_no_average_over_fewer_than_the_papers_columns(tmp_path: Path) -> None:
    table = compared(tmp_path, {"scores": {"seen": scores_of(0.5)}})
    assert math.isnan(average(table.rows[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks_hash": "bb"}, "different task sets.*aaseen.*bbseen.*Report them separately"),
        ({"env_args": {"max_steps": 50}}, "step limits differ.*protocol's; 50 steps.*--max-steps"),
        ({"dataset": "2.1.1"}, "datasets have different names \\('mini'; '2.1.1'\\)"),
    ],
)
def test_incomparable_runs_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    scores = {"seen": scores_of(0.5)}
    with pytest.raises(DataError, match=message):
        compared(tmp_path, {"scores": scores}, {"scores": scores, "policy": "b"} | change)


def test_other_worlds_and_splits_may_differ(tmp_path: Path) -> None:
    table = compared(
        tmp_path,
        {"scores": {"seen": scores_of(0.5)}},
        {"scores": {"seen": scores_of(0.5)}, "env_id": "ETO-WebShop-v0", "tasks_hash": "bb"},
        {"scores": {"train": scores_of(0.5)}, "env_id": "my/World-v0", "tasks_hash": "cc"},
    )
    assert [column.title for column in table.columns][-1] == "my/World-v0 train"


def test_runs_of_the_same_name_are_labelled_with_their_folders(tmp_path: Path) -> None:
    scores = {"seen": scores_of(0.5, 1.0)}
    table = compared(tmp_path, {"scores": scores}, {"scores": scores})
    assert [row.label for row in table.rows] == ["agent (run0)", "agent (run1)"]


def test_two_models_of_one_name_are_two_rows(tmp_path: Path) -> None:
    table = compared(
        tmp_path,
        {"scores": {"seen": scores_of(0.5)}, "model": "a"},
        {"scores": {"unseen": scores_of(0.5)}, "model": "b"},
    )
    assert len(table.rows) == 2


def test_the_best_is_marked_only_if_significant(tmp_path: Path) -> None:
    runs = [
        {"scores": {"seen": noisy(0.8, 1)}, "policy": "high"},
        {"scores": {"seen": noisy(0.4, 2)}, "policy": "low"},
    ]
    table = compared(tmp_path / "a", *[dict(run) for run in runs])
    assert {label for label, _ in table.best()} == {"high"}
    beside = {"scores": {"seen": noisy(0.8, 3)}, "policy": "as high"}
    assert compared(tmp_path / "b", *[dict(run) for run in runs], beside).best() == set()


def test_equal_agents_are_almost_never_marked(tmp_path: Path) -> None:
    marked = 0
    for number in range(25):
        runs = [
            {"scores": {"seen": noisy(0.5, 100 * number + k, 20)}, "policy": f"agent {k}"}
            for k in range(3)
        ]
        marked += bool(compared(tmp_path / str(number), *runs).best())
    assert marked <= 4  # 1.25 expected at most


def test_nobody_is_best_on_unequal_tasks(tmp_path: Path) -> None:
    high, low = noisy(0.9, 1), noisy(0.1, 2)
    part = dict(list(low.items())[:30])
    table = compared(
        tmp_path / "part",
        {"scores": {"seen": high}, "policy": "high"},
        {"scores": {"seen": part}, "policy": "low"},
    )
    assert table.best() == set()
    assert "same tasks" in table.mismatch(table.columns[0])
    (difference,) = table.against("low")
    assert difference.result.n_tasks == 30
    assert difference.is_significant
    unfinished = compared(
        tmp_path / "unfinished",
        {"scores": {"seen": high}, "policy": "high"},
        {"scores": {"seen": part}, "policy": "low", "n_planned": {"seen": 60}},
    )
    assert "not finished" in unfinished.mismatch(unfinished.columns[0])


def test_differences_are_against_the_chosen_row_and_corrected_together(tmp_path: Path) -> None:
    scores = {"seen": noisy(0.5, 1), "unseen": noisy(0.5, 2)}
    better = {"seen": noisy(0.55, 3), "unseen": noisy(0.54, 4)}
    table = compared(tmp_path, {"scores": scores, "policy": "a"}, {"scores": better, "policy": "b"})
    found = table.against("a")
    assert [(d.first, d.second, d.column.split) for d in found] == [
        ("b", "a", "seen"),
        ("b", "a", "unseen"),
    ]
    assert all(d.result.difference.mean > 0 for d in found)
    assert all(d.p_holm >= d.result.p for d in found)
    with pytest.raises(UnknownNameError, match="no agent 'c'"):
        table.against("c")


def test_nothing_to_report() -> None:
    with pytest.raises(DataError, match="at least one"):
        compare([])
