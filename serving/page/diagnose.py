"""POST /diagnose: from an upload of images and series to its results, as a page or as JSON. Nothing is kept."""

import asyncio
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data.preprocess import ImageError
from serving.page import file_kinds
from serving.page.calls import notice
from serving.page.audit_log import AuditLog
from serving.page.errors import PageError, try_later
from serving.page.form_data import read_form
from serving.page.intake import Item, SentSeries, decode_within, items_of, parted
from serving.page.model_now import ModelNow
from serving.page.monitoring import Metrics
from serving.page.pages import Pages, prefers_json
from serving.page.predictors import Predictor
from serving.page.results_csv import csv_uri
from serving.page.series_answering import SeriesDesk, SeriesResult
from serving.page.series_lines import series_lines
from serving.page.series_parts import SeriesView
from serving.page.settings import MEGABYTE, Settings
from serving.page.view import ResultView, operating_point, view_of
from serving.page.waiting import all_of, result_so_far
from serving.page.words import Words
from serving.page.work_queue import QueueFullError, WorkQueue

FIELD = "files"
"""The form's field with the files."""

AS_SERIES = "as_series"
"""The form's field that says `yes` where the images are slices of one person."""

NOT_BEGUN = "not_begun"
"""What became of an image or a series whose turn did not come, in metrics and audit log, beside `view.STATES`."""

_ERROR = "error"  # of `view.STATES`

_UNREADABLE, _NO_ANSWER = "unreadable", "no_answer"
"""Reasons in the audit log, beside those of `Item.code`: what cannot be decoded, what the model does not take."""

_CARD_DIGITS = 12  # of the hash, by which the cards of one upload are told apart

_PICTURES = ("picture", "heat", "cells", "suspects", "drawn", "scale")
"""What JSON has not: the pictures are most of a page, and whoever reads JSON has the slices."""


@dataclasses.dataclass(frozen=True)
class _Upload:
    """What an upload holds: what is answered image by image, and its series."""

    items: list[Item]
    series: list[SentSeries]


@dataclasses.dataclass(frozen=True)
class _Result:
    """One file with its answer.

    Attributes:
        view: as it is shown.
        card, card_sha256: of the model that answered.
        code: why there is no answer, in a word; empty where there is one, or an abstention.
        seconds: that decoding and answering took.
    """

    view: ResultView
    card: Card
    card_sha256: str
    code: str
    seconds: float


