"""The files of the edge command: images in, a folder of answers out.

A folder of answers holds for each image `NAME.json`, one line of JSON, and beside it `NAME.overlay.jpg`, where
NAME is the image's file name and the beginning of the SHA-256 of its content: `a.png.1f3a5b7c`. The JSON is
written last, in one step: an image whose JSON is there is answered, and only such a one. `cat FOLDER/*.json` is
JSON lines. To have an image answered again, delete its JSON and begin the command anew. The `series.json` of
`--series` in the same folder is none of these.
"""

import dataclasses
import errno
import functools
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ladnn_tf import edge_dicom
from ladnn_tf.files import lock_alone, write_atomically

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are not read; their answer is an error. 50 million pixels, the most decoded, are 200 MB of RGBA."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
RECORD_SUFFIX = ".json"
SERIES_FILE = "series.json"
OVERLAY_SUFFIX = ".overlay.jpg"

_LOCK = ".ladnn_edge.lock"
_RELATED = re.compile(r".\.(png|jpe?g)\.", re.IGNORECASE)  # being copied (`a.png.part`), answers, overlays
_LEFT_OVER = re.compile(r"\..+\.(json|overlay\.jpg)\.[a-z0-9_]{8}")  # of `files.atomic_file`, after a kill
_LOOKED_INTO = 100  # files beside the pictures of a folder, for DICOM
_NAME_BYTES = 180  # file systems take 255, of which suffixes and the temporary name need some

logger = logging.getLogger("ladnn_tf.edge")  # not absl's: an edge box has none


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """The content of an image file.

    Attributes:
        file: its name, as the answer gives it.
        content: its bytes; empty if it was not read.
        size, mtime_ns: of the file, in bytes and nanoseconds, just after it was read.
        refused: why it was not read, however often one tries; else empty.
    """

    file: str
    content: bytes
    size: int
    mtime_ns: int
    refused: str = ""

    @functools.cached_property
    def sha256(self) -> str | None:
        """Of the content, as 64 hexadecimal digits; None if it was not read."""
        return None if self.refused else hashlib.sha256(self.content).hexdigest()


def read_image_file(path: Path, file: str) -> ImageFile:
    """Reads a file, unless it has more than `MAX_FILE_BYTES`.

    Args:
        path: where it lies.
        file: its name for the answer.

    Raises:
        OSError: if it cannot be read.
    """
    try:
        with path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = b"" if status.st_size > MAX_FILE_BYTES else opened.read(MAX_FILE_BYTES + 1)
            status = os.fstat(opened.fileno())
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from error
    if max(status.st_size, len(content)) > MAX_FILE_BYTES:
        refused = f"not read: more than {MAX_FILE_BYTES:,} bytes are no slice"
        return ImageFile(file, b"", status.st_size, status.st_mtime_ns, refused)
    return ImageFile(file, content, status.st_size, status.st_mtime_ns)


def find_images(folder: Path) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """The image files in a folder, not in the folders in it.

    Images are what is called `.png`, `.jpg` or `.jpeg`, in any case; hidden files are none, and so nothing that is
    being copied under another name (`.a.png.Xy12Ab`, `a.png.part`, `a.png.tmp`, `a.png.crdownload`), nor are
    overlays (`.overlay.jpg`).

    Args:
        folder: the folder.

    Returns:
        Name -> size in bytes and time of change in nanoseconds, in the order of the names; -1 and -1 where the
        system does not tell, as it will not open the file either, or a link leads nowhere. Then the names of the
        other files, in order, without those that are hidden, being copied, or answers and overlays.

    Raises:
        OSError: if the folder cannot be read.
    """
    found, others = {}, []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
            if is_image and entry.name.lower().endswith(OVERLAY_SUFFIX):
                continue
            try:
                if not is_image:
                    if entry.is_file() and not _RELATED.search(entry.name):
                        others.append(entry.name)
                elif entry.is_symlink() and not Path(entry.path).exists():
                    found[entry.name] = -1, -1
                elif entry.is_file():  # a named pipe would be waited for
                    status = Path(entry.path).stat()  # an entry's own may be older
                    found[entry.name] = status.st_size, status.st_mtime_ns
            except FileNotFoundError:  # gone since
                continue
            except OSError:  # a link to itself, say; it must not hide the others
                if is_image:
                    found[entry.name] = -1, -1
    return dict(sorted(found.items())), sorted(others)


def list_files(names: Sequence[str], tell: Callable[[str], None], *, takes_series: bool = False) -> list[str]:
    """The files that a command was given, by name or by folder.

    Args:
        names: of files, which need not be there, and of folders.
        tell: is called with a line about the files of a folder that are passed over.
        takes_series: whether the command has `--series` for DICOM, which is then said where there is DICOM.

    Returns:
        The names of the files, in order, those of folders behind the folder's name; what is named twice, by
        whatever way to its folder, comes once.

    Raises:
        ValueError: if a folder holds no image.
        OSError: if a folder cannot be read.
    """
    files = []
    for name in names:
        if not Path(name).is_dir():
            files.append(name)
            continue
        found, others = find_images(Path(name))
        if not found and takes_series and edge_dicom.holds_dicom(Path(name)):
            raise ValueError(f"{name}: {edge_dicom.HINT}")
        if others:
            tell(passed_over(Path(name), others, takes_series=takes_series))
        if not found:
            raise ValueError(f"{name} holds no .png, .jpg or .jpeg file (folders in it are not searched)")
        files += [str(Path(name) / file) for file in found]
    # By another way to the same folder it is the same file; a link beside it has a name of its own.
    by_place: dict[Path, str] = {}
    for file in files:
        by_place.setdefault(Path(file).parent.resolve() / Path(file).name, file)
    return list(by_place.values())


