"""`WebShopBrowserEnv`: the tasks of `WebShopEnv` in a real browser, through the pages of `site`.

The observation is read from the page in Chromium after a real click or a typed query (`window`):
the text nodes inside ``#page`` in document order, filtered and stripped by the original's rule
(`convert_html_to_text`: white space with a line feed is layout, white space without one is an empty
segment). The reward (``#reward``, as in the original's Selenium environment), validity and what can
be clicked are also read from the page. Only what no page shows comes from the server: the hidden
state and the expert's action. That the texts equal those of `ETO-WebShop-v0` is therefore a
property of the pages, which is tested. Follows `envs/web_agent_site_env.py` of
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
from eto_envs.webshop.site.sessions import Visits

EXTRA = ("selenium", "starlette", "uvicorn", "jinja2", "PIL")
T = TypeVar("T")


class WebShopBrowserEnv(WebShopEnv):
    """WebShop in a real browser: the tasks and rewards of `ETO-WebShop-v0`, on web pages.

    ## Description
    The same shop, served as web pages on a loopback port and driven through Selenium in headless
    Chromium. Actions are carried out as a person would: text is typed into the search field, and
    buttons, products and options are clicked. For the same actions, observations and rewards are
    identical to those of `ETO-WebShop-v0`. In addition to the text, the source of the page, a list
    of what can be clicked and a screenshot are available. Requires the extra `browser` and Chromium
    with its driver (`apt-get install -y chromium chromium-driver`).

    ## Action Space
    `TextSpace`. ``search[words]`` types the words and presses Enter, in the search bar or in the
    field at the top of every other page; ``click[label]`` clicks. If there is no such label on the
    page, nothing happens, but the action counts as a step.

    ## Observation Space
    `TextSpace`: the text nodes of the page, joined by `` [SEP] ``.

    ## Starting State
    The search page with the instruction.

    ## Reward
    At the purchase, in [0, 1], read from the last page; as in `ETO-WebShop-v0`.

    ## Episode End
    Terminates at ``click[buy now]``; truncates after 10 steps (ETO's limit) or after `max_steps`.

    ## Info
    The common keys. `reveal` can add those of `ETO-WebShop-v0`, ``"html"`` (the source of the page
    in the browser) and ``"clickables"``: a list of ``{"action", "role", "name", "group",
    "checked", "enabled", "box"}``, where `group` is the name of the option and `box` is left, top,
    width and height in pixels, relative to the upper left corner of the page.

    ## Arguments
    - `split`, `dataset`, `goals`, `price_seed`, `show_attrs`, `num_prev_obs`, `num_prev_actions`,
      `max_steps`, `reveal`, `shaping`: as in `ETO-WebShop-v0`.
    - `width`, `height`: the viewport, in pixels.
    - `browser_flags`: additional flags for Chromium.
    - `timeout_s`: the maximum time to wait for a page, after which `BackendError` is raised.
    - `render_mode`: ``"rgb_array"`` is a screenshot, uint8 of shape (height, width, 3);
      ``"ansi"`` and ``"human"`` as in every environment here.

    The browser is started by the first `reset` or `restore`. It is stopped by `close`, when the
    environment is garbage-collected, and when its process ends for whatever reason.

    ## Example
    Take a screenshot, and click on a product in the list:

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

    `env.unwrapped.driver` is Selenium's `WebDriver`, for agents that inspect the page themselves.

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
        """Open the dataset and select the task set; see the class. Does not start the browser.

        Raises:
            UnknownNameError: an unknown split, dataset or mode; the message lists the valid ones.
            DataNotFoundError: the dataset is not on this machine.
            CorruptDataError: its files are damaged.
            MissingExtraError: the extra `browser` is not installed.
            ValueError: the size of the viewport is not positive.
        """
        for package in EXTRA:
            require(package, extra="browser")
        if width < 1 or height < 1:
            raise ValueError(f"the viewport must have a positive size, got {width} x {height}")
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
        """Selenium's `WebDriver`, with the current page.

        Raises:
            gymnasium.error.ResetNeeded: `reset` has not been called.
        """
        return self._require_window().driver

    def close(self) -> None:
        """Stop the browser and the server; a later `reset` starts new ones."""
        self._window = None
        self._stop()
        super().close()

    def render(self) -> Any:
        """A screenshot (``"rgb_array"``), or text as in every environment here."""
        if self.render_mode != "rgb_array":
            return super().render()
        from PIL import Image

        window = self._require_window()
        png = self._do(lambda: window.driver.get_screenshot_as_png())
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    def _start(self, task: Task) -> str:
        window = self._ensure_window()
        self._page = self._do(lambda: window.show(window.visits.begin(task)))
        self._state = type(self._state)(window.visit.session)
        return self._observe(None)

    def _advance(self, action: str) -> Advance:
        window = self._require_window()
        self._page = page = self._do(lambda: window.act(self._page, action))
        visit = window.visit
        self._state = self._state._replace(session=visit.session, reward_info=visit.reward_info)
        score = 0.0 if page.reward is None else float(page.reward)
        return Advance(self._observe(action), score, page.reward is not None, page.is_valid)

    def _reveal(self, name: str) -> Any:
        if name == "admissible_actions":
            search = ["search[<keywords>]"] if self._page.has_search_bar else []
            return search + [f"click[{label}]" for label in dict.fromkeys(self._page.labels)]
        if name == "html":
            return self._do(lambda: self._require_window().driver.page_source)
        if name == "clickables":
            return self._do(lambda: self._require_window().clickables())
        return super()._reveal(name)

    def _world_state(self) -> Any:
        return self._state, self._require_window().visit

    def _set_world_state(self, task: Task, state: Any) -> None:
        window = self._ensure_window()
        self._state, visit = state
        self._page = self._do(lambda: window.show(window.visits.adopt(visit)))

    def _ensure_window(self) -> Window:
        """The window; opens it if necessary."""
        if self._window is None:
            visits = Visits(self._engine, self.tasks, max_steps=0)
            self._window = Window(visits, timeout_s=self._timeout_s, **self._viewport)
            self._stop = weakref.finalize(self, self._window.close)
        return self._window

    def _require_window(self) -> Window:
        """The window, which must be open."""
        if self._window is None:
            raise ResetNeeded("the browser is closed: call env.reset() first")
        return self._window

    def _do(self, work: Callable[[], T]) -> T:
        """Use the browser; stop it if that fails.

        Raises:
            BackendError: the browser failed; the next `reset` starts a new one.
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
    """The vector entry point: `TextVectorEnv` of `WebShopBrowserEnv`, each with its own browser."""
    return TextVectorEnv(WebShopBrowserEnv, **kwargs)
