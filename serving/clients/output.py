"""Answers of the client's command: as a table, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.files import write_atomically
from ladnn_tf.labels import LESIONS


def record_of(file: str, answer: Answer) -> dict[str, Any]:
    """The answer to a file as a dict, as `ladnn_tf.edge_output.table_row` and JSON take it.

    It has `classes` only of models that have them.
    """
    return {
        "file": file,
        "covid": answer.covid,
        "positive": answer.positive,
        "threshold": answer.threshold,
        "lesions": answer.lesions,
        **({"classes": answer.classes} if answer.card.classes else {}),
        "abstained": answer.abstained,
        "reason": answer.reason,
        "error": answer.error,
        "model_version": answer.model_version,
        "card_sha256": answer.card_sha256,
        "unfit": answer.unfit,
    }


def footer(cards: Sequence[Card]) -> str:
    """How to read the table.

    Args:
        cards: of the versions that answered, one or more.
    """
    lines = []
    for card in cards:
        operating_point = f"positive: COVID-19 at {card.threshold:.3f} or above ({card.threshold_rule})."
        lines += ["", operating_point, card.version, *card.caveats]
    if len(cards) > 1:
        lines += ["", "The server changed its version meanwhile; --json and --csv tell which one answered what."]
    return "\n".join([*lines, cards[-1].notice])


def write_csv(records: Sequence[dict[str, Any]], cards: Sequence[Card], path: str | Path) -> None:
    """Writes a line per file: the fields of `record_of`, a column per lesion (of a model with classes per class,
    `<class>_probability`), the card's caveats and the notice.

    Bytes of a name that are no UTF-8 are written as `\\udcXX`, as Python has them.

    Args:
        records: from `record_of`.
        cards: of the versions that answered.
        path: the file.

    Raises:
        OSError: if it cannot be written.
    """
    said = {card.version: {"caveats": " ".join(card.caveats), "notice": card.notice} for card in cards}
    classes = dict.fromkeys(name for card in cards for name in card.classes)
    lesions = () if all(card.classes for card in cards) else LESIONS
    columns = ["file", "covid", "positive", *lesions, *map(_column, classes), "abstained", "reason", "error"]
    columns += ["threshold", "model_version", "card_sha256", "unfit", "caveats", "notice"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        shares = {_column(name): value for name, value in record.get("classes", {}).items()}
        writer.writerow(record | record["lesions"] | shares | said[record["model_version"]])
    write_atomically(Path(path), text.getvalue().encode("utf-8", "backslashreplace"))


def _column(name: str) -> str:
    return f"{name}_probability"


def write_json(records: Sequence[dict[str, Any]], cards: Sequence[Card], path: str | Path) -> None:
    """Writes `predictions`, the records, and `models`, what is needed to read them.

    Args:
        records, cards, path: as `write_csv`.

    Raises:
        OSError: if it cannot be written.
    """
    models = [
        {
            "model_version": card.version,
            "name": card.name,
            "sha256": card.model_sha256,
            "threshold": card.threshold,
            "threshold_rule": card.threshold_rule,
            "unfit": card.unfit,
            "caveats": card.caveats,
            "notice": card.notice,
        }
        for card in cards
    ]
    document = {"models": models, "predictions": list(records)}
    write_atomically(Path(path), (json.dumps(document, indent=2, allow_nan=False) + "\n").encode("ascii"))
