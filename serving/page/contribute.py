"""The page of the data collection: a form of its own, with an upload of its own.

Nothing that is uploaded for a diagnosis comes here. A contribution is stored wholly or, if one of its pictures
cannot be read or is no chest-CT slice, or the consent is not given, not at all; the form then says why, for each
file.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ladnn_tf.data.preprocess import ImageError
from ladnn_tf.labels import LESIONS
from serving.collection.consent import Consent, consent
from serving.collection.contribution import (
    MAX_PATIENT_CODE,
    CollectionError,
    Contribution,
    Receipt,
    UncertainError,
    UnknownContributionError,
    Withdrawal,
)
from serving.collection.images import CORNERS, PERCENT, HiddenError, PreparedImage, prepare
from serving.collection.store import Collection
from serving.page import file_kinds
from serving.page.contribute_form import COVID_CHOICES, LESION_CHOICES, Problem, Statement, read_statement
from serving.page.errors import PageError
from serving.page.form_data import SentFile, read_form
from serving.page.intake import decode_within, items_of
from serving.page.reasons import reason_in
from serving.page.settings import MEGABYTE, Settings
from serving.page.view import shown_name
from serving.page.words import LANGUAGES

FIELD = "files"
"""The form's field with the images, and the id of its control."""

logger = logging.getLogger("ladnn_tf.serving")


