"""Serving the site: in a thread of this process on a free loopback port, or until interrupted."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from types import TracebackType
from typing import Any

from eto_envs.errors import BackendError, require

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


def _server(app: Any, log_level: str) -> Any:
    uvicorn = require("uvicorn", extra="browser")
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=600,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: the name or address to bind to.
        port: the port; 0 for any free port.

    Raises:
        BackendError: the port is taken, or the host is not this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio only disables Nagle's algorithm if the protocol is specified; otherwise every
        # response is delayed by 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, OverflowError) as error:
        raise BackendError(f"cannot listen on {host}, port {port}: {error}") from error
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise BackendError(f"cannot listen on {host}, port {port}: {error}") from error
    return listener


def serve(app: Any, listener: socket.socket) -> None:
    """Serve an application until SIGINT or SIGTERM."""
    _server(app, "warning").run(sockets=[listener])


class ThreadedServer:
    """An application served from a thread, on a free loopback port.

    Attributes:
        url: such as ``"http://127.0.0.1:40123"``.
    """

    def __init__(self, app: Any) -> None:
        """Start the server.

        Raises:
            BackendError: the server does not start.
            MissingExtraError: uvicorn is not installed.
        """
        self._server = _server(app, "error")
        self._listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="webshop-site", daemon=True)
        self._started = threading.Event()
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            self.close()
            raise BackendError(f"the site did not start within {START_TIMEOUT_S:g} s")

    def _run(self) -> None:
        # The socket is already listening: a browser that connects early waits and is not rejected.
        self._started.set()
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def close(self) -> None:
        """Stop the server and wait for the thread."""
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._listener.close()

    def __enter__(self) -> ThreadedServer:
        """The server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.close()
