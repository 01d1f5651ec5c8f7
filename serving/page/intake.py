"""From the files of an upload to the images and series in it: zip files unpacked, each file told by its content.

One bad file never spoils the others: it becomes an item with its error. Everything stays in memory.
"""

import dataclasses
import io
import logging
from collections.abc import Callable, Sequence

import numpy as np
from PIL import JpegImagePlugin, PngImagePlugin

from ladnn_tf.data import preprocess
from ladnn_tf.data.picture_series import natural_key
from serving.page import file_kinds
from serving.page.errors import PageError
from serving.page.file_kinds import DICOM, JPEG, NIFTI, PNG, SERIES, ZIP
from serving.page.form_data import SentFile
from serving.page.settings import MEGABYTE, Settings
from serving.page.unzip import Archive, ZipError
from serving.page.words import words_of

PICTURES = "pictures"
"""The kind of a series of PNG and JPEG files, beside those of `file_kinds.SERIES`."""

logger = logging.getLogger("ladnn_tf.serving")

_READERS = {PNG: PngImagePlugin.PngImageFile, JPEG: JpegImagePlugin.JpegImageFile}


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of an upload, or of a zip file in it.

    Attributes:
        name: as it was sent, which may be anything; `view.shown_name` makes it fit to be shown.
        content: a PNG, JPEG, DICOM or NIfTI file by its beginning; empty if there is an error.
        kind: one of `file_kinds`; empty if there is an error.
        error: why the file gets no answer, one of the English reasons; else empty.
        code: the same in a word, for the audit log.
        size: how many bytes of it were received; of a member of a zip file that is not unpacked, none.
        image_hash: of these bytes; empty if there are none.
        beside_dicom: whether it is some other file in a zip file with DICOM: the viewer on a CD, say.
    """

    name: str
    content: bytes = dataclasses.field(repr=False, default=b"")
    kind: str = ""
    error: str = ""
    code: str = ""
    size: int = 0
    image_hash: str = ""
    beside_dicom: bool = False


@dataclasses.dataclass(frozen=True)
class SentSeries:
    """Files of an upload that hold one series, or several.

    Attributes:
        kind: `DICOM`, `NIFTI` or `PICTURES`.
        files: in order; without their content.
        contents: of the files; whoever reads them may empty the list, so that they need no memory any more.
        passed_over: how many other files there were beside them, in zip files.
    """

    kind: str
    files: tuple[Item, ...]
    contents: list[bytes] = dataclasses.field(repr=False)
    passed_over: int = 0


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
        settings: `max_images`, `max_slices`, `max_image_mb` and `max_unpacked_mb` count.
        language: of the one who sent them.
        reserve: is told how many bytes a zip file holds before it is unpacked; it raises if that is too much now.
        hash_of: makes the hash of a file, for the audit log.

    Returns:
        An item for each file; a zip file gives one for each file in it, or one with an error.

    Raises:
        PageError: 413 if these are more than `max_images`, or of DICOM more than `max_slices`, naming the file; or
            what `reserve` raises.
    """
    items: list[Item] = []
    left = settings.max_unpacked_mb * MEGABYTE
    for file in files:
        if file.too_large or not file_kinds.is_zip(file.content):
            items.append(_item_of(file, settings, hash_of))
            _check_count(file, items, settings)
            continue
        try:
            archive = Archive(file.content, language, file_kinds.may_be_large)
            _check_members(file, archive, settings)
            size = archive.unpacked_bytes(settings.max_image_mb * MEGABYTE)
            if size > left:
                logger.info("a zip file was refused as too large (--max_unpacked_mb)")
                raise ZipError("zip_bomb", most=settings.max_unpacked_mb)
        except ZipError as error:
            items.append(_refused(file.name, file.content, hash_of, error.code, str(error)))
            _check_count(file, items, settings)
            continue
        left -= size
        reserve(size)
        items += _unpack(archive, f"{file.name}/" if len(files) > 1 else "", settings, hash_of)
        _check_count(file, items, settings)
    return _with_names_apart(items)


