"""Runs the page: uvicorn in this process, one of it, ended by SIGTERM or SIGINT once its requests are done."""

import asyncio
import contextlib
import errno
import signal
import socket
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.page.settings import Settings

HEADER_SECONDS = 20.0
"""For the first line and the headers of a request to arrive."""

ABORT = "ladnn.abort"
"""The extension of the ASGI scope that ends the connection without waiting for the client."""

_MOST_HEADER_BYTES = 2**15
_KEEP_ALIVE_SECONDS = 15


class PageProtocol(H11Protocol):
    """HTTP/1.1 that waits for a request's headers only so long, from the opening of the connection on.

    uvicorn alone waits for them for ever, so that a few hundred connections that say nothing would shut out
    everybody else.
    """

    header_seconds = HEADER_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begins to wait."""
        super().connection_made(transport)
        self._wait_or_not()

    def data_received(self, data: bytes) -> None:
        """Ends waiting, if these are the last bytes of the headers."""
        super().data_received(data)
        self._wait_or_not()

    def handle_events(self) -> None:
        """Gives each request, which begins after this, the means to end its connection."""
        super().handle_events()
        if self.scope is not None:
            self.scope["extensions"] = {ABORT: self.transport.abort}

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_or_not(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_waiting()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def config_of(app: ASGIApp, settings: Settings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves the page.

    Args:
        app: of `create_app`.
        settings: where and how.
        options: of `uvicorn.Config`, such as `ssl_certfile` and `ssl_keyfile`.
    """
    return uvicorn.Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        http=PageProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would hold addresses beyond the audit log's
        proxy_headers=False,  # `access.py` reads them, from trusted proxies alone
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.stop_seconds),
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        **options,
    )


def serve(config: uvicorn.Config) -> None:
    """Serves until SIGTERM or SIGINT, then lets the requests that are there finish.

    Raises:
        ValueError: naming the flag, if another program listens on the port.
        SystemExit: with status 1 if it cannot listen for another reason, which uvicorn has logged then.
    """
    _check_port_is_free(config.host, config.port)
    # uvicorn raises the signal that ended it again, when it has ended; without this the process would end by it
    # there, and nothing could be closed.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_port_is_free(host: str, port: int) -> None:
    with contextlib.suppress(socket.gaierror):  # uvicorn says so
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                with socket.socket(family, kind, protocol) as tried:
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio, here and below
                    if family == socket.AF_INET6:
                        tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    tried.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise ValueError(
                        f"port {port} of {host} is in use by another program, perhaps by another page like this "
                        "one; end that, or give another port by --port"
                    ) from error
