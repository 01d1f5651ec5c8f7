"""How often a client may come: a bucket of tokens for each, in bounded memory."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_CLIENTS = 10_000


class RateLimit:
    """A token bucket for each client: a minute's requests may come at once, then they come at the rate.

    Args:
        per_minute: requests of a client; 0 for no limit.
        clock: tells seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(per_minute)
        self._per_second = per_minute / 60.0
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, and when

    def take(self, client: str) -> float:
        """Takes a request from the client's bucket.

        Returns:
            0 if there was one; else the seconds until there will be, and nothing is taken.
        """
        if not self._most:
            return 0.0
        with self._lock:
            tokens = self._tokens(client)
            if tokens < 1.0:
                return (1.0 - tokens) / self._per_second
            self._buckets[client] = tokens - 1.0, self._clock()
            self._buckets.move_to_end(client)
            if len(self._buckets) > _MOST_CLIENTS:
                self._buckets.popitem(last=False)  # the one that has been away longest, and is fullest
            return 0.0

    def _tokens(self, client: str) -> float:
        tokens, since = self._buckets.get(client, (self._most, self._clock()))
        return min(self._most, tokens + (self._clock() - since) * self._per_second)
