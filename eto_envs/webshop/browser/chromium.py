"""Chromium without a window, driven by Selenium, and gone when its owner is.

The driver is started through `supervise`, a small process that holds one end of a pipe: when the
other end is closed, by `Chromium.close` or by the death of this process, it kills the driver and
every process of the browser and removes their files. Not here: what is done with the browser
(`browser`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from eto_envs.errors import BackendError, MissingExtraError, require

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
INSTALL = "apt-get install -y chromium chromium-driver"
START_TIMEOUT_S = 60.0
N_STARTS = 5
PORT_TAKEN = "Address already in use"
FLAGS = (
    "--headless=new",
    "--disable-dev-shm-usage",  # a container's /dev/shm may be too small
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",  # the site is on this machine
    "--force-color-profile=srgb",
    "--lang=en-US",
)


class Programs(NamedTuple):
    """Paths of the browser and of its driver."""

    browser: str
    driver: str


def find_programs() -> Programs:
    """The browser and its driver: from PATH, or else as Selenium's own manager finds them.

    Raises:
        MissingExtraError: they are not on this machine; says how to install them.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = next(filter(None, map(shutil.which, DRIVERS)), None)
    if browser and driver:
        return Programs(browser, driver)
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.selenium_manager import SeleniumManager

    try:
        found = SeleniumManager().binary_paths(["--browser", "chrome", "--avoid-stats"])
        return Programs(found["browser_path"], found["driver_path"])
    except (WebDriverException, KeyError, OSError) as error:
        missing = "chromedriver" if browser else "Chromium"
        raise MissingExtraError(
            f"{missing} is not on PATH, and Selenium's manager did not get it"
            f" ({str(error).strip()[:200]}): {INSTALL}"
        ) from error


class Chromium:
    """A running browser.

    Attributes:
        driver: Selenium's `WebDriver`.
    """

    def __init__(
        self, *, width: int, height: int, flags: Sequence[str] = (), timeout_s: float = 30.0
    ) -> None:
        """Start it.

        Args:
            width: of the viewport, in pixels.
            height: of the viewport, in pixels.
            flags: further flags of Chromium, such as ``("--no-sandbox",)``.
            timeout_s: the longest that a page may take to load, or a script to run.

        Raises:
            MissingExtraError: selenium or the browser is not installed.
            BackendError: it does not start.
        """
        require("selenium", extra="browser")
        programs = find_programs()
        self._owner_pid = os.getpid()
        self.driver: Any = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        try:
            url = f"http://127.0.0.1:{self._start(programs.driver)}"
            self.driver = _connect(url, programs.browser, flags, timeout_s)
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.devtools("Emulation.setDeviceMetricsOverride", **size)
        except BaseException:
            self.close()
            raise

    def devtools(self, command: str, **arguments: Any) -> Any:
        """Run a command of Chromium's DevTools protocol."""
        answer = self.driver.execute("executeCdpCommand", {"cmd": command, "params": arguments})
        return answer["value"]

    def close(self) -> None:
        """Stop it and wait until nothing of it is left; a second call does nothing."""
        if self._owner_pid != os.getpid():
            return  # a forked copy: the browser is the original's
        driver, self.driver = self.driver, None
        if driver is not None:
            # The supervisor ends the browser, dead or alive; this only frees the connection.
            with contextlib.suppress(Exception):
                driver.command_executor.close()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.communicate()

    def _start(self, driver: str) -> int:
        """Start the driver through its supervisor; the port that it listens on."""
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervise.py"))]
        said = ""
        for _ in range(N_STARTS):
            self._supervisor = subprocess.Popen(
                [*command, driver, "--port=0"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            said = _first_line(self._supervisor.stdout)
            if said.isdigit():
                return int(said)
            self.close()
            # The driver picks a free port of IPv6 and gives up if IPv4's of that number is not.
            if PORT_TAKEN not in said:
                break
        raise BackendError(f"the browser's driver did not start: {said or 'it said nothing'}")


def _first_line(output: IO[bytes] | None) -> str:
    """What a process says first; at its end or after a time, what it has said until then."""
    if output is None:
        raise BackendError("the supervisor of the browser has no output")
    deadline_s = time.monotonic() + START_TIMEOUT_S
    said = b""
    while not said.endswith(b"\n"):
        ready, _, _ = select.select([output], [], [], max(0, deadline_s - time.monotonic()))
        chunk = os.read(output.fileno(), 4096) if ready else b""
        if not chunk:
            break
        said += chunk
    return said.decode(errors="replace").strip()


def _connect(url: str, browser: str, flags: Sequence[str], timeout_s: float) -> Any:
    """A session of the driver at `url`."""
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.remote_connection import ChromeRemoteConnection

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, *flags):
        options.add_argument(flag)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to sandbox itself as root
    connection = ChromeRemoteConnection(url, ignore_proxy=True)
    try:
        driver = webdriver.Remote(connection, options=options)
        driver.set_page_load_timeout(timeout_s)
        driver.set_script_timeout(timeout_s)
    except WebDriverException as error:
        connection.close()  # type: ignore[no-untyped-call]
        hint = ""
        if "crash" in str(error) or "exited" in str(error) or "DevToolsActivePort" in str(error):
            hint = " (in a container without user namespaces: flags=('--no-sandbox',))"
        raise BackendError(f"Chromium did not start: {error.msg}{hint}") from error
    return driver
