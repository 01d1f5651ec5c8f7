"""The answers for the images of an upload, one by one."""

import dataclasses
import time

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data.preprocess import ImageError
from serving.page.intake import Item, decode_within
from serving.page.monitoring import Metrics
from serving.page.predictors import Predictor
from serving.page.settings import Settings
from serving.page.view import ResultView, view_of
from serving.page.words import Words

_UNREADABLE, _NO_ANSWER = "unreadable", "no_answer"
"""Reasons in the audit log, beside those of `Item.code`: what cannot be decoded, what the model does not take."""


@dataclasses.dataclass(frozen=True)
class ImageResult:
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


class ImageDesk:
    """Answers images; threads share it.

    Args:
        predictor, settings, metrics: of the page.
    """

    def __init__(self, predictor: Predictor, settings: Settings, metrics: Metrics) -> None:
        self._predictor = predictor
        self._settings = settings
        self._metrics = metrics

    def answer(self, item: Item, words: Words, *, with_pictures: bool) -> ImageResult:
        """Decodes an image, has it answered, and draws what is shown of it.

        Args:
            item: without an error.
            words: of the reader's language.
            with_pictures: whether the view has pictures.

        Raises:
            ServingError: if the server behind the predictor fails.
        """
        begun, code = time.perf_counter(), _NO_ANSWER
        try:
            pixels = decode_within(item.content, self._settings.max_pixels)
        except ImageError as error:
            answer, shown, code = Answer(*self._predictor.card(), error=str(error)), None, _UNREADABLE
        else:
            asked = time.perf_counter()
            answer, shown = self._predictor.answer(item.content, pixels)
            self._metrics.answered(time.perf_counter() - asked)
        if not with_pictures:
            answer, shown = dataclasses.replace(answer, maps=None), None
        return _result(item, answer, shown, words, code if answer.error else "", begun)


def refused(item: Item, card: Card, card_sha256: str, words: Words) -> ImageResult:
    """The result of an image that nobody is asked about.

    Args:
        item: with its error.
        card, card_sha256: of the model that would have answered.
        words: of the reader's language.
    """
    answer = Answer(card, card_sha256, error=item.error)
    return _result(item, answer, None, words, item.code, time.perf_counter())


def _result(
    item: Item, answer: Answer, shown: np.ndarray | None, words: Words, code: str, begun: float
) -> ImageResult:
    view = view_of(item.name, answer, shown, words)
    return ImageResult(view, answer.card, answer.card_sha256, code, time.perf_counter() - begun)
