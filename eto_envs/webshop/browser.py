"""`WebShopBrowserEnv`: the tasks of `WebShopEnv` in a real browser, through the pages of `site`.

The observation is read from the page that Chromium shows after a real click or typed search: the
text nodes inside ``#page`` in document order, kept and stripped by the original's own rule
(`convert_html_to_text`: a node of white space with a line feed is layout, one without is an empty
segment). So are reward (``#reward``, as the original's Selenium environment reads it), validity and
what can be clicked. The server only says what no page shows: the hidden state and the expert's
action. That the texts equal `ETO-WebShop-v0`'s is therefore a fact about the pages, which tests
establish, and not a second way to the same function. Follows `envs/web_agent_site_env.py` of
princeton-nlp/WebShop at commit 64fa2a5. Not here: the pages (`site`) and the processes
(`chromium`).
"""

from __future__ import annotations

import io
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from gymnasium.error import ResetNeeded

from eto_envs.core import Advance
from eto_envs.errors import BackendError, require
from eto_envs.tasks import Task
from eto_envs.vector import TextVectorEnv
from eto_envs.webshop.chromium import Chromium
from eto_envs.webshop.engine import parse_action
from eto_envs.webshop.env import WebShopEnv
from eto_envs.webshop.pages import SEPARATOR
from eto_envs.webshop.site.sessions import Trip, Trips

T = TypeVar("T")

LOOK_AGAIN_EVERY_S = 0.005
MAX_TYPED_CHARS = 100
MAX_QUERY_CHARS = 2**20  # as long as an action may be

READ = """
const page = document.getElementById("page");
const texts = [];
const nodes = document.createTreeWalker(page, NodeFilter.SHOW_TEXT);
let before = null;
while (nodes.nextNode()) {
  const node = nodes.currentNode;
  // A long text is split into several nodes.
  if (before !== null && node.previousSibling === before) texts[texts.length - 1] += node.data;
  else texts.push(node.data);
  before = node;
}
const buttons = page.querySelectorAll(".btn, .product-link");
const sorted = [...buttons].sort((a, b) => a.matches(".product-link") - b.matches(".product-link"));
const options = page.querySelectorAll("input[type=radio]");
const reward = page.querySelector("#reward pre");
return {
  is_complete: document.readyState === "complete",
  turn: Number(document.body.dataset.turn),
  is_valid: document.body.dataset.valid === "true",
  texts: texts,
  has_search_bar: page.querySelector("#search_input") !== null,
  labels: [...sorted.map((b) => b.value || b.textContent.toLowerCase()),
           ...[...options].map((o) => o.value)],
  reward: reward === null ? null : reward.textContent,
};
"""

FIND = """
const label = arguments[0];
const found = [...document.querySelectorAll(
  "#page .btn, #page .product-link, #page input[type=radio]"
)].filter((e) => !e.disabled && (e.value || e.textContent.toLowerCase()) === label);
return found.length ? found[found.length - 1] : null;
"""

FIND_SEARCH = "return document.querySelector('#search_input, #header_search');"

LIST = """
const elements = document.querySelectorAll(
  "#search_input, #header_search, #page .btn, #page .product-link, #page input[type=radio]"
);
return [...elements].map((e) => {
  const box = e.getBoundingClientRect();
  const isSearch = e.name === "search_query";
  const isOption = e.type === "radio";
  const value = isOption ? e.value : e.value || e.textContent.toLowerCase();
  return {
    action: isSearch ? "search[<keywords>]" : `click[${value}]`,
    role: isSearch ? "searchbox" : isOption ? "radio" : "button",
    name: isSearch ? e.ariaLabel : isOption ? e.value : e.textContent,
    group: isOption ? e.form.querySelector("legend").textContent : "",
    checked: e.checked === true,
    enabled: !e.disabled,
    box: [box.left + scrollX, box.top + scrollY, box.width, box.height],
  };
});
"""


