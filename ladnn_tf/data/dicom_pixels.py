"""The pixels of one slice, from stored values to HU (PS3.3 C.11.1: HU = slope * stored + intercept)."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ladnn_tf.data.dicom_codecs import NATIVE, CodecError, decode_frame
from ladnn_tf.data.dicom_frames import Frame
from ladnn_tf.data.dicom_header import Pixels, open_dicom
from ladnn_tf.data.volume import AIR, needs_dicom

try:
    from pydicom import uid
except ImportError as error:
    raise needs_dicom(error) from error

_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"


class PixelReader:
    """Reads slices one by one; a file that holds several stays open until another one is read."""

    def __init__(self) -> None:
        self._pixels: Pixels | None = None
        self._file: BinaryIO | None = None
        self._fragments: list[list[tuple[int, int]]] = []
        self._damage: CodecError | None = None

    def close(self) -> None:
        """Closes the last file."""
        if self._file is not None:
            self._file.close()
        self._file = self._pixels = None

    def __enter__(self) -> "PixelReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, frame: Frame) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads one slice.

        Returns:
            (rows, columns) float32 HU, as stored, not turned; and a bool mask of the same shape of the pixels that
            the scanner did not fill (they are air then), or None if there are none.

        Raises:
            CodecError: if the pixels are damaged.
            LeftOutError, SeriesError, OSError: if the file cannot be opened any more.
        """
        stored = self._stored(frame)
        hu = stored.astype(np.float32)
        hu *= np.float32(frame.slope)
        hu += np.float32(frame.intercept)
        if not frame.pixels.padding:
            return hu, None
        lowest, highest = frame.pixels.padding
        padded = (stored >= lowest) & (stored <= highest)
        hu[padded] = AIR
        return hu, padded if padded.any() else None

    def _stored(self, frame: Frame) -> np.ndarray:
        """(rows, columns) int32."""
        pixels, form = frame.pixels, frame.pixels.format
        if self._pixels is not pixels:
            self.close()
            self._file, _, _ = open_dicom(pixels.source)
            self._pixels, self._fragments, self._damage = pixels, [], None
            if pixels.syntax not in NATIVE:
                try:
                    self._fragments = _fragments(self._file, pixels)
                except CodecError as error:
                    self._damage = error
        if self._damage is not None:  # of the whole file: the same for each of its frames
            raise self._damage
        if pixels.syntax in NATIVE:
            size = form.rows * form.columns * form.allocated // 8
            content = _read(self._file, pixels.offset + frame.index * size, size)
            order = ">" if pixels.syntax == uid.ExplicitVRBigEndian else "<"
            raw = np.frombuffer(content, f"{order}u{form.allocated // 8}").reshape(form.rows, form.columns)
        else:
            content = b"".join(_read(self._file, *part) for part in self._fragments[frame.index])
            raw = decode_frame(content, pixels.syntax, form)
        # Bits above and below the stored ones may hold overlays or anything else (PS3.5 8.1.1, 8.1.2).
        spare = 31 - pixels.high_bit
        stored = raw.astype(np.int32) << spare
        unused = 32 - form.stored
        return stored >> unused if form.signed else (stored.view(np.uint32) >> np.uint32(unused)).view(np.int32)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise CodecError("PixelData (7FE0,0010) is cut off")
    return content


def _items(file: BinaryIO, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the items' values (PS3.5 A.4)."""
    while offset + 8 <= end:
        head = _read(file, offset, 8)
        length = struct.unpack_from("<I", head, 4)[0]
        if head[:4] == _END:
            return
        if head[:4] != _ITEM or offset + 8 + length > end:
            raise CodecError("the items of PixelData (7FE0,0010) are damaged")
        yield offset + 8, length
        offset += 8 + length


def _fragments(file: BinaryIO, pixels: Pixels) -> list[list[tuple[int, int]]]:
    """Offset and length of the fragments of each frame."""
    items = _items(file, pixels.offset, pixels.end)
    table_at, table_length = next(items, (0, 0))
    parts = list(items)
    if parts:
        if pixels.frames == 1:
            return [parts]
        if len(parts) == pixels.frames:
            return [[part] for part in parts]
        if table_length == 4 * pixels.frames:
            # The Basic Offset Table counts from the first byte of the first fragment's item tag.
            table = np.frombuffer(_read(file, table_at, table_length), "<u4").astype(np.int64)
            starts = table + table_at + table_length
            frame_of = np.searchsorted(starts, [at - 8 for at, _ in parts], side="right") - 1
            frames = [[] for _ in starts]
            for part, frame in zip(parts, frame_of, strict=True):
                frames[frame].append(part)
            if np.all(np.diff(starts) > 0) and all(frames):
                return frames
    raise CodecError(
        f"the items of PixelData (7FE0,0010) do not fit NumberOfFrames (0028,0008), which is {pixels.frames}"
    )
