"""The CSV tables of the published datasets, as they are: several encodings, spellings and stray white space."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from ladnn_tf.labels import COVID, LESIONS, canonical_label

LABELS = (COVID, *LESIONS)
"""The label columns of every table, in order."""

ARCHIVES = frozenset(
    {
        "crawled",
        "medpix",
        "phantom",
        "CPTAC-LSCC",
        "LungCT-Diagnosis",
        "covid-chestxray-dataset",
        "hku",
        "luna16",
    }
)
"""Sources that collect the images of many papers or patients."""


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
