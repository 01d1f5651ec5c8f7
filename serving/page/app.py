"""The diagnosis page as an ASGI application: its routes, and everything they share, put together."""

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from serving.clients.errors import ServingError
from serving.collection.store import Collection
from serving.page import monitoring
from serving.page.access import Access, WrongTokenError
from serving.page.audit_log import AuditLog, key_of_token
from serving.page.contribute import contribute_router
from serving.page.diagnose import Diagnose
from serving.page.errors import PageError
from serving.page.gate import Gate
from serving.page.image_answering import ImageDesk
from serving.page.model_now import ModelNow, readiness
from serving.page.monitoring import Metrics
from serving.page.pages import Pages
from serving.page.predictors import Predictor
from serving.page.series_answering import SeriesDesk
from serving.page.sessions import Sessions
from serving.page.settings import Settings
from serving.page.view import operating_point
from serving.page.work_queue import WorkQueue

STATIC_FILES = Path(__file__).parent / "static"

_HOUR = 3600.0  # seconds
_MOST_TOKEN_BYTES = 2**12
_SCRAPE_SECONDS = 5.0  # that /metrics waits for the model; Prometheus gives up after ten
_READ = ["GET", "HEAD"]


def create_app(settings: Settings, predictor: Predictor, collection: Collection | None) -> FastAPI:
    """Puts the page together.

    Args:
        settings: of the page.
        predictor: answers the images; the caller closes it after the page has ended.
        collection: for the images that clinicians contribute; None for a page without. The caller closes it.

    Returns:
        The application. Its lifespan ends the threads of its queue and closes its audit log.

    Raises:
        AuditLogError: if the audit log cannot be written.
        ValueError: if the folder for series cannot be used.
    """
    token_key = key_of_token(settings.token) if settings.token else None
    audit = AuditLog(settings.audit_log, settings.audit_key or token_key)
    metrics = Metrics()
    queue = WorkQueue(settings.queue, settings.workers, on_begin=metrics.queued)
    series_queue = WorkQueue(settings.series_queue, 1)
    metrics.watch("ladnn_page_queue_series", "Uploads with series that wait", lambda: series_queue.waiting)
    metrics.watch("ladnn_page_queue_images", "Images that wait for a worker", lambda: queue.waiting)
    metrics.watch("ladnn_page_queue_capacity", "Images that may wait for a worker", lambda: queue.capacity)
    model = ModelNow(predictor, metrics.set_model)
    pages = Pages(settings, collection is not None, lambda: model.last)
    sessions = Sessions(settings.token, settings.session_hours * _HOUR) if settings.token else None
    access = Access(settings, sessions)
    desk = SeriesDesk(predictor, settings)
    images = ImageDesk(predictor, settings, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.open()
        try:
            yield
        finally:
            closing = [asyncio.to_thread(each.close, settings.stop_seconds) for each in (queue, series_queue)]
            await asyncio.gather(*closing)
            desk.close()
            audit.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.add_exception_handler(HTTPException, _as_page_error)
    app.add_exception_handler(RequestValidationError, _as_broken_form)
    parts = {"settings": settings, "audit": audit, "metrics": metrics, "model": model, "pages": pages}
    _add_pages(app, model, pages)
    queues = {"queue": queue, "series_queue": series_queue}
    app.add_api_route("/diagnose", Diagnose(desk=desk, images=images, **queues, **parts), methods=["POST"])
    _add_login(app, access, sessions, audit, model, pages)
    _add_probes(app, predictor, settings, metrics)
    if collection is not None:
        _add_collection(app, collection, settings, model, pages)
    routes = ["/", "/diagnose", "/login", "/logout", "/healthz", "/readyz", "/metrics"]
    if collection is not None:
        routes += ["/contribute", "/contribute/withdraw"]
    app.mount("/static", StaticFiles(directory=STATIC_FILES), name="static")
    app.add_middleware(Gate, access=access, routes=routes, **parts)
    return app


def _add_pages(app: FastAPI, model: ModelNow, pages: Pages) -> None:
    @app.api_route("/", methods=_READ)
    async def index(request: Request) -> Response:
        try:
            card, _ = await model.card()
        except ServingError:
            return pages.page(request, "index.html", operating_point="")
        point = operating_point(card, pages.words(request))
        return pages.page(request, "index.html", card=card, operating_point=point)


def _add_login(
    app: FastAPI, access: Access, sessions: Sessions | None, audit: AuditLog, model: ModelNow, pages: Pages
) -> None:
    async def note(request: Request, **line: Any) -> None:
        record = {"request": request.state.id, "address": request.state.caller.address}
        await asyncio.to_thread(audit.write, [line | record | model.names()])

    @app.api_route("/login", methods=_READ)
    async def show(request: Request) -> Response:
        if sessions is None or request.state.caller.known:
            return RedirectResponse("/", 303)
        return pages.page(request, "login.html", failed=False)

    @app.post("/login")
    async def login(request: Request) -> Response:
        if sessions is None:
            raise PageError(404, "no_such_page")
        caller = request.state.caller
        try:
            access.check_login(caller.address, _token_in(await request.body()), "form")
        except WrongTokenError as error:
            if error.status != 401:
                raise
            await note(request, **error.line)
            return pages.page(request, "login.html", status=401, failed=True)
        with contextlib.suppress(ServingError):  # the line then says which model answered last
            await model.card()
        await note(request, event="login", by="form", success=True)
        response = RedirectResponse("/", 303)
        name, secure = access.cookie_name(caller.scheme), caller.scheme == "https"
        age = int(sessions.seconds)
        response.set_cookie(
            name, sessions.begin(), max_age=age, path="/", secure=secure, httponly=True, samesite="strict"
        )
        return response

    @app.post("/logout")
    async def logout(request: Request) -> Response:
        if sessions is None:
            raise PageError(404, "no_such_page")
        caller = request.state.caller
        name, secure = access.cookie_name(caller.scheme), caller.scheme == "https"
        sessions.end(request.cookies.get(name, ""))
        await note(request, event="logout")
        response = RedirectResponse("/login", 303)
        response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
        return response


def _add_probes(app: FastAPI, predictor: Predictor, settings: Settings, metrics: Metrics) -> None:
    ready = readiness(predictor, settings.ready_seconds)

    async def why_not() -> str:
        reason = await ready.get()
        metrics.set_ready(not reason)
        return reason

    @app.api_route("/healthz", methods=_READ)
    async def healthz() -> Response:
        return PlainTextResponse("alive\n")

    @app.api_route("/readyz", methods=_READ)
    async def readyz() -> Response:
        reason = await why_not()
        return JSONResponse({"ready": not reason, "reason": reason}, 503 if reason else 200)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        asked = asyncio.ensure_future(why_not())
        _, late = await asyncio.wait((asked,), timeout=_SCRAPE_SECONDS)
        if late:  # it goes on, and says so when it is there
            metrics.set_ready(False)
        return Response(metrics.text(), media_type=monitoring.CONTENT_TYPE)


def _add_collection(
    app: FastAPI, collection: Collection, settings: Settings, model: ModelNow, pages: Pages
) -> None:
    def render(request: Request, template: str, context: Mapping[str, Any], status: int = 200) -> Response:
        return pages.page(request, template, status=status, **context)

    def record(request: Request, event: Mapping[str, Any]) -> None:
        # With the request's own line: if that failed later, the contribution would be there and its receipt lost.
        caller = request.state.caller
        common = {"request": request.state.id, "user": caller.user, "address": caller.address}
        request.state.note([dict(event) | common | model.names()], 200)

    def user_of(request: Request) -> str:
        return request.state.caller.user

    app.include_router(contribute_router(collection, render, settings, user_of=user_of, record=record))


def _token_in(body: bytes) -> str:
    """The token of a login form."""
    if len(body) > _MOST_TOKEN_BYTES:
        return ""
    fields = urllib.parse.parse_qs(body.decode("utf-8", "replace"))
    return fields.get("token", [""])[0].strip()


async def _as_page_error(_: Request, error: Exception) -> Response:
    """What FastAPI refuses gets a page, too; the gate makes it."""
    headers = dict(error.headers or {})
    keys = {404: "no_such_page", 405: "wrong_method"}
    if error.status_code in keys:
        raise PageError(error.status_code, keys[error.status_code], headers=headers) from error
    raise PageError(400, "broken_form") from error


async def _as_broken_form(_: Request, error: Exception) -> Response:
    raise PageError(400, "broken_form") from error
