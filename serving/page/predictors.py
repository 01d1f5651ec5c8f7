"""What answers the page's images: a TFLite file in this process, or TensorFlow Serving behind a client."""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data import preprocess, quality, shown
from ladnn_tf.data.phantom_slice import example_png
from ladnn_tf.edge_predictor import EdgePredictor
from serving.clients.serving_client import ServingClient

_PNG_LEVEL = 1  # fast: the slices go to a server nearby


class NotReadyError(Exception):
    """A predictor that gives no answers, with what is wrong with it."""


class Predictor(Protocol):
    """Answers one image at a time; threads share it."""

    def card(self) -> tuple[Card, str]:
        """The card of the model that answers now, and the SHA-256 of its JSON.

        Raises:
            ServingError: if the server behind it fails.
        """

    def answer(self, encoded: bytes, pixels: np.ndarray) -> tuple[Answer, np.ndarray]:
        """Answers one image; waits until the answer is there.

        Args:
            encoded: a PNG or JPEG file that `preprocess.decode` reads.
            pixels: `(H, W, 3)` uint8 RGB in [0, 255], what it holds.

        Returns:
            The answer with its maps, an abstention with its reason, or an error that concerns this image alone;
            and `(h, w, 3)` uint8 RGB, what the network was shown of the image, in its own size: maps and boxes are
            shares of it. Without an answer it is the image.

        Raises:
            ServingError: if the server behind it fails.
        """

    def predict(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """Answers slices of a series; waits until the answers are there.

        Args:
            images: `(H, W, 3)` uint8 each, in [0, 255].

        Returns:
            One answer per slice, in order, as of `answer`; their cards may differ if another model is served.

        Raises:
            ServingError: if the server behind it fails.
        """

    def ready(self) -> None:
        """Answers a phantom slice.

        Raises:
            NotReadyError: with the reason, if there is no answer.
            ServingError: if the server behind it fails.
        """

    def close(self) -> None:
        """Lets go of connections and memory; the predictor must not be used afterwards."""


class EmbeddedPredictor:
    """The edge predictor: a TFLite file in this process.

    Args:
        predictor: with its model and its check for chest-CT slices.
    """

    def __init__(self, predictor: EdgePredictor) -> None:
        self._predictor = predictor

    def card(self) -> tuple[Card, str]:
        """As `Predictor.card`; always the same."""
        return self._predictor.card, self._predictor.card_sha256

    def answer(self, encoded: bytes, pixels: np.ndarray) -> tuple[Answer, np.ndarray]:  # noqa: ARG002 (has both)
        """As `Predictor.answer`: what `EdgePredictor.answer` does, which gives the network's own pixels alone."""
        edge = self._predictor
        seen, reason = shown.prepared(pixels, edge.card.lungs, check=edge.check)
        if reason:
            return Answer(*self.card(), abstained=True, reason=reason), pixels
        answer = edge.ask(preprocess.resize(seen, edge.card.image_size))
        return answer, pixels if answer.error else seen

    def predict(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """As `Predictor.predict`."""
        return self._predictor.predict(images)

    def ready(self) -> None:
        """As `Predictor.ready`."""
        _check_ready(self)

    def close(self) -> None:
        """As `Predictor.close`: there is nothing to let go of."""


class RemotePredictor:
    """TensorFlow Serving behind a client.

    Args:
        client: of the server; it is closed with the predictor.
        check: whether to abstain from what is no chest-CT slice (`data/quality.py`), which the server does not do.
    """

    def __init__(self, client: ServingClient, *, check: bool = True) -> None:
        self._client = client
        self._check = check

    def card(self) -> tuple[Card, str]:
        """As `Predictor.card`; it changes when the server takes up another version."""
        return self._client.card()

    def answer(self, encoded: bytes, pixels: np.ndarray) -> tuple[Answer, np.ndarray]:
        """As `Predictor.answer`; a served model is shown the whole image."""
        card = self.card()
        reason = self._refusal(pixels)
        if reason:
            return Answer(*card, abstained=True, reason=reason), pixels
        return self._client.ask([encoded], explain=True)[0], pixels

    def predict(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """As `Predictor.predict`; the slices are sent as PNG, as many to a request as the client sends."""
        card = self.card()
        reasons = [self._refusal(pixels) for pixels in images]
        asked = [pixels for pixels, reason in zip(images, reasons, strict=True) if not reason]
        encoded = [preprocess.encode_png(np.ascontiguousarray(pixels), _PNG_LEVEL) for pixels in asked]
        answers = iter(self._client.ask(encoded, explain=True) if encoded else [])
        return [Answer(*card, abstained=True, reason=reason) if reason else next(answers) for reason in reasons]

    def _refusal(self, pixels: np.ndarray) -> str:
        return quality.refusal(pixels) if self._check else ""

    def ready(self) -> None:
        """As `Predictor.ready`."""
        _check_ready(self)

    def close(self) -> None:
        """As `Predictor.close`."""
        self._client.close()


def _check_ready(predictor: Predictor) -> None:
    answer, _ = predictor.answer(*_example())
    if answer.error or answer.abstained:
        raise NotReadyError(f"the phantom slice gets no answer: {answer.error or answer.reason}")


@functools.cache
def _example() -> tuple[bytes, np.ndarray]:
    encoded = example_png()
    return encoded, preprocess.decode(encoded)
