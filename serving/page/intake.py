"""From the files of an upload to the images in it: zip files unpacked, each file told by its content.

One bad file never spoils the others: it becomes an item with its error. Everything stays in memory.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import JpegImagePlugin, PngImagePlugin

from ladnn_tf.data import preprocess
from serving.page import file_kinds
from serving.page.errors import PageError
from serving.page.file_kinds import JPEG, PNG, ZIP
from serving.page.form_data import SentFile
from serving.page.settings import MEGABYTE, Settings
from serving.page.unzip import Archive, ZipError
from serving.page.words import words_of

_READERS = {PNG: PngImagePlugin.PngImageFile, JPEG: JpegImagePlugin.JpegImageFile}


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of an upload, or of a zip file in it.

    Attributes:
        name: as it was sent, which may be anything; `view.shown_name` makes it fit to be shown.
        content: a PNG or JPEG file by its beginning; empty if there is an error.
        error: why the file gets no answer, one of the English reasons; else empty.
        code: the same in a word, for the audit log.
        size: how many bytes of it were received; of a member of a zip file that is not unpacked, none.
        image_hash: of these bytes; empty if there are none.
    """

    name: str
    content: bytes = dataclasses.field(repr=False, default=b"")
    error: str = ""
    code: str = ""
    size: int = 0
    image_hash: str = ""


def items_of(
    files: Sequence[SentFile],
    settings: Settings,
    language: str = "en",
    reserve: Callable[[int], None] = lambda _: None,
    hash_of: Callable[[bytes], str] = lambda _: "",
) -> list[Item]:
    """What an upload holds, in order.

    Args:
        files: as they were sent.
        settings: `max_images`, `max_image_mb` and `max_unpacked_mb` count.
        language: of the one who sent them.
        reserve: is told how many bytes a zip file holds before it is unpacked; it raises if that is too much now.
        hash_of: makes the hash of a file, for the audit log.

    Returns:
        An item for each file; a zip file gives one for each file in it, or one with an error.

    Raises:
        PageError: 413 if these are more than `max_images`, naming the file; or what `reserve` raises.
    """
    items: list[Item] = []
    left = settings.max_unpacked_mb * MEGABYTE
    for file in files:
        if file.too_large or not file_kinds.is_zip(file.content):
            items.append(_item_of(file, settings, hash_of))
            _check_count(file, len(items), settings)
            continue
        try:
            archive = Archive(file.content, language)
            _check_count(file, len(items) + len(archive), settings)
            size = archive.unpacked_bytes(settings.max_image_mb * MEGABYTE)
            if size > left:
                raise ZipError("zip_bomb", most=settings.max_unpacked_mb)
        except ZipError as error:
            items.append(_refused(file.name, file.content, hash_of, error.code, str(error)))
            _check_count(file, len(items), settings)
            continue
        left -= size
        reserve(size)
        items += _unpack(archive, f"{file.name}/" if len(files) > 1 else "", settings, hash_of)
    return _with_names_apart(items)


def decode_within(content: bytes, max_pixels: int) -> np.ndarray:
    """Decodes a PNG or JPEG file whose header promises no more than so many pixels.

    Args:
        content: the bytes of the file.
        max_pixels: that are decoded.

    Returns:
        `(H, W, 3)` uint8 RGB in [0, 255].

    Raises:
        ImageError: if it has more, or as `preprocess.decode`.
    """
    reader = _READERS.get(file_kinds.kind_of(content))
    try:
        width, height = reader(io.BytesIO(content)).size if reader else (0, 0)
    except (OSError, SyntaxError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError):
        width, height = 0, 0  # damaged; `preprocess.decode` says how
    if width * height > max_pixels:
        raise preprocess.ImageError(
            words_of("en")("reason.too_many_pixels", width=width, height=height, most=f"{max_pixels:,}")
        )
    return preprocess.decode(content)


def _item_of(file: SentFile, settings: Settings, hash_of: Callable[[bytes], str]) -> Item:
    if not file.too_large:
        return _item(file.name, file.content, settings, hash_of)
    error = words_of("en")("reason.file_too_large", most=settings.max_image_mb)
    return Item(file.name, b"", error, "file_too_large", file.dropped, file.dropped_hash)


def _item(name: str, content: bytes, settings: Settings, hash_of: Callable[[bytes], str]) -> Item:
    texts = words_of("en")
    if len(content) > settings.max_image_mb * MEGABYTE:
        error = texts("reason.file_too_large", most=settings.max_image_mb)
        return _refused(name, content, hash_of, "file_too_large", error)
    kind = file_kinds.kind_of(content)
    if kind == ZIP:
        return _refused(name, content, hash_of, "zip_nested", texts("reason.zip_nested"))
    if not kind:
        return _refused(name, content, hash_of, *file_kinds.why_unknown(content))
    return Item(name, content, size=len(content), image_hash=hash_of(content))


def _refused(name: str, content: bytes, hash_of: Callable[[bytes], str], code: str, error: str) -> Item:
    return Item(name, b"", error, code, len(content), hash_of(content) if content else "")


def _unpack(archive: Archive, prefix: str, settings: Settings, hash_of: Callable[[bytes], str]) -> list[Item]:
    items = []
    for name, content in archive.unpack(settings.max_image_mb * MEGABYTE):
        if isinstance(content, ZipError):
            items.append(Item(prefix + name, error=str(content), code=content.code))
        else:
            items.append(_item(prefix + name, content, settings, hash_of))
    return items


def _check_count(file: SentFile, count: int, settings: Settings) -> None:
    if count > settings.max_images:
        raise PageError(413, "too_many_images", file=file.name, count=count, most=settings.max_images)


def _with_names_apart(items: Sequence[Item]) -> list[Item]:
    """Numbers the second and later files of a name: nobody could tell whose answer is whose."""
    seen: dict[str, int] = {}
    apart = []
    for item in items:
        seen[item.name] = count = seen.get(item.name, 0) + 1
        apart.append(item if count == 1 else dataclasses.replace(item, name=f"{item.name} ({count})"))
    return apart
