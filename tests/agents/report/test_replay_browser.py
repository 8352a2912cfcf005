"""The replay page as Chromium shows it: speed, filters, keys, pages, hostile texts, a phone."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eto_agents.best_of_n import BestOfN
from eto_agents.episode_log import read_log
from eto_agents.evaluation.harness import evaluate
from eto_agents.report.replay import write_replay
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory
from tests.agents.report.logs import HOSTILE, rewrite
from tests.toy import CORRIDOR

pytestmark = pytest.mark.browser

N_EPISODES = 1000
MAX_OPEN_S = 2.0
MAX_MB = 20.0


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
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((element) => element.textContent.toWellFormed())"
        )
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


def test_two_agents_side_by_side(
    browser: Any, shop_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    out = tmp_path / "page.html"
    write_replay(shop_runs, out)
    screen = Screen(browser, out)
    screen.press("j")
    random, expert = (next(TrajectoryStore(r / "episodes.jsonl").read()) for r in shop_runs)
    expert = next(t for t in read_log(shop_runs[1]).episodes if t.task_id == random.task_id)
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


def test_shop_pages_are_pages(browser: Any, shop_runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_replay(shop_runs[1:], out)
    expert = next(t for t in read_log(shop_runs[1]).episodes if len(t.steps) == 5)
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


def test_hostile_texts_are_shown_and_not_run(browser: Any, run: Path, tmp_path: Path) -> None:
    def change(number: int, record: dict[str, Any]) -> None:
        record["policy"] = record["kind"] = record["split"] = HOSTILE
        record["env_id"], record["world"] = "ETO-WebShop-v0", "webshop"
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
    (run / "run.json").unlink()  # which names another agent and world
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


def test_screenshot(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Two agents in the shop; `--screenshots docs` writes the picture of the README."""
    runs = [tmp_path / "sloppy-expert", tmp_path / "expert"]
    for run in runs:
        shop = {"dataset": "mini"}
        evaluate(run.name, "ETO-WebShop-v0", ("seen",), n_tasks=40, out=run, env_args=shop)
    write_replay(runs, tmp_path / "page.html")
    mistakes = read_log(runs[0]).episodes
    task = next(t.task_id for t in mistakes if t.status == "completed" and t.score < 0.8)
    size = {"width": 1360, "height": 820, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        screen = Screen(browser, tmp_path / "page.html", f"#task={task}&split=seen&step=2")
        screen.press("s")
        assert len(screen.all(".head h2")) == 2
        picture = base64.b64decode(browser.get_screenshot_as_base64())
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert 20e3 < len(picture) < 300e3
    folder = request.config.getoption("--screenshots")
    if folder is not None:
        from PIL import Image

        image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256)
        image.save(Path(folder) / "replay.png", optimize=True)


def test_samples_of_a_task_are_beside_each_other(browser: Any, tmp_path: Path) -> None:
    evaluate(BestOfN("random", 3), CORRIDOR, ("seen",), out=tmp_path / "run")
    write_replay([tmp_path / "run"], tmp_path / "page.html")
    screen = Screen(browser, tmp_path / "page.html")
    assert screen.text("#count").startswith("15 of 15 episodes")
    screen.press("js")
    assert [" sample" in text for text in screen.texts(".head .muted")] == [False, True]
    assert len(screen.all(".tools option")) == 3
    assert "with=0.0.1" in screen.fragment()


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
