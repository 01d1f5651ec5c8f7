"""Logins by token: what the token opens, and the cookie that stands for it afterwards."""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable

_PURPOSE = b"ladnn_tf page, session, 1"
_NONCE_BYTES = 16
_MOST_ENDED = 10_000


class Sessions:
    """Cookies that only the holder of the token can have been given.

    A cookie is its end, a random number and their HMAC. The key comes from the token: a login outlives a restart
    of the page and is good for all its replicas, and ends when the token is replaced.

    Args:
        token: the secret that a login needs.
        seconds: for which a login lasts.
        clock: tells the seconds since 1970.
    """

    def __init__(self, token: str, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.seconds = seconds
        self._token = hashlib.sha256(token.encode()).digest()  # of one length, as what it is compared with
        self._key = hmac.digest(token.encode(), _PURPOSE, "sha256")
        self._clock = clock
        self._lock = threading.Lock()
        self._ended: dict[str, float] = {}  # the number of a session -> until when it would have lasted

    def opens(self, token: str) -> bool:
        """Whether this is the token; it takes the same time whatever is wrong with it."""
        given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        return hmac.compare_digest(given, self._token)

    def begin(self) -> str:
        """A new session's cookie; whoever gets it is logged in."""
        content = f"{int(self._clock() + self.seconds):x}.{secrets.token_hex(_NONCE_BYTES)}"
        return f"{content}.{self._mac(content)}"

    def holds(self, cookie: str) -> bool:
        """Whether a cookie is that of a session that was begun here and has not ended."""
        found = self._read(cookie)
        if found is None:
            return False
        nonce, end = found
        with self._lock:
            return self._clock() < end and nonce not in self._ended

    def end(self, cookie: str) -> None:
        """Ends a session before its time, in this process; nothing happens if it is none."""
        found = self._read(cookie)
        if found is None:
            return
        with self._lock:
            now = self._clock()
            self._ended = {nonce: end for nonce, end in self._ended.items() if end > now}
            self._ended[found[0]] = found[1]
            if len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]  # the one that was ended first

    def _read(self, cookie: str) -> tuple[str, float] | None:
        content, _, mac = cookie.rpartition(".")
        if not cookie.isascii() or not hmac.compare_digest(mac, self._mac(content)):
            return None
        end, _, nonce = content.partition(".")
        return nonce, int(end, 16)

    def _mac(self, content: str) -> str:
        return hmac.digest(self._key, content.encode(), "sha256").hex()
