"""## The shop as web pages.

The same tasks as a site that people use and browser agents drive. It is served by the engine of
this environment, so search, pages and rewards are the same ones. Needs the extra `browser`.

![A product page with its options](webshop.png)

(The picture is made by `python -m pytest tests/envs/webshop/browser/test_env.py --screenshots
docs/environments`.)

### Playing yourself
```
eto serve webshop --dataset mini --split seen
```
opens the shop on http://127.0.0.1:8000/. Pick a task or take the next one, search, choose options,
buy; the last page gives the score and what of the request was met or missed. Finished sessions are
appended to `episodes.jsonl` in `--out` (default `runs/webshop-human`) as trajectories of the policy
`human`, in the format of every other policy here; several sessions of one task differ in `seed`.
Each session has an address that cannot be guessed, so several people may play at once. The same
command after an interruption, a kill included, goes on: finished sessions are in the file, open
ones where they were. Only this machine can reach the site unless `--host` says otherwise.

### Plugging in a browser agent
`ETO-WebShopBrowser-v0` ([its page](webshop_browser.md)) gives an agent of this library the pages in
Chromium: text as in this environment, screenshots, the page's source and what can be clicked. An
agent that brings its own browser (Playwright, Selenium, BrowserGym, agents written for the original
site) opens `eto serve webshop` and finds what the original's pages have:

| element | what |
|---|---|
| `#instruction-text h4` | the instruction |
| `#search_input` | the search field of the search page |
| `.btn` | buttons, by their text: `Search`, `Back to Search`, `< Prev`, `Next >`, `Description`, `Features`, `Reviews`, `Attributes`, `Buy Now` |
| `.product-link` | the products of a results page, by their id |
| `input[type=radio]` | the options of a product, by their value; a click chooses |
| `#reward pre` | the score, on the last page |
| `body[data-turn]`, `body[data-valid]` | number of actions so far; whether the shop acted on the last |

Every page but the search page also has `#header_search`, as a search works everywhere. Product
pictures are drawn as a neutral box, so that no page needs another server; `--pictures` shows the
catalogue's own.

### Security
Whatever changes something is a POST to the session's own address, and a POST that the browser says
another site has sent is refused; there are no cookies. All text is escaped, and the content
security policy lets no inline script run. A form names the page it stands on, so that a double click
acts once. Addresses, methods, forms and search texts (over 1,000 characters) that make no sense get
a 4xx page.
"""  # noqa: E501 (a table)
