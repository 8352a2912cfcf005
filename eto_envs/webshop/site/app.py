"""The site over HTTP: a Starlette application over `Trips`.

| address | method | what |
|---|---|---|
| `/s/<trip>` | GET | the trip's present page |
| `/s/<trip>` | POST | an action on it (``search_query=…`` or ``click=…``), then the page again |
| `/` | GET | the list of tasks |
| `/start`, `/next` | POST | begin the trip of a task, or of the next task that nobody finished |
| `/static/…` | GET | style, script, drawings |

Everything that changes something is a POST: nothing happens to a trip by a link, a preview or a
reload. A trip's unguessable address is all that gives access to it; there are no cookies for
another site to ride on, and a POST that a browser says another site has sent is refused. A form
names the page it stands on (``turn``), so a double click or a second window cannot act twice. Not
here: what pages show (`views`), rules (`eto_envs.webshop.engine`), and serving (`server`).
"""

from __future__ import annotations

import http
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eto_envs.errors import EpisodeEndedError, UnknownNameError
from eto_envs.webshop.site.sessions import StalePageError, Trip, Trips
from eto_envs.webshop.site.views import Look, error_page, task_list, trip_page

logger = logging.getLogger(__name__)

MAX_TARGET_BYTES = 2048
N_FORM_FIELDS = 8
#: A character takes at most 4 bytes, and each of those 3 characters of a form.
FORM_BYTES_PER_CHAR = 12
FORM_OVERHEAD_BYTES = 1024
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'{pictures};"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def make_app(
    trips: Trips, look: Look | None = None, *, hosts: Sequence[str] = LOCAL_HOSTS
) -> ASGIApp:
    """The site as an ASGI application.

    Args:
        trips: the open trips, and with them the shop and its tasks.
        look: how it looks; with `Look.play`, there is also a list of tasks.
        hosts: the host names that it answers to (against DNS rebinding); ``"*"`` for any.
    """
    site = _Site(trips, look or Look())
    routes: list[BaseRoute] = [
        Route("/s/{trip_id}", site.trip, methods=["GET", "POST"]),
        Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))),
    ]
    if site.look.play:
        routes += [
            Route("/", site.tasks, methods=["GET"]),
            Route("/start", site.start, methods=["POST"]),
            Route("/next", site.next, methods=["POST"]),
        ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: site.refuse, Exception: site.fail},
    )
    return _Guard(app, site.look, tuple(hosts))  # around all: the page of a failure has headers too


