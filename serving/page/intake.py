"""From the files of an upload to the images in it: zip files unpacked, each file told by its content.

One bad file never spoils the others: it becomes an item with its error. Everything stays in memory.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Item:
    """One file of an upload, or of a zip file in it.

    Attributes:
        name: as it was sent, which may be anything; `view.shown_name` makes it fit to be shown.
        content: a PNG or JPEG file by its beginning; empty if there is an error.
        error: why the file gets no answer, one of the English reasons; else empty.
    """

    name: str
    content: bytes = field(repr=False, default=b"")
    error: str = ""


def items_of(
    files: Sequence[SentFile],
    settings: Settings,
    language: str = "en",
    reserve: Callable[[int], None] = lambda _: None,
) -> list[Item]:
    """What an upload holds, in order.

    Args:
        files: as they were sent.
        settings: `max_images`, `max_image_mb` and `max_unpacked_mb` count.
        language: of the one who sent them.
        reserve: is told how many bytes a zip file holds before it is unpacked; it raises if that is too much now.

    Returns:
        An item for each file; a zip file gives one for each file in it, or one with an error.

    Raises:
        PageError: 413 if these are more than `max_images`, naming the file; or what `reserve` raises.
    """
    items: list[Item] = []
    left = settings.max_unpacked_mb * MEGABYTE
    for file in files:
        if file.too_large or not file_kinds.is_zip(file.content):
            items.append(_item(file.name, file.content, settings, too_large=file.too_large))
            _check_count(file, len(items), settings)
            continue
        try:
            archive = Archive(file.content, language)
            _check_count(file, len(items) + len(archive), settings)
            size = archive.unpacked_bytes(settings.max_image_mb * MEGABYTE)
            if size > left:
                raise ZipError(words_of("en")("reason.zip_bomb", most=settings.max_unpacked_mb))
        except ZipError as error:
            items.append(Item(file.name, error=str(error)))
            _check_count(file, len(items), settings)
            continue
        left -= size
        reserve(size)
        items += _unpack(archive, f"{file.name}/" if len(files) > 1 else "", settings)
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


def _item(name: str, content: bytes, settings: Settings, *, too_large: bool = False) -> Item:
    texts = words_of("en")
    if too_large or len(content) > settings.max_image_mb * MEGABYTE:
        return Item(name, error=texts("reason.file_too_large", most=settings.max_image_mb))
    kind = file_kinds.kind_of(content)
    if kind == ZIP:
        return Item(name, error=texts("reason.zip_nested"))
    return Item(name, content) if kind else Item(name, error=file_kinds.why_unknown(content))


def _unpack(archive: Archive, prefix: str, settings: Settings) -> list[Item]:
    items = []
    for name, content in archive.unpack(settings.max_image_mb * MEGABYTE):
        if isinstance(content, ZipError):
            items.append(Item(prefix + name, error=str(content)))
        else:
            items.append(_item(prefix + name, content, settings))
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
        apart.append(item if count == 1 else Item(f"{item.name} ({count})", item.content, item.error))
    return apart
