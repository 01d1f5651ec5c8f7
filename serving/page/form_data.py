"""Forms with files, read into memory.

Starlette's own parser writes what is larger than 1 MB to a temporary file. Nothing that is uploaded here may touch
a disk unless its owner asks for it, so the parts are kept in memory. `body_limits.py` bounds a request as a whole.
"""

import hmac
import io
from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from serving.page.errors import PageError

_MOST_FIELDS = 1000
_MOST_FIELD_BYTES = 2**16
_HEAD_BYTES = 4096  # of a file, by which it is told whether it may be large; in gzip they need a few hundred
_MOST_HEADER_BYTES = 2**14  # of a line; file systems allow names of up to 4,096 bytes


@dataclass(frozen=True)
class SentFile:
    """One file of a form.

    Attributes:
        field: the form's field.
        name: as the client gave it, which may be anything.
        content: its bytes; empty if it is too large.
        too_large: whether it had more bytes than one file may have.
        dropped: of a file that is too large, how many bytes it had.
        dropped_hash: of a file that is too large, the hash of its bytes, hexadecimal; empty if none was asked for.
    """

    field: str
    name: str
    content: bytes = field(repr=False)
    too_large: bool = False
    dropped: int = 0
    dropped_hash: str = ""


@dataclass(frozen=True)
class Form:
    """A form as it was sent.

    Attributes:
        files: in their order, without the empty one that a browser sends where no file was chosen.
        fields: the other fields: name and value, in their order.
    """

    files: list[SentFile]
    fields: list[tuple[str, str]]

    def value(self, name: str) -> str:
        """The value of a field; empty if there is none."""
        return next((value for found, value in self.fields if found == name), "")


def _never(start: bytes) -> bool:  # noqa: ARG001 (of any file)
    return False


async def read_form(
    request: Request,
    *,
    max_files: int,
    max_file_bytes: int,
    may_be_larger: Callable[[bytes], bool] = _never,
    new_hash: Callable[[], hmac.HMAC] | None = None,
) -> Form:
    """Reads a `multipart/form-data` request (RFC 7578) into memory, nothing of it to a disk.

    Args:
        request: whose body nobody has read.
        max_files: more are refused.
        max_file_bytes: of one file; a larger one is dropped and marked.
        may_be_larger: says by a file's first bytes whether it may have more than `max_file_bytes`.
        new_hash: begins the hash of a file that is dropped; None for none.

    Raises:
        PageError: 400 if the form is damaged or incomplete or has far too many parts, 413 if it has too many
            files, 415 if it is none.
        ClientDisconnect: if the client went away.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise PageError(415, "not_a_form")
    parts = _Parts(max_files, max_file_bytes, may_be_larger, new_hash)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks(), max_header_size=_MOST_HEADER_BYTES)
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise PageError(400, "broken_form") from error
    if not parts.ended:
        raise PageError(400, "broken_form")
    return Form(parts.files, parts.fields)


class _Parts:
    """Collects what `MultipartParser` finds."""

    def __init__(
        self,
        max_files: int,
        max_file_bytes: int,
        may_be_larger: Callable[[bytes], bool],
        new_hash: Callable[[], hmac.HMAC] | None,
    ) -> None:
        self.files: list[SentFile] = []
        self.fields: list[tuple[str, str]] = []
        self.ended = False
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._may_be_larger = may_be_larger
        self._new_hash = new_hash
        self._parts = -1  # there is none yet
        self._begin_part()

    def callbacks(self) -> dict[str, Callable]:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MOST_FIELDS + self._max_files:  # those without content, too: they take their time
            raise PageError(400, "broken_form")
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._field = ""
        self._file: str | None = None
        self._content = io.BytesIO()
        self._too_large = False
        self._dropped = 0
        self._hash: hmac.HMAC | None = None

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise PageError(400, "broken_form")
        self._field = _text(options[b"name"])
        if b"filename" in options:
            self._file = _text(options[b"filename"])

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._too_large:
            self._drop(memoryview(data)[start:end])
            return
        self._content.write(memoryview(data)[start:end])
        size = self._content.tell()
        if self._file is None:
            if size > _MOST_FIELD_BYTES:
                raise PageError(400, "broken_form")
        elif size > self._max_file_bytes and not self._may_be_larger(
            self._content.getbuffer()[:_HEAD_BYTES].tobytes()
        ):
            self._too_large = True
            self._hash = self._new_hash() if self._new_hash else None
            self._drop(self._content.getbuffer())
            self._content = io.BytesIO()

    def _drop(self, content: memoryview) -> None:
        self._dropped += len(content)
        if self._hash is not None:
            self._hash.update(content)

    def _end_part(self) -> None:
        if self._file is None:
            if len(self.fields) >= _MOST_FIELDS:
                raise PageError(400, "broken_form")
            self.fields.append((self._field, _text(self._content.getvalue())))
        elif self._file or self._content.tell() or self._too_large:
            if len(self.files) >= self._max_files:
                raise PageError(413, "too_many_files", file=self._file, most=self._max_files)
            dropped_hash = self._hash.hexdigest() if self._hash else ""
            content = self._content.getvalue()
            self.files.append(
                SentFile(self._field, self._file, content, self._too_large, self._dropped, dropped_hash)
            )

    def _end(self) -> None:
        self.ended = True


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
