"""Zip files of an upload, unpacked in memory and distrusted.

The sizes in the headers bound what is unpacked, so a header that lies gives a damaged file, never a large one.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from serving.page.failures import CODE, file_failed
from serving.page.reasons import PREFIX
from serving.page.settings import MEGABYTE
from serving.page.words import words_of

_MOST_DIRECTORY_BYTES = 2**22  # of the table of members: 90,000 of the shortest entries, 25 MB when read
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others can ask for gigabytes to unpack with
_ENCRYPTED = 0x1  # APPNOTE.TXT, 4.4.4
_UTF8 = 0x800  # the same

_HEAD_BYTES = 4096  # of a member, by which it is told whether it may be large

_PIECE_BYTES = 2**20  # of a member, unpacked at a time

_LITTER = ("thumbs.db", "desktop.ini", ".ds_store")

# What the zip module lets through from damaged files.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # NotImplementedError is one
)


class ZipError(ValueError):
    """A zip file, or a member of one, that is not unpacked; the message is one of the English reasons.

    Args:
        code: of the reason, the key of its text without `reasons.PREFIX`.
        values: of the text's placeholders.
    """

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(words_of("en")(f"{PREFIX}{code}", **values))
        self.code = code


def _never(start: bytes) -> bool:  # noqa: ARG001 (of any member)
    return False


class _TooMuchDirectoryError(Exception):
    pass


class _Bounded(io.BytesIO):
    """Refuses to give the whole table of members of a file that lists millions.

    Args:
        content: of the file.

    Attributes:
        most_bytes: of one read; None once the table is read, as members have bounds of their own.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.most_bytes: int | None = _MOST_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and self.most_bytes is not None and size > self.most_bytes:
            raise _TooMuchDirectoryError
        return super().read(size)


class Archive:
    """A zip file.

    Args:
        content: its bytes.
        language: of the one who sent it; Chinese names without a mark are taken to be in the encoding of Windows.
        may_be_larger: says by a member's first bytes whether it is unpacked whatever its size.

    Raises:
        ZipError: if it is damaged, lists far too many members, or has none that is a file.
    """

    def __init__(
        self, content: bytes, language: str = "en", may_be_larger: Callable[[bytes], bool] = _never
    ) -> None:
        file = _Bounded(content)
        try:
            self._archive = zipfile.ZipFile(file)
            members = [member for member in self._archive.infolist() if not member.is_dir()]
        except _TooMuchDirectoryError as error:
            raise ZipError("zip_directory") from error
        except _DAMAGED as error:
            raise ZipError("zip_damaged", detail=_one_line(error)) from error
        file.most_bytes = None
        self._language = language
        self._may_be_larger = may_be_larger
        named = [(self._name(member), member) for member in members]
        self._members = [(name, member) for name, member in named if not _is_litter(name)]
        if not self._members:
            raise ZipError("zip_empty")

    def __len__(self) -> int:
        """How many files there are, without folders and what macOS and Windows leave beside files."""
        return len(self._members)

    def unpacked_bytes(self, most_bytes: int) -> int:
        """What `unpack` gives together, at most: the sizes in the headers, beyond which nothing is unpacked."""
        return sum(member.file_size for _, member in self._members if self._may_be_read(member, most_bytes))

    def unpack(self, most_bytes: int) -> Iterator[tuple[str, bytes | ZipError]]:
        """Unpacks file by file.

        Args:
            most_bytes: of one file; a larger one is not unpacked.

        Yields:
            The name as it stands in the zip file, and the content, or why this file is not unpacked.
        """
        for name, member in self._members:
            try:
                yield name, self._read(member, most_bytes)
            except ZipError as error:
                yield name, error
            except Exception as error:  # noqa: BLE001 (one bad file never spoils the others)
                file_failed(error)
                yield name, ZipError(CODE)

    def _read(self, member: zipfile.ZipInfo, most_bytes: int) -> bytes:
        if member.flag_bits & _ENCRYPTED:
            raise ZipError("zip_encrypted")
        if member.compress_type not in _METHODS:
            raise ZipError("zip_method")
        if not self._may_be_read(member, most_bytes):
            raise ZipError("file_too_large", most=most_bytes // MEGABYTE)
        try:
            with self._archive.open(member) as opened:
                return _in_pieces(opened, member.file_size)
        except _DAMAGED as error:
            raise ZipError("zip_member_damaged", detail=_one_line(error)) from error

    def _may_be_read(self, member: zipfile.ZipInfo, most_bytes: int) -> bool:
        if member.file_size <= most_bytes:
            return True
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            return False
        try:
            with self._archive.open(member) as opened:
                return self._may_be_larger(opened.read(_HEAD_BYTES))
        except _DAMAGED:
            return False

    def _name(self, member: zipfile.ZipInfo) -> str:
        if member.flag_bits & _UTF8:
            return member.filename
        raw = member.orig_filename.encode("cp437", "replace")
        # macOS writes UTF-8 without the mark, Windows its own encoding.
        for encoding in ("utf-8", "gb18030") if self._language == "zh" else ("utf-8",):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                continue
        return member.filename


def _in_pieces(opened: IO[bytes], size: int) -> bytes:
    """The first bytes of a member; read in one piece, it would take three times their memory.

    What goes on behind them is not unpacked; the checksum tells.
    """
    content = io.BytesIO()
    while piece := opened.read(min(_PIECE_BYTES, size - content.tell())):
        content.write(piece)
    return content.getvalue()


def _is_litter(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1].lower() in _LITTER


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