def passed_over(folder: Path, others: Sequence[str], *, takes_series: bool = True) -> str:
    """What to say about the files of a folder that `find_images` takes for no images.

    Args:
        folder: of the files.
        others: their names.
        takes_series: as of `list_files`.
    """
    count = "1 file" if len(others) == 1 else f"{len(others):,} files"
    verb = "is" if len(others) == 1 else "are"
    dicom = takes_series and any(edge_dicom.holds_dicom(folder / name) for name in others[:_LOOKED_INTO])
    return (
        f"{count} in {printable(str(folder))} {verb} neither .png nor .jpg and {verb} passed over (first: "
        f"{printable(others[0])}){dicom * f'; {edge_dicom.PASSED_OVER}'}"
    )


def printable(name: str) -> str:
    """A file's name without what would move a terminal's cursor or is no text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def json_line(record: dict[str, Any]) -> str:
    """A record as one line of ASCII, whatever the name of its file."""
    return json.dumps(record, allow_nan=False)


def make_folder(out: Path) -> None:
    """Makes the folder of `--out` where it is not there, before there are answers that need it.

    Raises:
        ValueError: if it is a file, or cannot be made or written.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; give a folder for the answers")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC and out.is_dir():  # there may be room again when there is an answer
            return
        raise ValueError(
            f"--out={out} cannot be made or written ({error.strerror}); give a folder that you may write to"
        ) from error


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
            self._names: dict[str, tuple[str, str | None]] = {}  # NAME -> file and SHA-256
            self._contents: dict[tuple[str, str], str] = {}  # the other way round
            self._stamps: set[tuple[str, int, int]] = set()  # file, size, mtime_ns
            for path in sorted(self.folder.iterdir()):
                if path.name == SERIES_FILE or path.name.startswith("."):
                    continue
                if path.suffix == RECORD_SUFFIX and path.is_file():
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
        refusal = f"{self.folder} is used by another python -m ladnn_tf.edge; end that one or give another --out"
        if not lock_alone(self._lock, self.folder, refusal, logger):
            return
        for path in self.folder.iterdir():
            if _LEFT_OVER.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        try:
            record = json.loads(path.read_bytes())
            file, sha256 = record["file"], record["sha256"]
            stamp = _stamp(record)
            self._know(path.name.removesuffix(RECORD_SUFFIX), file, sha256)
            self._stamps.add((file, *stamp))
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s is no answer of python -m ladnn_tf.edge (%r); it is passed over", path, error)

    def _know(self, name: str, file: str, sha256: str | None) -> None:
        if sha256 is not None:
            self._contents[file, sha256] = name
        self._names[name] = (file, sha256)

    def knows_stamp(self, file: str, size: int, mtime_ns: int) -> bool:
        """Whether a file of this name, size in bytes and time of change was answered."""
        return (file, size, mtime_ns) in self._stamps

    def learn_stamp(self, image: ImageFile) -> None:
        """Notes that an answered image has another time of change now, so that it need not be read again."""
        self._stamps.add((image.file, image.size, image.mtime_ns))

    def knows(self, image: ImageFile) -> bool:
        """Whether this content was answered under this file name; never, if it was not read."""
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
            record: of an image that was found; its `overlay` is set to the name of the overlay's file.
            overlay: the JPEG, or None.

        Raises:
            OSError: if it cannot be written; the image then counts as not answered.
        """
        file, sha256 = record["file"], record["sha256"]
        # A file too large to be read is known by its size and time of change.
        name = self._name(file, sha256, sha256 or hashlib.sha256(repr(_stamp(record)).encode()).hexdigest())
        picture = self.folder / f"{name}{OVERLAY_SUFFIX}"
        if overlay is None:
            picture.unlink(missing_ok=True)  # of an earlier answer, by another model
        else:
            write_atomically(picture, overlay)
            record["overlay"] = picture.name
        write_atomically(self.folder / f"{name}{RECORD_SUFFIX}", f"{json_line(record)}\n".encode())
        self._know(name, file, sha256)
        self._stamps.add((file, *_stamp(record)))

    def _name(self, file: str, sha256: str | None, digest: str) -> str:
        base = os.fsencode(Path(file).name)[:_NAME_BYTES].decode("utf-8", "ignore")
        base = base.lstrip(".") or "image"  # a hidden file's answer should not be hidden
        name = f"{base}.{digest[:8]}"
        if self._names.get(name, (file, sha256)) == (file, sha256):
            return name
        # The same picture under the same name in two folders: two answers.
        return f"{base}.{hashlib.sha256(os.fsencode(file) + digest.encode()).hexdigest()[:16]}"


def _stamp(record: dict[str, Any]) -> tuple[int, int]:
    return int(record["size"]), int(record["mtime_ns"])
