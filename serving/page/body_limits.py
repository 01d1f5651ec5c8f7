"""What a request may bring and how long it may take: bodies are counted as they arrive and as they leave.

A refusal is of use only if the client gets to read it: while it is still sending, it does not read, and if the
connection is closed under it, it may never. So what a refused client sends is read on and thrown away, up to as
much again as is allowed.
"""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterator

from starlette.types import Message, Receive, Send

from serving.page.errors import PageError, try_later
from serving.page.security_headers import with_security_headers
from serving.page.settings import MEGABYTE

_CHUNK = 2**16  # bytes of an answer that are sent at a time
_BUSY_SECONDS = 2.0  # after which there may be room for another upload


class UploadRoom:
    """The memory that uploads share, of which one client gets at most half; threads may ask for it.

    Args:
        most_bytes: of all uploads together.
        most_uploads: at a time.
    """

    def __init__(self, most_bytes: int, most_uploads: int) -> None:
        self._most = _Share(most_bytes, most_uploads)
        self._most_of_one = _Share(most_bytes // 2, -(-most_uploads // 2))
        self._lock = threading.Lock()
        self._all = _Share()
        self._of: dict[str, _Share] = {}  # those clients that have uploads

    @property
    def used(self) -> int:
        """Bytes that are reserved."""
        return self._all.bytes

    @contextlib.contextmanager
    def upload(self, client: str, announced: int) -> Iterator[Callable[[int], None]]:
        """Lets an upload in, as long as the context lasts.

        Args:
            client: whose it is.
            announced: its bytes, as its header says. There must be room for them, but they are not reserved: a
                client could announce much and send nothing.

        Yields:
            A function that reserves bytes for the upload; it is called as they come.

        Raises:
            PageError: 503 if there is no room now; the function raises it, too.
        """
        reserved = 0

        def reserve(more: int) -> None:
            nonlocal reserved
            with self._lock:
                self._check(client, _Share(more))
                self._change(client, _Share(more))
                reserved += more

        with self._lock:
            self._check(client, _Share(announced, 1))
            self._change(client, _Share(0, 1))
        try:
            yield reserve
        finally:
            with self._lock:
                self._change(client, _Share(-reserved, -1))

    def _check(self, client: str, more: "_Share") -> None:
        if not (self._all + more).is_within(self._most):
            raise try_later("busy", _BUSY_SECONDS)
        if not (self._of.get(client, _Share()) + more).is_within(self._most_of_one):
            raise try_later("busy_client", _BUSY_SECONDS)

    def _change(self, client: str, more: "_Share") -> None:
        self._all += more
        own = self._of.get(client, _Share()) + more
        if own.uploads:
            self._of[client] = own
        else:
            del self._of[client]


@dataclasses.dataclass(frozen=True)
class _Share:
    bytes: int = 0
    uploads: int = 0

    def __add__(self, other: "_Share") -> "_Share":
        return _Share(self.bytes + other.bytes, self.uploads + other.uploads)

    def is_within(self, most: "_Share") -> bool:
        return self.bytes <= most.bytes and self.uploads <= most.uploads


class Arriving:
    """The body of a request as it arrives, in place of ASGI's `receive`.

    Args:
        receive: of ASGI.
        most_bytes: of the body.
        seconds: for all of it to arrive.

    Attributes:
        complete: whether all of it has arrived.
        reserve: is told of each part how many bytes it has; what it raises refuses the request.
    """

    def __init__(self, receive: Receive, most_bytes: int, seconds: float) -> None:
        self.complete = False
        self.reserve: Callable[[int], None] = lambda _: None
        self._receive = receive
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._received = 0

    async def __call__(self) -> Message:
        """Receives a part of the body; after the last one, waits until the client goes away.

        Raises:
            PageError: 413 if the body is too large, 408 if it takes too long; or of `reserve`.
        """
        if self.complete:
            return await self._receive()
        try:
            message = await self._part()
        except TimeoutError as error:
            raise PageError(408, "too_slow", seconds=round(self._seconds)) from error
        if self._received > self._most_bytes:
            raise self.too_large()
        self.reserve(len(message.get("body", b"")))
        return message

    def too_large(self) -> PageError:
        """The error about a body that is."""
        return PageError(413, "request_too_large", most=_in_megabytes(self._most_bytes))

    async def discard(self, seconds: float) -> None:
        """Reads the rest of the body and throws it away, as long as there is not too much of it.

        Args:
            seconds: to wait for it at most, if not less are left to it.
        """
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)
        with contextlib.suppress(TimeoutError):
            while not self.complete and self._received <= 2 * self._most_bytes:
                if (await self._part())["type"] != "http.request":
                    return

    async def _part(self) -> Message:
        async with asyncio.timeout_at(self._deadline):
            message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        return message


class Leaving:
    """An answer as it leaves, in place of ASGI's `send`: in parts, all of which the client must take in time.

    Sent as a whole, an answer would stay in the connection's memory, which nobody counts.

    Args:
        send: of ASGI.
        path: that was asked for.
        seconds: for the client to take all of it.
        before: is told the status before anything is sent; what it raises keeps the answer from being sent, and it
            is not told of the one that is sent instead.
    """

    def __init__(self, send: Send, path: str, seconds: float, before: Callable[[int], Awaitable[None]]) -> None:
        self.status = 0
        self._send = send
        self._path = path
        self._seconds = seconds
        self._deadline: float | None = None
        self._before: Callable[[int], Awaitable[None]] | None = before

    async def __call__(self, message: Message) -> None:
        """Sends a part of the answer.

        Raises:
            TimeoutError: if the client does not take all of them in time.
        """
        if message["type"] == "http.response.start":
            before, self._before = self._before, None
            if before is not None:
                await before(message["status"])
            self.status = message["status"]
            self._deadline = asyncio.get_running_loop().time() + self._seconds
            headers = with_security_headers(message.get("headers", ()), self._path)
            await self._send_in_time({**message, "headers": headers})
            return
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or len(body) <= _CHUNK:
            await self._send_in_time(message)
            return
        more_body = message.get("more_body", False)
        for start in range(0, len(body), _CHUNK):
            part = body[start : start + _CHUNK]
            more = more_body or start + _CHUNK < len(body)
            await self._send_in_time({"type": "http.response.body", "body": part, "more_body": more})

    async def _send_in_time(self, message: Message) -> None:
        async with asyncio.timeout_at(self._deadline):
            await self._send(message)


def _in_megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.3g}"