class _Site:
    """The pages, as Starlette's endpoints."""

    def __init__(self, trips: Trips, look: Look) -> None:
        self.trips = trips
        self.look = look

    async def trip(self, request: Request) -> Response:
        """Show a trip's present page, or act on it."""
        trip = self._find(request)
        if request.method != "POST":
            return HTMLResponse(trip_page(self.trips, trip, self.look))
        form = await self._form(request)
        action = self._action(trip, form)
        try:
            self.trips.act(trip.id, _turn(form), action)
        except EpisodeEndedError:
            raise HTTPException(409, "This shopping trip is over.") from None
        except StalePageError:
            raise HTTPException(
                409, "You used a page that you have left since. Reload to see where you are."
            ) from None
        return RedirectResponse(request.url.path, 303)

    async def tasks(self, request: Request) -> Response:
        """Show the list of tasks."""
        number = request.query_params.get("page", "1")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise HTTPException(400, "A page is named by its number.")
        try:
            text = task_list(self.trips, int(number), self.trips.finished, self.look)
        except IndexError as error:
            raise HTTPException(404, f"There is no such page: {error}.") from None
        return HTMLResponse(text)

    async def start(self, request: Request) -> Response:
        """Begin the trip of a task."""
        form = await self._form(request)
        try:
            trip = self.trips.open(form.get("task", ""))
        except UnknownNameError:
            raise HTTPException(404, "There is no such task.") from None
        return RedirectResponse(f"/s/{trip.id}", 303)

    async def next(self, request: Request) -> Response:
        """Begin the trip of the next task: of those begun least often, the first."""
        return RedirectResponse(f"/s/{self.trips.open_next().id}", 303)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """The page of a request that cannot be served."""
        if not isinstance(error, HTTPException):
            raise error
        status, detail = error.status_code, error.detail
        reason = http.HTTPStatus(status).phrase
        if detail == reason:  # Starlette's own: no route, or no such method
            detail = {
                404: "There is nothing at this address.",
                405: "This address cannot be used in this way.",
            }.get(status, "")
        page = error_page(status, reason, detail, self.look)
        return HTMLResponse(page, status, headers=dict(error.headers or {}))

    async def fail(self, request: Request, error: Exception) -> Response:
        """The page of a failure that is ours; Starlette then hands it to the server's log."""
        page = error_page(500, "Internal Server Error", "Something failed here.", self.look)
        return HTMLResponse(page, 500)

    def _find(self, request: Request) -> Trip:
        try:
            return self.trips.get(request.path_params["trip_id"])
        except KeyError:
            raise HTTPException(
                404, "There is no such shopping trip. It may be over and saved."
            ) from None

    def _action(self, trip: Trip, form: dict[str, str]) -> str:
        """The action that a form stands for."""
        query, label = form.get("search_query"), form.get("click")
        if (query is None) == (label is None):
            raise HTTPException(400, "A form says search_query or click.")
        if query is not None:
            if len(query) > self.look.max_query_chars:
                raise HTTPException(
                    413,
                    f"The search text has {len(query)} characters; at most "
                    f"{self.look.max_query_chars} are allowed.",
                )
            return f"search[{query}]"
        # An old page may well have had this button: `act` then says what is wrong.
        is_present = _turn(form) == trip.turn and not trip.end
        if is_present and str(label).lower() not in self.trips.engine.clickables(trip.session):
            raise HTTPException(404, "There is no such product, option or button on the page.")
        return f"click[{label}]"

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form; a field that comes twice counts as its last."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in (
            "",
            "application/x-www-form-urlencoded",
        ):
            raise HTTPException(415, "Forms come as application/x-www-form-urlencoded.")
        limit = FORM_OVERHEAD_BYTES + self.look.max_query_chars * FORM_BYTES_PER_CHAR
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise HTTPException(413, f"The form is too long; the limit is {limit} bytes.")
        try:
            pairs = parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                errors="replace",
                max_num_fields=N_FORM_FIELDS,
            )
        except ValueError:
            raise HTTPException(400, "This is no form of this site.") from None
        return dict(pairs)


def _turn(form: dict[str, str]) -> int:
    turn = form.get("turn", "")
    if not (turn.isascii() and turn.isdigit() and len(turn) < 10):
        raise HTTPException(400, "The form does not say which page it stands on.")
    return int(turn)


class _Guard:
    """Adds headers to every answer, and refuses what needs no look at the request's body."""

    def __init__(self, app: ASGIApp, look: Look, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._look = look
        self._hosts = hosts
        pictures = " https:" if look.pictures else ""
        self._headers = {name: text.format(pictures=pictures) for name, text in HEADERS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                if not scope["path"].startswith("/static/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope)
        app = self._app if refusal is None else refusal
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            return self._page(414, "The address is too long.")
        headers = Headers(scope=scope)
        name = headers.get("host", "").lower()
        name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
        if "*" not in self._hosts and name not in self._hosts:
            return self._page(421, "This site does not go by that name.")
        if scope["method"] == "POST" and not _is_from_here(headers):
            return self._page(403, "This form was sent from another site.")
        return None

    def _page(self, status: int, detail: str) -> Response:
        reason = http.HTTPStatus(status).phrase
        return HTMLResponse(error_page(status, reason, detail, self._look), status)


def _is_from_here(headers: Headers) -> bool:
    """Whether a POST comes from this site, as far as the browser says; programs say nothing."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
