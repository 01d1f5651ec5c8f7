"""The answers for the series of an upload: read in a folder of their own, and answered by one model each."""

import dataclasses
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from serving.page.errors import PageError, try_later
from serving.page.failures import CODE, file_failed
from serving.page.intake import SentSeries
from serving.page.predictors import Predictor
from serving.page.scratch import Scratch
from serving.page.series_parts import SeriesView
from serving.page.series_reading import ReadSeries, Taken, UnreadableError, missing_package, read_sent
from serving.page.series_view import failure_view, series_view
from serving.page.settings import Settings
from serving.page.words import Words

_ATTEMPTS = 2  # to have all slices of a series answered by one model
_CHANGED_SECONDS = 5.0

logger = logging.getLogger("ladnn_tf.serving")


class NobodyWaitsError(Exception):
    """The client has gone away while its series were answered."""


class _ChangedError(Exception):
    """Another model is served than the one that answered the first slices."""


@dataclasses.dataclass(frozen=True, eq=False)
class SeriesResult:
    """One series with its answer, or an upload's files of which none could be read.

    Attributes:
        view: as it is shown.
        card, card_sha256: of the model that answered.
        files: places of its files in what was sent.
        code: why there is no answer, in a word; empty where there is one, or where all slices were left out.
        seconds: that reading and answering took; of several series from the same files the reading counts once.
    """

    view: SeriesView
    card: Card
    card_sha256: str
    files: tuple[int, ...]
    code: str
    seconds: float


class SeriesDesk:
    """Answers series; for one thread.

    Args:
        predictor, settings: of the page.

    Raises:
        ValueError: if `series_folder` is no folder to write to.
    """

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self._predictor = predictor
        self._settings = settings
        self._scratch: Scratch | None = None
        folder = settings.series_folder
        if folder and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ValueError(f"--series_folder={folder} should be a folder that the page may write to")

    def open(self) -> None:
        """Makes the page's folder for the files of series; without it they are refused."""
        try:
            self._scratch = Scratch(self._settings.series_folder)
        except OSError as error:
            logger.warning("series are refused: there is no folder for their files (%s); --series_folder", error)

    def close(self) -> None:
        """Deletes what is left of series that are still read."""
        if self._scratch:
            self._scratch.close()

    def answer(
        self, sent: SentSeries, words: Words, taken: Taken, gone: threading.Event, *, with_pictures: bool
    ) -> list[SeriesResult]:
        """Answers the series in some files of an upload.

        Args:
            sent: the files; their contents are emptied.
            words: of the reader's language.
            taken: by the upload's other files, of what all may have; what is read of these is added.
            gone: is set if nobody waits for the answer any more.
            with_pictures: whether the views have pictures.

        Returns:
            At least one result.

        Raises:
            PageError: 503 if the disk is full, or the model changes again and again.
            ServingError: if the server behind the predictor fails.
            NobodyWaitsError: if `gone` is set.
        """
        begun = time.perf_counter()
        try:
            series = self._read(sent, taken, functools.partial(_check_is_wanted, gone))
            results = []
            while series:  # the pixels of one that is answered need no memory any more
                each = series.pop(0)
                view, card = self._answer_one(each, sent, words, gone, with_pictures=with_pictures)
                seconds, begun = time.perf_counter() - begun, time.perf_counter()
                results.append(SeriesResult(view, *card, each.places, "", seconds))
        except UnreadableError as error:
            self._log(error)
            card = self._predictor.card()
            view = failure_view(sent, str(error), *card, words)
            files = tuple(range(len(sent.files)))
            return [SeriesResult(view, *card, files, error.code, time.perf_counter() - begun)]
        return results

    def _read(self, sent: SentSeries, taken: Taken, go_on: Callable[[], None]) -> list[ReadSeries]:
        try:
            if self._scratch is None:
                raise OSError("there is no folder for the files of series")
            with self._scratch.folder() as folder:
                return read_sent(sent, folder, self._settings, taken, go_on)
        except OSError as error:
            logger.error("series: %s: give them room by --series_folder", error.strerror or error)
            raise PageError(503, "no_room_for_series") from error
        except (UnreadableError, NobodyWaitsError):
            raise
        except Exception as error:
            raise UnreadableError(CODE, file_failed(error)) from error

    def _answer_one(
        self, each: ReadSeries, sent: SentSeries, words: Words, gone: threading.Event, *, with_pictures: bool
    ) -> tuple[SeriesView, tuple[Card, str]]:
        try:
            from ladnn_tf.series import answer_series  # it finds lungs by packages that not every page has
        except ImportError as error:
            raise missing_package(error) from error
        for _ in range(_ATTEMPTS):
            model = _OneModel(self._predictor, gone)
            try:
                answer = answer_series(each.volume, model)
            except _ChangedError:
                continue
            view = series_view(answer, each, sent, words, with_pictures=with_pictures)
            return view, (model.card, model.card_sha256)
        raise try_later("model_changes", _CHANGED_SECONDS)

    def _log(self, error: UnreadableError) -> None:
        """What the operator can do about it; an error of the files themselves is the user's own."""
        if error.flag:
            logger.warning("series refused: %s (%s)", error, error.flag)
        elif error.code == "series_not_installed":
            logger.warning("series refused: %s", "; ".join(getattr(error, "__notes__", [])))


class SeriesJob:
    """The series of an upload as one job, which works them off one after the other.

    Args:
        desk: answers them.
        series: the files with series; there may be none, and then there is nothing to do.
        words: of the reader's language.
        with_pictures: whether the views have pictures.
    """

    def __init__(
        self, desk: SeriesDesk, series: Sequence[SentSeries], words: Words, *, with_pictures: bool
    ) -> None:
        self._desk = desk
        self._series = series
        self._words = words
        self._with_pictures = with_pictures
        self._gone = threading.Event()
        self._found: list[list[SeriesResult]] = []

    def __bool__(self) -> bool:
        return bool(self._series)

    def __call__(self) -> None:
        """Answers them; raises as `SeriesDesk.answer`, and then the answers before are there."""
        taken = Taken()
        for sent in self._series:
            found = self._desk.answer(sent, self._words, taken, self._gone, with_pictures=self._with_pictures)
            self._found.append(found)

    def stop(self) -> None:
        """Ends the job soon, as nobody waits for its answers any more."""
        self._gone.set()

    def so_far(self) -> list[list[SeriesResult]]:
        """The results of each of the files with series; none of those that are not answered."""
        found = list(self._found)
        return found + [[] for _ in self._series[len(found) :]]


class _OneModel:
    """A predictor for `series.answer_series`, whose slices must all be answered by the same model.

    Args:
        predictor: of the page.
        gone: is set if nobody waits for the answer any more.
    """

    def __init__(self, predictor: Predictor, gone: threading.Event) -> None:
        self.card, self.card_sha256 = predictor.card()
        self._predictor = predictor
        self._gone = gone

    def predict(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """As `Predictor.predict`.

        Raises:
            _ChangedError: if another model answered.
            NobodyWaitsError: if the client has gone away.
        """
        _check_is_wanted(self._gone)
        answers = self._predictor.predict(images)
        if any(answer.card_sha256 != self.card_sha256 for answer in answers):
            raise _ChangedError
        return answers


def _check_is_wanted(gone: threading.Event) -> None:
    if gone.is_set():
        raise NobodyWaitsError
