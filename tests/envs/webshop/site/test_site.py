"""The site over HTTP: pages, sessions, what it refuses, what it escapes, many people at once."""

from __future__ import annotations

import asyncio
import errno
import html
import json
import re
import socket
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from eto_envs.errors import BackendError, CorruptDataError
from eto_envs.tasks import Task, TaskSet
from eto_envs.webshop.data.records import Goal
from eto_envs.webshop.engine.engine import WebShopEngine, parse_action
from eto_envs.webshop.expert import next_action
from eto_envs.webshop.site.app import ANY_ADDRESS, make_app
from eto_envs.webshop.site.server import ThreadedServer, listen
from eto_envs.webshop.site.sessions import Visit, Visits
from eto_envs.webshop.site.views import SiteOptions

BASE = "http://127.0.0.1"
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quotes" \'single\''
WALK = [
    "search[lamp sofa]",
    "click[next >]",
    "click[< prev]",
    "click[next >]",
    "click[next >]",
    "click[s000000001]",
    "click[rosewood]",
    "click[a | ]",
    "click[description]",
    "click[< prev]",
    "click[features]",
    "click[< prev]",
    "click[reviews]",
    "click[< prev]",
    "click[attributes]",
    "click[< prev]",
    "search[<a> nothing]",
    "click[buy now]",
]


def tasks_of(shop: Any) -> TaskSet:
    goals = shop.goals

    def make_task(task_id: str) -> Task:
        return Task(task_id, goals[int(task_id)].instruction, max_steps=10)

    return TaskSet([str(g.index) for g in goals], make_task, split="all", dataset="toy")


