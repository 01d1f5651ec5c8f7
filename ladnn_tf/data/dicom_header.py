"""Opens DICOM files and checks how they hold their pixels (PS3.3 C.7.6.3), before any pixel is read."""

import io
from dataclasses import dataclass
from typing import BinaryIO

from ladnn_tf.data import dicom_elements as elements
from ladnn_tf.data.dicom_codecs import NATIVE, FrameFormat
from ladnn_tf.data.series_sources import HEAD_BYTES, WITHOUT_PREFIX, Source, inflate, is_dicom, lacks_prefix
from ladnn_tf.data.volume import MAX_FRAME_PIXELS, needs_dicom

try:
    from pydicom import uid
    from pydicom.dataset import Dataset
except ImportError as error:
    raise needs_dicom(error) from error

MAX_FRAMES = 20_000
"""Of one file."""

PIXEL_ELEMENTS = {0x7FE00010: "PixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00008: "FloatPixelData"}
"""Elements that hold pixels, and end a header."""

_UNDEFINED = 0xFFFFFFFF


class LeftOutError(ValueError):
    """A file that is not read, with the reason."""


@dataclass(frozen=True)
class Pixels:
    """How a file holds its pixels.

    Attributes:
        source: the file.
        syntax: its transfer syntax.
        format: of a frame.
        frames: how many.
        high_bit: the highest of a pixel's stored bits.
        offset, end: where the value of PixelData begins, and where it or the file ends, in open_dicom()'s bytes.
        padding: lowest and highest stored value of pixels that the scanner did not fill, or None.
    """

    source: Source
    syntax: uid.UID
    format: FrameFormat
    frames: int
    high_bit: int
    offset: int
    end: int
    padding: tuple[int, int] | None


def open_dicom(source: Source) -> tuple[BinaryIO, int, bool]:
    """Opens a file; the data set of the deflated transfer syntax (PS3.5 A.5) comes inflated.

    Returns:
        The file at its start, its length, and whether it was inflated.

    Raises:
        LeftOutError: if it is no DICOM file or cannot be inflated.
        SeriesError: as the source.
        OSError: likewise.
    """
    file = source.open()
    try:
        head = file.read(4096)
        if not is_dicom(head):
            no_dicom = "not a DICOM file: no DICM at byte 128 (PS3.10 7.1)"
            raise LeftOutError(WITHOUT_PREFIX if lacks_prefix(head) else no_dicom)
        deflated = uid.DeflatedExplicitVRLittleEndian.encode()
        at = head.find(b"\x02\x00\x10\x00UI")  # TransferSyntaxUID (0002,0010)
        if at < 0 or head[at + 8 : at + 8 + len(deflated)] != deflated:
            length = file.seek(0, io.SEEK_END)
            file.seek(0)
            return file, length, False
        # FileMetaInformationGroupLength (0002,0000), the first element, UL: bytes that follow it (PS3.10 7.1)
        start = HEAD_BYTES + 12 + int.from_bytes(head[140:144], "little")
        if head[132:140] != b"\x02\x00\x00\x00UL\x04\x00" or not at < start <= len(head):
            raise LeftOutError("FileMetaInformationGroupLength (0002,0000) is missing or damaged")
        plain = uid.ExplicitVRLittleEndian.encode().ljust(len(deflated), b"\0")
        meta = head[: at + 8] + plain + head[at + 8 + len(deflated) : start]
        file.seek(start)
        try:
            content = meta + inflate(file.read())
        except ValueError as error:
            raise LeftOutError(f"the deflated data set is damaged: {error}") from error
    except BaseException:
        file.close()
        raise
    file.close()
    return io.BytesIO(content), len(content), True


def read_pixels_header(
    dataset: Dataset, source: Source, syntax: uid.UID, found: list[tuple[str, int, int]], length: int
) -> Pixels:
    """Checks the Image Pixel module (C.7.6.3) and that the file holds what it promises.

    Args:
        dataset: the header.
        source: the file.
        syntax: its transfer syntax, which can be decoded.
        found: keyword, offset and declared length of the element with the pixels, if there is one.
        length: of the file.

    Raises:
        LeftOutError: if it is damaged or of a kind that is not read; the message names the tag.
        ElementError: likewise.
    """
    if not found:
        raise LeftOutError("PixelData (7FE0,0010) is missing")
    keyword, offset, size = found[0]
    if keyword != "PixelData":
        raise LeftOutError(f"{elements.element_name(keyword)} is not read")
    rows, columns = elements.integer(dataset, "Rows"), elements.integer(dataset, "Columns")
    frames = elements.integer(dataset, "NumberOfFrames", 1)
    if rows < 1 or columns < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise LeftOutError(
            f"Rows (0028,0010) x Columns (0028,0011) is {rows} x {columns}; 1 to {MAX_FRAME_PIXELS:,} are read"
        )
    if not 1 <= frames <= MAX_FRAMES:
        raise LeftOutError(f"NumberOfFrames (0028,0008) is {frames}; from 1 to {MAX_FRAMES:,} are read")
    if elements.integer(dataset, "SamplesPerPixel") != 1:
        raise LeftOutError("SamplesPerPixel (0028,0002) is not 1: a colour picture")
    if elements.text(dataset, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise LeftOutError("PhotometricInterpretation (0028,0004) is neither MONOCHROME1 nor MONOCHROME2")
    allocated, stored = elements.integer(dataset, "BitsAllocated"), elements.integer(dataset, "BitsStored")
    high_bit = elements.integer(dataset, "HighBit")
    if allocated not in (8, 16) or not 2 <= stored <= high_bit + 1 <= allocated:
        raise LeftOutError(
            f"BitsAllocated (0028,0100) {allocated}, BitsStored (0028,0101) {stored} and HighBit (0028,0102) "
            f"{high_bit} do not fit together, or are not of 8 or 16 bits"
        )
    if syntax not in NATIVE and high_bit != stored - 1:
        raise LeftOutError(
            f"HighBit (0028,0102) is {high_bit}; with BitsStored {stored} and compression it is {stored - 1}"
        )
    signed = elements.integer(dataset, "PixelRepresentation")
    if signed not in (0, 1):
        raise LeftOutError(f"PixelRepresentation (0028,0103) is {signed}, neither 0 nor 1")
    end = length if size == _UNDEFINED else min(length, offset + size)
    if (size == _UNDEFINED) == (syntax in NATIVE):
        raise LeftOutError(f"the length of PixelData (7FE0,0010) does not fit {syntax.name} (PS3.5 A.4)")
    needed = rows * columns * (allocated // 8) * frames if syntax in NATIVE else 16 * frames
    if end - offset < needed:
        raise LeftOutError(
            f"PixelData (7FE0,0010) has {max(0, end - offset):,} bytes of {needed:,}: the file is cut off"
        )
    padding = _padding(dataset, signed == 1)
    form = FrameFormat(rows, columns, allocated, stored, signed == 1)
    return Pixels(source, syntax, form, frames, high_bit, offset, end, padding)


def _padding(dataset: Dataset, signed: bool) -> tuple[int, int] | None:
    """The range of stored values that stand for no measurement (C.7.5.1.1.2), both ends included."""
    limits = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        found = elements.value(dataset, keyword)
        if found is None:
            break
        # US or SS by PixelRepresentation; whatever the file calls it, the 16 bits are the same.
        if isinstance(found, bytes) and len(found) == 2:
            little = dataset.original_encoding[1] is not False
            bits = int.from_bytes(found, "little" if little else "big")
        else:
            bits = elements.integer(dataset, keyword) & 0xFFFF
        limits.append(bits - 0x10000 if signed and bits & 0x8000 else bits)
    return (min(limits), max(limits)) if limits else None
