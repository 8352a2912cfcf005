"""Recorded episodes of WebShop, compared."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from eto_envs.errors import CorruptDataError
from eto_envs.webshop.audit import compare

PRICE_SEED = 20240302


@pytest.mark.data
@pytest.mark.parametrize("stem", ["text_human", "sloppy_synth", "multi_human_attrs"])
def test_recorded_episodes(
    shared_data: Path,
    real_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stem: str,
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    path = shared_data / "webshop" / "golden" / f"{stem}.jsonl.gz"
    goals = "human" if "human" in stem else "synthetic"
    report = compare(path, dataset=str(real_source), goals=goals, price_seed=PRICE_SEED)  # type: ignore[arg-type]
    assert report.ok, str(report)
    assert report.n_skipped == 0
    if stem == "text_human":
        assert not compare(path, dataset=str(real_source), goals="human", price_seed=1).ok
        with gzip.open(path, "rt") as lines:
            episode = json.loads(next(lines))
        episode["steps"][-1]["reward"] += 0.125
        wrong = tmp_path / "wrong.jsonl"
        wrong.write_text(json.dumps(episode) + "\n", encoding="utf-8")
        report = compare(wrong, dataset=str(real_source), goals="human", price_seed=PRICE_SEED)
        assert [d.what for d in report.differences] == ["reward"]


def test_other_shops_episodes_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    episode = {"goal_index": 3, "goal": {"asin": "B000000000"}, "init": {}, "steps": []}
    path.write_text(json.dumps(episode) + "\n{}\n", encoding="utf-8")
    with pytest.raises(CorruptDataError, match="line 2 is not a recorded episode"):
        compare(path, dataset="mini")
    path.write_text(json.dumps(episode) + "\n", encoding="utf-8")
    report = compare(path, dataset="mini")
    assert (report.n_skipped, report.n_episodes, report.ok) == (1, 0, False)
