"""The rows of a manifest: from the bytes of its CSV file to a checked table. `manifest.py` has the columns."""

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ladnn_tf.labels import COVID, DIAGNOSES, LESIONS, SPLITS

COLUMNS = (
    "image", "patient", "source", "split", COVID, *LESIONS, "report", "diagnosis", "age", "sex", "series",
    "slice_index",
)  # fmt: skip
"""The manifest's columns, in order."""

MAX_AGE = 120
"""The largest age, in years, that is taken for one."""

_NAMES = ("image", "patient", "source", "split")
_NUMBERS = ("age", "slice_index")


@dataclass(frozen=True)
class _Row:
    """A row's cells by column, and its number as a text editor counts."""

    number: int
    cells: dict[str, str]


def parse(content: bytes, path: Path, *, in_file: bool = True) -> pd.DataFrame:
    """Reads and checks a manifest's content.

    Args:
        content: the CSV text (UTF-8).
        path: the file, which the images are relative to.
        in_file: whether the content is in the file. Errors then name its row, otherwise image and patient.

    Returns:
        As `manifest.read_manifest`.

    Raises:
        ValueError: as `manifest.read_manifest`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a manifest is UTF-8; {error}") from error
    prefix = f"{path}, " if in_file else f"{path} was not written: "
    rows = list(_numbered_rows(text, path))
    if not rows:
        raise ValueError(f"{path} lists no images")
    places = [_place(row, in_file) for row in rows]
    records = []
    for row, place in zip(rows, places, strict=True):
        try:
            records.append(_record(row.cells))
        except ValueError as error:
            raise ValueError(f"{prefix}{place}: {error}") from None
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    folder = path.parent.resolve()
    frame["path"] = [os.path.normpath(folder / image) for image in frame["image"]]
    frame["row"] = [row.number for row in rows]
    try:
        _check_together(frame, places)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None
    frame.attrs = {"path": str(path.absolute()), "sha256": hashlib.sha256(content).hexdigest()}
    return frame


def serialise(frame: pd.DataFrame) -> bytes:
    """Returns the CSV text (UTF-8) of a frame's `COLUMNS`, with a header; NaN becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in row] for row in frame[list(COLUMNS)].itertuples(index=False))
    return text.getvalue().encode("utf-8")


def _numbered_rows(text: str, path: Path) -> Iterator[_Row]:
    """Yields the rows behind the header that are not empty."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        _check_header(header, path)
        end = reader.line_num
        for cells in reader:
            number, end = end + 1, reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise ValueError(f"{path}, row {number}: {len(cells)} cells; the header has {len(header)}")
            named = dict(zip(header, cells, strict=True))
            yield _Row(number, {column: named[column] for column in COLUMNS})
    except csv.Error as error:
        raise ValueError(f"{path}, row {reader.line_num}: not a CSV file: {error}") from error


def _check_header(header: list[str], path: Path) -> None:
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{path}, row 1: the columns {missing} are missing; expected {list(COLUMNS)}")
    repeated = [column for column in COLUMNS if header.count(column) > 1]
    if repeated:
        raise ValueError(f"{path}, row 1: the columns {repeated} are there more than once; keep one of each")


def _place(row: _Row, in_file: bool) -> str:
    if in_file:
        return f"row {row.number}"
    return f"image {row.cells['image']!r} of patient {row.cells['patient']!r}"


def _record(cells: dict[str, str]) -> dict[str, str | int | float]:
    """Checks one row's cells and gives them their types."""
    for column in _NAMES:
        if cells[column] != cells[column].strip():
            raise ValueError(f"{column} should have no white space around it. Received: {cells[column]!r}")
    for column in ("image", "patient"):
        if not cells[column]:
            raise ValueError(f"{column} is empty; an image of an unknown patient needs one of its own")
    _one_of(cells, "split", SPLITS)
    _one_of(cells, COVID, ("0", "1"))
    for lesion in LESIONS:
        _one_of(cells, lesion, ("0", "1", ""))
    _one_of(cells, "diagnosis", (*DIAGNOSES, ""))
    _one_of(cells, "sex", ("F", "M", ""))
    record: dict[str, str | int | float] = dict(cells)
    record[COVID] = int(cells[COVID])
    for column in (*LESIONS, *_NUMBERS):
        record[column] = _number(cells[column], column)
    if not math.isnan(record["age"]) and not 0 <= record["age"] <= MAX_AGE:
        raise ValueError(f"age should be from 0 to {MAX_AGE} years or empty. Received: {cells['age']!r}")
    return record


def _number(cell: str, column: str) -> float:
    if not cell:
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} should be a number or empty. Received: {cell!r}")
    return number


def _one_of(cells: dict[str, str], column: str, allowed: tuple[str, ...]) -> None:
    if cells[column] not in allowed:
        names = ", ".join(value or "empty" for value in allowed)
        raise ValueError(f"{column} should be one of {names}. Received: {cells[column]!r}")


def _check_together(frame: pd.DataFrame, places: list[str]) -> None:
    """Checks that each file is listed once, under whatever spelling, and each patient is in one split."""
    files: dict[str, str] = {}
    patients: dict[str, tuple[str, str]] = {}
    columns = (frame[column] for column in ("image", "path", "patient", "split"))
    for place, image, path, patient, split in zip(places, *columns, strict=True):
        if path in files:
            raise ValueError(f"{place}: image {image!r} is the same file as that of {files[path]}; list it once")
        files[path] = place
        first_split, first_place = patients.setdefault(patient, (split, place))
        if split != first_split:
            raise ValueError(
                f"{place}: patient {patient!r} is in split {split!r} here and in {first_split!r} in"
                f" {first_place}; a patient in two splits makes any evaluation too good"
            )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return str(value)
