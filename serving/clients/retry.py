"""Trying again: only what is unavailable for the moment, a bounded number of times, ever more slowly."""

import dataclasses
import random
import time
from collections.abc import Callable
from typing import TypeVar

from serving.clients.errors import Unavailable

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Retry:
    """When to try again.

    Attributes:
        attempts: how often something is tried at most, the first time included.
        first: seconds of the longest pause after the first failure; each further failure doubles it.
        longest: seconds that no pause exceeds, but for a server's own wish.
        longest_wish: seconds that a server may ask to be left alone (Retry-After); for longer nobody should wait
            here, so it is not tried again.
        sleep: waits for seconds.
        draw: a random number in [0, 1).
    """

    attempts: int = 4
    first: float = 0.25
    longest: float = 4.0
    longest_wish: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts should be 1 or more. Received: {self.attempts}")

    def call(self, work: Callable[[], _T]) -> _T:
        """Returns what `work` returns, trying again after `Unavailable`.

        Raises:
            Unavailable: of the last attempt.
        """
        failures = 0
        while True:
            try:
                return work()
            except Unavailable as error:
                failures += 1
                wish = error.retry_after or 0.0
                if failures >= self.attempts or wish > self.longest_wish:
                    raise
            self.sleep(wish + self.pause(failures))

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures.

        A random part, at least half, of `first`, doubled with each failure: clients that failed together should
        not come back together.
        """
        return min(self.longest, self.first * 2.0 ** (failures - 1)) * (0.5 + 0.5 * self.draw())
