"""What can go wrong between a client and TensorFlow Serving.

    ServingError
    |-- Unavailable       nothing listens there, it starts, or its queue is full; alone worth trying again
    |-- TimedOut          no connection, or no answer, in time
    |-- InvalidRequest    the server refuses what it was sent: an image that it cannot read, say
    |-- NotFound          no such model, version or label
    +-- ServerFailed      every other answer, and answers that are none
        |-- Overloaded    it had no time or memory for the request; trying again would be more of the same
        +-- ModelRefused  the client refuses the model: it has no card, or is not fit

They are OSErrors, as Python's own errors of connections are: a command that meets one ends with one line.
"""

# ruff: noqa: N818 (the names are those of the server's status codes, which say enough)


class ServingError(OSError):
    """A request to TensorFlow Serving that failed.

    Args:
        message: what failed, where, and what to do; it is made one line.
        words: the server's own message, whole; empty if the server said nothing.

    Attributes:
        words: as given.
    """

    def __init__(self, message: str, words: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.words = words


class Unavailable(ServingError):
    """UNAVAILABLE, 503, or no connection.

    Args:
        message, words: as `ServingError`.
        retry_after: seconds after which the server asks to be asked again; None if it names none.
    """

    def __init__(self, message: str, words: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, words)
        self.retry_after = retry_after


class TimedOut(ServingError):
    """DEADLINE_EXCEEDED, 408 or 504, or a time-out of the client's own."""


class InvalidRequest(ServingError):
    """INVALID_ARGUMENT, or 400, which over REST stands for FAILED_PRECONDITION and OUT_OF_RANGE too."""


class NotFound(ServingError):
    """NOT_FOUND, 404, or a label that the server does not know."""


class ServerFailed(ServingError):
    """Every other error of a server, and an answer that is not what was asked for."""


class Overloaded(ServerFailed):
    """RESOURCE_EXHAUSTED, or 429: the request waited too long in the queue of a batch, or memory ran out."""


class ModelRefused(ServerFailed):
    """A model that is served, but is not one to answer with."""
