"""From the files of an upload to the images and series in it: zip files unpacked, each file told by its content.

One bad file never spoils the others: it becomes an item with its error. Everything stays in memory.
"""

import dataclasses
import io
import logging
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from PIL import JpegImagePlugin, PngImagePlugin

from ladnn_tf.data import preprocess
from ladnn_tf.data.picture_series import natural_key
from serving.page import file_kinds
from serving.page.errors import PageError
from serving.page.failures import CODE, file_failed
from serving.page.file_kinds import DICOM, JPEG, NIFTI, PNG, SERIES, ZIP
from serving.page.form_data import SentFile
from serving.page.settings import MEGABYTE, Settings
from serving.page.unzip import Archive, ZipError
from serving.page.words import words_of

PICTURES = "pictures"
"""The kind of a series of PNG and JPEG files, beside those of `file_kinds.SERIES`."""

logger = logging.getLogger("ladnn_tf.serving")

_READERS = {PNG: PngImagePlugin.PngImageFile, JPEG: JpegImagePlugin.JpegImageFile}

_OTHERS = ("empty", "file_too_large", "kind_archive", "kind_picture", "kind_unknown", "zip_nested")
"""Codes of what lies beside the slices on a CD or in an export; a damaged member of a zip file may be a slice."""


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
    """

    name: str
    content: bytes = dataclasses.field(repr=False, default=b"")
    kind: str = ""
    error: str = ""
    code: str = ""
    size: int = 0
    image_hash: str = ""

    @property
    def is_other(self) -> bool:
        """Whether it is passed over in an upload with DICOM: the viewer on a CD, say, or a README."""
        return self.code in _OTHERS


@dataclasses.dataclass(frozen=True)
class SentSeries:
    """Files of an upload that hold one series, or several.

    Attributes:
        kind: `DICOM`, `NIFTI` or `PICTURES`.
        files: in order; without their content.
        contents: of the files; whoever reads them may empty the list, so that they need no memory any more.
        passed_over: how many other files there were beside them.
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
    *,
    as_series: bool = False,
) -> list[Item]:
    """What an upload holds, in order.

    Args:
        files: as they were sent.
        settings: `max_images`, `max_slices`, `max_image_mb` and `max_unpacked_mb` count.
        language: of the one who sent them.
        reserve: is told how many bytes a zip file holds before it is unpacked; it raises if that is too much now.
        hash_of: makes the hash of a file, for the audit log.
        as_series: whether the images are slices of one person.

    Returns:
        An item for each file; a zip file gives one for each file in it, or one with an error.

    Raises:
        PageError: 413 if these are more than `max_images`, or of DICOM or slices of one person more than
            `max_slices`, naming the file; or what `reserve` raises.
    """
    intake = _Intake(settings, language, reserve, hash_of, alone=len(files) == 1)
    items: list[Item] = []
    for file in files:
        try:
            items += intake.items_in(file)
        except PageError:
            raise
        except Exception as error:  # noqa: BLE001 (one bad file never spoils the others)
            items.append(_refused(file.name, file.content, hash_of, CODE, file_failed(error)))
        _check_count(file, items, settings, as_series=as_series, all_there=file is files[-1])
    return _with_names_apart(items)


def parted(items: Sequence[Item], as_series: bool) -> tuple[list[Item], list[SentSeries]]:
    """Parts what is answered image by image from what is answered as series.

    Args:
        items: of an upload.
        as_series: whether the images are slices of one person; their order is that of the numbers in their names.

    Returns:
        The images, and the files without an answer, in order; and the series: all DICOM files as one, each NIfTI
        file, and the images if they are slices of one person. Where there is DICOM, other files are only counted;
        and a DICOMDIR, which only lists files, is left out where there is one to read.
    """
    kinds = {DICOM: [], NIFTI: [], PICTURES: []}
    single = []
    for item in items:
        if item.kind in SERIES:
            kinds[item.kind].append(item)
        elif as_series and item.kind:
            kinds[PICTURES].append(item)
        else:
            single.append(item)
    series = []
    if kinds[DICOM]:
        slices = [item for item in kinds[DICOM] if not file_kinds.is_dicomdir(item.content)]
        sent = _sent(DICOM, slices or kinds[DICOM])
        series.append(dataclasses.replace(sent, passed_over=sum(item.is_other for item in single)))
        single = [item for item in single if not item.is_other]
    if kinds[PICTURES]:
        series.append(_sent(PICTURES, sorted(kinds[PICTURES], key=lambda item: natural_key(item.name))))
    return single, series + [_sent(NIFTI, [item]) for item in kinds[NIFTI]]


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
        ImageError: if it has more, or as `preprocess.decode`; also where the page itself fails at it.
    """
    width, height = size_of(content)
    if width * height > max_pixels:
        raise preprocess.ImageError(
            words_of("en")("reason.too_many_pixels", width=width, height=height, most=f"{max_pixels:,}")
        )
    try:
        return preprocess.decode(content)
    except preprocess.ImageError:
        raise
    except Exception as error:
        raise preprocess.ImageError(file_failed(error)) from error


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height that the header of a PNG or JPEG file promises; 0, 0 of one that is damaged."""
    reader = _READERS.get(file_kinds.kind_of(content))
    try:
        return reader(io.BytesIO(content)).size if reader else (0, 0)
    except (OSError, SyntaxError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError):
        return 0, 0  # `preprocess.decode` says how


