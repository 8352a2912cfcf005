"""Headless Chromium, driven by Selenium, which does not outlive its owner.

The driver is started by `supervise`, a small process with one end of a pipe: when the other end is
closed, by `Chromium.close` or because this process dies, it kills the driver and all processes of
the browser and removes their files. Not here: how the browser is used (`window`).
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
    "--disable-dev-shm-usage",  # in a container, /dev/shm can be too small
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
    """The paths of the browser and its driver."""

    browser: str
    driver: str


def find_programs() -> Programs:
    """Find the browser and its driver on PATH, or else with Selenium's manager.

    Raises:
        MissingExtraError: they are not installed; the message says how to install them.
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
            f"{missing} is not on PATH, and Selenium's manager could not get it"
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
        """Start the browser.

        Args:
            width: the width of the viewport, in pixels.
            height: the height of the viewport, in pixels.
            flags: additional flags for Chromium, such as ``("--no-sandbox",)``.
            timeout_s: the maximum time for loading a page or running a script.

        Raises:
            MissingExtraError: Selenium or the browser is not installed.
            BackendError: the browser does not start.
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
        """Stop the browser and wait until all its processes have ended; idempotent."""
        if self._owner_pid != os.getpid():
            return  # in a forked child, the browser belongs to the parent
        driver, self.driver = self.driver, None
        if driver is not None:
            # The supervisor stops the browser in any case; this only closes the connection.
            with contextlib.suppress(Exception):
                driver.command_executor.close()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.communicate()

    def _start(self, driver: str) -> int:
        """Start the driver and its supervisor; returns the port on which the driver listens."""
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervise.py"))]
        output = ""
        for _ in range(N_STARTS):
            self._supervisor = subprocess.Popen(
                [*command, driver, "--port=0"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            output = _first_line(self._supervisor.stdout)
            if output.isdigit():
                return int(output)
            self.close()
            # The driver picks a port that is free for IPv6, and gives up if it is taken for IPv4.
            if PORT_TAKEN not in output:
                break
        raise BackendError(f"the browser's driver did not start: {output or 'no output'}")


def _first_line(output: IO[bytes] | None) -> str:
    """The first line that a process writes, or what it has written when it ends or time is up."""
    if output is None:
        raise BackendError("the supervisor of the browser has no output")
    deadline_s = time.monotonic() + START_TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([output], [], [], max(0, deadline_s - time.monotonic()))
        chunk = os.read(output.fileno(), 4096) if ready else b""
        if not chunk:
            break
        line += chunk
    return line.decode(errors="replace").strip()


def _connect(url: str, browser: str, flags: Sequence[str], timeout_s: float) -> Any:
    """Open a session with the driver at `url`."""
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.remote_connection import ChromeRemoteConnection

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, *flags):
        options.add_argument(flag)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # as root, Chromium does not start with its sandbox
    connection = ChromeRemoteConnection(url, ignore_proxy=True)
    try:
        driver = webdriver.Remote(connection, options=options)
        driver.set_page_load_timeout(timeout_s)
        driver.set_script_timeout(timeout_s)
    except WebDriverException as error:
        connection.close()  # type: ignore[no-untyped-call]
        hint = ""
        if "crash" in str(error) or "exited" in str(error) or "DevToolsActivePort" in str(error):
            hint = " (in a container without user namespaces, pass flags=('--no-sandbox',))"
        raise BackendError(f"Chromium did not start: {error.msg}{hint}") from error
    return driver