def parted(items: Sequence[Item], as_series: bool) -> tuple[list[Item], list[SentSeries]]:
    """Parts what is answered image by image from what is answered as series.

    Args:
        items: of an upload.
        as_series: whether the images are slices of one person; their order is that of the numbers in their names.

    Returns:
        The images, and the files without an answer, in order; and the series: all DICOM files as one, each NIfTI
        file, and the images if they are slices of one person.
    """
    kinds = {DICOM: [], NIFTI: [], PICTURES: []}
    single = []
    for item in items:
        if item.kind in SERIES:
            kinds[item.kind].append(item)
        elif as_series and item.kind:
            kinds[PICTURES].append(item)
        elif not item.beside_dicom:
            single.append(item)
    kinds[PICTURES].sort(key=lambda item: natural_key(item.name))
    series = [_sent(kind, kinds[kind]) for kind in (DICOM, PICTURES) if kinds[kind]]
    series += [_sent(NIFTI, [item]) for item in kinds[NIFTI]]
    if series and kinds[DICOM]:
        series[0] = dataclasses.replace(series[0], passed_over=sum(item.beside_dicom for item in items))
    return single, series


def _sent(kind: str, items: Sequence[Item]) -> SentSeries:
    files = tuple(dataclasses.replace(item, content=b"") for item in items)
    return SentSeries(kind, files, [item.content for item in items])


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
    width, height = size_of(content)
    if width * height > max_pixels:
        raise preprocess.ImageError(
            words_of("en")("reason.too_many_pixels", width=width, height=height, most=f"{max_pixels:,}")
        )
    return preprocess.decode(content)


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height that the header of a PNG or JPEG file promises; 0, 0 of one that is damaged."""
    reader = _READERS.get(file_kinds.kind_of(content))
    try:
        return reader(io.BytesIO(content)).size if reader else (0, 0)
    except (OSError, SyntaxError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError):
        return 0, 0  # `preprocess.decode` says how


def _item_of(file: SentFile, settings: Settings, hash_of: Callable[[bytes], str]) -> Item:
    if not file.too_large:
        return _item(file.name, file.content, settings, hash_of)
    error = words_of("en")("reason.file_too_large", most=settings.max_image_mb)
    return Item(file.name, error=error, code="file_too_large", size=file.dropped, image_hash=file.dropped_hash)


def _item(name: str, content: bytes, settings: Settings, hash_of: Callable[[bytes], str]) -> Item:
    texts = words_of("en")
    kind = file_kinds.kind_of(content)
    if kind not in SERIES and len(content) > settings.max_image_mb * MEGABYTE:
        error = texts("reason.file_too_large", most=settings.max_image_mb)
        return _refused(name, content, hash_of, "file_too_large", error)
    if kind == ZIP:
        return _refused(name, content, hash_of, "zip_nested", texts("reason.zip_nested"))
    if not kind:
        return _refused(name, content, hash_of, *file_kinds.why_unknown(content))
    return Item(name, content, kind, size=len(content), image_hash=hash_of(content))


def _refused(name: str, content: bytes, hash_of: Callable[[bytes], str], code: str, error: str) -> Item:
    image_hash = hash_of(content) if content else ""
    return Item(name, error=error, code=code, size=len(content), image_hash=image_hash)


def _unpack(archive: Archive, prefix: str, settings: Settings, hash_of: Callable[[bytes], str]) -> list[Item]:
    items = []
    for name, content in archive.unpack(settings.max_image_mb * MEGABYTE):
        if isinstance(content, ZipError):
            items.append(Item(prefix + name, error=str(content), code=content.code))
        else:
            items.append(_item(prefix + name, content, settings, hash_of))
    if not any(item.kind == DICOM for item in items):
        return items
    return [item if item.kind else dataclasses.replace(item, beside_dicom=True) for item in items]


def _check_members(file: SentFile, archive: Archive, settings: Settings) -> None:
    """Refuses far too many files before they are unpacked."""
    most = settings.max_images + settings.max_slices
    if len(archive) > most:
        raise PageError(413, "too_many_images", file=file.name, count=len(archive), most=most)


def _check_count(file: SentFile, items: Sequence[Item], settings: Settings) -> None:
    dicom = sum(item.kind == DICOM for item in items)
    if dicom > settings.max_slices:
        raise PageError(413, "too_many_dicom", file=file.name, count=dicom, most=settings.max_slices)
    count = sum(item.kind != DICOM and not item.beside_dicom for item in items)
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
