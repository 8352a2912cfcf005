"""The scripts of the paper's tables and figures, run as a user would run them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.baselines.scripts import run

trains = [pytest.mark.torch, pytest.mark.slow]


def table(script: str, out: Path) -> str:
    if importlib.util.find_spec("trl") is None:
        pytest.skip("the extra train is not installed")
    return run(f"{script}.py", "--smoke", "--out", out, "--quiet")


def rows_of(printed: str) -> dict[str, list[str]]:
    """The cells of all printed tables, by the first cell of the row."""
    lines = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def is_score(cell: str) -> bool:
    return 0.0 <= float(cell.split()[0]) <= 100.0


@pytest.mark.parametrize(
    ("script", "ours", "published"),
    [
        pytest.param(
            "table2",
            ["untuned", "SFT", "SFT-more", "Best-of-N", "RFT", "PPO", "ETO"],
            {"*untuned": "17.9", "*SFT": "63.1", "*Best-of-10": "63.8", "*ETO": "67.4"},
            marks=trains,
            id="table2",
        ),
        pytest.param(
            "table3",
            ["SFT, tiny:nano", "ETO, tiny:nano"],
            {"*ETO, Llama-2-13B-Chat": "70.7", "*SFT, Mistral-7B": "60.1"},
            marks=trains,
            id="table3",
        ),
        pytest.param(
            "table4",
            [
                "SFT",
                "trajectory (rate 0.0001, beta 0.1)",
                "step (rate 0.0001, beta 0.1)",
                "step (rate 1e-05, beta 0.5)",
                "mixture (rate 0.0001, beta 0.1)",
            ],
            {"1e-6, beta 0.1)*": "64.3", "1e-7, beta 0.5)*": "62.8"},
            marks=trains,
            id="table4",
        ),
        pytest.param(
            "table5",
            ["untuned", "RFT"],
            {"*RFT without SFT": "48.4", "*ETO without SFT": "12.5", "*RFT and ETO": "51.2"},
            marks=trains,
            id="table5",
        ),
        pytest.param("figure3", ["0", "1"], {}, marks=trains, id="figure3"),
        pytest.param(
            "figure4", ["SFT", "iteration 1", "iteration 2"], {}, marks=trains, id="figure4"
        ),
    ],
)
def test_smoke(script: str, ours: list[str], published: dict[str, str], tmp_path: Path) -> None:
    printed = table(script, tmp_path)
    rows = rows_of(printed)
    for label in ours:
        assert is_score(rows[label][0]), printed
    for part, value in published.items():
        values = [cells[0] for label, cells in rows.items() if part in label]
        assert value in values, printed
    if script.startswith("figure"):
        assert len(list(tmp_path.rglob("figures/reward-by-*.svg"))) >= 1


@pytest.mark.torch
@pytest.mark.slow
def test_figure3_starts_at_0(tmp_path: Path) -> None:
    rows = rows_of(table("figure3", tmp_path))
    assert set(rows["0"]) == {"0.0"}
    assert len(rows["step"]) == 4  # two splits of SFT and of ETO
