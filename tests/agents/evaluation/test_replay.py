"""The replay page: what it is made from, what it refuses, and what a real browser shows of it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eto_agents.best_of_n import BestOfN
from eto_agents.evaluation.harness import evaluate
from eto_agents.evaluation.replay import MARK, page, read_run, write_replay
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from tests.toy import CORRIDOR

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = (
    '<script>window.hacked=1</script></script><img src=x onerror="window.hacked=1"> {{data}} \ud83d'
)


class East:
    name = "east"

    def reset(self, task: Any, seed: int) -> None: ...

    def act(self, observation: str, info: Any) -> str:
        return "east"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    evaluate("random", CORRIDOR, ("seen",), out=folder, seeds=(0, 1))
    return folder


def rewrite(folder: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    log = folder / "episodes.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for number, record in enumerate(records, start=1):
        change(number, record)
    log.write_text("".join(json.dumps(record) + "\n" for record in records))


def unpacked(html: str) -> Any:
    packed = re.search(r'id="data">([^<]*)</script>', html)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_the_page_holds_every_episode(run: Path) -> None:
    data = unpacked(page([read_run(run)]))
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


def test_the_same_runs_give_the_same_bytes(run: Path) -> None:
    assert page([read_run(run)]) == page([read_run(run)])


def test_an_episode_played_again_replaces_the_first(run: Path) -> None:
    log = run / "episodes.jsonl"
    first = next(TrajectoryStore(log).read())
    with TrajectoryStore(log) as store:
        store.append(dataclasses.replace(first, score=0.5, success=False))
    scores = {t.key: t.score for t in read_run(run).episodes}
    assert scores[first.key] == 0.5
    assert len(scores) == 10


def test_a_run_that_goes_on_is_shown_so_far(run: Path) -> None:
    (run / "results.json").unlink()
    log = run / "episodes.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    half = read_run(run)
    assert (len(half.episodes), half.is_finished, half.has_unfinished_line) == (9, False, True)
    assert unpacked(page([half]))["runs"][0]["has_unfinished_line"] is True


def test_a_log_alone_will_do(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "episodes.jsonl", tmp_path / "log.jsonl")
    assert len(read_run(tmp_path / "log.jsonl").episodes) == 10


def test_agents_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "again")
    data = unpacked(page([read_run(run), read_run(tmp_path / "again"), read_run(run)]))
    labels = [record["label"] for record in data["runs"]]
    assert len(set(labels)) == 3
    assert "again" in labels[1]


def _nan_score(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["score"] = float("nan")


def _infinite_usage(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["usage"] = {"cost_usd": float("inf")}


def _other_schema(n: int, record: dict[str, Any]) -> None:
    record["schema"] = 2 if n == 4 else 1


def _number_for_text(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["observation"] = 7


def _high_score(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["score"] = 100


def _terms_as_list(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        record["steps"][0]["reward_terms"] = [1]


def _no_status(n: int, record: dict[str, Any]) -> None:
    if n == 4:
        del record["status"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_nan_score, "score is nan"),
        (_infinite_usage, "step 1: cost_usd is inf"),
        (_other_schema, "schema 2"),
        (_number_for_text, "step 1: observation is 7, not a text"),
        (_high_score, r"score is 100, which is not in \[0, 1\]"),
        (_terms_as_list, "reward_terms"),
        (_no_status, "status"),
    ],
)
def test_damage_is_named_with_file_and_line(
    run: Path, change: Callable[[int, dict[str, Any]], None], says: str
) -> None:
    rewrite(run, change)
    with pytest.raises(CorruptDataError, match=rf"episodes\.jsonl, line 4: .*{says}"):
        read_run(run)


def test_bytes_that_are_no_text_are_named_with_their_line(run: Path) -> None:
    log = run / "episodes.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"env_id": "\xff\xfe"}\n'
    log.write_bytes(b"".join(lines))
    with pytest.raises(CorruptDataError, match=r"episodes\.jsonl, line 3: not UTF-8"):
        read_run(run)


def test_a_damaged_run_json_is_named(run: Path) -> None:
    (run / "run.json").write_text('{\n"env_id": ')
    with pytest.raises(CorruptDataError, match=r"run\.json, line 2"):
        read_run(run)


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="eto eval"):
        read_run(tmp_path)
    (tmp_path / "episodes.jsonl").write_text('{"half a')
    with pytest.raises(DataNotFoundError, match="no whole episode"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="at least one"):
        write_replay([], tmp_path / "page.html")


def test_other_panels_are_not_put_side_by_side(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")

    def change(_: int, record: dict[str, Any]) -> None:
        record["panel_sha256"] = "0" * 64

    rewrite(tmp_path / "other", change)
    with pytest.raises(DataError, match="different panels"):
        write_replay([run, tmp_path / "other"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_only_pages_are_overwritten(run: Path, tmp_path: Path) -> None:
    log = run / "episodes.jsonl"
    before = log.read_bytes()
    with pytest.raises(DataError, match="no replay page"):
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
        record["goal"] = record["policy"] = record["kind"] = HOSTILE
        record["steps"][0]["observation"] = HOSTILE

    rewrite(run, change)
    html = page([read_run(run)])
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
    assert unpacked(html)["runs"][0]["label"] == HOSTILE


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


# In a browser. Everything a test looks at is what Chromium made of the page.

N_EPISODES = 1000
MAX_OPEN_S = 2.0
MAX_MB = 20.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]}: apt-get install -y chromium chromium-driver")
    if find_spec("selenium") is None:
        pytest.skip("no selenium: pip install 'eto-gym[browser]'")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,900"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def shop_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shop")
    for policy, n_tasks in (("random", N_EPISODES), ("expert", 50)):
        evaluate(
            policy,
            "ETO-WebShop-v0",
            ("train",),
            n_tasks=n_tasks,
            out=folder / policy,
            env_args={"dataset": "mini"},
        )
    return folder / "random", folder / "expert"


class Screen:
    """A page in the browser; everything its tests look at or do."""

    def __init__(self, driver: Any, path: Path, fragment: str = "") -> None:
        self.driver = driver
        driver.get("about:blank")
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # what came before is forgotten
        driver.get(path.as_uri() + fragment)
        mark = "return (performance.getEntriesByName('replay-ready')[0] || {}).startTime"
        self.ready_ms = self.wait(lambda: driver.execute_script(mark))

    def wait(self, condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.text('body')[:500]} {self.driver.get_log('browser')}")
            time.sleep(0.02)
        return value

    def all(self, css: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", css)
        return found

    def texts(self, css: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.toWellFormed())"
        found: list[str] = self.driver.execute_script(script, css)
        return found

    def text(self, css: str) -> str:
        return "\n".join(self.texts(css))

    def press(self, keys: str) -> None:
        self.driver.find_element("css selector", "body").send_keys(keys)

    def filter(self, name: str, value: str) -> str:
        """Set a filter; what the line above the list then says."""
        script = (
            "const field = document.querySelector(`#filters [name=${arguments[0]}]`);"
            "if (field.type === 'checkbox') field.checked = Boolean(arguments[1]);"
            "else field.value = arguments[1];"
            "document.getElementById('count').textContent = '';"
            "field.dispatchEvent(new Event('input', { bubbles: true }));"
        )
        self.driver.execute_script(script, name, value)
        return str(self.wait(lambda: self.text("#count")))

    def fragment(self) -> str:
        return str(self.driver.execute_script("return location.hash"))

    def check_quiet(self) -> None:
        """No console message, and nothing fetched but the file itself."""
        assert self.driver.get_log("browser") == []
        urls = [
            message["params"]["request"]["url"]
            for entry in self.driver.get_log("performance")
            if (message := json.loads(entry["message"])["message"])["method"]
            == "Network.requestWillBeSent"
        ]
        assert [url for url in urls if not url.startswith("file:")] == []
        assert len(urls) == 1


@pytest.mark.browser
def test_a_thousand_episodes_open_quickly(
    browser: Any, shop_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    n_megabytes = write_replay(shop_runs[:1], out) / 1e6
    times_s = [Screen(browser, out).ready_ms / 1000 for _ in range(3)]
    shown = ", ".join(f"{time_s:.2f}" for time_s in times_s)
    print(f"{N_EPISODES} episodes: {n_megabytes:.2f} MB, open in {shown} s")
    screen = Screen(browser, out)
    assert screen.text("#count").startswith("1,000 of 1,000 episodes · mean score 0.0")
    assert n_megabytes < MAX_MB
    assert min(times_s) < MAX_OPEN_S
    assert 5 < len(screen.all(".row")) < 50  # the rest is drawn when scrolled to
    browser.execute_script("document.getElementById('list').scrollTop = 1e9")
    last = list(TrajectoryStore(shop_runs[0] / "episodes.jsonl").read())[-1]
    screen.wait(lambda: last.goal in screen.texts(".row .goal"))
    screen.check_quiet()


@pytest.mark.browser
def test_filters_filter(browser: Any, shop_runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_replay(shop_runs, out)
    screen = Screen(browser, out)
    runs = [list(TrajectoryStore(run / "episodes.jsonl").read()) for run in shop_runs]
    episodes = runs[0] + runs[1]

    def count(of: list[Trajectory]) -> str:
        return f"{len(of):,} of 1,050 episodes"

    def reset() -> None:
        screen.all("#filters [type=reset]")[0].click()
        screen.wait(lambda: screen.text("#count").startswith("1,050 of"))

    truncated = [t for t in episodes if t.status == "truncated"]
    assert screen.filter("status", "truncated").startswith(count(truncated))
    in_bath = [t for t in truncated if t.kind == "bath"]
    assert screen.filter("kind", "bath").startswith(count(in_bath))
    reset()
    assert screen.filter("run", "1").startswith(count(runs[1]))
    reset()
    assert screen.filter("low", "0.5").startswith(count([t for t in episodes if t.score >= 0.5]))
    between = [t for t in episodes if 0.5 <= t.score <= 0.9]
    assert screen.filter("high", "0.9").startswith(count(between))
    reset()
    bought = [t for t in runs[0] if t.status == "completed" and not t.success]
    assert screen.filter("failure", "wrong_purchase").startswith(count(bought))
    assert screen.filter("failure", "none").startswith(count([t for t in episodes if t.success]))
    reset()
    any_limit = screen.filter("failure", "limit")
    assert any_limit.startswith(count(truncated))
    assert screen.filter("main", "yes").startswith("No episode")
    reset()
    word = "washcloth"
    found = [t for t in episodes if word in t.to_json().lower()]
    assert screen.filter("query", word.upper()).startswith(count(found))
    reset()
    scores = {t.key: t.score for t in runs[0]}
    differing = [t for t in runs[1] if scores[t.key] != t.score]
    assert screen.filter("differs", "yes").startswith(f"{2 * len(differing)} of")
    reset()
    screen.filter("order", "high")
    assert screen.texts(".row .score")[0] == "1.00"
    # The overview's numbers lead to their episodes.
    screen.all("tbody td button")[0].click()
    screen.wait(lambda: screen.text("#count").startswith(count(bought)))
    screen.check_quiet()


@pytest.mark.browser
def test_two_agents_side_by_side(
    browser: Any, shop_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    out = tmp_path / "page.html"
    write_replay(shop_runs, out)
    screen = Screen(browser, out)
    screen.press("j")
    random, expert = (next(TrajectoryStore(r / "episodes.jsonl").read()) for r in shop_runs)
    expert = next(t for t in read_run(shop_runs[1]).episodes if t.task_id == random.task_id)
    assert screen.text(".task h1") == random.goal
    assert screen.texts(".cell .action") == [s.action for s in random.steps]
    screen.press("s")
    assert screen.texts(".cell.pane0 .action") == [s.action for s in random.steps]
    assert screen.texts(".cell.pane1 .action") == [s.action for s in expert.steps]
    assert screen.texts(".head h2") == ["0.00random", "1.00expert"]
    screen.press(Keys.ARROW_RIGHT * 2)
    assert screen.text(".turn.current .cell.pane1 .action") == expert.steps[1].action
    screen.press("o")
    assert screen.texts(".head h2") == ["1.00expert", "0.00random"]
    link = screen.fragment()
    assert "task=" in link
    assert "with=0.0.0" in link
    screen.press("s")
    assert screen.texts(".head h2") == ["1.00expert"]
    screen.press("o")
    assert screen.texts(".head h2") == ["0.00random"]
    assert screen.fragment().endswith("&step=2")  # switching keeps the step
    screen.press("j")
    assert f"task={random.task_id}&" not in screen.fragment()
    screen.press(Keys.ARROW_UP)
    assert f"task={random.task_id}&" in screen.fragment()
    screen.press("?")
    assert screen.all("dialog[open]")
    screen.check_quiet()
    again = Screen(browser, out, link)
    assert again.texts(".head h2") == ["1.00expert", "0.00random"]
    again.press(Keys.ESCAPE)
    assert again.all(".overview")
    assert Screen(browser, out, "#task=none").text(".warning").startswith("This page has no")


@pytest.mark.browser
def test_shop_pages_are_pages(browser: Any, shop_runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_replay(shop_runs[1:], out)
    expert = next(t for t in read_run(shop_runs[1]).episodes if len(t.steps) == 5)
    link = f"#task={expert.task_id}&split=train"
    screen = Screen(browser, out, link)
    search, item, *options, buy = [s.action for s in expert.steps]
    assert f"search[{screen.text('.shop-input.taken')}]" == search
    assert f"click[{screen.text('.products .taken code').lower()}]" == item
    assert len(screen.all(".products")) == 1
    assert len(screen.all(".products li")) == 10
    assert all(text.startswith("$") for text in screen.texts(".products li b"))
    chosen = screen.texts(".turn:nth-last-child(2) .shop-button.chosen")
    assert [f"click[{text}]" for text in chosen] == sorted(options, key=options.index)
    assert f"click[{screen.text('.shop-button.buy.taken').lower()}]" == buy
    assert "1.0" in screen.text(".receipt")
    screen.press("t")
    assert screen.all(".shop") == []
    assert screen.texts("pre.observation")[-1] == expert.steps[-1].observation
    screen.check_quiet()


@pytest.mark.browser
def test_hostile_texts_are_shown_and_not_run(browser: Any, run: Path, tmp_path: Path) -> None:
    def change(number: int, record: dict[str, Any]) -> None:
        record["policy"] = record["kind"] = record["split"] = HOSTILE
        record["env_id"] = "ETO-WebShop-v0"
        record["goal"] = record["initial_observation"] = HOSTILE
        record["status"], record["success"] = "agent_error", False
        record["error"] = record["task_id"] = f"{HOSTILE} {number}"
        for place, step in enumerate(record["steps"]):
            step["observation"] = (
                f"Instruction: [SEP] {HOSTILE} [SEP] Back to Search [SEP] Page 1 (Total results: 1)"
                f" [SEP] Next > [SEP] B000000001 [SEP] {HOSTILE} [SEP] $1.0"
            )
            step["action"] = f"click[{HOSTILE}] {place}"
            step["thought"] = step["text"] = HOSTILE
            step["reward_terms"] = {HOSTILE: 1.0}
            step["usage"] = {HOSTILE: 1.0}

    rewrite(run, change)
    out = tmp_path / "page.html"
    write_replay([run], out)
    screen = Screen(browser, out)
    screen.press("j")
    assert HOSTILE[:-1] in screen.text(".task h1")
    assert HOSTILE[:-1] in screen.text(".products li")
    assert HOSTILE[:-1] in screen.text(".thought")
    assert HOSTILE[:-1] in screen.text(".error")
    assert HOSTILE[:-1] in screen.text(".row .goal")
    assert screen.all("img") == []
    assert browser.execute_script("return window.hacked") is None
    screen.check_quiet()
    # The policy would stop even a script that got in.
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.hacked = 1';"
        "document.body.append(script);"
    )
    assert browser.execute_script("return window.hacked") is None


@pytest.mark.browser
def test_samples_of_a_task_are_beside_each_other(browser: Any, tmp_path: Path) -> None:
    evaluate(BestOfN("random", 3), CORRIDOR, ("seen",), out=tmp_path / "run")
    write_replay([tmp_path / "run"], tmp_path / "page.html")
    screen = Screen(browser, tmp_path / "page.html")
    assert screen.text("#count").startswith("15 of 15 episodes")
    screen.press("js")
    assert [" sample" in text for text in screen.texts(".head .muted")] == [False, True]
    assert len(screen.all(".tools option")) == 3
    assert "with=0.0.1" in screen.fragment()


@pytest.mark.browser
def test_a_phone_shows_one_thing_at_a_time(browser: Any, run: Path, tmp_path: Path) -> None:
    evaluate(East, CORRIDOR, ("seen",), out=tmp_path / "east")
    write_replay([run, tmp_path / "east"], tmp_path / "page.html")
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        screen = Screen(browser, tmp_path / "page.html")
        is_visible = "return document.querySelector(arguments[0]).offsetParent !== null"
        assert not browser.execute_script(is_visible, "#list")
        screen.all(".back")[0].click()
        assert browser.execute_script(is_visible, "#list")
        screen.all(".row")[0].click()
        assert not browser.execute_script(is_visible, "#list")
        screen.press("s")
        assert not browser.execute_script(is_visible, ".cell.pane1")
        screen.all(".who")[0].click()
        assert browser.execute_script(is_visible, ".cell.pane1")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
        screen.check_quiet()
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
