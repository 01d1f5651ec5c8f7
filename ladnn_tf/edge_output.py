"""Answers of the edge command, as records for JSON and as a table."""

import datetime
from pathlib import PurePath
from typing import Any

from ladnn_tf import edge_dicom
from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data.series_sources import is_dicom
from ladnn_tf.edge_files import ImageFile, printable
from ladnn_tf.edge_predictor import EdgePredictor
from ladnn_tf.labels import LESIONS

_FILE_WIDTH = 24


def answer(
    predictor: EdgePredictor, image: ImageFile, *, overlay: bool, maps: bool
) -> tuple[dict[str, Any], bytes | None]:
    """Answers an image file.

    Args:
        predictor: of the model.
        image: the file.
        overlay: whether to draw the overlay.
        maps: whether the record holds the maps.

    Returns:
        The record, as `record_of`; the overlay as JPEG, None where it is not wanted or there is no answer. What
        goes wrong with one image, its memory included, is an error of this image.
    """
    if image.refused:
        return record_of(image, _failure(image.refused, predictor), predictor, maps=False), None
    try:
        return _answer(predictor, image, overlay=overlay, maps=maps)
    # Whatever it is, it would keep a box from all other files, at every restart.
    except Exception as error:  # noqa: BLE001
        words = " ".join(str(error).split())
        reason = f"the program failed at this image ({type(error).__name__}{words and f': {words}'})"
        return record_of(image, _failure(reason, predictor), predictor, maps=False), None


def _answer(
    predictor: EdgePredictor, image: ImageFile, *, overlay: bool, maps: bool
) -> tuple[dict[str, Any], bytes | None]:
    result, pixels = predictor.answer(image.content)
    if result.error and is_dicom(image.content):
        result = _failure(edge_dicom.HINT, predictor)
    record = record_of(image, result, predictor, maps=maps)
    if not overlay or pixels is None:
        return record, None
    from ladnn_tf.edge_overlay import overlay_jpeg  # fonts need time and memory that not everyone spends

    return record, overlay_jpeg(pixels, result, PurePath(image.file).name, predictor.card.notice)


def record_of(image: ImageFile, result: Answer, predictor: EdgePredictor, *, maps: bool) -> dict[str, Any]:
    """The answer as a dict for JSON.

    Its fields are those of `Answer`, `classes` only of models that have them, `maps` only where wanted (lists
    `[h][w][C]`, four digits), `boxes` and `scores` not, and
    `file`, `sha256`, `size` and `mtime_ns` of the image, `checked` (whether it might have been refused as no
    chest-CT slice), `notice`, `answered_at` (UTC, ISO 8601) and `overlay`, the name of its file or None.
    """
    record = {
        "file": image.file,
        "covid": result.covid,
        "positive": result.positive,
        "threshold": result.threshold,
        "lesions": result.lesions,
        **({"classes": result.classes} if predictor.card.classes else {}),
        "abstained": result.abstained,
        "reason": result.reason,
        "error": result.error,
        "model_version": result.model_version,
        "card_sha256": result.card_sha256,
        "unfit": result.unfit,
        "checked": predictor.check,
        "notice": predictor.card.notice,
        "answered_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sha256": image.sha256,
        "size": image.size,
        "mtime_ns": image.mtime_ns,
        "overlay": None,
    }
    if maps and result.maps is not None:
        record["maps"] = [[[float(f"{x:.4g}") for x in place] for place in row] for row in result.maps]
    return record


def unread_record(file: str, error: OSError, predictor: EdgePredictor) -> dict[str, Any]:
    """The record of a file that could not be read: that of an error, `sha256`, `size` and `mtime_ns` None."""
    reason = f"cannot be read ({error.strerror or error})"
    record = record_of(ImageFile(file, b"", 0, 0), _failure(reason, predictor), predictor, maps=False)
    return record | {"sha256": None, "size": None, "mtime_ns": None}


def _failure(reason: str, predictor: EdgePredictor) -> Answer:
    return Answer(predictor.card, predictor.card_sha256, error=reason)


def table_header(card: Card, width: int = _FILE_WIDTH) -> str:
    """The heads of the table's columns, the files' `width` characters wide."""
    columns = LESIONS if card.task == "ladnn" else card.classes
    return f"{'file':<{width}}  {'COVID-19':>8}  {'call':<8}" + "".join(f"  {name:>8}" for name in columns)


def table_row(record: dict[str, Any], width: int = _FILE_WIDTH) -> str:
    """A record as a row of the table; of a file with a long name the end."""
    file = printable(record["file"])
    file = f"{file if len(file) <= width else '...' + file[3 - width :]:<{width}}"
    if record["error"]:
        return f"{file}  no answer: {record['error']}"
    if record["abstained"]:
        return f"{file}  no answer, not a chest-CT slice: {record['reason']}"
    call = "positive" if record["positive"] else "negative"
    columns = record["lesions"] | record.get("classes", {})
    values = "".join(f"  {value:>{max(8, len(name))}.3f}" for name, value in columns.items())
    return f"{file}  {record['covid']:>8.3f}  {call:<8}{values}"


def table_footer(predictor: EdgePredictor) -> str:
    """How to read the table."""
    card = predictor.card
    operating_point = f"positive: COVID-19 at {card.threshold:.3f} or above ({card.threshold_rule})."
    return "\n".join(["", operating_point, card.version, *card.caveats, card.notice])
