"""`WebShopBrowserEnv` in real Chromium: parity, the contract, pictures, and what is left behind.

`python -m pytest tests/envs/webshop/test_browser.py --screenshots FOLDER` also writes the
documentation's screenshots.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from eto_envs.errors import BackendError, MissingExtraError, UnknownNameError
from eto_envs.testing import check_text_env
from eto_envs.webshop.browser import chromium
from eto_envs.webshop.browser.env import WebShopBrowserEnv
from tests.conftest import read_jsonl_gz

ID = "ETO-WebShopBrowser-v0"
IN_PROCESS = "ETO-WebShop-v0"
GOLDEN_PRICE_SEED = 20240302
REVEAL = ("admissible_actions", "expert_action", "hidden_state")
#: File and how many of its episodes are played; 118 in all.
RECORDED = {
    "text_human": 36,
    "text_synth": 26,
    "sloppy_human": 15,
    "sloppy_synth": 15,
    "multi_human": 9,
    "multi_synth": 9,
    "multi_human_attrs": 4,
    "multi_synth_attrs": 4,
}

pytestmark = pytest.mark.browser


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """`make(**kwargs)`: an environment that is closed when the test ends."""
    envs: list[Any] = []

    def make_env(**kwargs: Any) -> Any:
        envs.append(gym.make(ID, **{"dataset": "mini"} | kwargs))
        return envs[-1]

    yield make_env
    for env in envs:
        env.close()


def processes(root: int) -> set[int]:
    """A process and all below it."""
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listing.splitlines())}
    found, level = set(), {root}
    while level:
        found |= level
        level = {pid for pid, parent in parents.items() if parent in level}
    return found


def running(pids: set[int]) -> set[int]:
    """Those of the processes that run."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found


def wait_until_gone(pids: set[int], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (left := running(pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not left


def supervisor_of(env: Any) -> int:
    return int(env.unwrapped._window.chromium._supervisor.pid)


@pytest.fixture
def leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Path]]]:
    """The temporary folders of this test's browsers: of running ones, and what others left."""
    # Not `tmp_path`: Chromium's sockets are in it, and their paths must be short.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield lambda: list(Path(folder).iterdir())


# Parity


