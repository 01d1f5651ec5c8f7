"""The client of TensorFlow Serving: images in, answers by the card of the version that made them out."""

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data import preprocess, quality
from serving.clients.answers import Served, bad_places, read_answers, read_card, without_card
from serving.clients.errors import InvalidRequest, NotFound, ServingError, Unavailable
from serving.clients.retry import Retry
from serving.clients.transport import AVAILABLE, Transport, quoted

_T = TypeVar("_T")
_Batch = list[tuple[int, bytes]]  # each image with its place in the caller's list

REQUEST_BYTES = 32 * 2**20
"""Most bytes of images in a request; a chest-CT slice has 0.1 to 0.5 million."""

# An upgrade or a roll-back by label shows after so long. Cards are kept no longer: a server that was set up anew
# may have another model under an old number.
_KEPT_SECONDS = 3.0
_ATTEMPTS_ALONE = 3


class ServingClient:
    """Asks a model of TensorFlow Serving. Threads may share it; a context manager, which closes it.

    Which version answers is asked every few seconds. The requests name that version, so that every answer is
    judged by the card of the version that made it, also while versions change.

    Args:
        transport: to the server and the model (`rest.py`, `grpc_transport.py`); closed with the client.
        label: of the version to ask, such as `stable`; empty for the newest.
        batch_size: most images in a request.
        allow_unfit: answer also with a model that its card calls unfit or unmeasured; its answers say so.
        check: whether `predict` abstains from what is no chest-CT slice (`data/quality.py`).
        retry: how what is unavailable is tried again.
        request_bytes: most bytes of images in a request; a single image that has more gets an error.
        clock: tells seconds.

    Raises:
        ValueError: if `batch_size` or `request_bytes` is below 1.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        label: str = "",
        batch_size: int = 8,
        allow_unfit: bool = False,
        check: bool = True,
        retry: Retry | None = None,
        request_bytes: int = REQUEST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("request_bytes", request_bytes)):
            if value < 1:
                raise ValueError(f"{name} should be 1 or more. Received: {value}")
        self._transport = transport
        self._label = label
        self._batch_size = batch_size
        self._request_bytes = request_bytes
        self._allow_unfit = allow_unfit
        self._check = check
        self._retry = retry or Retry()
        self._clock = clock
        self._lock = threading.Lock()
        self._version: tuple[float, int] | None = None  # until when it counts, and which
        self._cards: dict[int, tuple[float, Served]] = {}

    def __enter__(self) -> "ServingClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the client must not be used afterwards."""
        self._transport.close()

    def card(self) -> tuple[Card, str]:
        """The card of the version that is served now, and the SHA-256 of its JSON.

        Raises:
            ServingError: if the server does not answer, or its model is none to answer with.
        """
        served = self._pinned(self._served)
        return served.card, served.card_sha256

    def ready(self) -> bool:
        """Whether the version that would be asked is loaded: its state is AVAILABLE. Nothing is tried again."""
        try:
            return self._transport.states().get(self._transport.served_version(self._label)) == AVAILABLE
        except ServingError:
            return False

    def predict(self, images: Sequence[bytes], explain: bool = False) -> list[Answer]:
        """Answers images, each of which is read and checked here before it is sent.

        One image that the server cannot read would cost the others of its request their answers.

        Args:
            images: PNG or JPEG files, by their bytes.
            explain: whether the answers have attention maps.

        Returns:
            One answer per image, in order. An unreadable file has an `error`, what is no chest CT a `reason`.

        Raises:
            ValueError: if an image is not bytes.
            ServingError: if the server fails, whatever the images; nothing is answered then.
        """
        images = _all_bytes(images)
        refused = {place: fields for place, image in enumerate(images) if (fields := self._refused(image))}
        sent = [place for place in range(len(images)) if place not in refused]
        answers = dict(zip(sent, self.ask([images[place] for place in sent], explain), strict=True))
        if refused:
            card = self.card()
            answers |= {place: Answer(*card, **fields) for place, fields in refused.items()}
        return [answers[place] for place in range(len(images))]

    def ask(self, images: Sequence[bytes], explain: bool = False) -> list[Answer]:
        """Answers images that the caller has read and checked.

        If the server still cannot read some, they get an error and the others are sent again without them.

        Args:
            images, explain: as `predict`.

        Returns:
            One answer per image, in order.

        Raises:
            ValueError, ServingError: as `predict`.
        """
        images = _all_bytes(images)
        answers: dict[int, Answer] = {}
        for batch in self._batches(images):
            answers |= self._pinned(functools.partial(self._answer, batch=batch, explain=explain))
        large = [place for place in range(len(images)) if place not in answers]
        if large:
            card = self.card()
            most = f"{self._request_bytes:,} bytes are sent in one request"
            answers |= {
                place: Answer(*card, error=f"too large: at most {most}, this file has {len(images[place]):,}")
                for place in large
            }
        return [answers[place] for place in range(len(images))]

    def _refused(self, image: bytes) -> dict[str, Any]:
        try:
            pixels = preprocess.decode(image)
        except preprocess.ImageError as error:
            return {"error": str(error)}
        reason = quality.refusal(pixels) if self._check else ""
        return {"abstained": True, "reason": reason} if reason else {}

    def _batches(self, images: Sequence[bytes]) -> Iterator[_Batch]:
        """The images that fit into a request, in order, as many to a request as fit."""
        batch: _Batch = []
        size = 0
        for place, image in enumerate(images):
            if len(image) > self._request_bytes:
                continue
            if batch and (len(batch) == self._batch_size or size + len(image) > self._request_bytes):
                yield batch
                batch, size = [], 0
            batch.append((place, image))
            size += len(image)
        if batch:
            yield batch

    def _pinned(self, work: Callable[[int], _T]) -> _T:
        """Calls `work` with the version that is served; once more, if it is gone and another one has come."""
        version = self._served_version()
        try:
            return work(version)
        except NotFound:
            self._forget()
            found = self._served_version()
            if found == version:
                raise
            return work(found)

    def _served_version(self) -> int:
        with self._lock:
            if self._version and self._clock() < self._version[0]:
                return self._version[1]
        version = self._call(functools.partial(self._transport.served_version, self._label))
        with self._lock:
            self._version = self._clock() + _KEPT_SECONDS, version
        return version

    def _served(self, version: int) -> Served:
        with self._lock:
            until, served = self._cards.get(version, (0.0, None))
            if served and self._clock() < until:
                return served
        try:
            outputs = self._predict("card", {"query": [b""]}, version)
        except InvalidRequest as error:
            raise without_card(version, quoted(error.words)) from error
        served = read_card(version, outputs, allow_unfit=self._allow_unfit)
        with self._lock:
            self._cards[version] = self._clock() + _KEPT_SECONDS, served
        return served

    def _answer(self, version: int, batch: _Batch, *, explain: bool, failures: int = 0) -> dict[int, Answer]:
        """Place -> answer, of every image of a batch."""
        served = self._served(version)
        images = [image for _, image in batch]
        try:
            outputs = self._predict("explain" if explain else "serving_default", {"image_bytes": images}, version)
        except InvalidRequest as error:
            return self._sort_out(error, served, batch, explain=explain, failures=failures + 1)
        answers = read_answers(served, outputs, len(batch), explain=explain)
        return {place: answer for (place, _), answer in zip(batch, answers, strict=True)}

    def _sort_out(
        self, error: InvalidRequest, served: Served, batch: _Batch, *, explain: bool, failures: int
    ) -> dict[int, Answer]:
        """Answers what can be answered of a batch that the server refused."""
        again = functools.partial(self._answer, served.version, explain=explain)
        bad = bad_places(error.words, len(batch))
        if bad:
            blamed = {batch[place][0]: served.answer(error=reason) for place, reason in bad.items()}
            rest = [item for place, item in enumerate(batch) if place not in bad]
            return blamed | (again(rest) if rest else {})
        if len(batch) > 1:
            half = len(batch) // 2
            return again(batch[:half]) | again(batch[half:])
        if failures < _ATTEMPTS_ALONE:
            # A server that batches may have put it together with another client's bad image.
            self._retry.sleep(self._retry.pause(failures))
            return again(batch, failures=failures)
        words = quoted(error.words) or f" ({error})"
        return {batch[0][0]: served.answer(error=f"the model server refuses this image{words}")}

    def _predict(self, signature: str, inputs: dict[str, list[bytes]], version: int) -> dict[str, np.ndarray]:
        return self._call(functools.partial(self._transport.predict, signature, inputs, version, self._label))

    def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return self._retry.call(work)
        except Unavailable:
            self._forget()
            raise

    def _forget(self) -> None:
        """Nothing that was known need be true of a server that went away, or of versions that did."""
        with self._lock:
            self._version = None
            self._cards.clear()


def _all_bytes(images: Iterable[bytes]) -> list[bytes]:
    if isinstance(images, bytes | bytearray | memoryview | str):
        raise ValueError(f"images should be a list of images. Received: a single {type(images).__name__}")
    images = list(images)
    for place, image in enumerate(images):
        if not isinstance(image, bytes | bytearray | memoryview):
            raise ValueError(
                f"images[{place}] should be the bytes of a PNG or JPEG file. Received: {type(image).__name__}"
            )
    return [bytes(image) for image in images]
