"""How a client reaches TensorFlow Serving: one interface, over REST (`rest.py`) or gRPC (`grpc_transport.py`)."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from serving.clients.errors import InvalidRequest, NotFound, Overloaded

AVAILABLE = "AVAILABLE"
"""The state of a version that answers; the server's other states are START, LOADING, UNLOADING and END."""

CONNECT_TIMEOUT = 5.0
"""Seconds that a connection may take."""

TIMEOUT = 60.0
"""Seconds that a request may take: a slice needs milliseconds, but may wait in the server's queue."""

_MOST_WORDS = 600  # characters of a server's message that are shown


class Transport(Protocol):
    """One model of a server. It asks once; trying again is the client's. Threads may share it."""

    def predict(
        self, signature: str, inputs: dict[str, list[bytes]], version: int | None, label: str
    ) -> dict[str, np.ndarray]:
        """Asks a signature of the model.

        Args:
            signature: its name.
            inputs: name of an input -> `(B,)` strings.
            version: the version to ask; None for the one of `label`.
            label: of the version to ask; with neither, the newest one is asked.

        Returns:
            Name of an output -> `(B, ...)` float32, or `(B, ...)` bytes as objects.

        Raises:
            ServingError: as `errors.py` has them.
        """

    def served_version(self, label: str) -> int:
        """Asks which version answers under a label, or with an empty one the newest version.

        Raises:
            NotFound: if there is no such model or label, or none of its versions is loaded.
            ServingError: as `errors.py` has them.
        """

    def states(self) -> dict[int, str]:
        """Asks for the state of every version that the server knows; the one that answers is `AVAILABLE`.

        Raises:
            NotFound: if there is no such model.
            ServingError: as `errors.py` has them.
        """

    def close(self) -> None:
        """Closes the connections."""


@contextlib.contextmanager
def resolving(address: str, model: str, label: str) -> Iterator[None]:
    """Puts into plain words what a server says that does not have a model or a label.

    Args:
        address: of the server.
        model: that was asked for.
        label: that was asked for; empty for none.

    Raises:
        NotFound: for the server's NOT_FOUND, and for the INVALID_ARGUMENT that it has for an unknown label.
    """
    try:
        yield
    except NotFound as error:
        raise NotFound(
            f"{address} serves no model {model!r}{label and f' under the label {label!r}'}{quoted(error.words)}; "
            "it may still be loading, or have another name in the server's configuration",
            error.words,
        ) from error
    except InvalidRequest as error:
        if not label:
            raise
        raise NotFound(
            f"{address} has no label {label!r} for the model {model!r}{quoted(error.words)}; labels are given in "
            "the server's models.config",
            error.words,
        ) from error


def overloaded(address: str, words: str) -> Overloaded:
    """The error about a server that has more to do than it can.

    Args:
        address: of the server.
        words: its own.
    """
    return Overloaded(
        f"{address} is overloaded{quoted(words)}; ask it again later, and with fewer requests at a time", words
    )


def quoted(words: str) -> str:
    """A server's words in brackets, as the end of a message: in one line, shortened, empty for none."""
    words = " ".join(words.split())
    return words and f" ({words if len(words) <= _MOST_WORDS else words[:_MOST_WORDS] + '...'})"
