"""Predicts image files: `python -m ladnn_tf.predict --run=runs/NAME FILE...`.

With `--series=PATH` it answers a person by a CT series instead: a folder of DICOM files, a DICOMDIR, a multi-frame
file, a zip of DICOM, NIfTI, or a folder of PNG or JPEG slices (`data/volumes.py`).
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from ladnn_tf import command, edge_dicom, runs, series, series_command, series_text
from ladnn_tf.answer import Answer
from ladnn_tf.card import Card
from ladnn_tf.data.preprocess import ImageError, read_pixels
from ladnn_tf.edge_files import printable
from ladnn_tf.files import write_atomically
from ladnn_tf.labels import CLASSES, LESIONS
from ladnn_tf.run_predictor import RunPredictor

USAGE = (
    "python -m ladnn_tf.predict --run=runs/NAME FILE... [--csv=FILE] [--json=FILE] [--nocheck]\n"
    "       python -m ladnn_tf.predict --run=runs/NAME --series=PATH [--slices=equidistant|all] [--out=FOLDER] "
    "[--nolungs] [--csv=FILE] [--json=FILE]"
)
HELP = f"""{USAGE}

  The fields of a row or record: covid (probability of COVID-19, calibrated) and positive (the call), or why there
  is none: abstained with a reason, or error. That of a series has its interval (low, high), its slices by number
  (from 1) and cautions too; docs/series.md has all of them.

  Exit status: 0, all answered or refused with a reason, also a series whose slices were all left out; 1, an error,
  or a file or series without an answer because of one (not there, empty, damaged, without any CT slice); 2, an
  error in the command line."""
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: as it was given.
        covid: calibrated probability of COVID-19, in [0, 1]; None where there is no answer.
        positive: whether `covid` reaches the card's threshold; None where there is no answer.
        lesions: probability of each lesion, in [0, 1], not calibrated; empty for models without lesions.
        classes: probability of each class, in [0, 1], not calibrated; empty for models without classes.
        abstained: whether the model was not asked, because the picture is not taken for a chest-CT slice.
        reason: why, if it was not asked; else empty.
        error: why the file could not be read or answered, or empty; then `abstained` is false.
    """

    file: str
    covid: float | None = None
    positive: bool | None = None
    lesions: dict[str, float] = dataclasses.field(default_factory=dict)
    classes: dict[str, float] = dataclasses.field(default_factory=dict)
    abstained: bool = False
    reason: str = ""
    error: str = ""


def predict(run: runs.Run, files: Sequence[str | Path], check: bool = True) -> list[Prediction]:
    """Predicts image files, one answer per file, in order.

    Args:
        run: the model and its card.
        files: PNG or JPEG files.
        check: whether to abstain from pictures that `data.quality.refusal` does not take for a chest-CT slice.

    Returns:
        One `Prediction` per file: probabilities, an abstention with its reason, or an error, as for a file that
        cannot be read.
    """
    predictor = RunPredictor(run, check=check, maps=False, batch_size=runs.BATCH_SIZE)
    answers = []
    for start in range(0, len(files), _BATCH):
        answers += _predict_batch(predictor, files[start : start + _BATCH])
    return answers


def _predict_batch(predictor: RunPredictor, files: Sequence[str | Path]) -> list[Prediction]:
    unread: dict[int, str] = {}
    answers = iter(predictor.predict(_images(files, unread)))
    return [
        Prediction(str(file), error=unread[place]) if place in unread else _prediction(str(file), next(answers))
        for place, file in enumerate(files)
    ]


def _images(files: Sequence[str | Path], unread: dict[int, str]) -> Iterator[np.ndarray]:
    """The pixels of each file, one at a time; why a file cannot be read goes to `unread`, by its place."""
    for place, file in enumerate(files):
        try:
            yield read_pixels(file)
        except ImageError as error:
            unread[place] = f"{file}: {edge_dicom.HINT}" if edge_dicom.holds_dicom(Path(file)) else str(error)


def _prediction(file: str, answer: Answer) -> Prediction:
    shared = {
        name: getattr(answer, name) for name in ("covid", "positive", "lesions", "classes", "abstained", "reason")
    }
    return Prediction(file, **shared, error=f"{file}: {answer.error}" if answer.error else "")


def format_table(predictions: Sequence[Prediction], run: runs.Run) -> str:
    """The answers as text, a line per file, and how to read them."""
    card = run.card
    columns = LESIONS if card.task == "ladnn" else card.classes
    width = max(len("file"), *(len(printable(p.file)) for p in predictions))
    lines = [f"{'file':<{width}}  {'COVID-19':>8}  {'call':<8}" + "".join(f"  {x:>8}" for x in columns)]
    for p in predictions:
        file = f"{printable(p.file):<{width}}"
        if p.error:
            lines.append(f"{file}  no answer: {printable(p.error)}")
            continue
        if p.abstained:
            lines.append(f"{file}  no answer: not a chest-CT slice: {p.reason}")
            continue
        call = "positive" if p.positive else "negative"
        values = "".join(f"  {(p.lesions | p.classes)[x]:>{max(8, len(x))}.3f}" for x in columns)
        lines.append(f"{file}  {p.covid:>8.3f}  {call:<8}{values}")
    lines.append("")
    lines.append(f"positive: COVID-19 at {card.threshold:.3f} or above ({card.threshold_rule}).")
    lines += card.caveats
    lines.append(card.notice)
    return "\n".join(lines)