class Visitor:
    """A browser without a window: follows the page's own forms."""

    def __init__(
        self, visits: Visits, options: SiteOptions | None = None, **arguments: Any
    ) -> None:
        self.visits = visits
        self.app = make_app(visits, options, **arguments)
        self.url = ""

    def request(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url=BASE, follow_redirects=True
            ) as client:
                return await client.request(method, url, **arguments)

        return asyncio.run(ask())

    def get(self, url: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", url, **arguments)

    def post(self, url: str, **data: Any) -> httpx.Response:
        return self.request("POST", url, data=data)

    def open(self, task_id: str = "0") -> Visit:
        visit = self.visits.open(task_id)
        self.url = f"/s/{visit.id}"
        return visit

    def act(self, action: str) -> httpx.Response:
        visit = self.visits.get(self.url.rpartition("/")[2])
        return self.post(self.url, **fields(visit.turn, action))


def fields(turn: int, action: str) -> dict[str, str]:
    name, argument = parse_action(action)
    return {"turn": str(turn), "search_query" if name == "search" else "click": argument or ""}


class PageTexts(HTMLParser):
    """The text nodes inside ``#page``, as Python's parser finds them."""

    VOID = ("br", "input", "img", "meta", "link")

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if (self.depth or ("id", "page") in attrs) and tag not in self.VOID:
            self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        if self.depth:
            self.depth -= 1

    def handle_data(self, data: str) -> None:
        if self.depth and (data.strip() or "\n" not in data):
            self.texts.append(data.strip())


def page_texts(text: str) -> list[str]:
    parser = PageTexts()
    parser.feed(text)
    return parser.texts


@pytest.fixture
def visitor(shop: Any) -> Visitor:
    return Visitor(Visits(WebShopEngine(shop, show_attrs=True), tasks_of(shop), max_steps=0))


@pytest.fixture
def player(shop: Any) -> Visitor:
    return Visitor(Visits(WebShopEngine(shop), tasks_of(shop)), SiteOptions(play=True))


# Pages


def test_pages_say_what_the_engine_says(visitor: Visitor) -> None:
    """Text node by text node, on every kind of page; reward and validity are on the page too."""
    engine = visitor.visits.engine
    session = visitor.open("1").session
    page = visitor.get(visitor.url)
    for action in WALK:
        assert page.status_code == 200
        assert page_texts(page.text) == engine.text(session).split(" [SEP] ")
        outcome = engine.step(session, action)
        session = outcome.session
        page = visitor.act(action)
        assert f'data-valid="{str(outcome.is_valid).lower()}"' in page.text, action
    assert page_texts(page.text) == engine.text(session).split(" [SEP] ")
    assert f'<h3 id="reward">Your score (min 0.0, max 1.0)<pre>{outcome.reward}</pre>' in page.text
    assert outcome.done


def test_elements_have_the_ids_and_classes_of_the_original(visitor: Visitor) -> None:
    visitor.open("1")
    page = visitor.get(visitor.url).text
    assert re.search(r'<input id="search_input"[^>]* name="search_query"', page)
    assert '<button class="btn btn-success" type="submit">Search</button>' in page
    assert re.search(r'<div id="instruction-text">\s*<h4>Instruction: <br>a sofa</h4>', page)
    page = visitor.act("search[sofa]").text
    assert 'id="search_input"' not in page
    assert re.search(r'class="product-link" name="click" value="s000000001">S000000001<', page)
    page = visitor.act("click[s000000001]").text
    assert re.search(r'<input type="radio" id="radio_wood0" name="click" value="rosewood">', page)
    assert re.search(r'class="btn purchase" name="click" value="buy now">Buy Now<', page)
    page = visitor.act("click[rosewood]").text
    assert re.search(r'value="rosewood" checked>', page)


def test_values_that_no_action_can_choose_cannot_be_chosen(visitor: Visitor) -> None:
    """Of equal values in two groups the last counts; brackets cannot be said."""
    visitor.open("0")
    visitor.act("search[lamp]")
    page = visitor.act("click[b000000000]").text
    assert re.search(r'value="large \[xl\]" disabled', page)
    visitor.act("click[back to search]")
    visitor.act("search[sofa]")
    page = visitor.act("click[s000000001]").text
    first, second = re.findall(r'<input type="radio" [^>]*value="same"[^>]*>', page)
    assert "disabled" in first
    assert "disabled" not in second


def test_every_field_and_picture_has_a_name_and_nothing_runs_inline(visitor: Visitor) -> None:
    visitor.open("1")
    pages = [visitor.get(visitor.url).text, *(visitor.act(a).text for a in WALK)]
    for page in pages:
        assert '<html lang="en">' in page
        assert len(re.findall(r"<h[1-5]", page)) >= 1
        for tag in re.findall(r"<input [^>]*>", page):
            radio_id = re.search(r'type="radio" id="([^"]*)"', tag)
            if radio_id:
                assert f'<label for="{radio_id[1]}">' in page
            else:
                assert "aria-label=" in tag or 'type="hidden"' in tag, tag
        assert not re.search(r"<script(?! src=)", page)
        assert not re.search(r"""\son\w+\s*=|style=["']|javascript:""", page)


def test_static_files(visitor: Visitor) -> None:
    for name in ("style.css", "shop.js", "icon.svg", "picture.svg", "search.svg"):
        answer = visitor.get(f"/static/{name}")
        assert answer.status_code == 200
        assert "no-store" not in answer.headers.get("cache-control", "")
    for name in ("../app.py", "%2e%2e/app.py", "..%2fviews.py", "nothing"):
        assert visitor.get(f"/static/{name}").status_code == 404


def test_pictures_only_when_asked_for(shop: Any) -> None:
    class Illustrated:
        def __init__(self) -> None:
            self.__dict__.update(vars(shop))

        def __getattr__(self, name: str) -> Any:
            return getattr(shop, name)

        def product(self, asin: str) -> Any:
            import dataclasses

            return dataclasses.replace(shop.product(asin), image='https://a.example/x".jpg')

    engine = WebShopEngine(Illustrated())
    for pictures in (False, True):
        visitor = Visitor(Visits(engine, tasks_of(shop)), SiteOptions(pictures=pictures))
        visitor.open()
        answer = visitor.act("search[lamp]")
        assert ("a.example" in answer.text) == pictures
        assert (" https:" in answer.headers["content-security-policy"]) == pictures


# What is refused


def problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    if status != 405:
        assert f'<p class="status">{status}</p>' in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/s/", 404),
        ("GET", "/s/unknown", 404),
        ("POST", "/s/unknown", 404),
        ("GET", "/s/unknown/more", 404),
        ("GET", "/s/%00%ff", 404),
        ("GET", "/?page=0", 404),
        ("GET", "/?page=2", 404),
        ("GET", "/?page=999999999999999999999", 400),
        ("GET", "/?page=-1", 400),
        ("GET", "/?page=one", 400),
        ("GET", "/?page=²", 400),
        ("POST", "/", 405),
        ("GET", "/start", 405),
        ("GET", "/next", 405),
        ("POST", "/start", 404),
        ("GET", "/?" + "q" * 10_000, 414),
        ("GET", "/s/" + "x" * 10_000, 414),
        ("POST", "/static/style.css", 405),
    ],
)
def test_addresses_that_lead_nowhere(player: Visitor, method: str, url: str, status: int) -> None:
    problem(player.request(method, url), status)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_methods(player: Visitor, method: str) -> None:
    player.open()
    problem(player.request(method, player.url), 405)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 400),
        ({"turn": "0"}, 400),
        ({"click": "search"}, 400),
        ({"turn": "x", "click": "search"}, 400),
        ({"turn": "-1", "click": "search"}, 400),
        ({"turn": "0", "click": "search", "search_query": "a"}, 400),
        ({"turn": "0", "click": "b000000001"}, 404),
        ({"turn": "0", "click": "buy now"}, 404),
        ({"turn": "0", "click": "x" * 5000}, 404),
        ({"turn": "1", "click": "search"}, 409),
        ({"turn": "0", "search_query": "a" * 10_000}, 413),
        ({"turn": "0", "search_query": "a" * 1_000_000}, 413),
        ({"turn": "0", "click": "x" * 1_000_000}, 413),
        ({f"field{i}": "x" for i in range(50)}, 400),
    ],
)
def test_forms_that_say_nothing(player: Visitor, form: dict[str, str], status: int) -> None:
    visit = player.open()
    problem(player.post(player.url, **form), status)
    assert player.visits.get(visit.id) == visit


