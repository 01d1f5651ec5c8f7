"""A batch's results as CSV for a spreadsheet."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable

from ladnn_tf.labels import LESIONS
from serving.page.pictures import data_uri
from serving.page.view import ResultView

COLUMNS = (
    "file",
    "state",
    "covid",
    "positive",
    "threshold",
    *LESIONS,
    "lesion_caveat",
    "reason",
    "model_version",
    "card_sha256",
    "unfit",
    "caveats",
    "notice",
)
"""`positive` and `unfit` are 1 or 0; what an image without an answer does not have is empty."""

_FORMULA = frozenset("=+-@")
"""What a cell begins with for a spreadsheet to calculate it (OWASP, "CSV Injection")."""

_AFTER_SEPARATOR = re.compile(r"""([,;|\t\r\n][\s"']*)([^\s"'])""")


def results_csv(results: Iterable[ResultView]) -> bytes:
    """The results as CSV (RFC 4180), UTF-8 with a byte order mark.

    The mark is for Excel, which without it reads a file in the system's old encoding and garbles Chinese; Python
    and pandas read it as `utf-8-sig`. A text that a spreadsheet would take for a formula, such as a file called
    `=1+1.png`, gets an apostrophe in front. Some programs part cells at a semicolon whatever was asked: every cell
    is quoted, and what follows a separator within it is treated as its beginning. Probability and threshold have
    all their digits, so that no reader finds a call that its own figures contradict.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for result in results:
        writer.writerow([_cell(value) for value in _row(result)])
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def csv_uri(results: Iterable[ResultView]) -> str:
    """`results_csv` as a `data:` address."""
    return data_uri(results_csv(results), "text/csv;charset=utf-8")


def _row(result: ResultView) -> list[str | float | bool | None]:
    lesions = {lesion.label: round(lesion.probability, 4) for lesion in result.lesions}
    return [
        result.file,
        result.state,
        result.covid,
        result.positive,
        result.threshold,
        *(lesions.get(label) for label in LESIONS),
        result.lesion_caveat,
        result.reason,
        result.model_version,
        result.card_sha256,
        result.unfit,
        " ".join(result.caveats),
        result.notice,
    ]


def _cell(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    value = _AFTER_SEPARATOR.sub(lambda found: found[1] + _disarmed(found[2]), value)
    return f"'{value}" if value[:1].isspace() else _disarmed(value)  # as some programs strip it


def _disarmed(text: str) -> str:
    begins = unicodedata.normalize("NFKC", text[:1])  # as East Asian versions of Excel take full-width signs too
    return f"'{text}" if begins in _FORMULA else text
