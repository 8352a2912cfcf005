"""`eto report`: its files, what it marks, and that bad input leaves an old report unchanged."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from eto_agents import evaluate
from eto_agents.cli import main
from eto_agents.evaluation.runs import read_run
from eto_agents.report.curves import score_by_step
from eto_agents.report.full_report import write_report
from eto_envs.errors import CorruptDataError, DataError, UnknownNameError
from tests.agents.evaluation.made_runs import made_run, scores_of
from tests.toy import CORRIDOR

FILES = {"report.html", "report.md", "report.tex", "report.csv", "differences.csv"}
FIGURES = {"bars", "reward-by-step", "reward-by-step-tasks"}
EVIL = "<script>alert(1)</script> | $x$ & 50% \\input{y} \n# no"


def noisy(mean: float, seed: int, n: int = 30) -> dict[str, list[float]]:
    return scores_of(*np.random.default_rng(seed).normal(mean, 0.1, n).clip(0, 1).tolist())


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    strong = {"seen": noisy(0.8, 1), "unseen": noisy(0.5, 2)}
    weak = {"seen": noisy(0.4, 3), "unseen": noisy(0.5, 4)}
    return [
        str(made_run(folder / "strong", strong, policy="strong", kinds=("cool", "heat"))),
        str(made_run(folder / "weak", weak, policy="weak", kinds=("cool", "heat"))),
    ]


def table_of(page: str, caption: str) -> list[list[str]]:
    """The rows of a Markdown table, headings first."""
    lines = page[page.index(caption) :].splitlines()[2:]
    rows = [line for line in lines[: lines.index("")] if not line.startswith("| ---")]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_are_written_and_say_the_same(two_runs: list[str], tmp_path: Path) -> None:
    files = write_report(two_runs, tmp_path, against="weak")
    assert {f.name for f in files if f.parent == tmp_path} == FILES
    assert {f.stem for f in files if f.parent.name == "figures"} == FIGURES
    page = (tmp_path / "report.md").read_text()
    headings, strong, weak = table_of(page, "Average reward")
    assert headings == ["agent", "ALFWorld seen", "ALFWorld unseen"]
    assert strong[1].startswith("**")  # significantly better
    assert not any(cell.startswith("**") for cell in [strong[2], *weak[1:]])  # not significant
    rows = records(tmp_path / "report.csv")
    first = rows[0]
    assert (first["agent"], first["split"], first["task_type"]) == ("strong", "seen", "")
    assert f"**{100 * float(first['reward_mean']):.1f}**" in strong[1]
    assert {row["task_type"] for row in rows} == {"", "cool", "heat"}
    differences = table_of(page, "Paired differences from weak")
    assert [row[2] for row in differences[1:]] == ["better", "not significant"]
    seen = records(tmp_path / "differences.csv")[0]
    assert f"{100 * float(seen['difference_mean']):.1f}" in differences[1][4]
    assert "30 completed" in page
    assert "cool" in page


def test_the_report_is_the_same_every_time(two_runs: list[str], tmp_path: Path) -> None:
    def digests(name: str) -> dict[str, str]:
        files = write_report(two_runs, tmp_path / name)
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    assert digests("a") == digests("b")


class Links(HTMLParser):
    """Collects what a page would load and run, and its tables' cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href")]