class _Intake:
    """Makes items of the files of one upload.

    Args:
        settings, language, reserve, hash_of: as of `items_of`.
        alone: whether the upload is one file; else the names of members begin with that of their zip file.
    """

    def __init__(
        self,
        settings: Settings,
        language: str,
        reserve: Callable[[int], None],
        hash_of: Callable[[bytes], str],
        *,
        alone: bool,
    ) -> None:
        self._settings = settings
        self._language = language
        self._reserve = reserve
        self._hash_of = hash_of
        self._alone = alone
        self._most_bytes = settings.max_image_mb * MEGABYTE
        self._left = settings.max_unpacked_mb * MEGABYTE

    def items_in(self, file: SentFile) -> list[Item]:
        """The items of a file.

        Raises:
            PageError: if there are far too many files in it; or what `reserve` raises.
        """
        if file.too_large:
            of_it = {"size": file.dropped, "image_hash": file.dropped_hash}
            return [Item(file.name, error=self._too_large(), code="file_too_large", **of_it)]
        if not file_kinds.is_zip(file.content):
            return [self._item(file.name, file.content)]
        try:
            archive = Archive(file.content, self._language, file_kinds.may_be_large)
            _check_members(file, archive, self._settings)
            size = archive.unpacked_bytes(self._most_bytes)
            if size > self._left:
                logger.info("a zip file was refused as too large (--max_unpacked_mb)")
                raise ZipError("zip_bomb", most=self._settings.max_unpacked_mb)
        except ZipError as error:
            return [_refused(file.name, file.content, self._hash_of, error.code, str(error))]
        self._left -= size
        self._reserve(size)
        return self._unpack(archive, "" if self._alone else f"{file.name}/")

    def _unpack(self, archive: Archive, prefix: str) -> list[Item]:
        items = []
        for name, content in archive.unpack(self._most_bytes):
            if isinstance(content, ZipError):
                items.append(Item(prefix + name, error=str(content), code=content.code))
            else:
                items.append(self._item(prefix + name, content))
        return items

    def _too_large(self) -> str:
        return words_of("en")("reason.file_too_large", most=self._settings.max_image_mb)

    def _item(self, name: str, content: bytes) -> Item:
        kind = file_kinds.kind_of(content)
        if kind not in SERIES and len(content) > self._most_bytes:
            return _refused(name, content, self._hash_of, "file_too_large", self._too_large())
        if kind == ZIP:
            return _refused(name, content, self._hash_of, "zip_nested", words_of("en")("reason.zip_nested"))
        if not kind:
            return _refused(name, content, self._hash_of, *file_kinds.why_unknown(content))
        return Item(name, content, kind, size=len(content), image_hash=self._hash_of(content))


def _refused(name: str, content: bytes, hash_of: Callable[[bytes], str], code: str, error: str) -> Item:
    image_hash = hash_of(content) if content else ""
    return Item(name, error=error, code=code, size=len(content), image_hash=image_hash)


def _check_members(file: SentFile, archive: Archive, settings: Settings) -> None:
    """Refuses far too many files before they are unpacked."""
    most = settings.max_images + settings.max_slices
    if len(archive) > most:
        raise PageError(413, "too_many_files", file=file.name, most=most)


def _check_count(
    file: SentFile, items: Sequence[Item], settings: Settings, *, as_series: bool, all_there: bool
) -> None:
    """Refuses too many items.

    Args:
        file: the last one, with which it became too many.
        items: of all files up to this one.
        settings: `max_images` and `max_slices` count.
        as_series: whether the images are slices of one person.
        all_there: whether it was the last file; before that, DICOM may still come, and others do not count then.
    """
    most = settings.max_images + settings.max_slices
    if len(items) > most:
        raise PageError(413, "too_many_files", file=file.name, most=most)
    kinds = Counter(item.kind for item in items)
    slices = {"too_many_dicom": kinds[DICOM], "too_many_slices": (kinds[PNG] + kinds[JPEG]) * as_series}
    for key, count in slices.items():
        if count > settings.max_slices:
            raise PageError(413, key, file=file.name, count=count, most=settings.max_slices)
    count = len(items) - sum(slices.values())
    if kinds[DICOM] or not all_there:
        count -= sum(item.is_other for item in items)
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
