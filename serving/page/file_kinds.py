"""What an uploaded file is, told by its content: its name may say anything."""

import zlib

from ladnn_tf.data.preprocess import PNG_SIGNATURE
from serving.page.reasons import PREFIX
from serving.page.words import words_of

PNG, JPEG, ZIP, DICOM, NIFTI = "PNG", "JPEG", "zip", "DICOM", "NIfTI"

SERIES = (DICOM, NIFTI)
"""The kinds that hold series, or slices of one."""

_JPEG_START = b"\xff\xd8\xff"  # ITU-T T.81, table B.1: SOI, then the next marker
_ZIP_STARTS = (
    b"PK\x03\x04",
    b"PK\x05\x06",
)  # APPNOTE.TXT 4.3.7 and 4.3.16: a file, and the end of an empty archive

_DICOM_PREFIX = (128, b"DICM")  # DICOM PS3.10, 7.1
_DIRECTORY_CLASS = b"1.2.840.10008.1.3.10"  # Media Storage Directory Storage, PS3.6, table A-1
_CLASS_TAG = b"\x02\x00\x02\x00UI"  # MediaStorageSOPClassUID (0002,0002), in explicit little endian: PS3.10, 7.1
_META_BYTES = 512  # of a DICOM file, in which that element is
_DICOM_BARE = (
    b"\x02\x00\x00\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
)  # without it: the first tag, PS3.5, 7.1
_NIFTI_MAGICS = ((344, b"n+1\0"), (4, b"n+2\0"))  # nifti1.h, nifti2.h: header and voxels in one file
_NIFTI_HEADER = (344, b"ni1\0")  # the same without its voxels
_NIFTI_BYTES = 348  # in which both are
_GZIP = b"\x1f\x8b"  # RFC 1952
_GZIP_HEAD = 4096  # bytes of a gzip file in which the first ones of its content are
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # as zlib calls its reader of gzip

# What people upload in place of a slice: how it begins, what it is called, and the text about it.
_OTHERS = (
    (b"GIF8", "GIF", "picture"),
    (b"BM", "BMP", "picture"),
    (b"II*\0", "TIFF", "picture"),
    (b"MM\0*", "TIFF", "picture"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000", "picture"),
    (b"%PDF", "PDF", "picture"),
    (_GZIP, "gzip", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "archive"),
    (b"Rar!", "RAR", "archive"),
)


def kind_of(content: bytes) -> str:
    """`PNG`, `JPEG`, `ZIP`, `DICOM` or `NIFTI` (also in gzip), as the content begins; else empty."""
    if content.startswith(PNG_SIGNATURE):
        return PNG
    if content.startswith(_JPEG_START):
        return JPEG
    if is_zip(content):
        return ZIP
    place, magic = _DICOM_PREFIX
    if content[place : place + len(magic)] == magic:
        return DICOM
    return NIFTI if is_plain_nifti(nifti_head(content)) else ""


def is_zip(start: bytes) -> bool:
    """Whether a file that begins so is a zip file."""
    return start.startswith(_ZIP_STARTS)


def is_plain_nifti(content: bytes) -> bool:
    """Whether a file is NIfTI that is not in gzip."""
    return any(content[place : place + len(magic)] == magic for place, magic in _NIFTI_MAGICS)


def is_dicomdir(content: bytes) -> bool:
    """Whether a DICOM file is a DICOMDIR: it lists the files of a folder (PS3.10, 8.6) and holds no slices."""
    _, found, rest = content[:_META_BYTES].partition(_CLASS_TAG)
    size = int.from_bytes(rest[:2], "little")
    return bool(found) and rest[2 : 2 + size].rstrip(b"\0 ") == _DIRECTORY_CLASS


def nifti_head(content: bytes) -> bytes:
    """The first bytes of a file or, if it is in gzip, of what it holds; empty if that is damaged."""
    if not content.startswith(_GZIP):
        return content[:_NIFTI_BYTES]
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(content[:_GZIP_HEAD], _NIFTI_BYTES)
    except zlib.error:
        return b""


def may_be_large(start: bytes) -> bool:
    """Whether a file that begins so may hold more than one image: a zip file, or a series."""
    return kind_of(start) in (ZIP, *SERIES)


def is_of_scanner(content: bytes) -> bool:
    """Whether a file is DICOM or NIfTI, also one that is not read: it may hold names and dates."""
    return kind_of(content) in SERIES or _code_and_kind(content)[0] in ("kind_dicom", "kind_nifti")


def why_unknown(content: bytes) -> tuple[str, str]:
    """Says of a file that is of no kind that is read what it is.

    Returns:
        A code for the audit log, and what to do; one of the English reasons.
    """
    code, kind = _code_and_kind(content)
    return code, words_of("en")(f"{PREFIX}{code}", kind=kind)


def _code_and_kind(content: bytes) -> tuple[str, str]:
    if not content:
        return "empty", ""
    if content.startswith(_DICOM_BARE):
        return "kind_dicom", "DICOM"
    place, magic = _NIFTI_HEADER
    if content[place : place + len(magic)] == magic:
        return "kind_nifti", "NIfTI"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "kind_picture", "WebP"
    if content[4:8] == b"ftyp":  # ISO/IEC 14496-12, 4.3
        return "kind_picture", "HEIC / AVIF"
    for start, name, group in _OTHERS:
        if content.startswith(start):
            return f"kind_{group}", name
    return "kind_unknown", ""