def test_the_page_stands_alone(two_runs: list[str], tmp_path: Path) -> None:
    write_report(two_runs, tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Links()
    page.feed(text)
    assert all(target.startswith(("#", "data:image/svg+xml;base64,")) for target in page.loads)
    assert sum(target.startswith("data:") for target in page.loads) == len(FIGURES)
    assert "script" not in page.tags
    assert "$" not in re.sub(r"base64,[^\"]*", "", text)  # every placeholder is filled


def test_names_cannot_break_out(tmp_path: Path) -> None:
    scores = {"seen": scores_of(0.0, 1.0)}
    evil = made_run(tmp_path / "a", scores, policy=EVIL)
    other = made_run(tmp_path / "b", scores, policy="b")
    write_report([str(evil), str(other)], tmp_path / "out")
    page = Links()
    page.feed((tmp_path / "out/report.html").read_text())
    assert "script" not in page.tags
    rows = table_of((tmp_path / "out/report.md").read_text(), "Average reward")
    assert len(rows) == 3
    assert rows[1][0].startswith(r"\<script\>")
    tex = (tmp_path / "out/report.tex").read_text()
    assert r"\input{" not in tex.partition("\n\n")[2]
    assert r"50\%" in tex
    assert len(records(tmp_path / "out/report.csv")) == 2
    ET.parse(tmp_path / "out/figures/bars.svg")


def test_an_unfinished_run_is_marked(tmp_path: Path) -> None:
    part = made_run(tmp_path / "a", {"seen": scores_of(0.1, 0.9)}, n_planned={"seen": 140})
    write_report([str(part)], tmp_path / "out")
    page = (tmp_path / "out/report.md").read_text()
    assert "(2 of 140 so far)" in page
    assert "not finished" in page
    assert "a run is not finished" in page


def test_mini_is_compared_with_nothing_published(two_runs: list[str], tmp_path: Path) -> None:
    write_report(two_runs, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "No published result is comparable with the results above." in page
    assert "## Published results (not comparable)" in page
    first = table_of(page, "Published average rewards")[1]
    assert first[0] != "strong"


def test_the_papers_task_sets_are_compared_with_published_results(tmp_path: Path) -> None:
    scores = {"seen": scores_of(0.5, 0.6), "unseen": scores_of(0.7, 0.7)}
    official = made_run(tmp_path / "a", scores, dataset="2.1.1")
    shop = made_run(tmp_path / "b", {"seen": scores_of(1.0, 0.9)}, env_id="ETO-WebShop-v0")
    write_report([str(official), str(shop)], tmp_path / "out")
    page = (tmp_path / "out/report.md").read_text()
    rows = table_of(page, "Published average rewards")
    assert rows[1][:8] == ["agent", "ours", "–", "–", "–", "55.0", "70.0", "–"]
    assert ["ETO", "Llama-2-7B-Chat", "67.4", "73.8", "65.0", "68.6", "72.4", "69.4"] in [
        row[:8] for row in rows
    ]
    assert "## Published results\n" in page
    assert "Not comparable: WebShop seen: played on the dataset 'mini'" in page
    others = table_of(page, "Published with other step limits")
    assert all(row[9].startswith("≠") for row in others[1:])
    limited = made_run(tmp_path / "c", scores, dataset="2.1.1", env_args={"max_steps": 9})
    write_report([str(limited)], tmp_path / "limited")
    assert "limit of 9 steps" in (tmp_path / "limited/report.md").read_text()


def test_bad_input_leaves_an_older_report_as_it_was(two_runs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(two_runs, out)
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    bad = made_run(tmp_path / "bad", {"seen": scores_of(0.5, float("nan"))}, policy="bad")
    other = made_run(tmp_path / "other", {"seen": scores_of(0.5)}, policy="other", tasks_hash="bb")
    with pytest.raises(CorruptDataError, match=r"bad/episodes.jsonl, line 2"):
        write_report([*two_runs, str(bad)], out)
    with pytest.raises(DataError, match="different task sets"):
        write_report([*two_runs, str(other)], out)
    with pytest.raises(UnknownNameError, match="agent 'stronk'"):
        write_report(two_runs, out, against="stronk")
    with pytest.raises(UnknownNameError, match="task 'no such'"):
        write_report(two_runs, out, tasks=["no such"])
    with pytest.raises(DataError, match="is a run"):
        write_report(two_runs, Path(two_runs[0]))
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before


def test_iterations_have_a_figure(two_runs: list[str], tmp_path: Path) -> None:
    named = [f"SFT={two_runs[1]}", f"iteration 1={two_runs[0]}"]
    files = write_report([], tmp_path, iterations=named, tasks=["t003", "t001"])
    assert "reward-by-iteration" in {f.stem for f in files}
    page = (tmp_path / "report.md").read_text()
    assert [row[0] for row in table_of(page, "Average reward")[1:]] == ["SFT", "iteration 1"]
    for file in files:
        if file.suffix == ".svg":
            root = ET.parse(file).getroot()
            assert root.tag.endswith("svg")
            assert "<dc:date>" not in file.read_text()
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")


def test_scores_are_carried_forward(tmp_path: Path) -> None:
    evaluate("expert", CORRIDOR, ("seen",), out=tmp_path)  # rooms 2 to 6 away, one step a room
    (split_run,) = read_run(tmp_path).splits
    assert score_by_step(split_run, ["room2"], 4) == [0.0, 0.5, 1.0, 1.0, 1.0]
    both = score_by_step(split_run, ["room2", "room4"], 4)
    assert both == pytest.approx([0.0, 0.375, 0.75, 0.875, 1.0])


def test_the_command_on_real_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for policy in ("random", "expert"):
        evaluate(policy, CORRIDOR, ("seen",), seeds=(0, 1), out=tmp_path / policy)
    assert json.loads((tmp_path / "expert/run.json").read_text())["facts"] == {
        "n_planned": {"seen": 10}
    }
    arguments = ["report", str(tmp_path / "expert"), str(tmp_path / "random")]
    main([*arguments, "--against", "random", "--out", str(tmp_path / "out")])
    assert "report.html" in capsys.readouterr().out
    rows = table_of((tmp_path / "out/report.md").read_text(), "Success, steps")
    assert rows[1][:5] == [
        f"{CORRIDOR} seen",
        "expert",
        "10 completed",
        "5 × 2",
        "100.0 [56.6, 100.0]",
    ]
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--against", "nobody", "--out", str(tmp_path / "out")])
    assert exit_info.value.code == 2
    with pytest.raises(SystemExit) as exit_info:
        main(["report"])
    assert exit_info.value.code == 2
    with pytest.raises(SystemExit) as exit_info:
        main(["report", str(tmp_path), "--out", str(tmp_path / "out")])
    assert exit_info.value.code == 1
    assert "run.json" in capsys.readouterr().err


def test_without_matplotlib_the_error_says_what_to_install(
    two_runs: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from eto_agents.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", *two_runs, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "eto-gym[plot]" in done.stderr
    assert not (tmp_path / "out").exists()


def failed(folder: Path, policy: str, status: str, n: int = 3) -> str:
    """A run whose episodes all ended in a status that does not count."""
    made = made_run(folder, {"seen": scores_of(*[0.0] * n)}, policy=policy, kinds=("a", "b"))
    file = made / "episodes.jsonl"
    file.write_text(file.read_text().replace('"completed"', f'"{status}"'))
    return str(made)


@pytest.mark.parametrize("status", ["agent_error", "env_error", "cancelled"])
@pytest.mark.parametrize("n_agents", [1, 2])
def test_a_report_of_nothing_says_so(status: str, n_agents: int, tmp_path: Path) -> None:
    runs = [failed(tmp_path / f"run{i}", f"agent{i}", status) for i in range(n_agents)]
    write_report(runs, tmp_path / "out", iterations=runs)
    page = (tmp_path / "out/report.md").read_text()
    assert f"3 {status}" in page
    assert table_of(page, "Average reward")[1][1].startswith("–")
    assert "no episode counts" in page
    assert records(tmp_path / "out/report.csv")[0]["reward_mean"] == ""
    if n_agents == 2:
        assert table_of(page, "Paired differences")[1][2] == "no common task"


def test_agents_without_a_common_task(tmp_path: Path) -> None:
    first = made_run(tmp_path / "a", {"seen": {"t1": [1.0]}}, policy="a", n_planned={"seen": 2})
    second = made_run(tmp_path / "b", {"seen": {"t2": [0.5]}}, policy="b", n_planned={"seen": 2})
    third = failed(tmp_path / "c", "c", "agent_error")
    write_report([str(first), str(second), third], tmp_path / "out")
    page = (tmp_path / "out/report.md").read_text()
    assert table_of(page, "Average reward")[1][1] == "100.0 (1 of 2 so far)"
    assert {row[2] for row in table_of(page, "Paired differences")[1:]} == {"no common task"}
    assert "ALFWorld seen: no task was played by all agents" in page


def test_one_finished_task(tmp_path: Path) -> None:
    runs = [
        str(made_run(tmp_path / name, {"seen": {"t1": [score]}}, policy=name))
        for name, score in (("a", 1.0), ("b", 0.0))
    ]
    write_report(runs, tmp_path / "out", tasks=["t1"], iterations=runs)
    page = (tmp_path / "out/report.md").read_text()
    assert [row[1] for row in table_of(page, "Average reward")[1:]] == ["100.0", "0.0"]
    assert table_of(page, "Paired differences")[1][2] == "not significant"


NAMES = (
    '=HYPERLINK("http://a.example","x")',
    "[x](javascript:alert(1)) | <script>alert(1)</script>",
    "a\x00b\x1b[31m\ud800 \\input{/etc/passwd}%$#_^~&{}",
    "@SUM(1)",
    "-1+1",
)


def test_names_do_nothing_in_any_format(tmp_path: Path) -> None:
    scores = {"seen": scores_of(0.5, 0.6, 0.7)}
    runs = [
        str(made_run(tmp_path / str(i), scores, policy=name, kinds=(name, "other")))
        for i, name in enumerate(NAMES)
    ]
    write_report(runs, tmp_path / "out", against=NAMES[0], iterations=runs[:2])
    contents = {f.name: f.read_text() for f in (tmp_path / "out").iterdir() if f.is_file()}
    for name, text in contents.items():
        assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", text), name
    for path in (tmp_path / "out/figures").glob("*.svg"):
        ET.parse(path)
    for file in ("report.csv", "differences.csv"):
        for record in records(tmp_path / "out" / file):
            for field in record.values():
                assert not field.startswith(("=", "@", "+")), field
                assert not field.startswith("-") or float(field) < 0
    assert "'-1+1" in contents["report.csv"]
    page = contents["report.md"]
    assert r"[x\](javascript:alert(1)) \| \<script\>alert(1)\</script\>" in page
    assert not re.search(r"(?<!\\)<script", page)
    assert "<script" not in contents["report.html"]
    assert "a\ufffdb\ufffd[31m\ufffd" in page
    assert (
        r"\textbackslash{}input\{/etc/passwd\}\%\$\#\_\textasciicircum{}" in contents["report.tex"]
    )
