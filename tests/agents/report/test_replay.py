"""The replay page: what it is made from, what it refuses, and what a real browser shows of it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eto_agents.episode_log import labelled, read_log
from eto_agents.evaluation.harness import evaluate
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.protocols import call_of
from eto_agents.report.replay import MARK, page, write_replay
from eto_agents.rollout import run_episode
from eto_agents.store import TrajectoryStore
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from tests.agents.report.logs import HOSTILE, rewrite
from tests.toy import CORRIDOR

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    evaluate("random", CORRIDOR, ("seen",), out=folder, seeds=(0, 1))
    return folder


def unpacked(html: str) -> Any:
    packed = re.search(r'id="data">([^<]*)</script>', html)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_the_page_holds_every_episode(run: Path) -> None:
    data = unpacked(page([read_log(run)]))
    original = list(TrajectoryStore(run / "episodes.jsonl").read())
    assert len(data["episodes"]) == len(original) == 10
    for shown, t in zip(data["episodes"], original, strict=True):
        texts = [data["strings"][s.get("observation", 0)] for s in shown.get("steps", [])]
        assert texts == [s.observation for s in t.steps]
        actions = [data["strings"][s.get("action", 0)] for s in shown.get("steps", [])]
        assert actions == [s.action for s in t.steps]
        assert shown["task_id"] == t.task_id
        assert shown.get("score", 0) == pytest.approx(t.score)
        assert shown["status"] == t.status
        assert bool(shown.get("failures")) is not t.success
    assert len(data["strings"]) == len(set(data["strings"]))


def test_tool_calls_are_shown(tmp_path: Path) -> None:
    replies: list[Any] = [
        {"role": "assistant", "content": "I go.", "tool_calls": [call_of("north", "1")]},
        {"role": "assistant", "content": "", "tool_calls": [call_of("", "2")]},
    ]
    replies[1]["tool_calls"][0]["function"] |= {"name": "walk", "arguments": "{}"}
    policy = ReActPolicy(ScriptedModel(replies), protocol="tool", with_example=False)
    played = run_episode(policy, "ETO-WebShop-v0", 0, split="seen", dataset="mini", max_steps=2)
    with TrajectoryStore(tmp_path / "episodes.jsonl") as store:
        store.append(played)
    write_replay([tmp_path / "episodes.jsonl"], tmp_path / "page.html")
    data = unpacked((tmp_path / "page.html").read_text())
    texts = [data["strings"][step["text"]] for step in data["episodes"][0]["steps"]]
    assert texts == ['I go.\nact({"action": "north"})', "walk({})"]


def test_the_same_runs_give_the_same_bytes(run: Path) -> None:
    assert page([read_log(run)]) == page([read_log(run)])


def test_a_run_that_goes_on_is_shown_so_far(run: Path) -> None:
    (run / "results.json").unlink()
    log = run / "episodes.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    half = read_log(run)
    assert (len(half.episodes), half.is_finished, half.has_unfinished_line) == (9, False, True)
    assert unpacked(page([half]))["runs"][0]["has_unfinished_line"] is True


def test_agents_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "again")
    data = unpacked(page([read_log(run), read_log(tmp_path / "again"), read_log(run)]))
    labels = [record["label"] for record in data["runs"]]
    assert len(set(labels)) == 3
    assert "again" in labels[1]
    named = [read_log(*labelled(text)).label for text in (f"first={run}", str(run))]
    assert named == ["first", "random"]


def _nan_score(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["score"] = float("nan")


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="eto eval"):
        read_log(tmp_path)
    (tmp_path / "episodes.jsonl").write_text('{"half a')
    with pytest.raises(DataNotFoundError, match="no complete episode"):
        read_log(tmp_path)
    with pytest.raises(DataError, match="at least one"):
        write_replay([], tmp_path / "page.html")


def test_other_task_sets_are_not_put_side_by_side(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")

    def change(_: int, record: dict[str, Any]) -> None:
        record["tasks_sha256"] = "0" * 64

    rewrite(tmp_path / "other", change)
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    record["inputs"] = {"seen": "0" * 64}
    (tmp_path / "other" / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="different task sets"):
        write_replay([run, tmp_path / "other"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_only_pages_are_overwritten(run: Path, tmp_path: Path) -> None:
    log = run / "episodes.jsonl"
    before = log.read_bytes()
    with pytest.raises(DataError, match="is no replay page"):
        write_replay([run], log)
    assert log.read_bytes() == before
    with pytest.raises(DataError, match="is a folder"):
        write_replay([run], tmp_path)
    out = tmp_path / "new" / "page.html"
    n_bytes = write_replay([run], out)
    assert out.stat().st_size == n_bytes
    assert write_replay([run], out) == n_bytes
    rewrite(run, _nan_score)
    with pytest.raises(CorruptDataError):
        write_replay([run], out)
    assert out.stat().st_size == n_bytes  # the earlier page is still whole
    assert out.read_text().startswith(MARK)
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_texts_are_never_markup(run: Path) -> None:
    def change(_: int, record: dict[str, Any]) -> None:
        record["goal"] = record["task_id"] = record["kind"] = HOSTILE
        record["steps"][0]["observation"] = HOSTILE

    rewrite(run, change)
    html = page([read_log(run)])
    assert "hacked" not in html
    assert html.count("<script") == 2
    assert html.encode().decode() == html
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
    ):
        assert way not in script[1]
    assert unpacked(html)["episodes"][0]["task_id"] == HOSTILE


def test_the_command(run: Path, tmp_path: Path) -> None:
    def eto(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from eto_agents.cli import main; main()", "replay"]
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
        )

    out = tmp_path / "page.html"
    done = eto(run, run, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"written to .*page\.html \(0\.\d MB\)\n", done.stdout)
    assert out.read_text().startswith(MARK)
    rewrite(run, _nan_score)
    done = eto(run, "--out", out)
    assert done.returncode == 1
    assert "episodes.jsonl, line 4" in done.stderr
    assert "Traceback" not in done.stderr
