"""What the readers of the published datasets share: CSV tables as they are, and what a reader returns.

The tables have several encodings, spellings and stray white space. A reader changes nothing silently: a row
that it mends or refuses is listed with file, row and reason. A row number is that of a text editor: the header
is row 1. Three ideas hold for both datasets:

- *Lesions.* A row's lesions are known (1 or 0) where it carries at least one lesion label, and unknown
  otherwise: 111 of the 349 positives of D0 carry none, although the paper says that each has one to five, and
  the negatives carry none either.
- *Patients* get the dataset's name as a name space (`covid_ct/Patient 12`), since both count from one.
- *Sources* are the paper that an image was cut from (`covid_ct/20040782`: medRxiv and bioRxiv identifiers go
  without their date, so that a preprint's versions are one source), or an archive (`sources.ARCHIVES`).
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from ladnn_tf.labels import COVID, LESIONS, canonical_label

LABELS = (COVID, *LESIONS)
"""The label columns of every table, in order."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Endings of the images' names, in small letters."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Remark:
    """A row that was mended or refused.

    Attributes:
        file: the file that names the image, relative to the dataset's folder.
        row: the row in it as a text editor counts (the header is row 1), 0 where `file` is the image itself.
        image: the image's name as it stands there.
        reason: what was wrong, and what was done about it.
    """

    file: str
    row: int
    image: str
    reason: str


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        file: the table, relative to the dataset's folder.
        number: as a text editor counts (the header is row 1).
        cells: the cells, without white space around them.
    """

    file: str
    number: int
    cells: list[str]

    def remark(self, image: str, reason: str) -> Remark:
        """Returns a remark on this row."""
        return Remark(self.file, self.number, image, reason)


@dataclass(frozen=True)
class Reading:
    """What a reader made of a dataset.

    Attributes:
        rows: the manifest's columns (`manifest.COLUMNS`) and `path`, the image's absolute path. `image` is
            relative to the dataset's folder; `split` is empty where none is published.
        mended: rows that were read after a correction, and what was corrected.
        refused: rows that are not in `rows`, and why.
    """

    rows: pd.DataFrame
    mended: list[Remark]
    refused: list[Remark]


def make_reading(records: list[dict], mended: list[Remark], refused: list[Remark]) -> Reading:
    """Returns a reading, in which what the records do not hold is unknown.

    Raises:
        ValueError: if there are no records; the message gives the first refused rows.
    """
    if not records:
        reasons = "; ".join(f"{r.file} row {r.row}: {r.image}: {r.reason}" for r in refused[:3])
        raise ValueError(f"not one image could be read. First refused rows: {reasons or 'the tables are empty'}")
    unknown = {
        "split": "", "report": "", "diagnosis": "", "age": float("nan"), "sex": "", "series": "",
        "slice_index": float("nan"),
    }  # fmt: skip
    return Reading(pd.DataFrame([unknown | record for record in records]), mended, refused)


def absolute_folder(folder: str | Path) -> Path:
    """Returns a folder as an absolute path without `..`, by which paths can be compared.

    Links are followed only where a `..` makes it necessary, so that a linked folder keeps its place.
    """
    folder = Path(folder).absolute()
    return folder.resolve() if ".." in folder.parts else folder


def require_files(folder: Path, expected: Iterable[Path], name: str) -> None:
    """Checks that a folder and the files of a format in it are there.

    Args:
        folder: the dataset's folder.
        expected: files and folders, relative to it.
        name: the dataset's, for the message.

    Raises:
        FileNotFoundError: if one is not; the message names all that are not.
    """
    missing = [path.as_posix() for path in expected if not (folder / path).exists()]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one that holds {name}")
    if missing:
        raise FileNotFoundError(f"{folder} does not hold {name}: {', '.join(missing)} not found in it")


def read_table(
    folder: Path, file: Path, header: list[str], mended: list[Remark], name_column: int = 0
) -> list[Row]:
    """Reads a table, without its header and its empty rows.

    Args:
        folder: the dataset's folder.
        file: the table, relative to it.
        header: what the table's first columns must be: a member of `LABELS` where the cell is any spelling of
            that label, the text itself otherwise.
        mended: takes a remark on each row of another encoding or with white space around a cell.
        name_column: the place of the image's name, for the remarks.

    Returns:
        Rows with at least as many cells as `header`.

    Raises:
        ValueError: if the table is no CSV file, has another header or no rows, or a row is too short.
    """
    content = (folder / file).read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = [_decode(line) for line in content.splitlines(keepends=True)]
    reader = csv.reader([text for text, _ in lines])
    rows: list[Row] = []
    end = 0
    try:
        for cells in reader:
            start, end = end + 1, reader.line_num
            row = Row(file.as_posix(), start, [cell.strip() for cell in cells])
            if start == 1:
                _check_header(folder / file, row.cells, header)
                continue
            if not any(row.cells):
                continue
            if len(cells) < len(header):
                raise ValueError(
                    f"{folder / file}, row {start}: {len(cells)} cells; expected {len(header)} or more"
                )
            encodings = {encoding for _, encoding in lines[start - 1 : end]} - {"UTF-8"}
            for encoding in sorted(encodings):
                mended.append(row.remark(row.cells[name_column], f"encoding: not UTF-8, read as {encoding}"))
            # White space at the end of a report, behind the header's columns, is not worth a remark.
            if row.cells[: len(header)] != cells[: len(header)]:
                mended.append(row.remark(row.cells[name_column], "white space around a cell removed"))
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{folder / file}, row {reader.line_num}: not a CSV file: {error}") from error
    if not rows:
        raise ValueError(f"{folder / file} has no rows; expected a header and one row for each image")
    return rows


def read_labels(row: Row, cells: list[str]) -> tuple[int, dict[str, float]]:
    """Reads a row's label cells, each of which holds its own column's label, in any spelling, or nothing.

    Args:
        row: the row, for the message of an error.
        cells: as many as `LABELS`, in their order.

    Returns:
        COVID as 1 or 0, and the lesions as 1.0 or 0.0, or all as NaN (unknown) where the row names none.

    Raises:
        ValueError: if a cell holds an unknown label, or that of another column.
    """
    present = set()
    for label, cell in zip(LABELS, cells, strict=True):
        if not cell:
            continue
        try:
            found = canonical_label(cell)
        except ValueError as error:
            raise ValueError(f"{row.file}, row {row.number}: {error}") from None
        if found != label:
            raise ValueError(
                f"{row.file}, row {row.number}: {cell!r} stands in the column of {label}; expected {label} or"
                " nothing there"
            )
        present.add(label)
    known = any(lesion in present for lesion in LESIONS)
    lesions = {lesion: float(lesion in present) if known else float("nan") for lesion in LESIONS}
    return int(COVID in present), lesions


def index_by_name(entries: Iterable[tuple[Row, str, Value]], mended: list[Remark]) -> dict[str, Value]:
    """Returns what a table says of each image.

    Args:
        entries: for each row the row, the image's name and what the row says of it.
        mended: takes a remark on each row that repeats what an earlier one says of its image.

    Raises:
        ValueError: if two rows contradict each other about an image.
    """
    values: dict[str, Value] = {}
    first: dict[str, Row] = {}
    for row, name, value in entries:
        if name not in values:
            values[name], first[name] = value, row
        elif values[name] == value:
            mended.append(row.remark(name, "repeats an earlier row of this image: read once"))
        else:
            raise ValueError(
                f"{row.file}, row {row.number}: {value!r} for image {name}, but {values[name]!r} in row"
                f" {first[name].number}; keep one of the two rows"
            )
    return values


def _decode(line: bytes) -> tuple[str, str]:
    # One table was written on a Chinese Windows: its multiplication signs, dashes and quotation marks are
    # GB18030. Read as Latin-1, which takes any bytes, they would be two wrong characters each.
    for encoding in ("UTF-8", "GB18030"):
        try:
            return line.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1"), "Latin-1"


def _check_header(file: Path, cells: list[str], header: list[str]) -> None:
    received = [_header_label(cell) for cell in cells[: len(header)]]
    if received != header:
        raise ValueError(f"{file}, row 1: expected the columns {header}; received {cells}")


def _header_label(cell: str) -> str:
    """The label that a header's cell stands for, such as `CVD19` or `consolidation(Csld)`; else the cell."""
    if cell == "C0VID19":  # with a zero, in LA-DNN's annotation
        return COVID
    try:
        return canonical_label(re.sub(r".*\((\w+)\)$", r"\1", cell))
    except ValueError:
        return cell
