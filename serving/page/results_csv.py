"""A batch's results as CSV for a spreadsheet."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable

from ladnn_tf.labels import CLASSES, LESIONS
from serving.page.pictures import data_uri
from serving.page.series_parts import SeriesView
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
    *(f"{name}_probability" for name in CLASSES),
    "slices",
    "slices_answered",
    "low",
    "high",
    "aggregation",
    "report",
)
"""`positive` and `unfit` are 1 or 0; what an image without an answer does not have is empty.

Columns from `slices` on are of series: how many were read and answered, the interval of `covid` over the slices,
how their probabilities were aggregated, and what was irregular.
"""

_Value = str | float | int | bool | None

_FORMULA = frozenset("=+-@")
"""What a cell begins with for a spreadsheet to calculate it (OWASP, "CSV Injection")."""

_AFTER_SEPARATOR = re.compile(r"""([,;|\t\r\n][\s"']*)([^\s"'])""")


def results_csv(results: Iterable[ResultView], series: Iterable[SeriesView] = ()) -> bytes:
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
    for row in (*map(_series_row, series), *map(_row, results)):
        writer.writerow([_cell(row.get(name)) for name in COLUMNS])
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def csv_uri(results: Iterable[ResultView], series: Iterable[SeriesView] = ()) -> str:
    """`results_csv` as a `data:` address."""
    return data_uri(results_csv(results, series), "text/csv;charset=utf-8")


def _row(result: ResultView) -> dict[str, _Value]:
    lesions = {lesion.label: round(lesion.probability, 4) for lesion in result.lesions}
    return _common(result) | lesions | {"lesion_caveat": result.lesion_caveat, "reason": result.reason}


def _series_row(result: SeriesView) -> dict[str, _Value]:
    reasons = [f"{left_out.count}: {left_out.text}" for left_out in result.left_out]
    own = ("slices", "slices_answered", "low", "high", "aggregation")
    return _common(result) | {
        "reason": result.reason or "; ".join(reasons),
        **{name: getattr(result, name) for name in own},
        "report": " ".join(sentence.text for sentence in result.report),
    }


def _common(result: ResultView | SeriesView) -> dict[str, _Value]:
    same = (
        "file", "state", "covid", "positive", "threshold", "model_version", "card_sha256", "unfit", "notice",
    )  # fmt: skip
    classes = {f"{each.label}_probability": round(each.probability, 4) for each in result.classes}
    values = {name: getattr(result, name) for name in same}
    return values | classes | {"caveats": " ".join(result.caveats)}


def _cell(value: _Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    value = _AFTER_SEPARATOR.sub(lambda found: found[1] + _disarmed(found[2]), value)
    return f"'{value}" if value[:1].isspace() else _disarmed(value)  # as some programs strip it


def _disarmed(text: str) -> str:
    begins = unicodedata.normalize("NFKC", text[:1])  # as East Asian versions of Excel take full-width signs too
    return f"'{text}" if begins in _FORMULA else text
