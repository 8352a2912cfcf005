"""The table of a reproduction: cells, averages, differences and what is said below it."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import pytest

from eto_agents.evaluation.published import load_published
from eto_agents.evaluation.statistics import holm
from eto_agents.reproduce.outcome import Outcome
from eto_agents.reproduce.tables import (
    Budget,
    Entry,
    Table,
    build_table,
    markdown,
    markdown_differences,
    published_rows,
    table_of,
)
from tests.agents.evaluation.made_runs import made_run, scores_of


def runs_of(folder: Path, scores: dict[str, list[list[float]]], env_id: str) -> list[Entry]:
    """By label, for each seed the scores of the seen tasks."""
    entries = []
    for label, seeds in scores.items():
        runs = []
        for seed, values in enumerate(seeds):
            path = folder / f"{label}-{env_id}-{seed}"
            runs.append((seed, made_run(path, {"seen": scores_of(*values)}, env_id=env_id)))
        entries.append(Entry(label, runs))
    return entries


def test_a_cell_is_the_mean_over_tasks_and_seeds(tmp_path: Path) -> None:
    scores = {"a": [[0.0, 1.0, 0.5], [0.5, 1.0, 0.0]]}
    table = build_table(runs_of(tmp_path, scores, "ETO-WebShop-v0"))
    cell = table.cell("a", ("ETO-WebShop-v0", "seen"))
    assert cell is not None
    assert cell.mean == pytest.approx(0.5)
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < 0.5 < cell.high
    assert table.average("a") == pytest.approx(0.5)


def two_worlds(folder: Path) -> Table:
    shop = {"ETO": [[0.6] * 8, [0.8] * 8, [0.7] * 8], "SFT-more": [[0.5] * 8] * 3}
    house = {"ETO": [[1.0, 0.0]] * 3, "SFT-more": [[0.0, 0.0]] * 3}
    entries = runs_of(folder, shop, "ETO-WebShop-v0") + runs_of(folder, house, "ETO-ALFWorld-v0")
    return build_table(entries)


def test_the_average_difference_counts_columns_alike(tmp_path: Path) -> None:
    found = {d.title: d for d in two_worlds(tmp_path).differences("ETO", "SFT-more")}
    assert list(found) == ["WebShop seen", "ALFWorld seen", "average"]
    assert found["WebShop seen"].result.difference.mean == pytest.approx(0.2)
    assert found["ALFWorld seen"].result.difference.mean == pytest.approx(0.5)
    assert found["average"].result.difference.mean == pytest.approx((0.2 + 0.5) / 2)
    assert found["average"].result.n_tasks == 10
    assert found["average"].by_seed == pytest.approx({0: 0.3, 1: 0.4, 2: 0.35})


def test_seeds_have_an_interval_of_their_own(tmp_path: Path) -> None:
    found = two_worlds(tmp_path).differences("ETO", "SFT-more")[0]
    over = found.over_seeds
    assert over is not None
    assert over.low is not None
    assert over.mean == pytest.approx(0.2)
    half = 4.302653 * statistics.stdev([0.1, 0.3, 0.2]) / math.sqrt(3)  # t of 2 degrees, 0.975
    assert over.mean - over.low == pytest.approx(half, rel=1e-5)
    assert found._replace(by_seed={0: 0.1, 1: 0.3}).over_seeds is None
    text = markdown_differences([found], "ETO", "SFT-more")
    assert "+20.0" in text
    headings = [heading.strip() for heading in text.splitlines()[0].split("|")[1:-1]]
    assert headings[2:] == ["over training seeds", "by seed", "over tasks", "p (Holm)", "tasks"]
    (row,) = [line for line in text.splitlines() if "WebShop" in line]
    assert f"[{100 * over.low:+.1f}, " in row
    one_seed = markdown_differences([found._replace(by_seed={0: 0.1})], "ETO", "SFT-more")
    assert "over training seeds" not in one_seed


def test_p_values_are_corrected_for_the_comparisons_of_the_table(tmp_path: Path) -> None:
    scores = {"ETO": [[1.0] * 30], "SFT-more": [[0.0] * 30]}
    entries = runs_of(tmp_path, scores, "ETO-WebShop-v0")
    entries += runs_of(tmp_path, scores, "ETO-ALFWorld-v0")
    found = build_table(entries).differences("ETO", "SFT-more")
    assert [d.p_holm for d in found] == holm([d.result.p for d in found])
    assert found[0].p_holm > found[0].result.p
    text = markdown_differences(found, "ETO", "SFT-more")
    assert text.count("< 0.001") == 3
    assert "0.000" not in text


def test_budgets_are_columns(tmp_path: Path) -> None:
    spent = {"n_episodes": 100, "n_updates": 7, "n_tokens": 1_500}
    outcomes = []
    for world, seed in itertools.product(("webshop", "alfworld"), (0, 1)):
        folder = tmp_path / world / str(seed)
        made_run(folder / "runs" / "eto", {"seen": scores_of(0.5, 1.0)})
        facts = {"ETO": spent, "RFT": {}}
        outcomes.append(Outcome(world, seed, folder, {"eto": "eto"}, {}, facts))
    table = table_of(outcomes, {"eto": "ETO", "rft": "RFT"})
    assert table.budgets == {"ETO": Budget(200, 14, 3_000)}  # both worlds, per seed
    text = markdown(table)
    assert "| average | episodes | updates | tokens |" in text
    assert "| 200 | 14 | 3,000 |" in text
    assert text.count("–") >= 3  # RFT's


def test_what_was_not_played_is_a_dash(tmp_path: Path) -> None:
    entries = [*runs_of(tmp_path, {"a": [[0.25, 0.75]]}, "ETO-WebShop-v0"), Entry("b", [])]
    table = build_table(entries, ["b: nothing"])
    text = markdown(table, published_rows(["ETO"]))
    assert "| b | – | – |" in text
    assert "- b: nothing" in text
    assert "67.4" in text
    assert table.average("b") is None
    assert table.differences("a", "b") == []
    assert table.differences("a", "c") == []


def test_published_rows_are_the_papers() -> None:
    rows = published_rows(["SFT", "ETO"], "Mistral-7B")
    assert [row.values["webshop"] for row in rows] == [60.1, 66.2]
    assert all(row in load_published().rows for row in rows)
