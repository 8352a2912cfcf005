"""Recorded episodes of ScienceWorld, compared."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.scienceworld.audit import compare

pytestmark = pytest.mark.java


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.mark.data
def test_recorded_episodes(shared_data: Path) -> None:
    done = []
    path = shared_data / "scienceworld" / "golden" / "uuid.jsonl.gz"
    report = compare(path, progress=lambda n, of: done.append((n, of)))
    assert report.ok
    assert (report.n_episodes, report.n_steps, report.remark) == (72, 934, "")
    assert done[-1] == (72, 72)


@pytest.mark.data
@pytest.mark.slow
def test_the_other_order_of_sets_is_said(shared_data: Path) -> None:
    report = compare(shared_data / "scienceworld" / "golden" / "etosim.jsonl.gz")
    assert report.ok
    assert report.remark.startswith("34 episodes with the set order of")


@pytest.mark.data
def test_every_kind_of_difference_is_found(shared_data: Path, tmp_path: Path) -> None:
    with gzip.open(shared_data / "scienceworld" / "golden" / "uuid.jsonl.gz", "rt") as lines:
        episode = json.loads(next(lines))
    first, second, third, fourth = episode["steps"][:4]
    first["observation"] += "."
    second["raw_score"] += 0.5
    third["completed"] = not third["completed"]
    fourth["moves"] += 1
    report = compare(write(tmp_path / "wrong.jsonl", episode))
    found = [(d.n_steps, d.what) for d in report.differences]
    assert found == [(1, "observation"), (2, "score"), (3, "completed"), (4, "ticks")]
    assert not report.ok


def test_what_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="there is no file of recorded episodes"):
        compare(tmp_path / "none.jsonl")
    for record in ({"task": "boil"}, [1], "x"):
        with pytest.raises(CorruptDataError, match="line 1 is not a recorded episode"):
            compare(write(tmp_path / "bad.jsonl", record))
