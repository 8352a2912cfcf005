"""`WebShopBrowserEnv`: the tasks of `WebShopEnv` in a real browser, through the pages of `site`.

The observation is read from the page that Chromium shows after a real click or typed search
(`window`): the text nodes inside ``#page`` in document order, kept and stripped by the original's
own rule (`convert_html_to_text`: a node of white space with a line feed is layout, one without is
an empty segment). So are reward (``#reward``, as the original's Selenium environment reads it),
validity and what can be clicked. The server only says what no page shows: the hidden state and the
expert's action. That the texts equal `ETO-WebShop-v0`'s is therefore a fact about the pages, which
tests establish, and not a second way to the same function. Follows `envs/web_agent_site_env.py` of
princeton-nlp/WebShop at commit 64fa2a5. Not here: the pages (`site`) and the processes
(`chromium`).
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from gymnasium.error import ResetNeeded

from eto_envs.core import Advance
from eto_envs.errors import BackendError, require
from eto_envs.tasks import Task
from eto_envs.vector import TextVectorEnv
from eto_envs.webshop.browser.window import Page, Window
from eto_envs.webshop.env import WebShopEnv
from eto_envs.webshop.site.sessions import Trips

EXTRA = ("selenium", "starlette", "uvicorn", "jinja2", "PIL")
T = TypeVar("T")


class WebShopBrowserEnv(WebShopEnv):
    """WebShop in a real browser: the tasks and rewards of `ETO-WebShop-v0`, on web pages.

    ## Description
    The same shop, served as web pages on a loopback port and driven through Selenium in a
    headless Chromium. Actions are done as a person does them: text is typed into the search field,
    buttons, products and options are clicked. For the same actions, observations and rewards are
    those of `ETO-WebShop-v0`, to the byte; beside the text there are the page's source, a list of
    what can be clicked and a screenshot. Needs the extra `browser` and Chromium with its driver
    (`apt-get install -y chromium chromium-driver`).

    ## Action Space
    `TextSpace`. ``search[words]`` types the words and presses Enter, in the search bar or in the
    field at the top of every other page; ``click[label]`` clicks. What is not on the page cannot be
    clicked: nothing happens, and a step is used.

    ## Observation Space
    `TextSpace`: the page's text nodes joined by `` [SEP] ``.

    ## Starting State
    The search page with the instruction.

    ## Reward
    At the purchase, in [0, 1], read from the last page; as in `ETO-WebShop-v0`.

    ## Episode End
    Terminates at ``click[buy now]``, truncates after 10 steps (ETO's limit) or `max_steps`.

    ## Info
    The common keys. `reveal` may add what `ETO-WebShop-v0` has, ``"html"`` (the page's source as
    the browser has it) and ``"clickables"``: a list of ``{"action", "role", "name", "group",
    "checked", "enabled", "box"}``, where `group` is the option's name and `box` is left, top, width
    and height in pixels from the page's upper left corner.

    ## Arguments
    - `split`, `dataset`, `goals`, `price_seed`, `show_attrs`, `num_prev_obs`, `num_prev_actions`,
      `max_steps`, `reveal`, `shaping`: as in `ETO-WebShop-v0`.
    - `width`, `height`: the viewport, in pixels.
    - `browser_flags`: further flags of Chromium.
    - `timeout_s`: the longest wait for a page; then `BackendError`.
    - `render_mode`: ``"rgb_array"`` is a screenshot, uint8 of shape (height, width, 3);
      ``"ansi"`` and ``"human"`` as in every environment here.

    The browser starts at the first `reset` or `restore` and is stopped by `close`, when the
    environment is collected, and when its process ends in whatever way.

    ## Example
    An agent sees screenshots and clicks what it finds in the list:

    ```python
    import gymnasium as gym
    import eto_envs

    with gym.make(
        "ETO-WebShopBrowser-v0",
        dataset="mini",
        split="seen",
        reveal=("clickables",),
        render_mode="rgb_array",
    ) as env:
        observation, info = env.reset(options={"task": 0})
        observation, *_, info = env.step("search[face moisturizer]")
        screenshot = env.render()
        product = next(c for c in info["clickables"] if c["action"].startswith("click[b0"))
        left, top, width, height = product["box"]
        observation, reward, terminated, truncated, info = env.step(product["action"])
        print(screenshot.shape, product["name"], info["is_valid_action"])
    ```

    `env.unwrapped.driver` is Selenium's `WebDriver`, for agents that look for themselves.

    ## References
    `WebAgentSiteEnv` of princeton-nlp/WebShop at commit 64fa2a5. Departures are listed in
    docs/reproduction.md.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": ["rgb_array", "ansi", "human"],
        "render_fps": 4,
    }
    revealable: ClassVar[tuple[str, ...]] = (*WebShopEnv.revealable, "html", "clickables")

    def __init__(  # noqa: PLR0913 (gym.make's keyword arguments)
        self,
        split: str = "train",
        *,
        dataset: str = "auto",
        goals: Literal["human", "synthetic"] = "human",
        price_seed: int | None = None,
        show_attrs: bool = False,
        num_prev_obs: int = 0,
        num_prev_actions: int = 0,
        width: int = 1280,
        height: int = 800,
        browser_flags: Sequence[str] = (),
        timeout_s: float = 30.0,
        max_steps: int | None = None,
        reveal: Collection[str] = (),
        shaping: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        """Open the dataset and choose the task set; see the class. Starts no browser yet.

        Raises:
            UnknownNameError: an unknown split, dataset or mode; the message names what there is.
            DataNotFoundError: the dataset is not on this machine.
            CorruptDataError: its files are damaged.
            MissingExtraError: the extra `browser` is not installed.
            ValueError: the viewport has no area.
        """
        for package in EXTRA:
            require(package, extra="browser")
        if width < 1 or height < 1:
            raise ValueError(f"the viewport must have an area, got {width} x {height}")
        super().__init__(
            split,
            dataset=dataset,
            goals=goals,
            price_seed=price_seed,
            show_attrs=show_attrs,
            num_prev_obs=num_prev_obs,
            num_prev_actions=num_prev_actions,
            max_steps=max_steps,
            reveal=reveal,
            shaping=shaping,
            render_mode=render_mode,
        )
        self._write = lambda session: self._page.text
        self._viewport = {"width": width, "height": height, "flags": tuple(browser_flags)}
        self._timeout_s = timeout_s
        self._window: Window | None = None
        self._stop: Callable[[], Any] = lambda: None
        self._page: Page

    @property
    def driver(self) -> Any:
        """Selenium's `WebDriver` of the open page.

        Raises:
            gymnasium.error.ResetNeeded: there was no `reset`.
        """
        return self._present().driver

    def close(self) -> None:
        """Stop browser and server; a later `reset` starts new ones."""
        self._window = None
        self._stop()
        super().close()

    def render(self) -> Any:
        """A screenshot (``"rgb_array"``), or text as in every environment here."""
        if self.render_mode != "rgb_array":
            return super().render()
        from PIL import Image

        window = self._present()
        png = self._do(lambda: window.driver.get_screenshot_as_png())
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    def _start(self, task: Task) -> str:
        window = self._opened()
        self._page = self._do(lambda: window.show(window.trips.begin(task)))
        self._state = type(self._state)(window.trip.session)
        return self._observe(None)

    def _advance(self, action: str) -> Advance:
        window = self._present()
        self._page = page = self._do(lambda: window.act(self._page, action))
        trip = window.trip
        self._state = self._state._replace(session=trip.session, reward_info=trip.reward_info)
        score = 0.0 if page.reward is None else float(page.reward)
        return Advance(self._observe(action), score, page.reward is not None, page.is_valid)

    def _reveal(self, name: str) -> Any:
        if name == "admissible_actions":
            search = ["search[<keywords>]"] if self._page.has_search_bar else []
            return search + [f"click[{label}]" for label in dict.fromkeys(self._page.labels)]
        if name == "html":
            return self._do(lambda: self._present().driver.page_source)
        if name == "clickables":
            return self._do(lambda: self._present().clickables())
        return super()._reveal(name)

    def _world_state(self) -> Any:
        return self._state, self._present().trip

    def _set_world_state(self, task: Task, state: Any) -> None:
        window = self._opened()
        self._state, trip = state
        self._page = self._do(lambda: window.show(window.trips.adopt(trip)))

    def _opened(self) -> Window:
        """The window; opened if it is not open."""
        if self._window is None:
            trips = Trips(self._engine, self.tasks, max_steps=0)
            self._window = Window(trips, timeout_s=self._timeout_s, **self._viewport)
            self._stop = weakref.finalize(self, self._window.close)
        return self._window

    def _present(self) -> Window:
        """The window that must be open."""
        if self._window is None:
            raise ResetNeeded("the browser is closed: call env.reset() first")
        return self._window

    def _do(self, work: Callable[[], T]) -> T:
        """Do something in the browser; where it fails, the browser is given up.

        Raises:
            BackendError: it failed; the next `reset` starts a new browser.
        """
        from selenium.common.exceptions import WebDriverException
        from urllib3.exceptions import HTTPError

        try:
            return work()
        except BackendError:
            self.close()
            raise
        except (WebDriverException, HTTPError, OSError) as error:
            self.close()
            text = str(getattr(error, "msg", None) or error)
            raise BackendError(f"the browser failed: {type(error).__name__}: {text}") from error


def make_vector_env(**kwargs: Any) -> TextVectorEnv:
    """The vector entry point: `TextVectorEnv` of `WebShopBrowserEnv`, a browser each."""
    return TextVectorEnv(WebShopBrowserEnv, **kwargs)
