"""From the files of a series, as they were uploaded, to its volumes; what is too large is not read.

Names of files in a report are those that were uploaded. What a header says of the patient, and its free text, does
not get beyond this module.
"""

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ladnn_tf.data.volume import SeriesError, Volume
from serving.page import file_kinds
from serving.page.file_kinds import DICOM, NIFTI
from serving.page.header_values import known_only
from serving.page.intake import PICTURES, SentSeries, size_of
from serving.page.reasons import PREFIX
from serving.page.settings import MEGABYTE, Settings
from serving.page.view import shown_name
from serving.page.words import words_of

_BYTES_A_PIXEL = 4  # of a volume, which is float32
_NIFTI_HEAD = 2**16  # of a file that may be in gzip
_OF_NUMBER = re.compile(r"(?:study \d+ of \d+, )?series (\d+)\b")
_STORED = re.compile(r"\b\d{5}\.(?:dcm|nii|png|jpg)\b")
_SUFFIXES = {file_kinds.PNG: ".png", file_kinds.JPEG: ".jpg", DICOM: ".dcm", NIFTI: ".nii"}


class UnreadableError(ValueError):
    """Series that get no answer; the message is an English sentence without a full stop.

    Args:
        code: of the reason, for the audit log.
        message: what is wrong.
        flag: by which the operator allows more; empty for none.
    """

    def __init__(self, code: str, message: str, flag: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.flag = flag


@dataclasses.dataclass(frozen=True, eq=False)
class ReadSeries:
    """A series that was read.

    Attributes:
        volume: its slices; its name and its files are not to be shown.
        number: of the series, as its scanner gave it; empty if there is none.
        places: of the files in the upload that its slices are from, in order, each once.
        report: what was irregular, a sentence each.
    """

    volume: Volume
    number: str
    places: tuple[int, ...]
    report: tuple[str, ...]


@dataclasses.dataclass
class Taken:
    """What the series of an upload have taken so far of what they may have together.

    Attributes:
        slices: that were read.
        pixels: of them.
    """

    slices: int = 0
    pixels: int = 0


def read_sent(
    sent: SentSeries, folder: Path, settings: Settings, taken: Taken, go_on: Callable[[], None]
) -> list[ReadSeries]:
    """Reads the series in some files of an upload.

    Args:
        sent: the files; their contents are emptied.
        folder: an empty one that the caller deletes.
        settings: `max_slices`, `max_series_mb` and `max_pixels` count.
        taken: by the upload's other files; what is read of these is added.
        go_on: is called now and then; it raises where nobody wants the series any more.

    Returns:
        At least one series.

    Raises:
        UnreadableError: if none can be read, they are too large, or what reads them is not installed.
        OSError: if the files cannot be written.
    """
    if sent.kind == DICOM and all(map(file_kinds.is_dicomdir, sent.contents)):
        raise UnreadableError("dicomdir_alone", words_of("en")(f"{PREFIX}dicomdir_alone"))
    paths = _write(sent, folder, go_on)
    path = paths[0] if sent.kind == NIFTI else folder
    try:
        _check_size(sent.kind, paths, settings, taken, go_on)
        volumes = _volumes(path)
    except SeriesError as error:
        message = _told(str(error).removeprefix(f"{path.name}: "), sent).strip().rstrip(".")
        raise UnreadableError("series_unreadable", message) from error
    return [_read(volume, sent) for volume in volumes]


def _write(sent: SentSeries, folder: Path, go_on: Callable[[], None]) -> list[Path]:
    """Writes the files under names that say nothing but their order."""
    paths = []
    sent.contents.reverse()
    for place, file in enumerate(sent.files):
        go_on()
        content = sent.contents.pop()
        suffix = (
            ".nii.gz" if file.kind == NIFTI and not file_kinds.is_plain_nifti(content) else _SUFFIXES[file.kind]
        )
        paths.append(folder / f"{place:05d}{suffix}")
        paths[-1].write_bytes(content)
    return paths


def _volumes(path: Path) -> list[Volume]:
    try:
        from ladnn_tf.data.volumes import read_series

        return read_series(path)
    except ImportError as error:
        raise missing_package(error) from error
    except MemoryError as error:
        raise SeriesError("there is not enough memory to read it") from error


def missing_package(error: ImportError) -> UnreadableError:
    """The refusal of all series where a package is not installed."""
    refusal = UnreadableError("series_not_installed", words_of("en")(f"{PREFIX}series_not_installed"))
    refusal.add_note(str(error))
    return refusal


def _check_size(
    kind: str, paths: Sequence[Path], settings: Settings, taken: Taken, go_on: Callable[[], None]
) -> None:
    """Refuses what is too large by what the headers promise; what they do not say no reader will read."""
    slices, pixels = taken.slices, taken.pixels
    for found, area in {DICOM: _dicom_sizes, NIFTI: _nifti_sizes, PICTURES: _picture_sizes}[kind](paths):
        go_on()
        if area > settings.max_pixels:
            reason = words_of("en")(f"{PREFIX}series_pixels", area=f"{area:,}", most=f"{settings.max_pixels:,}")
            raise UnreadableError("series_pixels", reason, "--max_pixels")
        slices += found
        pixels += found * area
    if slices > settings.max_slices:
        reason = words_of("en")(f"{PREFIX}series_slices", count=f"{slices:,}", most=f"{settings.max_slices:,}")
        raise UnreadableError("series_slices", reason, "--max_slices")
    size = -(-pixels * _BYTES_A_PIXEL // MEGABYTE)
    if size > settings.max_series_mb:
        reason = words_of("en")(f"{PREFIX}series_memory", size=f"{size:,}", most=f"{settings.max_series_mb:,}")
        raise UnreadableError("series_memory", reason, "--max_series_mb")
    taken.slices, taken.pixels = slices, pixels  # what is refused leaves room for the others


def _dicom_sizes(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    try:
        from ladnn_tf.data.dicom_frames import read_frames
        from ladnn_tf.data.dicom_header import LeftOutError
        from ladnn_tf.data.series_sources import file_source
    except ImportError as error:
        raise missing_package(error) from error
    for path in paths:
        try:
            with warnings.catch_warnings():
                # They quote values, and would be in the page's log; `read_series` counts them for the report.
                warnings.simplefilter("ignore", UserWarning)
                frames = read_frames(file_source(path))
        except (LeftOutError, SeriesError):
            continue  # it is left out when the series is read, with its reason
        for frame in frames[:1]:
            yield len(frames), frame.pixels.format.rows * frame.pixels.format.columns


def _nifti_sizes(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    for path in paths:
        with path.open("rb") as file:
            head = file_kinds.nifti_head(file.read(_NIFTI_HEAD))
        order = "little" if head[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else "big"
        start, width = (42, 2) if head[344:348] == b"n+1\0" else (24, 8)  # dim[1] of nifti1.h and of nifti2.h
        sides = [
            int.from_bytes(head[place : place + width], order) for place in range(start, start + 3 * width, width)
        ]
        yield sides[2], sides[0] * sides[1]


def _picture_sizes(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    for path in paths:
        width, height = size_of(path.read_bytes())
        yield 1, width * height


def _read(volume: Volume, sent: SentSeries) -> ReadSeries:
    number = _OF_NUMBER.match(volume.name) if sent.kind == DICOM else None
    found = dict.fromkeys(int(name[:5]) for name in volume.files)
    report = tuple(_told(sentence, sent) for sentence in volume.report)
    return ReadSeries(volume, number[1] if number else "", tuple(found), report)


def _told(sentence: str, sent: SentSeries) -> str:
    """A sentence about the files as it may be shown: their own names, and no free text of their headers."""

    def name(found: re.Match[str]) -> str:
        place = int(found[0][:5])
        return shown_name(sent.files[place].name) if place < len(sent.files) else found[0]

    return _STORED.sub(name, known_only(sentence))
