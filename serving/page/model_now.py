"""What is asked of the predictor now and then, not with every request: which model answers, and does it?"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ladnn_tf.card import Card
from serving.clients.errors import Overloaded, ServingError, TimedOut, Unavailable
from serving.page.predictors import NotReadyError, Predictor

_T = TypeVar("_T")

_CARD_SECONDS = 3.0

logger = logging.getLogger("ladnn_tf.serving")


class Kept(Generic[_T]):
    """The outcome of some work, result or error, kept for a while; who asks meanwhile waits for the same work.

    Args:
        work: done in a thread.
        seconds: for which its outcome is kept.
        clock: tells seconds.
    """

    def __init__(
        self, work: Callable[[], _T], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = work
        self._seconds = seconds
        self._clock = clock
        self._lock = asyncio.Lock()
        self._until = float("-inf")
        self._result: _T | None = None
        self._error: Exception | None = None

    async def get(self) -> _T:
        """The result.

        Raises:
            Exception: whatever the work raised.
        """
        async with self._lock:
            if self._clock() >= self._until:
                self._result = self._error = None
                try:
                    self._result = await asyncio.to_thread(self._work)
                except Exception as error:  # noqa: BLE001 (raised below, now and as long as it is kept)
                    self._error = error
                self._until = self._clock() + self._seconds
            if self._error is not None:
                raise self._error.with_traceback(None)
            return self._result


class ModelNow:
    """Which model answers, as far as is known.

    Args:
        predictor: of the page.
        on_change: is told version and card hash whenever they are learnt.
    """

    def __init__(self, predictor: Predictor, on_change: Callable[[str, str], None] = lambda *_: None) -> None:
        self._kept = Kept(predictor.card, _CARD_SECONDS)
        self._on_change = on_change
        self._last: tuple[Card, str] | None = None

    @property
    def last(self) -> Card | None:
        """The card of the model that answered last; None as long as none has."""
        return self._last[0] if self._last else None

    def names(self) -> dict[str, str | None]:
        """Version and card hash of the model that answered last, for the audit log."""
        if self._last is None:
            return {"model_version": None, "card_sha256": None}
        return {"model_version": self._last[0].version, "card_sha256": self._last[1]}

    async def card(self) -> tuple[Card, str]:
        """The card of the model that answers now, and the SHA-256 of its JSON.

        Raises:
            ServingError: if the server behind the predictor fails.
        """
        found = await self._kept.get()
        self.learn(*found)
        return found

    def learn(self, card: Card, card_sha256: str) -> None:
        """Notes by which model an answer was given."""
        self._last = card, card_sha256
        self._on_change(card.version, card_sha256)


def readiness(predictor: Predictor, seconds: float) -> Kept[str]:
    """Whether the predictor answers: the reason why not, in words that a stranger may read, or empty.

    Args:
        predictor: is asked for a real prediction.
        seconds: for which the outcome is kept.
    """

    def check() -> str:
        try:
            predictor.ready()
        except NotReadyError as error:
            logger.warning("not ready: %s", error)
            return "the model gives no answer"
        except ServingError as error:
            logger.warning("not ready: %s", error)
            if isinstance(error, Unavailable):
                return "the model server cannot be reached"
            if isinstance(error, Overloaded):
                return "the model server is overloaded"
            return "the model server is too slow" if isinstance(error, TimedOut) else "the model server fails"
        except Exception:
            logger.exception("not ready: the check failed")
            return "the check failed"
        return ""

    return Kept(check, seconds)
