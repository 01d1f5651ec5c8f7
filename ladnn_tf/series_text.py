"""The answer for a series in words, and as a record for JSON."""

import datetime
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from ladnn_tf.card import Card
from ladnn_tf.edge_files import printable
from ladnn_tf.labels import CLASS_NAMES
from ladnn_tf.person import AGGREGATION_NAMES
from ladnn_tf.series import Predictor
from ladnn_tf.series_answer import SeriesAnswer, SliceAnswer, reasons
from ladnn_tf.series_cautions import cautions, caveats

_INDENT = "  "
_WIDTH = 110


def title(path: str, name: str) -> str:
    """Names a series: the path it was read from, and the series in it where that has another name."""
    path, name = printable(path), printable(name)
    return path if path.rstrip("/").endswith(name) else f"{path}, {name}"


def format_series(path: str, answer: SeriesAnswer) -> str:
    """The answer for a series as a block of lines.

    Args:
        path: that the series was read from.
        answer: of the series.

    Returns:
        The text, without the card's caveats and notice, which `format_notes` has.
    """
    lines = [title(path, answer.name), *_indented(f"read: {what_was_read(answer)}")]
    for sentence in answer.report:
        lines += _indented(printable(sentence), 2)
    lines += _indented(f"answered: {_how_many(answer)}")
    for number, reason in reasons(answer.slices):
        lines += _indented(f"left out {number}, {printable(reason)}", 2)
    if answer.covid is None:
        return "\n".join(lines + _indented(f"no answer: {printable(answer.reason)}"))
    lines += _indented(f"COVID-19: {probability(answer)}: {call(answer)}")
    for sentence in (interval_note(answer), *cautions(answer)):
        lines += _indented(sentence, 2)
    if answer.classes:
        lines += _indented(f"most probable class: {most_probable_class(answer)}")
        lines += _indented(f"classes: {classes(answer)}")
    lines += _indented(f"rule: {rule(answer)}")
    lines += _indented(f"window: {window(answer)}")
    lines += _indented("most suspicious slices:")
    for place in answer.suspicious:
        each = answer.slices[place]
        lines += _indented(f"{each.answer.covid:.3f}  {position(each, answer)}  {printable(each.file)}", 2)
    return "\n".join(lines)


def format_failure(path: str, error: str, name: str = "") -> str:
    """The block of a path that could not be read, or of a series in it, its `name`, that could not be answered."""
    return "\n".join([title(path, name), *_indented(f"no answer: {printable(error)}")])


def format_notes(card: Card, answered: bool) -> str:
    """What is to be known of all answers: what an interval means where there is one, the caveats, the notice."""
    meaning = (
        "An interval says how much an answer hangs on which slices were looked at (resampled slices, 95 %); it "
        "says nothing about the model's own error. Slices are counted from 1, those of a series in Hounsfield "
        "units from the feet."
    )
    lines = textwrap.wrap(meaning, _WIDTH) if answered else []
    return "\n".join([*lines, card.version, *caveats(card), card.notice])


def what_was_read(answer: SeriesAnswer) -> str:
    """How many slices a series has, how far apart they are, and how large their pixels."""
    found = "1 slice" if answer.count == 1 else f"{answer.count} slices"
    z, y, x = answer.spacing_mm
    if math.isfinite(z) and answer.count > 1:
        found += f", {z:.4g} mm apart"
    if math.isfinite(y) and math.isfinite(x):
        found += f", pixels of {y:.3g} x {x:.3g} mm"
    return found if answer.calibrated else f"{found}; display pictures, not in Hounsfield units"


def probability(answer: SeriesAnswer) -> str:
    """The probability with its interval: `0.712 (0.551 to 0.842), mean over the slices`."""
    if answer.low is None:
        found = (
            f"{answer.covid:.3f} (no interval: {'one slice' if len(answer.answered) == 1 else 'all slices alike'})"
        )
    else:
        found = f"{answer.covid:.3f} ({answer.low:.3f} to {answer.high:.3f})"
    return f"{found}, {AGGREGATION_NAMES[answer.aggregation]}"


def interval_note(answer: SeriesAnswer) -> str:
    """Why no part of an interval, as it is shown, lies above the probability; empty where some does."""
    if answer.low is None or answer.aggregation == "mean" or f"{answer.high:.3f}" > f"{answer.covid:.3f}":
        return ""
    return (
        "The interval reaches to lower values only: slices that are drawn again are never higher than the highest "
        "there is."
    )


def call(answer: SeriesAnswer) -> str:
    """`positive` or `negative`."""
    return "positive" if answer.positive else "negative"


def classes(answer: SeriesAnswer) -> str:
    """The classes' probabilities in words."""
    shares = ", ".join(f"{CLASS_NAMES[name]} {value:.3f}" for name, value in answer.classes.items())
    return f"{shares} (means over the slices, not calibrated)"


def most_probable_class(answer: SeriesAnswer) -> str:
    """Its name; empty for models without classes."""
    return CLASS_NAMES.get(answer.most_probable_class, "")