def write_csv(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Writes the answers as CSV: `file, covid, positive`, a column per lesion, `abstained`, `reason`, `error`.

    Of a model with classes there is a column per class instead of those of the lesions. Bytes of a name that are
    no UTF-8 are written as `\\udcXX`, as Python has them.
    """
    columns = next((tuple(p.classes) for p in predictions if p.classes), LESIONS)
    rows = [
        {"file": p.file, "covid": p.covid, "positive": p.positive}
        | {column: (p.lesions | p.classes).get(column) for column in columns}
        | {"abstained": p.abstained, "reason": p.reason, "error": p.error}
        for p in predictions
    ]
    _write_csv(rows, path)


def write_series_csv(records: Sequence[dict], path: str | Path) -> None:
    """Writes a row per series: its answer and, of a model with classes, a column per class.

    Args:
        records: from `series_command.answer_all`.
        path: the file.
    """
    names = [name for name in CLASSES if any(name in record["classes"] for record in records)]
    rows = [
        {key: record.get(key) for key in ("path", "name", "covid", "low", "high", "positive")}
        | {name: record["classes"].get(name) for name in names}
        | {key: record.get(key) for key in ("aggregation", "threshold", "slices_in_series", "slices_answered")}
        | {"cautions": " ".join(record["cautions"])}
        | {key: record[key] for key in ("abstained", "reason", "error")}
        for record in records
    ]
    _write_csv(rows, path)


def _write_csv(rows: list[dict], path: str | Path) -> None:
    write_atomically(Path(path), pd.DataFrame(rows).to_csv(index=False).encode("utf-8", "backslashreplace"))


def write_json(predictions: Sequence[Prediction], run: runs.Run, path: str | Path) -> None:
    """Writes the answers as JSON, with what is needed to read them."""
    card = run.card
    document = {
        "model": {"name": card.name, "sha256": card.model_sha256},
        "threshold": card.threshold,
        "threshold_rule": card.threshold_rule,
        "caveats": card.caveats,
        "notice": card.notice,
        "predictions": [_json_of(p, card) for p in predictions],
    }
    write_atomically(Path(path), (json.dumps(document, indent=2, allow_nan=False) + "\n").encode("ascii"))


def _json_of(prediction: Prediction, card: Card) -> dict:
    fields = dataclasses.asdict(prediction)
    if not card.classes:
        del fields["classes"]
    return fields


def _predict_series(flag_values: flags.FlagValues) -> int:
    """The command with `--series`."""
    out = Path(flag_values.out) if flag_values.out else None
    if out:
        series_command.check_out(out, flag_values.series)
    predictor = RunPredictor(runs.load_run(flag_values.run), check=flag_values.check)
    records = series_command.answer_all(
        flag_values.series,
        predictor,
        slices=flag_values.slices,
        check_lungs=flag_values.lungs,
        out=out,
        report=lambda _, words: print(f"{words}\n", flush=True),
    )
    print(series_text.format_notes(predictor.card, any(record["covid"] is not None for record in records)))
    if out:
        print(f"written: {out / series_command.RESULTS_FILE}")
    if flag_values.csv:
        write_series_csv(records, flag_values.csv)
        print(f"written: {flag_values.csv}")
    if flag_values.json:
        series_command.write_json(predictor, records, Path(flag_values.json))
        print(f"written: {flag_values.json}")
    return 1 if any(record["error"] for record in records) else 0


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if a file or series could not be read or answered.

    An abstention is an answer, of a series too whose slices were all left out, unless the model failed at one.
    """
    flag_values = flags.FlagValues()
    flags.DEFINE_string("run", None, "folder of the run", required=True, flag_values=flag_values)
    flags.DEFINE_string("csv", None, "write the answers to this CSV file", flag_values=flag_values)
    flags.DEFINE_string("json", None, "write the answers to this JSON file", flag_values=flag_values)
    flags.DEFINE_boolean(
        "check",
        True,
        "give a picture that is no chest-CT slice its reason instead of an answer, which is no error (the exit "
        "status stays 0); --nocheck asks the model all the same",
        flag_values=flag_values,
    )
    _define_series_flags(flag_values)
    files = command.parse(flag_values, argv, HELP if {"--help", "-h"} & set(argv) else USAGE, positional=True)
    if bool(files) == bool(flag_values.series):
        command.usage_error("give either image files or --series" if files else "no image files given", USAGE)
    if files and flag_values.out:
        command.usage_error("--out is for --series; answers to files are written by --csv and --json", USAGE)
    for output in filter(None, (flag_values.csv, flag_values.json)):
        if not Path(output).absolute().parent.is_dir():
            raise ValueError(f"{output} cannot be written: there is no folder {Path(output).absolute().parent}")
    if flag_values.series:
        return _predict_series(flag_values)
    run = runs.load_run(flag_values.run)
    predictions = predict(run, files, flag_values.check)
    print(format_table(predictions, run))
    if flag_values.csv:
        write_csv(predictions, flag_values.csv)
        print(f"written: {flag_values.csv}")
    if flag_values.json:
        write_json(predictions, run, flag_values.json)
        print(f"written: {flag_values.json}")
    return 1 if any(p.error for p in predictions) else 0


def _define_series_flags(flag_values: flags.FlagValues) -> None:
    fv = {"flag_values": flag_values}
    flags.DEFINE_multi_string("series", [], "a CT series, or what holds several; may be repeated", **fv)
    flags.DEFINE_enum(
        "slices", series.SLICES[0], series.SLICES, f"of a series: {series.COUNT} equidistant ones, or all", **fv
    )
    flags.DEFINE_boolean(
        "lungs", True, "leave out slices of a series without enough lung (--nolungs: do not)", **fv
    )
    flags.DEFINE_string(
        "out",
        None,
        f"folder for {series_command.RESULTS_FILE} and a picture of each answered series; without answers "
        "about other paths",
        **fv,
    )


if __name__ == "__main__":
    command.run(main)
