"""Values of DICOM elements with their type checked; an error names the tag."""

import math

from ladnn_tf.data import preprocess
from ladnn_tf.data.volume import counted, needs_dicom, printable

try:
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.errors import BytesLengthException, InvalidDicomError
except ImportError as error:
    raise needs_dicom(error) from error

DAMAGED = (
    *preprocess.DAMAGED,
    RuntimeError,  # of native decoders; RecursionError and NotImplementedError are kinds of it
    BytesLengthException,
    InvalidDicomError,
)
"""What pydicom and the decoders let through from damaged files."""


class ElementError(ValueError):
    """An element that is missing, empty or not what it must be; the message names keyword and tag."""


def element_name(keyword: str) -> str:
    """`RescaleSlope (0028,1053)`."""
    tag = tag_for_keyword(keyword)
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def value(dataset: Dataset, keyword: str) -> object:
    """The value of an element; None if it is missing or empty.

    Raises:
        ElementError: if its bytes cannot be read as its type.
    """
    try:
        found = dataset.get(keyword)
    except DAMAGED as error:
        raise ElementError(f"{element_name(keyword)} is damaged") from error
    if found is None or (hasattr(found, "__len__") and len(found) == 0):
        return None
    return found


def text(dataset: Dataset, keyword: str) -> str:
    """A string of one value; empty if it is missing.

    Raises:
        ElementError: if it is something else.
    """
    found = value(dataset, keyword)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ElementError(f"{element_name(keyword)} is not one string")
    return printable(found.strip(" \0"))


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """The strings of an element; none if it is missing.

    Raises:
        ElementError: if they are something else.
    """
    found = value(dataset, keyword)
    if found is None:
        return []
    found = [found] if isinstance(found, str) else found
    try:
        items = list(found)
    except TypeError:
        items = [None]
    if not all(isinstance(item, str) for item in items):
        raise ElementError(f"{element_name(keyword)} is not strings")
    return [item.strip(" \0").upper() for item in items]


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """So many finite numbers.

    Raises:
        ElementError: if the element is missing, empty, of another count, or not of finite numbers.
    """
    found = value(dataset, keyword)
    if found is None:
        raise ElementError(f"{element_name(keyword)} is missing")
    if isinstance(found, str | bytes):
        raise ElementError(f"{element_name(keyword)} is not of numbers")
    items = list(found) if hasattr(found, "__iter__") else [found]
    if len(items) != count:
        raise ElementError(f"{element_name(keyword)} has {counted(len(items), 'value')}, {count} expected")
    try:
        result = tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError) as error:
        raise ElementError(f"{element_name(keyword)} is not of numbers") from error
    if not all(math.isfinite(item) and abs(item) < 1e9 for item in result):
        raise ElementError(f"{element_name(keyword)} is not of finite numbers of a sensible size")
    return result


def number(dataset: Dataset, keyword: str, default: float | None = None) -> float:
    """A finite number; `default`, if one is given, where the element is missing or empty.

    Raises:
        ElementError: as numbers().
    """
    if default is not None and value(dataset, keyword) is None:
        return default
    return numbers(dataset, keyword, 1)[0]


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number; `default`, if one is given, where the element is missing or empty.

    Raises:
        ElementError: as numbers(), or if it is a fraction.
    """
    found = number(dataset, keyword, default)
    if found != int(found):
        raise ElementError(f"{element_name(keyword)} is {found}, not a whole number")
    return int(found)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is missing.

    Raises:
        ElementError: if it is no sequence.
    """
    found = value(dataset, keyword)
    if found is None:
        return []
    if isinstance(found, str | bytes) or not hasattr(found, "__iter__"):
        raise ElementError(f"{element_name(keyword)} is no sequence")
    found = list(found)
    if not all(isinstance(item, Dataset) for item in found):
        raise ElementError(f"{element_name(keyword)} is no sequence")
    return found
