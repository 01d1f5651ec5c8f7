"""What an uploaded file is, told by its content: its name may say anything."""

from ladnn_tf.data.preprocess import PNG_SIGNATURE
from serving.page.reasons import PREFIX
from serving.page.words import words_of

PNG, JPEG, ZIP = "PNG", "JPEG", "zip"

_JPEG_START = b"\xff\xd8\xff"  # ITU-T T.81, table B.1: SOI, then the next marker
_ZIP_STARTS = (
    b"PK\x03\x04",
    b"PK\x05\x06",
)  # APPNOTE.TXT 4.3.7 and 4.3.16: a file, and the end of an empty archive

_DICOM_PREFIX = (128, b"DICM")  # DICOM PS3.10, 7.1
_DICOM_BARE = (
    b"\x02\x00\x00\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
)  # without it: the first tag, PS3.5, 7.1
_NIFTI_MAGIC = (344, (b"n+1\0", b"ni1\0"))  # nifti1.h

# What people upload in place of a slice: how it begins, what it is called, and the text about it.
_OTHERS = (
    (b"GIF8", "GIF", "picture"),
    (b"BM", "BMP", "picture"),
    (b"II*\0", "TIFF", "picture"),
    (b"MM\0*", "TIFF", "picture"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000", "picture"),
    (b"%PDF", "PDF", "picture"),
    (b"\x1f\x8b", "gzip", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "archive"),
    (b"Rar!", "RAR", "archive"),
)


def kind_of(content: bytes) -> str:
    """`PNG`, `JPEG` or `ZIP`, as the content begins; else empty."""
    if content.startswith(PNG_SIGNATURE):
        return PNG
    if content.startswith(_JPEG_START):
        return JPEG
    return ZIP if is_zip(content) else ""


def is_zip(start: bytes) -> bool:
    """Whether a file that begins so is a zip file."""
    return start.startswith(_ZIP_STARTS)


def why_unknown(content: bytes) -> tuple[str, str]:
    """Says of a file that is neither PNG, JPEG nor zip what it is.

    Returns:
        A code for the audit log, and what to do; one of the English reasons.
    """
    code, kind = _code_and_kind(content)
    return code, words_of("en")(f"{PREFIX}{code}", kind=kind)


def _code_and_kind(content: bytes) -> tuple[str, str]:
    if not content:
        return "empty", ""
    place, magic = _DICOM_PREFIX
    if content[place:].startswith(magic) or content.startswith(_DICOM_BARE):
        return "kind_dicom", "DICOM"
    place, magics = _NIFTI_MAGIC
    if content[place:].startswith(magics):
        return "kind_nifti", "NIfTI"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "kind_picture", "WebP"
    if content[4:8] == b"ftyp":  # ISO/IEC 14496-12, 4.3
        return "kind_picture", "HEIC / AVIF"
    for start, name, group in _OTHERS:
        if content.startswith(start):
            return f"kind_{group}", name
    return "kind_unknown", ""
