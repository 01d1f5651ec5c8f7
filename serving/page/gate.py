"""The gate: every request passes it on its way in and out.

On the way in: who asks and may they (`access.py`), how much may they send (`body_limits.py`). On the way out: the
audit log, the security headers, the metrics, and a page or JSON for every error, whatever raised it.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.clients.errors import Overloaded, ServingError, TimedOut, Unavailable
from serving.page.access import STATIC, Access, WrongTokenError
from serving.page.audit_log import AuditLog, AuditLogError
from serving.page.body_limits import Arriving, Leaving, UploadRoom
from serving.page.errors import PageError, try_later
from serving.page.model_now import ModelNow
from serving.page.monitoring import OTHER, Metrics
from serving.page.pages import Pages
from serving.page.server import ABORT
from serving.page.settings import MEGABYTE, Settings

CLIENT_GONE = 499
"""The status of a request whose client went away before there was an answer, in metrics and audit log."""

UPLOADS = ("/diagnose", "/contribute")
"""The paths that take files."""

_FLAGS = {
    "request_too_large": "--max_request_mb",
    "too_many_files": "--max_images, --max_slices",
    "too_many_images": "--max_images",
    "too_many_dicom": "--max_slices",
    "too_many_slices": "--max_slices",
}
"""By which flags the operator allows more, of refusals that say only that it is too much."""

_SMALL_BODY = 2**14  # bytes of a form without files
_SMALL_BODY_SECONDS = 20.0
_STRANGER_SECONDS = 2.0  # for which the body of a refused stranger is read on
_SERVER_BACK_SECONDS = 5.0

logger = logging.getLogger("ladnn_tf.serving")


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind the gate.
        settings: of the page.
        routes: the paths that there are, as the metrics call them.
        access, audit, metrics, model, pages: of the page.
        clock: tells seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        routes: Collection[str],
        access: Access,
        audit: AuditLog,
        metrics: Metrics,
        model: ModelNow,
        pages: Pages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._settings = settings
        self._routes = frozenset(routes)
        self._access = access
        self._audit = audit
        self._metrics = metrics
        self._model = model
        self._pages = pages
        self._clock = clock
        self._room = UploadRoom(settings.upload_memory_mb * MEGABYTE, settings.max_uploads)
        metrics.watch(
            "ladnn_page_upload_bytes", "Bytes of uploads in memory, as reserved", lambda: self._room.used
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass, or answers it in place of what is behind the gate."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._clock()
        request = Request(scope)
        request.state.id = secrets.token_hex(8)
        request.state.begun = begun
        request.state.caller = None
        request.state.noted = None
        request.state.note = functools.partial(self._note, request)
        is_upload = self._is_upload(request)
        most_bytes = self._settings.max_request_mb * MEGABYTE if is_upload else _SMALL_BODY
        seconds = self._settings.upload_timeout
        arriving = Arriving(receive, most_bytes, seconds if is_upload else min(seconds, _SMALL_BODY_SECONDS))
        before = functools.partial(self._note_request, request)
        leaving = Leaving(send, scope["path"], seconds, before)
        with contextlib.ExitStack() as held:  # to the end: an error holds on to what was read
            try:
                await self._pass(request, arriving, leaving, most_bytes, held)
            except ClientDisconnect:
                await self._note_gone(request)
            except Exception as error:  # noqa: BLE001 (the last place that can make an answer of it)
                await self._refuse(request, arriving, leaving, error)
            finally:
                seconds = self._clock() - begun
                self._metrics.count_request(self._route(scope["path"]), leaving.status or CLIENT_GONE, seconds)

    async def _pass(
        self,
        request: Request,
        arriving: Arriving,
        leaving: Leaving,
        most_bytes: int,
        held: contextlib.ExitStack,
    ) -> None:
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            # A proxy that believes the one and a server that believes the other see different requests
            # (RFC 9112, 6.1), and the length would say nothing of what comes.
            raise PageError(400, "two_lengths", headers={"Connection": "close"})
        request.state.caller = caller = self._access.check(request)
        size = _content_length(request)
        if size is not None and size > most_bytes:
            raise arriving.too_large()
        if self._is_upload(request):
            reserve = held.enter_context(self._room.upload(caller.key, size or 0))
            request.state.reserve = arriving.reserve = reserve
        await self._app(request.scope, arriving, leaving)

    async def _refuse(self, request: Request, arriving: Arriving, leaving: Leaving, error: Exception) -> None:
        route = self._route(request.scope["path"])
        if leaving.status:  # it is too late for another answer
            logger.warning("%s: the answer was broken off: %r", route, error)
            _abort(request)
            return
        if isinstance(error, WrongTokenError):
            error = await self._with_its_line(request, error)
        refusal = _page_error(error, route)
        if refusal.key in _FLAGS and self._is_upload(request):
            logger.info("%s: an upload was refused as too large (%s)", route, _FLAGS[refusal.key])
        waits_to_send = request.headers.get("expect", "").lower() == "100-continue"
        if not waits_to_send:
            caller = request.state.caller
            is_known = caller is not None and caller.known
            await arriving.discard(self._settings.upload_timeout if is_known else _STRANGER_SECONDS)
        if not arriving.complete:
            refusal.headers["Connection"] = "close"
        response = self._pages.error(request, refusal)
        try:
            await response(request.scope, arriving, leaving)
        except AuditLogError as failure:
            await self._pages.error(request, _page_error(failure, route))(request.scope, arriving, leaving)
        except TimeoutError:
            logger.warning("%s: the client does not take its answer", route)
            _abort(request)

    async def _with_its_line(self, request: Request, error: WrongTokenError) -> Exception:
        """Writes the line of a failed login; gives the error to answer by."""
        if error.line is not None:
            try:
                line = {**error.line, "request": request.state.id, **self._model.names()}
                await asyncio.to_thread(self._audit.write, [line])
            except AuditLogError as failure:
                return failure
        return error

    def _note(self, request: Request, records: Sequence[dict[str, Any]], status: int) -> None:
        """Writes lines of a request and the one of the request itself: all of them, or none.

        Args:
            request: of somebody who is known.
            records: the other lines.
            status: that the request is about to be answered with.

        Raises:
            AuditLogError: if they cannot be written.
        """
        self._audit.write([*records, self._line_of(request, status)])
        request.state.noted = status

    async def _note_request(self, request: Request, status: int) -> None:
        """Writes the line of a POST; those of strangers are not written, who could fill the disk with them."""
        caller = request.state.caller
        if request.method == "POST" and caller is not None and caller.known and request.state.noted != status:
            await asyncio.to_thread(self._note, request, [], status)

    def _line_of(self, request: Request, status: int) -> dict[str, Any]:
        caller = request.state.caller
        return {
            "event": "request",
            "request": request.state.id,
            "user": caller.user,
            "address": caller.address,
            "route": self._route(request.scope["path"]),
            "status": status,
            **self._model.names(),
            "seconds": round(self._clock() - request.state.begun, 4),
        }

    async def _note_gone(self, request: Request) -> None:
        try:
            await self._note_request(request, CLIENT_GONE)
        except AuditLogError as error:
            logger.error("%s", error)

    def _is_upload(self, request: Request) -> bool:
        return request.method == "POST" and request.scope["path"] in UPLOADS

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        return STATIC.rstrip("/") if path.startswith(STATIC) else OTHER


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _abort(request: Request) -> None:
    """Ends the connection; closed in the usual way, it would wait for ever for a client that takes nothing."""
    abort = request.scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()


def _page_error(error: Exception, route: str) -> PageError:
    """What to tell of an error; what is nobody's business but the operator's goes to the log."""
    if isinstance(error, PageError):
        return error
    if isinstance(error, ServingError):
        logger.warning("%s: %s", route, error)
        if isinstance(error, Unavailable):
            return try_later("server_unavailable", error.retry_after or _SERVER_BACK_SECONDS)
        if isinstance(error, Overloaded):
            return try_later("server_overloaded", _SERVER_BACK_SECONDS)
        if isinstance(error, TimedOut):
            return PageError(504, "server_timed_out")
        return PageError(502, "server_failed")
    if isinstance(error, AuditLogError):
        logger.error("%s", error)
        return PageError(500, "not_audited")
    logger.error("%s failed", route, exc_info=error)
    return PageError(500, "failed")