class _RefusedError(Exception):
    """Files that are not taken, and so nothing of the contribution is."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} files are refused")
        self.problems = tuple(problems)


def contribute_router(
    collection: Collection,
    render: Callable[..., Response],
    settings: Settings,
    *,
    user_of: Callable[[Request], str],
    record: Callable[[Request, Mapping[str, Any]], None],
) -> APIRouter:
    """The routes `GET /contribute`, `POST /contribute` and `POST /contribute/withdraw`.

    Args:
        collection: where contributions are stored.
        render: `render(request, template, context, status=200)` makes a page in the language of the request.
        settings: `operator`, whom the consent text names, `max_images`, `max_image_mb`, `max_pixels` and, for the
            pictures of a contribution as they are stored, `max_unpacked_mb` count.
        user_of: gives the name of the user who asks; empty if there is none.
        record: writes a line of the audit log: `{"event": "contribution", "contribution": ID, "images": N}`, or
            `"event": "withdrawal"` with the images that were taken out. It is called from any thread; where it
            raises, a contribution is taken back, and nothing of it stays.

    Raises:
        ValueError: if there is no operator.

    The gate gives `request.state.reserve`, which is asked for the memory that the pictures take.
    """
    consents = {language: consent(language, settings.operator) for language in LANGUAGES}
    router = APIRouter()
    desk = _Desk(collection, settings, record)

    @router.get("/contribute")
    async def show(request: Request) -> Response:
        return render(request, "contribute.html", _context(consents))

    @router.post("/contribute")
    async def contribute(request: Request) -> Response:
        form = await read_form(
            request, max_files=settings.max_images, max_file_bytes=settings.max_image_mb * MEGABYTE
        )
        files = [file for file in form.files if file.field == FIELD]
        statement = read_statement(form, settings.operator)
        problems = statement.problems
        if not files:
            problems = (Problem("contribute.problem_no_files", field=FIELD), *problems)
        if not problems:
            try:
                images = await run_in_threadpool(desk.prepare, request, files, statement)
            except _RefusedError as refused:
                problems = refused.problems
        if problems:
            return render(request, "contribute.html", _context(consents, statement, problems), 422)
        if await request.is_disconnected():  # nobody would see the receipt
            raise ClientDisconnect
        receipt = await run_in_threadpool(desk.store, request, images, statement, user_of(request))
        context = {"receipt": receipt, "sent": len(files), "consent": statement.consent}
        return render(request, "contributed.html", context)

    @router.post("/contribute/withdraw")
    async def withdraw(request: Request) -> Response:
        form = await read_form(request, max_files=0, max_file_bytes=0)
        try:
            withdrawal = await run_in_threadpool(desk.withdraw, request, form.value("receipt"))
        except UnknownContributionError:
            problem = Problem("contribute.problem_receipt", field="receipt")
            return render(request, "contribute.html", _context(consents, withdraw_problem=problem), 404)
        return render(request, "contribute.html", _context(consents, withdrawal=withdrawal))

    return router


def _context(
    consents: Mapping[str, Consent],
    statement: Statement | None = None,
    problems: tuple[Problem, ...] = (),
    *,
    withdraw_problem: Problem | None = None,
    withdrawal: Withdrawal | None = None,
) -> dict[str, Any]:
    return {
        "consents": consents,
        "statement": statement or Statement(),
        "problems": problems,
        "withdraw_problem": withdraw_problem,
        "withdrawal": withdrawal,
        "covid_choices": COVID_CHOICES,
        "lesion_choices": LESION_CHOICES,
        "lesions": LESIONS,
        "corners": CORNERS,
        "percent": PERCENT,
        "max_patient_code": MAX_PATIENT_CODE,
        "reason_in": reason_in,
    }


class _Desk:
    """What takes time, off the event loop: reading pictures, storing and withdrawing contributions."""

    def __init__(
        self, collection: Collection, settings: Settings, record: Callable[[Request, Mapping[str, Any]], None]
    ) -> None:
        self._collection = collection
        self._settings = settings
        self._record = record
        self._decoding = threading.Lock()  # a decoded picture can take a hundred times the memory of its file

    def prepare(
        self, request: Request, files: Sequence[SentFile], statement: Statement
    ) -> tuple[PreparedImage, ...]:
        """Makes of the files what is stored.

        Raises:
            _RefusedError: if a file is refused, with the problems of all of them.
            PageError: 503 if there is no memory for them now.
        """
        images, problems, left = [], [], self._settings.max_unpacked_mb * MEGABYTE
        for file in files:
            made = self._prepare_one(file, statement)
            if isinstance(made, Problem):
                problems.append(made)
                continue
            left -= len(made.png)
            if left < 0:  # JPEG files grow many times as large
                values = {"most": self._settings.max_unpacked_mb}
                raise _RefusedError([*problems, Problem("contribute.problem_too_much", values, field=FIELD)])
            request.state.reserve(len(made.png))
            images.append(made)
        if problems:
            raise _RefusedError(problems)
        return tuple(images)

    def _prepare_one(self, file: SentFile, statement: Statement) -> PreparedImage | Problem:
        name = shown_name(file.name)
        if file_kinds.is_zip(file.content):
            return Problem("contribute.problem_zip", file=name)
        if file_kinds.is_of_scanner(file.content):
            return Problem("contribute.problem_series", file=name)
        (item,) = items_of([file], self._settings)
        if item.error:
            return Problem("contribute.problem_unreadable", file=name, reason=item.error)
        try:
            with self._decoding:
                image = prepare(item.content, statement.erasure, self._decode)
        except HiddenError as error:
            return Problem(f"contribute.problem_{error.kind}", file=name)
        except ImageError as error:
            return Problem("contribute.problem_unreadable", file=name, reason=str(error))
        if image.refusal and not statement.is_chest_ct:
            return Problem("contribute.problem_no_chest_ct", file=name, reason=image.refusal)
        return image

    def _decode(self, content: bytes) -> np.ndarray:
        return decode_within(content, self._settings.max_pixels)

    def store(
        self, request: Request, images: tuple[PreparedImage, ...], statement: Statement, user: str
    ) -> Receipt:
        """Stores a contribution and writes its line.

        Raises:
            PageError: 503 if the collection fails.
            Exception: of `record`; nothing of the contribution stays then.
        """
        contribution = Contribution(
            images=images,
            consent=statement.consent,
            covid=statement.covid,
            lesions=statement.lesions,
            patient_code=statement.patient_code,
            contributor=user,
        )
        try:
            receipt = self._collection.add(contribution)
        except CollectionError as error:
            logger.error("data collection: %s", error)
            key = "collection_uncertain" if isinstance(error, UncertainError) else "collection_failed"
            raise PageError(503, key) from error
        line = {"event": "contribution", "contribution": receipt.contribution, "images": receipt.images}
        try:
            self._record(request, line)
        except Exception:
            # Whoever contributed gets an error in place of the receipt, and could never withdraw.
            self._take_back(receipt.contribution)
            raise
        return receipt

    def _take_back(self, contribution: str) -> None:
        try:
            self._collection.take_back(contribution)
        except CollectionError as error:
            logger.error(
                "data collection: contribution %s is stored, though the audit log has no line of it and nobody its"
                " receipt; python -m serving.collection.withdraw --id=%s takes it out (%s)",
                contribution,
                contribution,
                error,
            )
            raise PageError(503, "collection_uncertain") from error

    def withdraw(self, request: Request, receipt: str) -> Withdrawal:
        """Withdraws a contribution and writes its line.

        Raises:
            UnknownContributionError: if no contribution has this receipt.
            PageError: 503 if the collection fails.
            Exception: of `record`; the contribution is withdrawn all the same.
        """
        try:
            withdrawal = self._collection.withdraw(receipt)
        except CollectionError as error:
            logger.error("data collection: %s", error)
            raise PageError(503, "withdrawal_failed") from error
        line = {"event": "withdrawal", "contribution": withdrawal.contribution, "images": withdrawal.images}
        self._record(request, line)
        return withdrawal
