"""The watched folder: every image that appears in it is answered once.

A folder is looked at again and again, as network shares tell nobody of changes. An image is answered when its size
and its time of change were the same in two successive looks. One that cannot be read then is given more time, as
some systems make a file in its full size first and fill it afterwards. What was answered is known from the folder
of answers, and so after a kill and a restart too:

- the same name, size and time of change: answered, the file is not read again;
- the same name and content with another time of change: answered;
- the same name with another content: a new image, answered beside the old one.

It does not matter by which model an image was answered: another model answers only what is new.
"""

import dataclasses
import logging
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladnn_tf.edge_files import ImageFile, ResultsFolder, find_images, passed_over, read_image_file

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"  # ITU-T T.81, table B.1: SOI and EOI

_ENDING = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger("ladnn_tf.edge")


@dataclasses.dataclass
class _Sighting:
    """A file as it was when it last changed."""

    stamp: tuple[int, int]
    since: float
    unreadable: bool = False


class Watcher:
    """Looks at a folder and answers what is new.

    Args:
        folder: to be watched; folders in it are not.
        results: where the answers go.
        answer: gives the record and the overlay of an image, as `edge_output.answer`.
        report: is told every record after it was stored.
        settle: seconds for which a file that cannot be read must be unchanged before that is its answer.
        clock: gives seconds from any beginning.
        stopped: whether to end after the current image.
    """

    def __init__(
        self,
        folder: Path,
        results: ResultsFolder,
        answer: Callable[[ImageFile], tuple[dict[str, Any], bytes | None]],
        report: Callable[[dict[str, Any]], None],
        *,
        settle: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._results = results
        self._answer = answer
        self._report = report
        self._settle = settle
        self._clock = clock
        self._stopped = stopped
        self._sightings: dict[str, _Sighting] = {}
        self._failures: Counter[str] = Counter()  # name -> how often its answer could not be written
        self._said_passed_over = False
        self._complaints: dict[str, str] = {}  # about what -> what was logged last

    def look(self) -> int:
        """Looks at the folder once and answers the images that are due; no failure of a file or a folder ends it.

        Returns:
            How many images were answered.
        """
        try:
            found, others = find_images(self._folder)
        except OSError as error:
            self._complain("folder", f"{self._folder} cannot be read ({error.strerror}); it is tried again")
            return 0
        self._recover("folder", f"{self._folder} can be read again")
        if others and not self._said_passed_over:
            logger.warning(passed_over(self._folder, others))
            self._said_passed_over = True
        due = {name: stamp for name, stamp in found.items() if not self._results.knows_stamp(name, *stamp)}
        self._sightings = {name: sighting for name, sighting in self._sightings.items() if name in due}
        self._failures = Counter({name: count for name, count in self._failures.items() if name in due})
        answered = 0
        # An answer that cannot be written for a reason of its own must not keep the others waiting.
        for name in sorted(due, key=lambda name: (self._failures[name], name)):
            if self._stopped():
                break
            image = self._take(name, due[name])
            if image is None:
                continue
            record, overlay = self._answer(image)
            if record["error"] and not self._settled(name):
                self._sightings[name].unreadable = True
                continue
            try:
                self._results.store(record, overlay)
            except OSError as error:
                self._failures[name] += 1
                self._complain(
                    "results",
                    f"answers cannot be written to {self._results.folder} ({error.strerror}); the images stay "
                    "unanswered and are tried again",
                )
                break  # a full disk is as full for the next image
            self._recover("results", f"answers are written to {self._results.folder} again")
            self._report(record)
            answered += 1
        return answered

    def _take(self, name: str, stamp: tuple[int, int]) -> ImageFile | None:
        """Reads an image; None if it is not due, or was answered."""
        sighting = self._sightings.get(name)
        if sighting is None or sighting.stamp != stamp:
            self._sightings[name] = _Sighting(stamp, self._clock())
            return None
        if sighting.unreadable and not self._settled(name):
            return None
        path = self._folder / name
        try:
            image = read_image_file(path, name)
        except FileNotFoundError:  # gone since
            return None
        except OSError as error:
            self._complain(name, f"{path} cannot be read ({error.strerror}); it is tried again")
            return None
        self._recover(name, f"{path} can be read again")
        if (image.size, image.mtime_ns) != stamp or (len(image.content) != image.size and not image.refused):
            return None  # changed while it was read; the next look sees it
        if self._results.knows(image):
            self._results.learn_stamp(image)
            return None
        if not _has_its_end(image.content) and not self._settled(name):
            sighting.unreadable = True
            return None
        return image

    def _settled(self, name: str) -> bool:
        # By this clock and not by the file's time of change: the clock of a network share may be another.
        return self._clock() - self._sightings[name].since >= self._settle

    def _complain(self, about: str, message: str) -> None:
        if self._complaints.get(about) != message:
            logger.warning(message)
        self._complaints[about] = message

    def _recover(self, about: str, message: str) -> None:
        if self._complaints.pop(about, ""):
            logger.warning(message)


def _has_its_end(content: bytes) -> bool:
    """Whether a JPEG file ends as it should; decoders take the zeros of a half-filled file for a picture."""
    return not content.startswith(_JPEG_START) or content.rstrip(b"\0").endswith(_JPEG_END)


class StopSignal:
    """SIGINT and SIGTERM as a request that the work looks at, and a sleep that they end; a context manager.

    A second signal of the same kind ends the process at once, as if there were none of this.

    Attributes:
        requested: whether one came.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        # A signal between a look at `requested` and the sleep must end the sleep too: hence a socket.
        self._receiver, self._sender = socket.socketpair()
        self._previous = {number: signal.signal(number, self._request) for number in _ENDING}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._receiver.close()
        self._sender.close()

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
        self._sender.send(b"\0")

    def sleep(self, seconds: float) -> None:
        """Waits, until a request at the longest."""
        select.select([self._receiver], [], [], seconds)


def watch(watcher: Watcher, stop: StopSignal, interval: float) -> None:
    """Looks until it is told to stop.

    Args:
        watcher: of the folder.
        stop: tells it.
        interval: seconds between the end of a look and the next.
    """
    while not stop.requested:
        watcher.look()
        if not stop.requested:
            stop.sleep(interval)
