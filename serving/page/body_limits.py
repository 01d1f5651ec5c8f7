"""What a request may bring and how long it may take: bodies are counted as they arrive and as they leave.

A refusal is of use only if the client gets to read it: while it is still sending, it does not read, and if the
connection is closed under it, it may never. So what a refused client sends is read on and thrown away, up to as
much again as is allowed.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator

from starlette.types import Message, Receive, Send

from serving.page.errors import PageError, try_later
from serving.page.security_headers import with_security_headers
from serving.page.settings import MEGABYTE

_CHUNK = 2**16  # bytes of an answer that are sent at a time
_BUSY_SECONDS = 2.0  # after which there may be room for another upload


class UploadRoom:
    """The memory that uploads share; threads may ask for it.

    Args:
        most_bytes: of all uploads together.
        most_uploads: at a time.
    """

    def __init__(self, most_bytes: int, most_uploads: int) -> None:
        self._most_bytes = most_bytes
        self._most_uploads = most_uploads
        self._lock = threading.Lock()
        self._bytes = 0
        self._uploads = 0

    @property
    def used(self) -> int:
        """Bytes that are reserved."""
        return self._bytes

    @contextlib.contextmanager
    def upload(self, size: int) -> Iterator[Callable[[int], None]]:
        """Reserves room for an upload, as long as the context lasts.

        Args:
            size: of the upload in bytes.

        Yields:
            A function that reserves more bytes for the same upload.

        Raises:
            PageError: 503 if there is no room now; the function raises it, too.
        """
        reserved = 0

        def reserve(more: int) -> None:
            nonlocal reserved
            with self._lock:
                if self._bytes + more > self._most_bytes:
                    raise try_later("busy", _BUSY_SECONDS)
                self._bytes += more
                reserved += more

        with self._lock:
            if self._uploads >= self._most_uploads:
                raise try_later("busy", _BUSY_SECONDS)
            self._uploads += 1
        try:
            reserve(size)
            yield reserve
        finally:
            with self._lock:
                self._uploads -= 1
                self._bytes -= reserved


class Arriving:
    """The body of a request as it arrives, in place of ASGI's `receive`.

    Args:
        receive: of ASGI.
        most_bytes: of the body.
        seconds: for all of it to arrive.
    """

    def __init__(self, receive: Receive, most_bytes: int, seconds: float) -> None:
        self.complete = False
        self._receive = receive
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._received = 0

    async def __call__(self) -> Message:
        """Receives a part of the body; after the last one, waits until the client goes away.

        Raises:
            PageError: 413 if the body is too large, 408 if it takes too long.
        """
        if self.complete:
            return await self._receive()
        try:
            message = await self._part()
        except TimeoutError as error:
            raise PageError(408, "too_slow", seconds=round(self._seconds)) from error
        if self._received > self._most_bytes:
            raise self.too_large()
        return message

    def too_large(self) -> PageError:
        """The error about a body that is."""
        return PageError(413, "request_too_large", most=_in_megabytes(self._most_bytes))

    async def discard(self) -> None:
        """Reads the rest of the body and throws it away, as long as there is not too much of it."""
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
    """An answer as it leaves, in place of ASGI's `send`: in parts, each of which the client must take in time.

    Sent as a whole, an answer would stay in the connection's memory, which nobody counts.

    Args:
        send: of ASGI.
        path: that was asked for.
        seconds: for the client to take a part.
        before: is told the status before anything is sent; what it raises keeps the answer from being sent, and it
            is not told of the one that is sent instead.
    """

    def __init__(self, send: Send, path: str, seconds: float, before: Callable[[int], Awaitable[None]]) -> None:
        self.status = 0
        self._send = send
        self._path = path
        self._seconds = seconds
        self._before: Callable[[int], Awaitable[None]] | None = before

    async def __call__(self, message: Message) -> None:
        """Sends a part of the answer.

        Raises:
            TimeoutError: if the client does not take it.
        """
        if message["type"] == "http.response.start":
            before, self._before = self._before, None
            if before is not None:
                await before(message["status"])
            self.status = message["status"]
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
        async with asyncio.timeout(self._seconds):
            await self._send(message)


def _in_megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.3g}"
