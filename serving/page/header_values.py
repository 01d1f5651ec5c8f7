"""Values of DICOM headers in what the readers of series say: known ones may be shown, others are free text.

Scanners' values are code strings, but nothing keeps a name from standing in their place.
"""

import re

_IMAGE_TYPES = frozenset(
    (
        "ORIGINAL", "DERIVED", "MIXED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "VOLUME",
        "ADDITION", "DIVISION", "MASKED", "MAXIMUM", "MEAN", "MINIMUM", "MULTIPLICATION", "NONE", "RESAMPLED",
        "STD_DEVIATION", "SUBTRACTION", "QUANTITY", "FILTERED", "MEDIAN",
        "MPR", "CSA MPR", "MIP", "MINIP", "MIN_IP", "MAX_IP", "AVERAGE", "REFORMATTED", "PROJECTION IMAGE",
    )
)  # fmt: skip
"""Of ImageType and FrameType: PS3.3 C.7.6.1.1.2, C.8.2.1.1 and C.8.16.1, and what scanners call reformations."""

_UNITS = frozenset(("HU", "US", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"))
"""Of RescaleType: PS3.3 C.11.1.1.2."""

_UNKNOWN = "..."

# All up to the end of the sentence: what is free may hold brackets and commas, too.
_IMAGE_TYPE = re.compile(r"( image \((?:Image|Frame)Type \([\dA-F,]{9}\) )(.*)\)", re.DOTALL)
_UNIT = re.compile(r"(RescaleType \(0028,1054\) is )(.*)(, not HU)", re.DOTALL)
_SYNTAX = re.compile(
    r"(TransferSyntaxUID \(0002,0010\)) (?:(?! with 12 bits).)*?( has no decoder here|\.{3})", re.DOTALL
)
_NEXT = re.compile(r" (?=left out: \d{5}\.)")


def known_only(text: str) -> str:
    """Sentences about a series without those values of its headers that are not known.

    Args:
        text: of `ladnn_tf.data.volumes`, which names files by five digits.
    """
    return " ".join(_sentence(sentence) for sentence in _NEXT.split(text))


def _sentence(text: str) -> str:
    text = _IMAGE_TYPE.sub(lambda found: f"{found[1]}{_parts(found[2])})", text)
    text = _UNIT.sub(lambda found: f"{found[1]}{found[2] if found[2] in _UNITS else _UNKNOWN}{found[3]}", text)
    return _SYNTAX.sub(r"\1\2", text)


def _parts(image_type: str) -> str:
    return "/".join(part if part in _IMAGE_TYPES else _UNKNOWN for part in image_type.split("/"))