def test_bodies_that_are_no_forms(player: Visitor) -> None:
    player.open()
    kinds = {"application/json": 415, "multipart/form-data; boundary=x": 415}
    for kind, status in kinds.items():
        answer = player.request("POST", player.url, content=b"{}", headers={"Content-Type": kind})
        problem(answer, status)
    odd = {"Content-Type": "application/x-www-form-urlencoded"}
    problem(player.request("POST", player.url, content=b"\xff\xfe", headers=odd), 400)


def test_an_empty_search_and_half_a_letter_do_nothing(player: Visitor) -> None:
    player.open()
    answer = player.post(player.url, turn="0", search_query="")
    assert "The shop did not understand that" in answer.text
    odd = {"Content-Type": "application/x-www-form-urlencoded"}
    content = b"turn=1&search_query=%ff%fe"
    assert player.request("POST", player.url, content=content, headers=odd).status_code == 200


def test_another_site_cannot_act(player: Visitor) -> None:
    visit = player.open()
    good = {"turn": "0", "search_query": "lamp"}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        problem(player.request("POST", player.url, data=good, headers=headers), 403)
        problem(player.request("POST", "/next", headers=headers), 403)
    problem(player.get(player.url, headers={"Host": "evil.example"}), 421)
    assert player.visits.get(visit.id) == visit
    assert len(player.visits) == 1
    own = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
    answer = player.request("POST", player.url, data=good, headers=own)
    assert answer.status_code == 200
    assert player.visits.get(visit.id).turn == 1


