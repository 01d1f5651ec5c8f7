"""Where the bytes of a series come from: the files of a folder, or the members of a zip, both bounded."""

import contextlib
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ladnn_tf.data.volume import SeriesError, printable

MAX_FILES = 20_000
"""In a folder or a zip: a study of whole-body CT has a few thousand."""

MAX_FILE_BYTES = 768 * 2**20
"""Of one file: an uncompressed multi-frame file of 1,024 slices of 512 x 512 has 512 MiB."""

MAX_UNZIPPED_BYTES = 4 * 2**30
"""Of all members of a zip together."""

ZIP_SIGNATURE = b"PK\x03\x04"

MAX_RATIO = 200
"""Of bytes after and before inflating: CT, which has noise, shrinks to a half or a tenth; a bomb far more."""

HEAD_BYTES = 132
"""By which a file is told to be DICOM."""

WITHOUT_PREFIX = "DICOM without DICM at byte 128 (PS3.10 7.1); export it again, or rewrite it with dcmtk's dcmconv"
"""What a file is of which lacks_prefix()."""

_SMALL = 64 * 2**20  # inflated bytes that are read whatever the ratio is

_UNREADABLE_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, LookupError)
_CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # what operating systems add, with no slices


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: below the folder, or the member's name, as it is; it tells files apart.
        open: opens it for reading from its start; what it returns never allocates more for a `read` than the file
            has left. Raises SeriesError or OSError.
    """

    path: str
    open: Callable[[], BinaryIO]

    @property
    def name(self) -> str:
        """The path as it may stand in messages: two files may have the same."""
        return printable(self.path)


class _BoundedReader(io.BufferedReader):
    """A file whose `read` asks for no more than is left: a damaged length field would else allocate gigabytes."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._length = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._length - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def file_source(path: Path, name: str = "") -> Source:
    """One file of a disk; see Source."""
    name = name or path.name
    shown = printable(name)

    def open_file() -> BinaryIO:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SeriesError(f"{shown}: not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise SeriesError(f"{shown}: {status.st_size:,} bytes; no more than {MAX_FILE_BYTES:,} are read")
        return _BoundedReader(path)

    return Source(name, open_file)


def folder_sources(folder: Path) -> list[Source]:
    """All files below a folder, by name; links to folders are not followed.

    Raises:
        SeriesError: if there are more than `MAX_FILES`.
        OSError: if the folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    paths = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if name not in _CLUTTER)
        paths += [Path(parent, name) for name in sorted(names) if name not in _CLUTTER]
        if len(paths) > MAX_FILES:
            raise SeriesError(f"{folder}: more than {MAX_FILES:,} files; give the folder of one study")
    return [file_source(path, path.relative_to(folder).as_posix()) for path in paths]


@contextlib.contextmanager
def zip_sources(path: Path) -> Iterator[tuple[list[Source], dict[str, list[str]]]]:
    """The members of a zip, which are read in memory: nothing is written, whatever their names say.

    Yields:
        The sources, readable within the block, and what was left out: reason -> names.

    Raises:
        SeriesError: if it is no zip or damaged, or if it has more than `MAX_FILES` members or more than
            `MAX_UNZIPPED_BYTES`.
        OSError: if the file cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except _UNREADABLE_ZIP as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise SeriesError(f"{path.name}: a damaged zip ({error}); copy it again from its source") from error
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) > MAX_FILES:
            raise SeriesError(f"{path.name}: {len(members):,} members; no more than {MAX_FILES:,} are read")
        unzipped = sum(info.file_size for info in members)
        limit = inflated_limit(path.stat().st_size, MAX_UNZIPPED_BYTES)
        if unzipped > limit:
            raise SeriesError(
                f"{path.name}: unzips to {unzipped:,} bytes, more than the {limit:,} that are read of a zip of "
                "this size; give the unzipped folder"
            )
        sources, left_out = [], {}
        for info in sorted(members, key=lambda info: info.filename):
            name = printable(info.filename)
            if set(PurePosixPath(info.filename).parts) & set(_CLUTTER):
                continue
            if reason := _refusal(info):
                left_out.setdefault(reason, []).append(name)
            else:
                sources.append(Source(info.filename, lambda info=info, name=name: _unzip(archive, info, name)))
        yield sources, left_out


def _refusal(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "encrypted members of a zip are not read; unzip them first"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "members of a zip that are neither stored nor deflated are not read"
    if info.filename.lower().endswith(".zip"):
        return "a zip within a zip is not read"
    if info.file_size > MAX_FILE_BYTES:
        return f"larger than the {MAX_FILE_BYTES:,} bytes that are read"
    return ""


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> BinaryIO:
    try:
        with archive.open(info) as member:
            # zipfile stops at the declared size, which was checked, even if more would come out of the data.
            content = member.read(info.file_size)
    except _UNREADABLE_ZIP as error:
        raise SeriesError(f"{name}: a damaged member of the zip ({error})") from error
    if len(content) < info.file_size:
        raise SeriesError(f"{name}: a member of the zip ends after {len(content):,} of {info.file_size:,} bytes")
    return io.BytesIO(content)


def is_dicom(head: bytes) -> bool:
    """Whether a file with these first bytes, `HEAD_BYTES` of them or more, is DICOM (PS3.10 7.1)."""
    return head[HEAD_BYTES - 4 : HEAD_BYTES] == b"DICM"


def lacks_prefix(head: bytes) -> bool:
    """Whether a file begins as DICOM does after its prefix (PS3.10 7.1), as old scanners and copies have it.

    Args:
        head: its first bytes, which are then of an element of group 0002 or 0008 in little endian.
    """
    if head[:2] not in (b"\x02\0", b"\x08\0") or head[2:3] > b"\x20" or head[3:4] != b"\0":
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or 0 < int.from_bytes(head[4:8], "little") <= 64


def inflated_limit(size: int, largest: int) -> int:
    """How many bytes may come out of so many, which is never more than `largest`."""
    return min(largest, max(_SMALL, MAX_RATIO * size))


def inflate(content: bytes) -> bytes:
    """Inflates a raw deflate stream (RFC 1951), as of the deflated transfer syntax (PS3.5 A.5).

    Raises:
        ValueError: if the stream is damaged, or inflates to more than its inflated_limit().
    """
    limit = inflated_limit(len(content), MAX_FILE_BYTES)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = unpacker.decompress(content, limit)
    except zlib.error as error:
        raise ValueError(f"damaged deflate stream ({error})") from error
    if unpacker.unconsumed_tail:
        raise ValueError(f"inflates to more than {limit:,} bytes")
    if not unpacker.eof:
        raise ValueError("the deflate stream is cut off")
    return inflated


def reason_of(error: Exception, name: str) -> str:
    """Why a file is left out, for a list that names it already; one line without a full stop."""
    text = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
    return printable(text.removeprefix(f"{name}: ").rstrip("."), 240)