class Diagnose:
    """Answers uploads.

    Args:
        settings, predictor, queue, audit, metrics, model, pages: of the page.
        series_queue: of the uploads with series; it has one thread, so that one upload's are in memory at a time.
        desk: answers the series.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        predictor: Predictor,
        queue: WorkQueue,
        series_queue: WorkQueue,
        desk: SeriesDesk,
        audit: AuditLog,
        metrics: Metrics,
        model: ModelNow,
        pages: Pages,
    ) -> None:
        self._settings = settings
        self._predictor = predictor
        self._queue = queue
        self._series_queue = series_queue
        self._desk = desk
        self._audit = audit
        self._metrics = metrics
        self._model = model
        self._pages = pages

    async def __call__(self, request: Request) -> Response:
        """Answers one upload.

        Raises:
            PageError: if the upload is refused, or the queue cannot take it now.
            ServingError: if the server behind the predictor fails.
            ClientDisconnect: if the client went away.
        """
        words, as_json = self._pages.words(request), prefers_json(request)
        upload = await self._receive(request, words)
        jobs = {
            place: functools.partial(self._answer, item, words, with_pictures=not as_json)
            for place, item in enumerate(upload.items)
            if not item.error
        }
        gone = threading.Event()
        series_jobs = [
            functools.partial(self._desk.answer, sent, words, gone, with_pictures=not as_json)
            for sent in upload.series
        ]
        futures, series_futures = self._submit(request.state.caller.key, jobs, series_jobs)
        results = series = None
        try:
            done = await all_of([*series_futures, *futures.values()], request)
            series, images = done[: len(series_futures)], done[len(series_futures) :]
            answered = [result for found in series for result in found]
            for result in answered:
                self._model.learn(result.card, result.card_sha256)
            results = await self._results(upload.items, dict(zip(futures, images, strict=True)), words)
            respond = functools.partial(self._respond, request, words, results, answered, as_json=as_json)
            response = await asyncio.to_thread(respond)
        except BaseException as error:
            gone.set()
            self._queue.drop(list(futures.values()))
            self._series_queue.drop(series_futures)
            outcome = "client_gone" if isinstance(error, ClientDisconnect) else "failed"
            results = results or _so_far(upload.items, futures)
            series = series or [result_so_far(future) or [] for future in series_futures]
            records = self._records(request, upload, results, series, outcome)
            await asyncio.to_thread(self._audit.write, records)
            raise
        records = self._records(request, upload, results, series, "given")
        await asyncio.to_thread(request.state.note, records, response.status_code)
        return response

    def _submit(
        self, client: str, jobs: dict[int, Callable[[], Any]], series_jobs: Sequence[Callable[[], Any]]
    ) -> tuple[dict[int, Future], list[Future]]:
        """Puts the jobs into their queues, all of them or none."""
        try:
            series_futures = self._series_queue.submit(client, series_jobs)
        except QueueFullError as error:
            raise try_later("series_queue_full", error.seconds) from error
        try:
            return dict(zip(jobs, self._queue.submit(client, list(jobs.values())), strict=True)), series_futures
        except QueueFullError as error:
            self._series_queue.drop(series_futures)
            raise try_later("queue_full", error.seconds) from error

    async def _receive(self, request: Request, words: Words) -> _Upload:
        form = await read_form(
            request,
            max_files=self._settings.max_images + self._settings.max_slices,
            max_file_bytes=self._settings.max_image_mb * MEGABYTE,
            may_be_larger=file_kinds.may_be_large,
            new_hash=self._audit.new_hash,
        )
        files = [file for file in form.files if file.field == FIELD]
        if not files:
            raise PageError(400, "no_files", field=FIELD)
        items = await asyncio.to_thread(
            items_of, files, self._settings, words.language, request.state.reserve, self._audit.image_hash
        )
        return _Upload(*parted(items, form.value(AS_SERIES) == "yes"))

    def _answer(self, item: Item, words: Words, *, with_pictures: bool) -> _Result:
        """One job: decodes an image, has it answered, and draws what is shown of it."""
        begun, code = time.perf_counter(), _NO_ANSWER
        try:
            pixels = decode_within(item.content, self._settings.max_pixels)
        except ImageError as error:
            answer, pixels, code = Answer(*self._predictor.card(), error=str(error)), None, _UNREADABLE
        else:
            asked = time.perf_counter()
            answer = self._predictor.answer(item.content, pixels)
            self._metrics.answered(time.perf_counter() - asked)
        if not with_pictures:
            answer, pixels = dataclasses.replace(answer, maps=None), None
        return _result(item, answer, pixels, words, code if answer.error else "", begun)

    async def _results(self, items: Sequence[Item], answered: dict[int, _Result], words: Words) -> list[_Result]:
        """The results of all items, those that were not asked about among them."""
        card = None
        if len(answered) < len(items):
            first = next(iter(answered.values()), None)
            card = (first.card, first.card_sha256) if first else await self._model.card()
        results = []
        for place, item in enumerate(items):
            if place in answered:
                self._model.learn(answered[place].card, answered[place].card_sha256)
                results.append(answered[place])
            else:
                answer = Answer(*card, error=item.error)
                results.append(_result(item, answer, None, words, item.code, time.perf_counter()))
        return results

    def _records(
        self,
        request: Request,
        upload: _Upload,
        results: Sequence[_Result | None],
        series: Sequence[Sequence[SeriesResult]],
        outcome: str,
    ) -> list[dict[str, Any]]:
        """Counts the images and series, and gives their lines for the audit log."""
        items = upload.items
        about = series_lines(upload.series, series, self._audit.image_hash, NOT_BEGUN, self._model.names())
        self._metrics.count_series(line["state"] for line in about)
        self._metrics.count_images(_state(item, result) for item, result in zip(items, results, strict=True))
        caller = request.state.caller
        common = {"request": request.state.id, "user": caller.user, "address": caller.address}
        lines = [{"event": "series"} | common | line | {"outcome": outcome} for line in about]
        return lines + [
            {"event": "image"}
            | common
            | {"image": place, "images": len(items)}
            | _about(item, result)
            | (_answer_of(result) if result else self._model.names())
            | {"outcome": outcome}
            for place, (item, result) in enumerate(zip(items, results, strict=True), 1)
        ]

    def _respond(
        self,
        request: Request,
        words: Words,
        results: Sequence[_Result],
        answered: Sequence[SeriesResult],
        *,
        as_json: bool,
    ) -> Response:
        views, series = [result.view for result in results], [result.view for result in answered]
        point = _operating_points(results, words)
        card = [*results, *answered][-1].card
        if as_json:
            content = {
                "notice": notice(card, words),
                "operating_point": point,
                "results": [_plain(view) for view in views],
                "series": [_plain(view) for view in series],
            }
            return JSONResponse(content)
        return self._pages.page(
            request,
            "results.html",
            card=card,
            results=views,
            series=series,
            csv_uri=csv_uri(views, series),
            operating_point=point,
        )


def _plain(view: ResultView | SeriesView) -> dict[str, Any]:
    """A view as JSON has it."""
    return {name: value for name, value in dataclasses.asdict(view).items() if name not in _PICTURES}


def _result(
    item: Item, answer: Answer, pixels: np.ndarray | None, words: Words, code: str, begun: float
) -> _Result:
    view = view_of(item.name, answer, pixels, words)
    return _Result(view, answer.card, answer.card_sha256, code, time.perf_counter() - begun)


def _so_far(items: Sequence[Item], futures: dict[int, Future]) -> list[_Result | None]:
    """What there is of the results of an upload that is given up."""
    return [result_so_far(futures[place]) if place in futures else None for place in range(len(items))]


def _state(item: Item, result: _Result | None) -> str:
    if result is not None:
        return result.view.state
    return _ERROR if item.error else NOT_BEGUN


def _about(item: Item, result: _Result | None) -> dict[str, Any]:
    return {
        "image_hmac_sha256": item.image_hash or None,
        "bytes": item.size,
        "state": _state(item, result),
        "reason": item.code or (result.code if result else "") or None,
    }


def _answer_of(result: _Result) -> dict[str, Any]:
    view = result.view
    return {
        "call": None if view.positive is None else ("positive" if view.positive else "negative"),
        "model_version": view.model_version,
        "card_sha256": view.card_sha256,
        "seconds": round(result.seconds, 4),
    }


def _operating_points(results: Sequence[_Result], words: Words) -> str:
    """The threshold in words; a line for each model, if another one was served before all images were answered."""
    of_cards = {result.card_sha256: result.card for result in results}
    points = {
        sha256: operating_point(card, words, [r.view for r in results if r.card_sha256 == sha256])
        for sha256, card in of_cards.items()
    }
    if len(points) <= 1:
        return next(iter(points.values()), "")
    return "\n".join(
        f"{of_cards[sha256].version} ({sha256[:_CARD_DIGITS]}): {text}" for sha256, text in points.items()
    )
