"""The site in a browser: actions on its pages, and reading them.

`Window` serves the site from a thread and opens it in Chromium; `Page` is the content of a page.
Text, reward, validity and what can be clicked are read from the document in the browser. Not here:
the pages (`site`), the processes (`chromium`) and episodes (`env`).
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from eto_envs.errors import BackendError
from eto_envs.webshop.browser.chromium import Chromium
from eto_envs.webshop.engine.engine import parse_action
from eto_envs.webshop.engine.pages import SEPARATOR
from eto_envs.webshop.site.sessions import Visit, Visits

POLL_INTERVAL_S = 0.005
MAX_TYPED_CHARS = 100
MAX_QUERY_CHARS = 2**20  # the maximum length of an action

READ = """
const page = document.getElementById("page");
const texts = [];
const nodes = document.createTreeWalker(page, NodeFilter.SHOW_TEXT);
let before = null;
while (nodes.nextNode()) {
  const node = nodes.currentNode;
  // Browsers split a long text into several nodes.
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


class Page(NamedTuple):
    """The content of the page in the browser.

    Attributes:
        is_complete: whether the document has been loaded.
        turn: the number of actions so far.
        is_valid: whether the shop accepted the last action.
        texts: the text nodes of the page, in document order.
        has_search_bar: whether it is the search page.
        labels: the labels that can be clicked, in the original's order.
        reward: the reward as displayed on the last page, or None.
    """

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
    """Whether the original keeps a text node: white space with a line feed is layout."""
    return bool(text.strip(" \n\t\f\r")) or "\n" not in text


class Window:
    """The site, served from a thread, and a browser that shows it.

    Attributes:
        visits: the visits of the site.
        server: the server of the site.
        chromium: the browser.
    """

    def __init__(self, visits: Visits, *, timeout_s: float, **chromium: Any) -> None:
        """Start the server and the browser.

        Args:
            visits: the visits of the site.
            timeout_s: the maximum time to wait for a page.
            **chromium: viewport and flags, for `Chromium`.

        Raises:
            MissingExtraError: the extra `browser` or the browser is not installed.
            BackendError: one of the two does not start.
        """
        from eto_envs.webshop.site.app import make_app
        from eto_envs.webshop.site.server import ThreadedServer
        from eto_envs.webshop.site.views import SiteOptions

        self.visits = visits
        self._visit_id = ""
        self._timeout_s = timeout_s
        self._visit_id = ""
        self.server = ThreadedServer(make_app(visits, SiteOptions(max_query_chars=MAX_QUERY_CHARS)))
        try:
            self.chromium = Chromium(timeout_s=timeout_s, **chromium)
        except BaseException:
            self.server.close()
            raise

    @property
    def driver(self) -> Any:
        """Selenium's `WebDriver`."""
        return self.chromium.driver

    @property
    def visit(self) -> Visit:
        """The current visit, as known to the server."""
        return self.visits.get(self._visit_id)

    def show(self, visit: Visit) -> Page:
        """Open a visit in the browser, and forget the previous one."""
        if self._visit_id != visit.id:
            self.visits.discard(self._visit_id)
        self._visit_id = visit.id
        self.driver.get(f"{self.server.url}/s/{visit.id}")
        return self.read(visit.turn)

    def read(self, turn: int) -> Page:
        """Wait for the page of a turn and read it.

        Raises:
            BackendError: it is not loaded in time.
        """
        from selenium.common.exceptions import JavascriptException, WebDriverException

        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                page = Page(**self.driver.execute_script(READ))
                if page.is_complete and page.turn == turn:
                    return page
                seen = f"turn {page.turn}"
            except JavascriptException as error:  # between two pages, or on an error page
                seen = str(error.msg)
            except WebDriverException as error:
                if "context" not in str(error.msg):  # the context of a page that is being left
                    raise
                seen = str(error.msg)
            if time.monotonic() > deadline_s:
                title = self.driver.title
                raise BackendError(
                    f"no page of turn {turn} in {self._timeout_s:g} s: {seen}, {title!r}"
                )
            time.sleep(POLL_INTERVAL_S)

    def act(self, page: Page, action: str) -> Page:
        """Carry out an action on a page that was read, as a person would.

        Returns:
            The resulting page; the same page with `is_valid` false if there is nothing to click.
        """
        name, argument = parse_action(action)
        if name == "search" and argument is not None:
            self._search(argument)
            return self.read(page.turn + 1)
        label = (argument or "").lower()
        element = self.driver.execute_script(FIND, label) if name == "click" and label else None
        if element is None:
            return page._replace(is_valid=False)
        element.click()
        if page.has_search_bar and label == "search":
            # The button of an empty search bar can be clicked; the browser then requests input.
            return self.read(page.turn)._replace(is_valid=True)
        return self.read(page.turn + 1)

    def clickables(self) -> list[dict[str, Any]]:
        """What can be typed into or clicked, in document order."""
        found: list[dict[str, Any]] = self.driver.execute_script(LIST)
        return found

    def _search(self, text: str) -> None:
        """Type a text and press Enter."""
        from selenium.webdriver.common.keys import Keys

        field = self.driver.execute_script(FIND_SEARCH)
        # A single-line field drops carriage returns, and a form cannot send unpaired surrogates:
        # they are replaced by characters that also separate words.
        text = (
            text.replace("\r", "\t").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
        if len(text) <= MAX_TYPED_CHARS and text.isascii() and text.isprintable():
            field.send_keys(text + Keys.ENTER)
            return
        self.driver.execute_script("arguments[0].focus();", field)
        # Like pasting: the text is long, or has characters that are not on a keyboard.
        self.chromium.devtools("Input.insertText", text=text)
        field.send_keys(Keys.ENTER)

    def close(self) -> None:
        """Stop the browser and the server."""
        try:
            self.chromium.close()
        finally:
            self.server.close()
