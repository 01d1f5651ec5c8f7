"""Decodes one compressed frame (PS3.5 8.2), by packages of permissive licences.

Before a native decoder sees a frame, its own header is compared with the data set: size, samples and precision. A
frame that contradicts its data set would make the decoder allocate or write what nobody expects.
"""

import importlib
import io
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ladnn_tf.data.dicom_elements import DAMAGED
from ladnn_tf.data.volume import counted, needs_dicom

try:
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
except ImportError as error:
    raise needs_dicom(error) from error

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes whose pixels are not compressed."""


_SYNTAX = "TransferSyntaxUID (0002,0010)"


class CodecError(ValueError):
    """A frame that cannot be decoded."""


def _bad(what: str) -> CodecError:
    return CodecError(f"a frame of PixelData (7FE0,0010) {what}")


@dataclass(frozen=True)
class FrameFormat:
    """What a data set says of its frames.

    Attributes:
        rows, columns: of a frame.
        allocated, stored: bits.
        signed: whether PixelRepresentation (0028,0103) is 1.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool


def check_syntax(syntax: uid.UID) -> None:
    """Refuses a transfer syntax that cannot be decoded.

    Raises:
        CodecError: if there is no decoder, or if its package is missing; the message says which and what to do.
    """
    if syntax in NATIVE:
        return
    if syntax not in _DECODERS:
        known = ", ".join(sorted({each.name for each in (*NATIVE, *_DECODERS)}))
        raise CodecError(
            f"TransferSyntaxUID (0002,0010) {syntax.name} has no decoder here; convert to one of: {known}"
        )
    package, _ = _DECODERS[syntax]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise CodecError(
            f"{_SYNTAX} {syntax.name} ({syntax}) needs the package of its decoder: pip install '.[dicom]' in the "
            "project's folder"
        ) from error