def test_a_link_or_reload_changes_nothing(player: Visitor) -> None:
    visit = player.open()
    for url in (player.url, f"{player.url}?click=search", f"{player.url}?search_query=lamp"):
        assert player.get(url).status_code == 200
        assert player.request("HEAD", url).status_code == 200
    assert player.visits.get(visit.id) == visit


def test_a_failure_of_ours_shows_no_trace(player: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    player.open()
    monkeypatch.setattr(player.visits, "act", lambda *_: 1 / 0)
    problem(player.act("search[lamp]"), 500)


def test_hosts_by_name(shop: Any) -> None:
    visits = Visits(WebShopEngine(shop), tasks_of(shop))
    local = Visitor(visits, SiteOptions(play=True))
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000"):
        assert local.get("/", headers={"Host": host}).status_code == 200
    for host in (
        "[::1].evil.example",
        "[::1]evil.example",
        "[::1",
        "localhost.evil.example",
        "localhost:80.evil.example",
        "localhost:x",
        "user@localhost",
        "127.0.0.1/",
        "127.0.0.1 ",
        "",
        "192.0.2.1",
    ):
        problem(local.get("/", headers={"Host": host}), 421)
    named = Visitor(visits, SiteOptions(play=True), hosts=("shop.example", ANY_ADDRESS))
    for host in ("shop.example:80", "192.0.2.1:8000", "[2001:db8::1]"):
        assert named.get("/", headers={"Host": host}).status_code == 200
    for host in (
        "evil.example",
        "192.0.2.1.evil.example",
        "[2001:db8::1].evil.example",
        "<address>",
    ):
        problem(named.get("/", headers={"Host": host}), 421)
    anyone = Visitor(visits, SiteOptions(play=True), hosts=("*",))
    assert anyone.get("/", headers={"Host": "shop.example"}).status_code == 200


# What is escaped


class EvilShop:
    """One product, all of whose texts are HTML."""

    def __init__(self, shop: Any) -> None:
        import dataclasses

        evil = dataclasses.replace(
            shop.product("S000000001"),
            asin=EVIL[:10],
            name=EVIL,
            description=EVIL,
            bullets=(EVIL,),
            price_tag=EVIL,
            options={EVIL: (EVIL.lower(),)},
            attributes=(EVIL,),
            category=EVIL,
            query=EVIL,
            product_category=EVIL,
            image=f"https://{EVIL}",
        )
        self._evil = evil
        self.asins = [evil.asin]
        self.goals = [Goal(0, evil.asin, EVIL, (EVIL,), (EVIL,), 10.0)]

    def product(self, asin: str) -> Any:
        return self._evil

    def price_usd(self, asin: str) -> float:
        return 1.0

    def search(self, text: str) -> list[str]:
        return self.asins

    in_category = of_query = search


def test_all_text_is_escaped(shop: Any) -> None:
    evil = EvilShop(shop)
    engine = WebShopEngine(evil, show_attrs=True)
    visitor = Visitor(
        Visits(engine, tasks_of(evil), max_steps=0), SiteOptions(play=True, pictures=True)
    )
    pages = [visitor.get("/").text]
    visit = visitor.open()
    session = visit.session
    pages.append(visitor.get(visitor.url).text)
    labels = [EVIL[:10].lower(), EVIL.lower(), "description", "< prev", "features", "< prev"]
    labels += ["attributes", "< prev", "buy now"]
    for action in [f"search[{EVIL}]", *(f"click[{label}]" for label in labels)]:
        outcome = engine.step(session, action)
        assert outcome.is_valid, action
        session = outcome.session
        pages.append(visitor.act(action).text)
        assert page_texts(pages[-1]) == engine.text(session).split(" [SEP] ")
    for page in pages:
        assert not re.search(r"<(script|img)(?! src=\"(/static|https://&lt;))", page), page
        assert "alert(" not in page.replace(html.escape(EVIL), "") or "&lt;" in page
    missing = visitor.get(f"/s/{EVIL}").text + visitor.get("/", params={"page": EVIL}).text
    assert "alert(1)" not in missing


# Sessions


def play(visitor: Visitor, engine: WebShopEngine) -> Visit:
    visit = visitor.visits.get(visitor.url.rpartition("/")[2])
    while not visit.end:
        visitor.act(next_action(engine, visit.session))
        visit = visitor.visits.get(visit.id)
    return visit


def test_play_from_the_list_to_the_verdict(player: Visitor) -> None:
    page = player.get("/")
    assert page.text.count('class="task"') == 2
    answer = player.post("/start", task="1")
    player.url = answer.url.path
    assert "Step 0 of 10" in answer.text
    visit = play(player, player.visits.engine)
    assert visit.end == "bought"
    page = player.get(player.url).text
    assert "The request" in page
    assert "oak frame" in page
    assert ("✗ missed" in page) == (visit.session.reward < 1.0)
    assert "1 finished so far" in player.get("/").text
    assert player.act("search[lamp]").status_code == 409
    assert player.post("/next").url.path != player.url


def test_what_was_missed_is_named(player: Visitor) -> None:
    player.open("0")
    for action in ("search[lamp]", "click[b000000000]", "click[black]", "click[buy now]"):
        page = player.act(action).text
    lines = re.findall(r'<tr class="(met|missed)">\s*<th scope="row">(.*?)</th>\s*<td>(.*?)<', page)
    assert lines == [
        ("met", "Product", "the requested kind of product"),
        ("met", "Attribute", "easy clean"),
        ("missed", "Option", "red"),
        ("missed", "Option", "small"),
        ("met", "Price", "at most $20.00 (it cost $12.50)"),
    ]
    assert "<pre>0.5</pre>" in page


def test_out_of_steps(player: Visitor) -> None:
    player.open("0")
    for number in range(10):
        page = player.act(f"search[lamp {number}]").text
    assert "That was the last step" in page
    assert page.count("✗ missed") == 5
    assert player.act("search[lamp]").status_code == 409


def test_the_next_task_is_the_one_begun_least_often(player: Visitor) -> None:
    visits = player.visits
    assert [visits.open_next().task.id for _ in range(5)] == ["0", "1", "0", "1", "0"]
    assert [visits.open("0").number, visits.open("1").number] == [3, 2]


def test_ids_are_long_and_all_different(player: Visitor) -> None:
    ids = {player.visits.open("0").id for _ in range(200)}
    assert len(ids) == 200
    assert min(map(len, ids)) >= 22  # 128 bits


def test_old_visits_are_forgotten(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eto_envs.webshop.site.sessions.MAX_VISITS", 3)
    visits = Visits(WebShopEngine(shop), tasks_of(shop))
    ids = [visits.open("0").id for _ in range(5)]
    assert len(visits) == 3
    with pytest.raises(KeyError):
        visits.get(ids[0])
    assert visits.get(ids[-1]).turn == 0


def test_open_visits_come_back(shop: Any, tmp_path: Path) -> None:
    journal = tmp_path / "sessions.jsonl"
    ended: list[Visit] = []

    def open_site() -> Visits:
        return Visits(WebShopEngine(shop), tasks_of(shop), on_end=ended.append, journal=journal)

    visits = open_site()
    first, second = visits.open("0"), visits.open("0")
    first = visits.act(first.id, 0, "search[<r>]")
    first = visits.act(first.id, 1, "click[next >]")
    for turn, action in enumerate(("search[lamp]", "click[b000000000]", "click[buy now]")):
        second = visits.act(second.id, turn, action)
    visits.close()
    with journal.open("a") as file:
        file.write('{"visit": "half a li')  # a kill in the middle of a line
    again = open_site()
    assert again.get(first.id) == first
    assert [visit.id for visit in ended] == [second.id]
    with pytest.raises(KeyError):
        again.get(second.id)
    assert again.open("0").number == 1  # the ended visit is counted by who keeps the records
    again.close()
    journal.write_text("no journal\n")
    with pytest.raises(CorruptDataError, match=r"sessions\.jsonl, line 1"):
        open_site()


def test_a_kill_before_the_end_was_noted_ends_the_visit_at_the_next_start(
    shop: Any, tmp_path: Path
) -> None:
    journal = tmp_path / "sessions.jsonl"
    killed = tmp_path / "killed.jsonl"  # what a process leaves that is killed in `on_end`
    ended: list[Visit] = []
    visits = Visits(
        WebShopEngine(shop),
        tasks_of(shop),
        on_end=lambda _: killed.write_bytes(journal.read_bytes()) and None,
        journal=journal,
    )
    visit = visits.open("0")
    visit = visits.act(visit.id, 0, "search[lamp]")
    visit = visits.act(visit.id, 1, "click[b000000000]")
    visits.act(visit.id, 2, "click[buy now]")
    visits.close()
    journal = killed.replace(journal)
    again = Visits(WebShopEngine(shop), tasks_of(shop), on_end=ended.append, journal=journal)
    assert [(t.id, t.end, t.turn) for t in ended] == [(visit.id, "bought", 3)]
    again.close()
    assert [json.loads(line) for line in journal.read_text().splitlines()] == []


class Full:
    """An `os.write` on a full disk: it writes half of what it should, and then nothing."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.is_full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: Any) -> int:
        if not self.is_full:
            return int(self.file.write(content))
        if len(content) > 20:
            return int(self.file.write(content[: len(content) // 2]))
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_action_that_was_answered_with_an_error_leaves_no_trace(
    shop: Any, tmp_path: Path
) -> None:
    journal = tmp_path / "sessions.jsonl"
    ended: list[Visit] = []

    def open_site() -> Visitor:
        visits = Visits(WebShopEngine(shop), tasks_of(shop), on_end=ended.append, journal=journal)
        return Visitor(visits, SiteOptions(play=True))

    player = open_site()
    visit = player.open("0")
    player.act("search[lamp]")
    player.act("click[b000000000]")
    before = player.visits.get(visit.id)
    assert player.visits._journal is not None
    disk = Full(player.visits._journal._file)
    player.visits._journal._file = disk  # type: ignore[assignment]
    content = journal.read_bytes()
    for action in ("click[description]", "search[lamp]", "click[buy now]", "click[features]"):
        page = player.act(action)
        problem(page, 503)
        assert "nothing has changed" in page.text
    problem(player.post("/start", task="0"), 503)
    problem(player.post("/next"), 503)
    assert player.visits.get(visit.id) == before
    assert journal.read_bytes() == content
    disk.is_full = False
    again = open_site()  # after a kill: nothing was flushed late
    assert again.visits.get(visit.id) == before
    assert again.visits.open("0").number == 1
    assert ended == []
    again.visits.close()
    assert player.act("click[description]").status_code == 200
    player.visits.close()


def test_a_purchase_that_cannot_be_recorded_has_not_happened(shop: Any, tmp_path: Path) -> None:
    journal = tmp_path / "sessions.jsonl"

    def full(visit: Visit) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    visits = Visits(WebShopEngine(shop), tasks_of(shop), on_end=full, journal=journal)
    visit = visits.open("0")
    visit = visits.act(visit.id, 0, "search[lamp]")
    visit = visits.act(visit.id, 1, "click[b000000000]")
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            visits.act(visit.id, 2, "click[buy now]")
    assert visits.get(visit.id) == visit  # not ended, and can be tried again
    visits.close()
    ended: list[Visit] = []
    again = Visits(WebShopEngine(shop), tasks_of(shop), on_end=ended.append, journal=journal)
    assert (again.get(visit.id), ended) == (visit, [])
    again.act(visit.id, 2, "click[buy now]")
    assert [visit.end for visit in ended] == ["bought"]
    again.close()


def test_open_sessions_are_not_pushed_out(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eto_envs.webshop.site.sessions.MAX_VISITS", 5)
    visits = Visits(WebShopEngine(shop), tasks_of(shop))
    in_use = visits.open("0", "flood")
    visits.act(in_use.id, 0, "search[lamp]")
    begun = visits.open("0", "someone else")
    for _ in range(20):
        visits.open("0", "flood")
    assert visits.get(in_use.id).turn == 1
    assert visits.get(begun.id) == begun
    assert len(visits) == 5


def test_sessions_in_use_are_kept_and_those_left_for_a_day_are_not(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eto_envs.webshop.site.sessions.MAX_VISITS", 2)
    visits = Visits(WebShopEngine(shop), tasks_of(shop), max_steps=2)
    player = Visitor(visits, SiteOptions(play=True))
    first, second = visits.open("0"), visits.open("1")
    for visit in (first, second):
        visits.act(visit.id, 0, "search[lamp]")
    page = player.post("/next")
    problem(page, 503)
    assert "Too many sessions" in page.text
    assert visits.get(first.id).turn == visits.get(second.id).turn == 1
    visits.act(second.id, 1, "search[lamp]")
    third = visits.open("0")  # in place of the one that has ended
    visits.act(third.id, 0, "search[lamp]")
    with pytest.raises(KeyError):
        visits.get(second.id)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 90_000)
    visits.open("1")
    with pytest.raises(KeyError):
        visits.get(first.id)
    assert visits.get(third.id).turn == 1


def test_time_does_not_go_back_in_records(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = iter([1000.0, 900.0, 1100.0, 1050.0])
    visits = Visits(WebShopEngine(shop), tasks_of(shop))
    monkeypatch.setattr(time, "time", lambda: next(clock_s))
    visit = visits.open("0")
    for turn in range(3):
        visit = visits.act(visit.id, turn, "search[lamp]")
    assert [step.time_s for step in visit.steps] == [1000.0, 1100.0, 1100.0]


OPENING = {"id": "a", "task": "0", "number": 0, "started_s": 1.0}


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"open": {"id": "a", "task": "0"}}),
        json.dumps({"open": OPENING | {"number": "0"}}),
        json.dumps({"open": OPENING | {"started_s": None}}),
        json.dumps({"open": OPENING | {"started_s": float("nan")}}),
        json.dumps({"open": OPENING | {"task": 0}}),
        json.dumps({"open": [1]}),
        json.dumps({"visit": "b", "action": 3, "time_s": 1.0}),
        json.dumps({"visit": "b", "action": "search[x]", "time_s": "1"}),
        json.dumps({"end": []}),
        "[" * 100_000,
        "3",
    ],
)
def test_a_damaged_journal_is_named(shop: Any, tmp_path: Path, line: str) -> None:
    journal = tmp_path / "sessions.jsonl"
    journal.write_text(json.dumps({"open": OPENING | {"id": "b"}}) + f"\n{line}\n")
    with pytest.raises(CorruptDataError, match=r"sessions\.jsonl, line 2"):
        Visits(WebShopEngine(shop), tasks_of(shop), journal=journal)


def test_a_client_that_breaks_off_is_no_failure(
    mini_server: tuple[Visits, str], capfd: pytest.CaptureFixture[str]
) -> None:
    visits, url = mini_server
    visit = visits.open_next()
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /s/{visit.id} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nturn=0"
    for _ in range(3):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode())
    assert httpx.get(f"{url}/s/{visit.id}").status_code == 200
    assert visits.get(visit.id) == visit
    time.sleep(0.2)  # for the server to notice
    assert "Traceback" not in capfd.readouterr().err


# Many at once


@pytest.fixture
def mini_server() -> Iterator[tuple[Visits, str]]:
    from eto_envs.webshop.env import WebShopEnv

    env = WebShopEnv("all", dataset="mini")
    visits = Visits(env._engine, env.tasks)
    with ThreadedServer(make_app(visits, SiteOptions(play=True))) as server:
        yield visits, server.url


class Person:
    """A connection of its own; `httpx` takes most of a minute to share 200 among 200."""

    def __init__(self, url: str) -> None:
        self.host, self.port = url.removeprefix("http://").split(":")

    async def __aenter__(self) -> Person:
        self.reader, self.writer = await asyncio.open_connection(self.host, int(self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def post(self, path: str, form: dict[str, str]) -> tuple[str, str]:
        """Post a form and follow the redirection; where it led, and the page there."""
        status, location, _ = await self._ask("POST", path, urlencode(form))
        assert status == 303
        status, _, page = await self._ask("GET", location, "")
        assert status == 200
        return location, page

    async def _ask(self, method: str, path: str, body: str) -> tuple[int, str, str]:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n"
        kind = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        self.writer.write((head + kind + body).encode())
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in answer[1:] if line)
        page = await self.reader.readexactly(int(headers["content-length"]))
        return int(answer[0].split()[1]), headers.get("location", ""), page.decode()


def test_two_hundred_people_at_once(mini_server: tuple[Visits, str]) -> None:
    """Over real sockets: everyone sees their own instruction and gets their own reward."""
    visits, url = mini_server
    engine = visits.engine

    async def shop_alone(task_id: str) -> str:
        goal = visits.tasks.find(task_id).goal
        async with Person(url) as person:
            address, page = await person.post("/start", {"task": task_id})
            session, turn, ended = engine.start(int(task_id)), 0, False
            while not ended:
                assert page_texts(page) == engine.text(session).split(" [SEP] ")
                assert goal in html.unescape(page)
                action = next_action(engine, session)
                _, page = await person.post(address, fields(turn, action))
                outcome = engine.step(session, action)
                session, turn, ended = outcome.session, turn + 1, outcome.done
            assert "<pre>1.0</pre>" in page
            assert goal in html.unescape(page)
            return address

    async def shop_together() -> list[str]:
        return await asyncio.gather(*(shop_alone(str(number)) for number in range(200)))

    assert len(set(asyncio.run(shop_together()))) == 200
    assert sum(visits.finished.values()) == 200


def test_no_visit_is_reached_from_another(player: Visitor) -> None:
    one = player.open("0")
    player.act("search[lamp]")
    page = player.get(player.url).text
    two = player.visits.open("1")
    assert two.id not in page
    assert one.id not in page  # nor its own: forms lead to where they are
    for guess in (one.id[:-1], one.id + "x", one.id.swapcase(), "../" + one.id, ""):
        assert player.get(f"/s/{guess}").status_code == 404
    assert player.visits.get(two.id) == two


# The server


def test_a_taken_port_is_a_clear_error(mini_server: tuple[Visits, str]) -> None:
    port = int(mini_server[1].rpartition(":")[2])
    with pytest.raises(BackendError, match=f"cannot listen on 127.0.0.1, port {port}"):
        listen("127.0.0.1", port)
    with pytest.raises(BackendError, match="cannot listen"):
        listen("no.such.host.invalid", 0)


def test_answers_are_not_delayed(mini_server: tuple[Visits, str]) -> None:
    """Nagle's algorithm with delayed acknowledgements costs 40 ms an answer."""
    import time

    visits, url = mini_server
    with httpx.Client(base_url=url) as client:
        address = f"/s/{visits.open('0').id}"

        def answer_s() -> float:
            start_s = time.perf_counter()
            client.get(address)
            return time.perf_counter() - start_s

        # One quick answer is enough, on however busy a machine: a delay would be in all of them.
        assert any(answer_s() < 0.03 for _ in range(500))


def test_a_closed_server_is_gone(shop: Any) -> None:
    server = ThreadedServer(make_app(Visits(WebShopEngine(shop), tasks_of(shop))))
    assert httpx.get(f"{server.url}/s/none").status_code == 404
    server.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
