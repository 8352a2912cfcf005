"""The site over HTTP: a Starlette application over `Visits`.

| address | method | what |
|---|---|---|
| `/s/<visit>` | GET | the current page of the visit |
| `/s/<visit>` | POST | an action on it (``search_query=…`` or ``click=…``), then the new page |
| `/` | GET | the list of tasks |
| `/start`, `/next` | POST | begin a visit with a task, or with the task begun least often |
| `/static/…` | GET | style, script, images |

Everything that changes something is a POST, so links, previews and reloads have no effect on a
visit. The unguessable URL of a visit is all that is required to access it. There are no cookies
that another site could exploit, and a POST is rejected if the browser says that another site has
sent it. A form contains the page it belongs to (``turn``), so a double click or a second window
cannot act twice. Not here: the content of pages (`views`), the rules (`eto_envs.webshop.engine`),
and serving (`server`).
"""

from __future__ import annotations

import http
import ipaddress
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eto_envs.errors import EpisodeEndedError, UnknownNameError
from eto_envs.webshop.site.sessions import StalePageError, TooManyVisitsError, Visit, Visits
from eto_envs.webshop.site.views import SiteOptions, error_page, task_list, visit_page

logger = logging.getLogger(__name__)

MAX_TARGET_BYTES = 2048
N_FORM_FIELDS = 8
#: A character takes at most 4 bytes, each of which takes 3 characters in a form.
FORM_BYTES_PER_CHAR = 12
FORM_OVERHEAD_BYTES = 1024
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
ANY_ADDRESS = "<address>"
"""Stands for any IP address in place of a name. A page of another site that has rebound its name to
this machine (DNS rebinding) cannot send an address, because browsers send the name."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]*)?")

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
    visits: Visits, options: SiteOptions | None = None, *, hosts: Sequence[str] = LOCAL_HOSTS
) -> ASGIApp:
    """The site as an ASGI application.

    Args:
        visits: the visits, including the shop and its tasks.
        options: appearance and limits; with `SiteOptions.play`, there is also a list of tasks.
        hosts: the accepted host names (as a protection against DNS rebinding); `ANY_ADDRESS` for
            IP addresses, ``"*"`` for everything.
    """
    site = _Site(visits, options or SiteOptions())
    routes: list[BaseRoute] = [
        Route("/s/{visit_id}", site.visit, methods=["GET", "POST"]),
        Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))),
    ]
    if site.options.play:
        routes += [
            Route("/", site.tasks, methods=["GET"]),
            Route("/start", site.start, methods=["POST"]),
            Route("/next", site.next, methods=["POST"]),
        ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: site.refuse, Exception: site.fail},
    )
    return _Guard(app, site.options, tuple(hosts))  # outermost: error pages get the headers, too


class _Site:
    """The endpoints of the site."""

    def __init__(self, visits: Visits, options: SiteOptions) -> None:
        self.visits = visits
        self.options = options

    async def visit(self, request: Request) -> Response:
        """Show the current page of a visit, or act on it."""
        visit = self._find(request)
        if request.method != "POST":
            return HTMLResponse(visit_page(self.visits, visit, self.options))
        form = await self._form(request)
        action = self._action(visit, form)
        try:
            _saved(lambda: self.visits.act(visit.id, _turn(form), action))
        except EpisodeEndedError:
            raise HTTPException(409, "This session is over.") from None
        except StalePageError:
            raise HTTPException(
                409, "You have already left this page. Reload it to see the current one."
            ) from None
        return RedirectResponse(request.url.path, 303)

    async def tasks(self, request: Request) -> Response:
        """Show the list of tasks."""
        number = request.query_params.get("page", "1")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise HTTPException(400, "The page must be a number.")
        try:
            text = task_list(self.visits, int(number), self.visits.finished, self.options)
        except IndexError as error:
            raise HTTPException(404, f"There is no such page: {error}.") from None
        return HTMLResponse(text)

    async def start(self, request: Request) -> Response:
        """Begin a visit with a task."""
        form = await self._form(request)
        try:
            visit = _saved(lambda: self.visits.open(form.get("task", ""), _client(request)))
        except UnknownNameError:
            raise HTTPException(404, "There is no such task.") from None
        return RedirectResponse(f"/s/{visit.id}", 303)

    async def next(self, request: Request) -> Response:
        """Begin a visit with the next task: the first of those that were begun least often."""
        visit = _saved(lambda: self.visits.open_next(_client(request)))
        return RedirectResponse(f"/s/{visit.id}", 303)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """The page for a request that is rejected."""
        if not isinstance(error, HTTPException):
            raise error
        status, detail = error.status_code, error.detail
        reason = http.HTTPStatus(status).phrase
        if detail == reason:  # raised by Starlette itself: there is no such route or method
            detail = {
                404: "There is nothing at this address.",
                405: "This address does not support this method.",
            }.get(status, "")
        page = error_page(status, reason, detail, self.options)
        return HTMLResponse(page, status, headers=dict(error.headers or {}))

    async def fail(self, request: Request, error: Exception) -> Response:
        """The page for an internal error, which Starlette then logs."""
        page = error_page(500, "Internal Server Error", "Something went wrong.", self.options)
        return HTMLResponse(page, 500)

    def _find(self, request: Request) -> Visit:
        try:
            return self.visits.get(request.path_params["visit_id"])
        except KeyError:
            raise HTTPException(
                404, "There is no such session. It may be over and saved."
            ) from None

    def _action(self, visit: Visit, form: dict[str, str]) -> str:
        """The action that a form represents."""
        query, label = form.get("search_query"), form.get("click")
        if (query is None) == (label is None):
            raise HTTPException(400, "A form must contain either search_query or click.")
        if query is not None:
            if len(query) > self.options.max_query_chars:
                raise HTTPException(
                    413,
                    f"The search text has {len(query)} characters; at most "
                    f"{self.options.max_query_chars} are allowed.",
                )
            return f"search[{query}]"
        # An earlier page may well have had this button; `act` then raises the right error.
        is_present = _turn(form) == visit.turn and not visit.end
        if is_present and str(label).lower() not in self.visits.engine.clickables(visit.session):
            raise HTTPException(404, "There is no such product, option or button on the page.")
        return f"click[{label}]"

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form; of a repeated field, the last value counts."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in (
            "",
            "application/x-www-form-urlencoded",
        ):
            raise HTTPException(415, "Forms must be application/x-www-form-urlencoded.")
        limit = FORM_OVERHEAD_BYTES + self.options.max_query_chars * FORM_BYTES_PER_CHAR
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
            raise HTTPException(400, "This is not a form of this site.") from None
        return dict(pairs)


def _saved(work: Callable[[], Visit]) -> Visit:
    """Begin or continue a visit; answer with a page if it cannot be saved or there is no room."""
    try:
        return work()
    except OSError as error:
        logger.error("a session cannot be saved: %s", error)
        raise HTTPException(
            503, "This could not be saved, and nothing has changed. Try again later."
        ) from None
    except TooManyVisitsError:
        raise HTTPException(503, "Too many sessions are open. Try again later.") from None


def _client(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _turn(form: dict[str, str]) -> int:
    turn = form.get("turn", "")
    if not (turn.isascii() and turn.isdigit() and len(turn) < 10):
        raise HTTPException(400, "The form does not say to which page it belongs.")
    return int(turn)


class _Guard:
    """Adds headers to every response, and rejects requests by their address and headers."""

    def __init__(self, app: ASGIApp, options: SiteOptions, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._options = options
        self._hosts = hosts
        pictures = " https:" if options.pictures else ""
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
        try:
            await app(scope, receive, send_with_headers)
        except ClientDisconnect:
            logger.info("a client broke off its request")

    def _refusal(self, scope: Scope) -> Response | None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            return self._page(414, "The address is too long.")
        headers = Headers(scope=scope)
        if not self._is_accepted(host_name(headers.get("host", ""))):
            return self._page(421, "This site does not have that name.")
        if scope["method"] == "POST" and not _is_same_origin(headers):
            return self._page(403, "This form was sent from another site.")
        return None

    def _is_accepted(self, name: str) -> bool:
        if "*" in self._hosts or name in self._hosts:
            return True
        return ANY_ADDRESS in self._hosts and _is_address(name)

    def _page(self, status: int, detail: str) -> Response:
        reason = http.HTTPStatus(status).phrase
        return HTMLResponse(error_page(status, reason, detail, self._options), status)


def host_name(header: str) -> str:
    """The host in a ``Host`` header, without the port; empty if it is malformed."""
    match = _HOST.fullmatch(header.lower())
    return match[1] if match else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_same_origin(headers: Headers) -> bool:
    """Whether a POST comes from this site, according to headers that only browsers send."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