def decode_frame(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    """Decodes a frame.

    Args:
        encoded: its code stream.
        syntax: a transfer syntax that passed check_syntax().
        expected: what the data set says.

    Returns:
        (rows, columns) of an integer type. The lowest `expected.stored` bits count: for a signed frame they may
        be in two's complement within an unsigned type.

    Raises:
        CodecError: if the frame is damaged or contradicts the data set.
    """
    _, decoder = _DECODERS[syntax]
    try:
        pixels = decoder(encoded, syntax, expected)
    except CodecError:
        raise
    except DAMAGED as error:
        raise _bad(f"is damaged ({error})") from error
    if pixels.shape != (expected.rows, expected.columns):
        raise _bad(f"decodes to {pixels.shape}, not to Rows and Columns")
    return pixels


def _rle(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    """PS3.5 G: a segment for each byte of a pixel, the highest first."""
    from rle.rle import decode_segment

    del syntax
    count = expected.allocated // 8
    header = np.frombuffer(encoded[:64], "<u4")
    if len(header) < 16 or header[0] != count:
        raise _bad(f"has not the {count} RLE segments of {expected.allocated} bits")
    starts = [*map(int, header[1 : count + 1]), len(encoded)]
    if starts[0] < 64 or any(start >= end for start, end in itertools.pairwise(starts)):
        raise _bad("has damaged offsets of its RLE segments")
    size = expected.rows * expected.columns
    pixels = np.zeros(size, np.uint16)
    # Segment by segment: of whole frames, this package does not check the size, and ends in a Rust panic.
    for start, end in itertools.pairwise(starts):
        segment = np.frombuffer(decode_segment(encoded[start:end]), np.uint8)
        if not size <= len(segment) <= size + 1:  # padded to an even length
            raise _bad(f"has an RLE segment of {len(segment):,} bytes, {size:,} expected")
        pixels = (pixels << 8) | segment[:size]
    return pixels.reshape(expected.rows, expected.columns)


def _jpeg_ls(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    # pyjpegls decodes these too, but takes 15 seconds to find out that a frame of 32 x 40 pixels is damaged.
    cleaned, _ = _clean_jpeg(encoded, expected, (0xF7,))
    return _gdcm(cleaned, syntax, expected)


def _jpeg_lossless(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    cleaned, _ = _clean_jpeg(encoded, expected, (0xC3,))
    return _gdcm(cleaned, syntax, expected)


def _gdcm(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = expected.rows, expected.columns
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = expected.allocated, expected.stored
    dataset.HighBit = expected.stored - 1
    dataset.PixelRepresentation = int(expected.signed)
    dataset.PixelData = encapsulate([encoded])
    dataset["PixelData"].VR = "OB"
    try:
        pixels, _ = get_decoder(syntax).as_array(dataset, raw=True, decoding_plugin="gdcm")
    except DAMAGED as error:  # gdcm's own words are about its wrapper
        raise _bad(f"is a damaged code stream of {syntax.name}") from error
    return pixels


def _jpeg_baseline(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    from PIL import Image

    cleaned, precision = _clean_jpeg(encoded, expected, (0xC0, 0xC1))
    if precision != 8:
        raise CodecError(f"{_SYNTAX} {syntax.name} with 12 bits has no decoder here; convert it")
    with Image.open(io.BytesIO(cleaned), formats=("JPEG",)) as picture:
        return np.asarray(picture.convert("L"))


_TABLES = (0xC4, 0xDB, 0xDD, 0xF8)
"""Markers that a decoder needs before the scan: DHT, DQT, DRI, and LSE of JPEG-LS."""

_COMMENTS = (*range(0xE0, 0xF0), 0xFE)
"""APPn and COM."""


def _clean_jpeg(encoded: bytes, expected: FrameFormat, kinds: tuple[int, ...]) -> tuple[bytes, int]:
    """Checks the headers of JPEG (ISO 10918-1, B.2) or JPEG-LS (ISO 14495-1, C.2) up to the scan.

    gdcm ends the whole process over what libjpeg only warns of, such as a strange JFIF header or bytes between the
    segments: it gets the segments that it needs, one after the other, and nothing else.

    Args:
        encoded: the code stream.
        expected: what the data set says.
        kinds: the markers of the frame header (SOF) that fit the transfer syntax.

    Returns:
        The code stream without comments, and the precision in bits.
    """
    if encoded[:2] != b"\xff\xd8":
        raise _bad("does not begin as a JPEG")
    at, precision, kept = 2, None, [encoded[:2]]
    while at + 4 <= len(encoded):
        mark, marker, length = struct.unpack_from(">BBH", encoded, at)
        segment = encoded[at : at + 2 + length]
        if mark != 0xFF or length < 2 or len(segment) < 2 + length:
            break
        if marker == 0xDA and precision is not None:
            return b"".join([*kept, encoded[at:]]), precision
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            if marker not in kinds or precision is not None or length < 11:
                raise _bad("is another kind of JPEG than its TransferSyntaxUID")
            precision, rows, columns, samples = struct.unpack_from(">BHHB", segment, 4)
            _compare(rows, columns, samples, precision, expected)
        elif marker not in (*_TABLES, *_COMMENTS):
            break
        if marker not in _COMMENTS:
            kept.append(segment)
        at += 2 + length
    raise _bad("is a damaged JPEG: its markers lead nowhere")


def _compare(rows: int, columns: int, samples: int, precision: int, expected: FrameFormat) -> None:
    if (rows, columns) != (expected.rows, expected.columns) or samples != 1:
        raise _bad(
            f"has {rows} x {columns} pixels of {counted(samples, 'sample')}, "
            f"but Rows and Columns say {expected.rows} x {expected.columns}"
        )
    if not 2 <= precision <= expected.allocated:
        raise CodecError(
            f"a frame of PixelData (7FE0,0010) has {precision} bits; BitsAllocated: {expected.allocated}"
        )


_SIZ = struct.Struct(">HHHIIIIIIIIHBBB")
"""From the marker SIZ to the first component's sampling (ISO 15444-1, A.5.1)."""


def _jpeg_2000(encoded: bytes, syntax: uid.UID, expected: FrameFormat) -> np.ndarray:
    import openjpeg

    del syntax
    # Some writers wrap the code stream in a JP2 file, against PS3.5 A.4.4.
    start = encoded[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0 or len(encoded) < start + 2 + _SIZ.size:
        raise _bad("does not begin as a JPEG 2000 code stream")
    _, _, _, right, bottom, left, top, *tile, samples, depth, step_x, step_y = _SIZ.unpack_from(encoded, start + 2)
    precision = (depth & 0x7F) + 1
    _compare(bottom - top, right - left, samples, precision, expected)
    tile_width, tile_height, tile_left, tile_top = tile
    if (step_x, step_y) != (1, 1) or not tile_width or not tile_height or tile_left > left or tile_top > top:
        raise _bad("has a damaged JPEG 2000 header (SIZ)")
    pixels = openjpeg.decode(encoded[start:], 0)
    if depth & 0x80 or precision >= expected.stored or not expected.signed:
        return pixels
    # Two's complement of fewer bits than BitsStored.
    return ((pixels.astype(np.int32) << (32 - precision)) >> (32 - precision)).astype(np.int32)


_Decoder = Callable[[bytes, uid.UID, FrameFormat], np.ndarray]

_DECODERS: dict[uid.UID, tuple[str, _Decoder]] = {
    uid.RLELossless: ("rle", _rle),
    uid.JPEGLSLossless: ("gdcm", _jpeg_ls),
    uid.JPEGLSNearLossless: ("gdcm", _jpeg_ls),
    uid.JPEG2000Lossless: ("openjpeg", _jpeg_2000),
    uid.JPEG2000: ("openjpeg", _jpeg_2000),
    uid.JPEGLossless: ("gdcm", _jpeg_lossless),
    uid.JPEGLosslessSV1: ("gdcm", _jpeg_lossless),
    uid.JPEGBaseline8Bit: ("PIL", _jpeg_baseline),
    uid.JPEGExtended12Bit: ("PIL", _jpeg_baseline),
}
