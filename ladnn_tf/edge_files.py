"""The files of the edge command: images in, a folder of answers out.

A folder of answers holds for each image `NAME.json`, one line of JSON, and beside it `NAME.overlay.jpg`, where
NAME is the image's file name and the beginning of the SHA-256 of its content: `a.png.1f3a5b7c`. The JSON is
written last, in one step: an image whose JSON is there is answered, and only such a one. `cat FOLDER/*.json` is
JSON lines. To have an image answered again, delete its JSON and begin the command anew.
"""

import dataclasses
import errno
import functools
import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from ladnn_tf.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows, where nothing is kept from anything
    fcntl = None

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are not read: 50 million pixels, the most that is decoded, have 200 MB in RGBA."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
RECORD_SUFFIX = ".json"
OVERLAY_SUFFIX = ".overlay.jpg"

_LOCK = ".ladnn_edge.lock"
_LEFT_OVER = re.compile(r"\..+\.(json|overlay\.jpg)\.[a-z0-9_]{8}")  # of `files.atomic_file`, after a kill
_NAME_BYTES = 180  # file systems take 255, of which suffixes and the temporary name need some

logger = logging.getLogger("ladnn_tf.edge")  # not absl's: an edge box has none


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """The content of an image file.

    Attributes:
        file: its name, as the answer gives it.
        content: its bytes.
        size, mtime_ns: of the file, in bytes and nanoseconds, just after it was read.
    """

    file: str
    content: bytes
    size: int
    mtime_ns: int

    @functools.cached_property
    def sha256(self) -> str:
        """Of the content, as 64 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


def read_image_file(path: Path, file: str) -> ImageFile:
    """Reads a file.

    Args:
        path: where it lies.
        file: its name for the answer.

    Raises:
        OSError: if it cannot be read, or has more than `MAX_FILE_BYTES`.
    """
    with path.open("rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"more than {MAX_FILE_BYTES:,} bytes are no slice", str(path))
        status = os.fstat(opened.fileno())
    return ImageFile(file, content, status.st_size, status.st_mtime_ns)


def find_images(folder: Path) -> dict[str, tuple[int, int]]:
    """The image files in a folder, not in the folders in it.

    Images are what is called `.png`, `.jpg` or `.jpeg`, in any case; hidden files are none, and so nothing that is
    being copied under another name (`.a.png.Xy12Ab`, `a.png.part`, `a.png.tmp`, `a.png.crdownload`).

    Args:
        folder: the folder.

    Returns:
        Name -> size in bytes and time of change in nanoseconds, in the order of the names; -1 and -1 where the
        system does not tell, as it will not open the file either.

    Raises:
        OSError: if the folder cannot be read.
    """
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith(IMAGE_SUFFIXES):
                continue
            try:
                if entry.is_file():  # a named pipe would be waited for
                    status = Path(entry.path).stat()  # an entry's own may be older
                    found[entry.name] = status.st_size, status.st_mtime_ns
            except FileNotFoundError:  # gone since
                continue
            except OSError:  # a link to itself, say; it must not hide the others
                found[entry.name] = -1, -1
    return dict(sorted(found.items()))


def json_line(record: dict[str, Any]) -> str:
    """A record as one line of ASCII, whatever the name of its file."""
    return json.dumps(record, allow_nan=False)


class ResultsFolder:
    """A folder of answers, used by one process at a time; a context manager.

    Args:
        folder: made where it is not there.

    Raises:
        ValueError: if another process uses it.
        OSError: if it cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("ab")
        try:
            self._take_lock()
            self._names: dict[str, tuple[str, str]] = {}  # NAME -> file and SHA-256
            self._contents: dict[tuple[str, str], str] = {}  # the other way round
            self._stamps: set[tuple[str, int, int]] = set()  # file, size, mtime_ns
            for path in sorted(self.folder.iterdir()):
                if path.suffix == RECORD_SUFFIX and not path.name.startswith(".") and path.is_file():
                    self._read(path)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "ResultsFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    @property
    def count(self) -> int:
        """How many answers there are."""
        return len(self._names)

    def _take_lock(self) -> None:
        if not fcntl:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{self.folder} is used by another python -m ladnn_tf.edge; end that one or give another --out"
            ) from error
        except OSError as error:  # some network shares
            logger.warning("%s cannot be locked (%s): use it from one process", self.folder, error.strerror)
            return
        for path in self.folder.iterdir():
            if _LEFT_OVER.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        try:
            record = json.loads(path.read_bytes())
            file, sha256 = record["file"], record["sha256"]
            stamp = int(record["size"]), int(record["mtime_ns"])
            self._know(path.name.removesuffix(RECORD_SUFFIX), file, sha256)
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s is no answer of python -m ladnn_tf.edge (%r); it is passed over", path, error)
            return
        self._stamps.add((file, *stamp))

    def _know(self, name: str, file: str, sha256: str) -> None:
        self._contents[file, sha256] = name
        self._names[name] = (file, sha256)

    def knows_stamp(self, file: str, size: int, mtime_ns: int) -> bool:
        """Whether a file of this name, size in bytes and time of change was answered."""
        return (file, size, mtime_ns) in self._stamps

    def learn_stamp(self, image: ImageFile) -> None:
        """Notes that an answered image has another time of change now, so that it need not be read again."""
        self._stamps.add((image.file, image.size, image.mtime_ns))

    def knows(self, image: ImageFile) -> bool:
        """Whether this content was answered under this file name."""
        return (image.file, image.sha256) in self._contents

    def find(self, image: ImageFile) -> dict[str, Any] | None:
        """The answer to this content under this file name; None if there is none."""
        name = self._contents.get((image.file, image.sha256))
        try:
            return name and json.loads((self.folder / f"{name}{RECORD_SUFFIX}").read_bytes())
        except FileNotFoundError:  # deleted, to have it answered again
            return None

    def store(self, record: dict[str, Any], overlay: bytes | None) -> None:
        """Writes an answer, its JSON last.

        Args:
            record: of an image that was read; its `overlay` is set to the name of the overlay's file.
            overlay: the JPEG, or None.

        Raises:
            OSError: if it cannot be written; the image then counts as not answered.
        """
        file, sha256 = record["file"], record["sha256"]
        name = self._name(file, sha256)
        picture = self.folder / f"{name}{OVERLAY_SUFFIX}"
        if overlay is None:
            picture.unlink(missing_ok=True)  # of an earlier answer, by another model
        else:
            write_atomically(picture, overlay)
            record["overlay"] = picture.name
        write_atomically(self.folder / f"{name}{RECORD_SUFFIX}", f"{json_line(record)}\n".encode())
        self._know(name, file, sha256)
        self._stamps.add((file, record["size"], record["mtime_ns"]))

    def _name(self, file: str, sha256: str) -> str:
        base = os.fsencode(Path(file).name)[:_NAME_BYTES].decode("utf-8", "ignore")
        base = base.lstrip(".") or "image"  # a hidden file's answer should not be hidden
        name = f"{base}.{sha256[:8]}"
        if self._names.get(name, (file, sha256)) == (file, sha256):
            return name
        # The same picture under the same name in two folders: two answers.
        return f"{base}.{hashlib.sha256(os.fsencode(file) + sha256.encode()).hexdigest()[:16]}"