def rule(answer: SeriesAnswer) -> str:
    """From where on a person is called positive, and how that was chosen."""
    chosen = answer.card.person
    if chosen is None:
        why = "chosen for single slices, as this model's card has no rule for persons"
        return f"positive from {answer.threshold:.3f}, {why}"
    found = f"positive from {answer.threshold:.3f}; chosen on {chosen.patients} persons of validation"
    return f"{found}, {chosen.positives} of them with COVID-19: {chosen.rule}"


def window(answer: SeriesAnswer) -> str:
    """In what window the slices were shown to the model."""
    if not answer.calibrated:
        return "that of the display pictures"
    return f"level {answer.card.window.level:g} HU, width {answer.card.window.width:g} HU"


def position(each: SliceAnswer, answer: SeriesAnswer) -> str:
    """Which slice of a series it is: `slice 143 of 300`."""
    return f"slice {_number(each)} of {answer.count}"


def series_record(path: str, answer: SeriesAnswer, panel: str | None = None) -> dict[str, Any]:
    """The answer as a dict for JSON.

    Args:
        path: that the series was read from.
        answer: of the series.
        panel: the name of the picture's file, if there is one.

    Returns:
        Numbers, texts, lists and dicts only; what is not known is None. `slices` has an item for each slice that
        was looked at, its `number` counted from 1, and `suspicious` has such numbers. Where there is no answer
        `abstained` is true and `reason` says why; where the model failed it is false, and `error` says why.
    """
    chosen = answer.card.person
    return {
        **_head(path, answer.card, answer.card_sha256),
        "name": answer.name,
        "covid": answer.covid,
        "low": answer.low,
        "high": answer.high,
        "positive": answer.positive,
        "aggregation": answer.aggregation,
        "threshold": answer.threshold,
        "rule": chosen.rule if chosen else "",
        "validation_patients": chosen.patients if chosen else None,
        "validation_positives": chosen.positives if chosen else None,
        "validation_slices": chosen.slices or None if chosen else None,
        "cautions": list(cautions(answer)),
        "classes": answer.classes,
        "most_probable_class": answer.most_probable_class,
        "abstained": answer.covid is None and not answer.failed,
        "reason": "" if answer.failed else answer.reason,
        "error": answer.reason if answer.failed else "",
        "slices_in_series": answer.count,
        "slices_answered": len(answer.answered),
        "slices_chosen": answer.choice,
        "lungs_checked": answer.lungs_checked,
        "spacing_mm": [value if math.isfinite(value) else None for value in map(float, answer.spacing_mm)],
        "window": {"level": answer.card.window.level, "width": answer.card.window.width}
        if answer.calibrated
        else None,
        "report": list(answer.report),
        "suspicious": [_number(answer.slices[place]) for place in answer.suspicious],
        "slices": [_slice_record(each) for each in answer.slices],
        "panel": panel,
    }


def failure_record(path: str, error: str, predictor: Predictor, name: str = "") -> dict[str, Any]:
    """The record of what `format_failure` is of: `error`, and None or nothing for what is not known."""
    return {
        **_head(path, predictor.card, predictor.card_sha256),
        "name": name,
        **dict.fromkeys(("covid", "low", "high", "positive", "aggregation", "threshold")),
        "cautions": [],
        "classes": {},
        "most_probable_class": "",
        "abstained": False,
        "reason": "",
        "error": error,
        "report": [],
        "suspicious": [],
        "slices": [],
        "panel": None,
    }


def document(card: Card, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All answers of a call, with what is needed to read them, as a dict for JSON."""
    return {
        "model": {"name": card.name, "sha256": card.model_sha256, "version": card.version},
        "caveats": list(caveats(card)),
        "notice": card.notice,
        "series": list(records),
    }


def _head(path: str, card: Card, card_sha256: str) -> dict[str, Any]:
    return {
        "path": path,
        "model_version": card.version,
        "card_sha256": card_sha256,
        "unfit": card.unfit,
        "notice": card.notice,
        "answered_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _number(each: SliceAnswer) -> int:
    """Of a slice in its series, from 1, as readers count."""
    return each.index + 1


def _slice_record(each: SliceAnswer) -> dict[str, Any]:
    answer = each.answer
    record = {"number": _number(each), "file": each.file, "covid": answer.covid if answer else None}
    record["reason"] = each.reason
    if answer and answer.classes:
        record["classes"] = answer.classes
    if answer and answer.boxes is not None:
        record["boxes"] = [[round(float(value), 5) for value in box] for box in answer.boxes]
        record["scores"] = [round(float(value), 5) for value in answer.scores]
    return record


def _how_many(answer: SeriesAnswer) -> str:
    looked = len(answer.slices)
    how = ""
    if answer.count > looked:
        how = f", equidistant among {answer.count}"
    text = f"{len(answer.answered)} of {looked} slices that were looked at{how}"
    return text if answer.lungs_checked else f"{text}; slices without lungs were not left out"


def _indented(text: str, depth: int = 1) -> list[str]:
    indent = depth * _INDENT
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent + _INDENT, break_on_hyphens=False
    )