@pytest.fixture(scope="session")
def recorded_dataset(real_source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    from eto_envs.webshop.data.bundle import build_bundle

    target = tmp_path_factory.mktemp("browser") / "bundle"
    return str(build_bundle(real_source, target, price_seed=GOLDEN_PRICE_SEED))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stem", RECORDED)
def test_recorded_episodes(
    make: Callable[..., Any], recorded_dataset: str, shared_data: Path, stem: str
) -> None:
    """Observations, rewards, ends and clickables are those that the original was recorded with."""
    env = make(
        dataset=recorded_dataset,
        split="all",
        goals="human" if "human" in stem else "synthetic",
        show_attrs="attrs" in stem,
        reveal=("admissible_actions",),
        max_steps=1000,
    )
    episodes = read_jsonl_gz(shared_data / "webshop" / "golden" / f"{stem}.jsonl.gz")
    chosen = episodes[:: len(episodes) // RECORDED[stem]][: RECORDED[stem]]
    n_bought = 0
    for episode in chosen:
        observation, info = env.reset(options={"task": str(episode["goal_index"])})
        check(episode["init"], observation, info)
        for record in episode["steps"]:
            if "error" in record:
                break
            observation, reward, terminated, _, info = env.step(record["action"])
            check(record, observation, info)
            assert (reward, terminated) == (record["reward"], record["done"]), record["action"]
            n_bought += terminated
            if terminated:
                break
    assert len(chosen) == RECORDED[stem]
    assert n_bought > 0


def check(record: dict[str, Any], observation: str, info: dict[str, Any]) -> None:
    where = record.get("action")
    assert observation == record.get("observation", record.get("text")), where
    available = record["available_actions"]
    search = ["search[<keywords>]"] if available["has_search_bar"] else []
    expected = [*search, *(f"click[{label}]" for label in available["clickables"])]
    assert info["admissible_actions"] == expected, where


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_expert_solves_fifty_goals_at_the_same_reward(make: Callable[..., Any]) -> None:
    env, twin = (
        make(split="all", reveal=REVEAL),
        gym.make(IN_PROCESS, dataset="mini", split="all", reveal=REVEAL),
    )
    rewards = []
    for task in range(50):
        seen, expected = env.reset(options={"task": task}), twin.reset(options={"task": task})
        ended = False
        while not ended:
            assert seen == expected
            action = expected[-1]["expert_action"]
            seen, expected = env.step(action), twin.step(action)
            ended = expected[2] or expected[3]
        assert seen == expected
        rewards.append(seen[4]["score"])
    assert np.mean(rewards) == 1.0


ODD_WALK = (
    "search[ LAMP  İstanbul ß 😀 \t\u0007]",
    "search[lamp\rof\ud800oak]",
    "click[next >]",
    "Click[next >]",
    "click[NEXT >]",
    "click[< prev]",
    "search[<r>]",
    "search[<a> nothing]",
    "search[<c>]",
    "search[<c> beauty]",
    "click[back to search]",
    "click[search]",
    "search[ ]",
    "search[" + "lamp " * 5000 + "]",
    "search[" + " ".join(f"word{i}" for i in range(1100)) + "]",
    "click[buy now]",
    "jump",
    "search[\ue007\ue004lamp]",
    "search[lamp]trailing\nclick[x]",
)


def test_odd_actions_do_what_they_do_in_process(make: Callable[..., Any]) -> None:
    options = {"split": "seen", "max_steps": 100, "reveal": ("admissible_actions",)}
    env, twin = make(**options), gym.make(IN_PROCESS, dataset="mini", **options)
    assert env.reset(options={"task": 1}) == twin.reset(options={"task": 1})
    for action in ODD_WALK:
        assert env.step(action) == twin.step(action), action[:60]
    asin = env.step("search[lamp]")[4]["admissible_actions"][2]
    twin.step("search[lamp]")
    for action in (asin.upper().replace("CLICK", "click"), "click[reviews]", "click[< prev]"):
        assert env.step(action) == twin.step(action), action


def test_history_modes_and_shaping_are_the_same(make: Callable[..., Any]) -> None:
    options = {"num_prev_obs": 2, "num_prev_actions": 1, "shaping": ("step_cost=0.1",)}
    env, twin = make(**options), gym.make(IN_PROCESS, dataset="mini", **options)
    assert env.reset(seed=4) == twin.reset(seed=4)
    for action in ("search[lamp]", "jump", "click[next >]"):
        assert env.step(action) == twin.step(action)


EVIL = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'> \"&amp;"


def test_a_product_made_of_html_is_shown_and_not_run(
    make: Callable[..., Any],
    make_product: Callable[..., dict[str, Any]],
    make_source: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    fields = {
        "name": EVIL,
        "full_description": EVIL,
        "small_description": [EVIL, " ", "\n", "a\rb"],
    }
    options = {"Color": [{"value": EVIL}, {"value": "a/"}]}
    products = [make_product("B000000001", **fields, customization_options=options)]
    request = {
        "instruction": EVIL,
        "instruction_attributes": ["cotton"],
        "instruction_options": [],
    }
    folder = make_source(
        products, {"B000000001": {"attributes": ["cotton"]}}, {"B000000001": [request]}
    )
    (folder / "nouns.json").write_text(json.dumps({EVIL: ["shirt"]}))
    kwargs = {"dataset": str(folder), "split": "all", "show_attrs": True, "max_steps": 50}
    kwargs["reveal"] = ("admissible_actions",)
    env, twin = make(**kwargs), gym.make(IN_PROCESS, **kwargs)
    assert env.reset(seed=0) == twin.reset(seed=0)
    driver = env.unwrapped.driver
    option = EVIL.lower().replace("/", " | ")  # as the catalogue writes options
    labels = ["b000000001", option, "a | ", "description", "< prev", "features", "< prev"]
    labels += ["attributes", "< prev", "buy now"]
    for action in (f"search[{EVIL}]", *(f"click[{label}]" for label in labels)):
        expected = twin.step(action)
        assert env.step(action) == expected, action
        assert expected[4]["is_valid_action"], action
        assert driver.execute_script("return window.ran || document.images.length") == 0


# The contract


@pytest.mark.slow
def test_contract_with_everything_revealed() -> None:
    """Beside `tests/envs/test_conformance.py`."""
    reveal = (*REVEAL, "html", "clickables")
    check_text_env(lambda: gym.make(ID, dataset="mini", reveal=reveal), n_episodes=2)


def test_snapshots_travel(make: Callable[..., Any]) -> None:
    env = make(split="train", reveal=("html",)).unwrapped
    env.reset(seed=1)
    env.step("search[<r>]")
    state = pickle.loads(pickle.dumps(env.snapshot()))
    expected = [env.step(a) for a in ("click[next >]", "click[< prev]")]
    other = make(split="unseen", reveal=("html",)).unwrapped
    other.restore(state)
    assert [other.step(a) for a in ("click[next >]", "click[< prev]")] == expected


def test_what_is_revealed(make: Callable[..., Any]) -> None:
    env = make(split="seen", reveal=("html", "clickables"))
    _, info = env.reset(options={"task": 0})
    assert '<input id="search_input"' in info["html"]
    field, button = info["clickables"]
    assert (field["action"], field["role"]) == ("search[<keywords>]", "searchbox")
    assert (button["action"], button["name"]) == ("click[search]", "Search")
    assert button["box"][2] > 20
    assert button["box"][3] > 20
    names = [c["name"] for c in env.step("search[lamp]")[4]["clickables"]]
    assert names[:3] == ["Search the shop", "Back to Search", "Next >"]
    info = env.step(f"click[{names[3]}]")[4]
    option = next(c for c in info["clickables"] if c["role"] == "radio")
    assert option["group"]
    assert not option["checked"]
    info = env.step(option["action"])[4]
    assert [c["name"] for c in info["clickables"] if c["checked"]] == [option["name"]]


def test_unknown_names_and_sizes() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'expert_action'"):
        gym.make(ID, dataset="mini", reveal=("expert_actio",))
    with pytest.raises(UnknownNameError, match="rgb_array"):
        WebShopBrowserEnv(dataset="mini", render_mode="rgb_arrays")
    with pytest.raises(ValueError, match="viewport must have a positive size"):
        gym.make(ID, dataset="mini", width=0)


# Pictures


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_screenshots(
    make: Callable[..., Any], width: int, height: int, request: pytest.FixtureRequest
) -> None:
    env = make(split="seen", render_mode="rgb_array", width=width, height=height, reveal=REVEAL)
    _, info = env.reset(options={"task": 1})
    pictures = {"search": env.render()}
    names = iter(("results", "product", "chosen", "chosen-2", "thanks"))
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(info["expert_action"])
        pictures[next(names)] = env.render()
        ended = terminated or truncated
    for picture in pictures.values():
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
        assert 10 < picture.std() < 120  # neither blank nor noise
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)
    folder = request.config.getoption("--screenshots")
    if folder is not None:
        from PIL import Image

        name = "webshop.png" if width > 1000 else "webshop-phone.png"
        Image.fromarray(pictures["chosen"]).save(Path(folder) / name, optimize=True)


def test_no_page_is_wider_than_a_phone(make: Callable[..., Any]) -> None:
    env = make(split="seen", width=360, height=640, reveal=("expert_action",))
    _, info = env.reset(options={"task": 2})
    driver = env.unwrapped.driver
    ended = False
    while not ended:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
        _, _, terminated, truncated, info = env.step(info["expert_action"])
        ended = terminated or truncated


# What is left behind


def test_close_leaves_nothing(
    make: Callable[..., Any], leftovers: Callable[[], list[Path]]
) -> None:
    env = make()
    env.reset(seed=0)
    url = env.unwrapped._window.server.url
    pids = processes(supervisor_of(env))
    assert len(pids) > 4
    assert leftovers()
    env.close()
    assert not running(pids)
    assert leftovers() == []
    import httpx

    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    with pytest.raises(ResetNeeded, match="closed"):
        env.unwrapped.step("search[lamp]")
    assert env.reset(seed=0)[0]  # and it opens again


def test_a_collected_environment_leaves_nothing() -> None:
    env = gym.make(ID, dataset="mini")
    env.reset(seed=0)
    pids = processes(supervisor_of(env))
    del env
    gc.collect()
    wait_until_gone(pids)


CHILD = """
import sys, time
import gymnasium as gym
import eto_envs
env = gym.make("ETO-WebShopBrowser-v0", dataset="mini")
env.reset(seed=0)
print(env.unwrapped._window.chromium._supervisor.pid, flush=True)
if sys.argv[1] == "exception":
    sys.stdin.readline()
    raise RuntimeError("an agent's mistake")
time.sleep(120)
"""


@pytest.mark.parametrize("way", ["exception", "kill", "terminate"])
def test_a_dead_parent_leaves_nothing(way: str, leftovers: Callable[[], list[Path]]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        pids = processes(int(child.stdout.readline()))
        assert len(pids) > 4
        if way == "exception":
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        else:
            os.kill(child.pid, signal.SIGKILL if way == "kill" else signal.SIGTERM)
        child.wait(30)
    wait_until_gone(pids)
    deadline_s = time.monotonic() + 5
    while leftovers() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert leftovers() == []


def test_a_dead_browser_is_an_error_and_the_next_reset_starts_another(
    make: Callable[..., Any],
) -> None:
    env = make(timeout_s=10.0)
    env.reset(seed=0)
    pids = processes(supervisor_of(env))
    for pid in running(pids):
        if Path(f"/proc/{pid}/comm").read_text().startswith("chromium"):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="browser"):
        env.step("search[lamp]")
    wait_until_gone(pids)
    assert env.reset(seed=0)[0].startswith("WebShop")


# What is missing


def test_without_chromium_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from selenium.common.exceptions import NoSuchDriverException
    from selenium.webdriver.common.selenium_manager import SeleniumManager

    def offline(self: Any, arguments: list[str]) -> dict[str, str]:
        raise NoSuchDriverException("no network")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(SeleniumManager, "binary_paths", offline)
    env = gym.make(ID, dataset="mini")
    with pytest.raises(MissingExtraError, match="apt-get install -y chromium chromium-driver"):
        env.reset(seed=0)
    env.close()


def test_a_driver_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "chromedriver"
    broken.write_text("#!/bin/sh\necho 'no such library: libnss3'\n")
    broken.chmod(0o755)
    browser = shutil.which("chromium") or "chromium"
    monkeypatch.setattr(chromium, "find_programs", lambda: chromium.Programs(browser, str(broken)))
    env = gym.make(ID, dataset="mini")
    with pytest.raises(BackendError, match="libnss3"):
        env.reset(seed=0)
    env.close()


def test_a_driver_whose_port_was_taken_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = chromium.find_programs()
    unlucky, been_here = tmp_path / "chromedriver", tmp_path / "been-here"
    unlucky.write_text(
        f'#!/bin/sh\n[ -e {been_here} ] && exec {programs.driver} "$@"\ntouch {been_here}\n'
        "echo 'bind() failed: Address already in use (98)'\necho 'Exiting...'\nexit 1\n"
    )
    unlucky.chmod(0o755)
    named = chromium.Programs(programs.browser, str(unlucky))
    monkeypatch.setattr(chromium, "find_programs", lambda: named)
    with gym.make(ID, dataset="mini") as env:
        assert env.reset(seed=0)[0]
    assert been_here.exists()


def test_a_driver_whose_port_is_always_taken_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver, starts = tmp_path / "chromedriver", tmp_path / "starts"
    driver.write_text(
        f"#!/bin/sh\necho x >> {starts}\necho 'Address already in use (98)'\nexit 1\n"
    )
    driver.chmod(0o755)
    monkeypatch.setattr(
        chromium, "find_programs", lambda: chromium.Programs("chromium", str(driver))
    )
    with gym.make(ID, dataset="mini") as env, pytest.raises(BackendError, match="already in use"):
        env.reset(seed=0)
    assert len(starts.read_text().split()) == chromium.N_STARTS