class _Page(NamedTuple):
    """What was read from the page that the browser shows."""

    is_complete: bool
    turn: int
    is_valid: bool
    texts: list[str]
    has_search_bar: bool
    labels: list[str]
    reward: str | None

    @property
    def text(self) -> str:
        """The page in mode ``text``."""
        return SEPARATOR.join(text.strip() for text in self.texts if _is_content(text))


def _is_content(text: str) -> bool:
    return bool(text.strip(" \n\t\f\r")) or "\n" not in text


class _Shop:
    """The site in a thread and the browser that looks at it."""

    def __init__(self, trips: Trips, timeout_s: float, **window: Any) -> None:
        from eto_envs.webshop.site.app import make_app
        from eto_envs.webshop.site.server import ThreadedServer
        from eto_envs.webshop.site.views import Look

        self.trips = trips
        self.timeout_s = timeout_s
        self.trip_id = ""
        self.server = ThreadedServer(make_app(trips, Look(max_query_chars=MAX_QUERY_CHARS)))
        try:
            self.chromium = Chromium(timeout_s=timeout_s, **window)
        except BaseException:
            self.server.close()
            raise

    @property
    def trip(self) -> Trip:
        """What the server knows of the present trip."""
        return self.trips.get(self.trip_id)

    def show(self, trip: Trip) -> _Page:
        """Open a trip."""
        self.trip_id = trip.id
        self.chromium.driver.get(f"{self.server.url}/s/{trip.id}")
        return self.read(trip.turn)

    def read(self, turn: int) -> _Page:
        """The page of a turn, as soon as it is there.

        Raises:
            BackendError: it does not come.
        """
        from selenium.common.exceptions import JavascriptException, WebDriverException

        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                page = _Page(**self.chromium.driver.execute_script(READ))
                if page.is_complete and page.turn == turn:
                    return page
                seen = f"turn {page.turn}"
            except JavascriptException as error:  # between two pages, or a page of another kind
                seen = str(error.msg)
            except WebDriverException as error:
                if "context" not in str(error.msg):  # the old page's, which goes away
                    raise
                seen = str(error.msg)
            if time.monotonic() > deadline_s:
                title = self.chromium.driver.title
                raise BackendError(
                    f"no page of turn {turn} in {self.timeout_s:g} s: {seen}, {title!r}"
                )
            time.sleep(LOOK_AGAIN_EVERY_S)

    def search(self, text: str) -> None:
        """Type a text and press Enter."""
        from selenium.webdriver.common.keys import Keys

        field = self.chromium.driver.execute_script(FIND_SEARCH)
        # A field for one line drops carriage returns, and no form can send half a surrogate pair:
        # what is typed instead separates words all the same.
        text = (
            text.replace("\r", "\t").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
        if len(text) <= MAX_TYPED_CHARS and text.isascii() and text.isprintable():
            field.send_keys(text + Keys.ENTER)
            return
        self.chromium.driver.execute_script("arguments[0].focus();", field)
        self.chromium.devtools("Input.insertText", text=text)  # as a paste: no key has it, or long
        field.send_keys(Keys.ENTER)

    def close(self) -> None:
        """Stop both."""
        try:
            self.chromium.close()
        finally:
            self.server.close()


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
        """Open the dataset and choose the panel; see the class. Starts no browser yet.

        Raises:
            UnknownNameError: an unknown split, dataset or mode; the message names what there is.
            DataNotFoundError: the dataset is not on this machine.
            CorruptDataError: its files are damaged.
            MissingExtraError: the extra `browser` is not installed.
            ValueError: the viewport has no area.
        """
        for package in ("selenium", "starlette", "uvicorn", "jinja2", "PIL"):
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
        self._window = {"width": width, "height": height, "flags": tuple(browser_flags)}
        self._timeout_s = timeout_s
        self._open: _Shop | None = None
        self._finalizer: Callable[[], Any] = lambda: None
        self._page: _Page

    def close(self) -> None:
        """Stop browser and server; a later `reset` starts new ones."""
        self._open = None
        self._finalizer()
        super().close()

    def render(self) -> Any:
        """A screenshot (``"rgb_array"``), or text as in every environment here."""
        if self.render_mode != "rgb_array":
            return super().render()
        from PIL import Image

        shop = self._shop_window()
        png = self._do(lambda: shop.chromium.driver.get_screenshot_as_png())
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    def _start(self, task: Task) -> str:
        if self._open is None:
            self._launch()
        shop = self._shop_window()
        self._page = self._do(lambda: shop.show(shop.trips.open(task.id)))
        self._state = type(self._state)(shop.trip.session)
        return self._observe(None)

    def _advance(self, action: str) -> Advance:
        shop = self._shop_window()
        turn = self._page.turn
        is_valid, is_sent = self._do(lambda: self._act(shop, action))
        if is_sent:
            self._page = self._do(lambda: shop.read(turn + 1))
            is_valid = self._page.is_valid
        else:
            self._page = self._do(lambda: shop.read(turn))
        trip, reward = shop.trip, self._page.reward
        self._state = self._state._replace(session=trip.session, reward_info=trip.reward_info)
        score = 0.0 if reward is None else float(reward)
        return Advance(self._observe(action), score, reward is not None, is_valid)

    def _act(self, shop: _Shop, action: str) -> tuple[bool, bool]:
        """Do an action; whether it could be done, and whether it leads to another page."""
        name, argument = parse_action(action)
        if name == "search" and argument is not None:
            shop.search(argument)
            return True, True
        if name != "click" or argument is None:
            return False, False
        label = argument.lower()
        element = shop.chromium.driver.execute_script(FIND, label)
        if element is None:
            return False, False
        element.click()
        # The button of an empty search bar is there to be clicked, and the browser asks for words.
        return True, not (self._page.has_search_bar and label == "search")

    def _reveal(self, name: str) -> Any:
        if name == "admissible_actions":
            search = ["search[<keywords>]"] if self._page.has_search_bar else []
            return search + [f"click[{label}]" for label in dict.fromkeys(self._page.labels)]
        shop = self._shop_window()
        if name == "html":
            return self._do(lambda: shop.chromium.driver.page_source)
        if name == "clickables":
            return self._do(lambda: shop.chromium.driver.execute_script(LIST))
        return super()._reveal(name)

    def _world_state(self) -> Any:
        return self._state, self._shop_window().trip

    def _set_world_state(self, task: Task, state: Any) -> None:
        if self._open is None:
            self._launch()
        shop = self._shop_window()
        self._state, trip = state
        self._page = self._do(lambda: shop.show(shop.trips.adopt(trip)))

    def _launch(self) -> None:
        trips = Trips(self._engine, self.tasks, max_steps=0)
        self._open = _Shop(trips, self._timeout_s, **self._window)
        self._finalizer = weakref.finalize(self, self._open.close)

    def _shop_window(self) -> _Shop:
        if self._open is None:
            raise ResetNeeded("the browser is closed: call env.reset() first")
        return self._open

    def _do(self, work: Callable[[], T]) -> T:
        """Do something in the browser; where it fails, the browser is given up.

        Raises:
            BackendError: it failed; the next `reset` starts a new browser.
        """
        from selenium.common.exceptions import WebDriverException
        from urllib3.exceptions import HTTPError

        try:
            return work()
        except (WebDriverException, HTTPError, OSError) as error:
            self.close()
            text = str(getattr(error, "msg", None) or error)
            raise BackendError(f"the browser failed: {type(error).__name__}: {text}") from error
        except BackendError:
            self.close()
            raise


def make_vector_env(**kwargs: Any) -> TextVectorEnv:
    """The vector entry point: `TextVectorEnv` of `WebShopBrowserEnv`, a browser each."""
    return TextVectorEnv(WebShopBrowserEnv, **kwargs)
