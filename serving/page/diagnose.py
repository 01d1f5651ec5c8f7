"""POST /diagnose: from an upload of images and series to its results, as a page or as JSON. Nothing is kept."""

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serving.page import file_kinds
from serving.page.audit_log import AuditLog
from serving.page.calls import notice
from serving.page.errors import PageError, try_later
from serving.page.form_data import read_form
from serving.page.image_answering import ImageDesk, ImageResult, refused
from serving.page.image_lines import NOT_BEGUN, image_lines
from serving.page.intake import Item, SentSeries, items_of, parted
from serving.page.model_now import ModelNow
from serving.page.monitoring import Metrics
from serving.page.pages import Pages, prefers_json
from serving.page.results_csv import csv_uri
from serving.page.series_answering import SeriesDesk, SeriesJob, SeriesResult
from serving.page.series_lines import series_lines
from serving.page.series_parts import SeriesView
from serving.page.settings import MEGABYTE, Settings
from serving.page.view import ResultView, operating_point
from serving.page.waiting import all_of, result_so_far
from serving.page.words import Words
from serving.page.work_queue import QueueFullError, WorkQueue

FIELD = "files"
"""The form's field with the files."""

AS_SERIES = "as_series"
"""The form's field that says `yes` where the images are slices of one person."""

_CARD_DIGITS = 12  # of the hash, by which the cards of one upload are told apart

_PICTURES = ("picture", "boxes", "heat", "cells", "suspects", "drawn", "scale")
"""What JSON has not: the pictures are most of a page, and whoever reads JSON has the slices."""


@dataclasses.dataclass(frozen=True)
class _Upload:
    """What an upload holds: what is answered image by image, and its series."""

    items: list[Item]
    series: list[SentSeries]


class Diagnose:
    """Answers uploads.

    Args:
        settings, queue, audit, metrics, model, pages: of the page.
        series_queue: of the uploads with series; it has one thread, so that one upload's are in memory at a time.
        desk, images: answer the series and the images.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        queue: WorkQueue,
        series_queue: WorkQueue,
        desk: SeriesDesk,
        images: ImageDesk,
        audit: AuditLog,
        metrics: Metrics,
        model: ModelNow,
        pages: Pages,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._series_queue = series_queue
        self._desk = desk
        self._images = images
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
            place: functools.partial(self._images.answer, item, words, with_pictures=not as_json)
            for place, item in enumerate(upload.items)
            if not item.error
        }
        series = SeriesJob(self._desk, upload.series, words, with_pictures=not as_json)
        futures, series_futures = self._submit(request.state.caller.key, jobs, series)
        results = None
        try:
            done = await all_of([*series_futures, *futures.values()], request)
            images = done[len(series_futures) :]
            answered = [result for found in series.so_far() for result in found]
            for result in answered:
                self._model.learn(result.card, result.card_sha256)
            results = await self._results(upload.items, dict(zip(futures, images, strict=True)), words)
            respond = functools.partial(self._respond, request, words, results, answered, as_json=as_json)
            response = await asyncio.to_thread(respond)
        except BaseException as error:
            series.stop()
            self._queue.drop(list(futures.values()))
            self._series_queue.drop(series_futures)
            outcome = "client_gone" if isinstance(error, ClientDisconnect) else "failed"
            results = results or _so_far(upload.items, futures)
            records = self._records(request, upload, results, series.so_far(), outcome)
            await asyncio.to_thread(self._audit.write, records)
            raise
        records = self._records(request, upload, results, series.so_far(), "given")
        await asyncio.to_thread(request.state.note, records, response.status_code)
        return response

    def _submit(
        self, client: str, jobs: dict[int, Callable[[], Any]], series: SeriesJob
    ) -> tuple[dict[int, Future], list[Future]]:
        """Puts the jobs into their queues, all of them or none; an upload without series has no job for them."""
        try:
            series_futures = self._series_queue.submit(client, [series] if series else [])
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
        as_series = form.value(AS_SERIES) == "yes"
        given = (files, self._settings, words.language, request.state.reserve, self._audit.image_hash)
        items = await asyncio.to_thread(items_of, *given, as_series=as_series)
        return _Upload(*parted(items, as_series))

    async def _results(
        self, items: Sequence[Item], answered: dict[int, ImageResult], words: Words
    ) -> list[ImageResult]:
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
                results.append(refused(item, *card, words))
        return results

    def _records(
        self,
        request: Request,
        upload: _Upload,
        results: Sequence[ImageResult | None],
        series: Sequence[Sequence[SeriesResult]],
        outcome: str,
    ) -> list[dict[str, Any]]:
        """Counts the images and series, and gives their lines for the audit log."""
        model = self._model.names()
        of_series = series_lines(upload.series, series, self._audit.image_hash, NOT_BEGUN, model)
        of_images = image_lines(upload.items, results, model)
        self._metrics.count_series(line["state"] for line in of_series)
        self._metrics.count_images(line["state"] for line in of_images)
        caller = request.state.caller
        common = {"request": request.state.id, "user": caller.user, "address": caller.address}
        return [
            {"event": event} | common | line | {"outcome": outcome}
            for event, lines in (("series", of_series), ("image", of_images))
            for line in lines
        ]

    def _respond(
        self,
        request: Request,
        words: Words,
        results: Sequence[ImageResult],
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


def _so_far(items: Sequence[Item], futures: dict[int, Future]) -> list[ImageResult | None]:
    """What there is of the results of an upload that is given up."""
    return [result_so_far(futures[place]) if place in futures else None for place in range(len(items))]


def _operating_points(results: Sequence[ImageResult], words: Words) -> str:
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
