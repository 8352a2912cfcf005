"""## The shop as web pages.

The same tasks as a website for people and for browser agents. It is served by the engine of this
environment, so search, pages and rewards are the same. It requires the extra `browser`.

![A product page with its options](webshop.png)

(The picture is made by `python -m pytest tests/envs/webshop/browser/test_env.py --screenshots
docs/environments`.)

### Playing yourself
```
eto serve webshop --dataset mini --split seen
```
opens the shop on http://127.0.0.1:8000/. Pick a task or take the next one, search, choose options
and buy; the last page shows the score and which requirements were met. Finished sessions are
appended to `episodes.jsonl` in `--out` (default `runs/webshop-human`) as trajectories of the policy
`human`, in the same format as those of all other policies; several sessions with the same task
differ in `seed`. Each session has an address that cannot be guessed, so several people can play at
the same time. After an interruption, rerun the command to resume: finished sessions are in the file,
and open ones continue where they were. The site is only accessible from this machine unless `--host`
is given.

### Connecting a browser agent
`ETO-WebShopBrowser-v0` ([its page](webshop_browser.md)) gives an agent of this library the pages in
Chromium: text as in this environment, screenshots, the source of the page and what can be clicked.
An agent with its own browser (Playwright, Selenium, BrowserGym, agents written for the original
site) opens `eto serve webshop`, whose pages have the same elements as the original's:

| element | meaning |
|---|---|
| `#instruction-text h4` | the instruction |
| `#search_input` | the search field of the search page |
| `.btn` | buttons, with the labels `Search`, `Back to Search`, `< Prev`, `Next >`, `Description`, `Features`, `Reviews`, `Attributes`, `Buy Now` |
| `.product-link` | the products of a results page, with their id as label |
| `input[type=radio]` | the options of a product, by value; a click chooses an option |
| `#reward pre` | the score, on the last page |
| `body[data-turn]`, `body[data-valid]` | the number of actions so far; whether the shop accepted the last one |

All pages except the search page also have `#header_search`, because searching works everywhere.
Pictures of products are replaced by a neutral box, so that no other server is needed; `--pictures`
shows those of the catalogue.

### Security
Everything that changes something is a POST to the address of the session, and a POST is rejected if
the browser says that another site has sent it. There are no cookies. All text is escaped, and the
content security policy does not allow inline scripts. A form contains the page it belongs to, so
that a double click acts once. Invalid addresses, methods and forms, and queries of more than 1,000
characters, get a 4xx page.
"""  # noqa: E501 (a table)
