"""The bounded queue of images, and the threads that work it off.

One image is one job. The clients take turns, one job each, so that a batch of one does not keep the single image
of another waiting.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

_FIRST_GUESS = 0.2  # seconds of a job, as long as none was seen
_NEWEST = 0.1  # weight of the newest job in the mean
_LONGEST_WAIT = 120  # seconds that a client is asked to stay away at most


class QueueFullError(Exception):
    """The queue cannot take these jobs; nothing of them was taken.

    Args:
        seconds: after which it is likely to have room.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; come back in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    future: Future
    since: float


class WorkQueue:
    """Jobs of several clients and the threads that do them.

    Args:
        capacity: how many jobs may wait.
        workers: number of threads.
        on_begin: is told of every job how many seconds it waited.
        clock: tells seconds.
    """

    def __init__(
        self,
        capacity: int,
        workers: int,
        *,
        on_begin: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self._on_begin = on_begin
        self._clock = clock
        self._changed = threading.Condition()
        self._turns: dict[str, deque[_Job]] = {}  # client -> its jobs; the first client is next
        self._waiting = 0
        self._mean = _FIRST_GUESS
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return self._waiting

    def submit(self, client: str, jobs: Sequence[Callable[[], Any]]) -> list[Future]:
        """Takes jobs, all of them or none.

        Args:
            client: whose they are; the clients take turns.
            jobs: called without arguments, each by some thread.

        Returns:
            A future for each job.

        Raises:
            QueueFullError: if there is no room for all of them, or the queue is closed.
        """
        with self._changed:
            if self._closed or self._waiting + len(jobs) > self.capacity:
                raise QueueFullError(self._seconds_until_room(len(jobs)))
            since = self._clock()
            taken = [_Job(work, Future(), since) for work in jobs]
            if taken:
                self._turns.setdefault(client, deque()).extend(taken)
                self._waiting += len(taken)
                self._changed.notify(len(taken))
        return [job.future for job in taken]

    def drop(self, futures: Sequence[Future]) -> None:
        """Drops those jobs that are not begun; their futures are cancelled, and their places free at once."""
        for future in futures:
            future.cancel()
        with self._changed:
            for client, jobs in list(self._turns.items()):
                kept = deque(job for job in jobs if not job.future.cancelled())
                self._waiting -= len(jobs) - len(kept)
                if kept:
                    self._turns[client] = kept
                else:
                    del self._turns[client]

    def close(self, seconds: float | None = None) -> None:
        """Drops what waits, and waits for what is being done.

        Args:
            seconds: to wait at most; None for as long as it takes.
        """
        with self._changed:
            self._closed = True
            futures = [job.future for jobs in self._turns.values() for job in jobs]
            self._changed.notify_all()
        self.drop(futures)
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _seconds_until_room(self, count: int) -> int:
        ahead = max(1, self._waiting + count - self.capacity)
        return min(_LONGEST_WAIT, max(1, math.ceil(ahead * self._mean / len(self._threads))))

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._turns:
                if self._closed:
                    return None
                self._changed.wait()
            client = next(iter(self._turns))
            jobs = self._turns.pop(client)
            job = jobs.popleft()
            if jobs:
                self._turns[client] = jobs  # at the end: the others first
            self._waiting -= 1
            return job

    def _work(self) -> None:
        while job := self._next():
            if job.future.set_running_or_notify_cancel():
                self._do(job)
            del job  # an idle thread must not hold on to an image

    def _do(self, job: _Job) -> None:
        begun = self._clock()
        self._on_begin(begun - job.since)
        try:
            result = job.work()
        except BaseException as error:  # noqa: BLE001 (it is for whoever asked; the thread goes on)
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
        with self._changed:
            self._mean += _NEWEST * (self._clock() - begun - self._mean)
