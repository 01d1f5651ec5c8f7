"""Predicts image files: `python -m ladnn_tf.predict --run=runs/NAME FILE...`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from ladnn_tf import command, runs
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import Card
from ladnn_tf.data.preprocess import ImageError, read_pixels, resize
from ladnn_tf.data.quality import refusal
from ladnn_tf.edge_files import printable
from ladnn_tf.files import write_atomically
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.models.ladnn import logits_model

USAGE = "python -m ladnn_tf.predict --run=runs/NAME FILE... [--csv=FILE] [--json=FILE] [--nocheck]"
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: as it was given.
        covid: calibrated probability of COVID-19, in [0, 1]; None where there is no answer.
        positive: whether `covid` reaches the card's threshold; None where there is no answer.
        lesions: probability of each lesion, in [0, 1], not calibrated; empty for the baseline.
        abstained: whether the model was not asked, because the picture is not taken for a chest-CT slice.
        reason: why, if it was not asked; else empty.
        error: why the file could not be read or answered, or empty; then `abstained` is false.
    """

    file: str
    covid: float | None = None
    positive: bool | None = None
    lesions: dict[str, float] = dataclasses.field(default_factory=dict)
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
    model = logits_model(run.model)
    answers = []
    for start in range(0, len(files), _BATCH):
        answers += _predict_batch(model, run.card, files[start : start + _BATCH], check)
    return answers


def _predict_batch(model, card: Card, files: Sequence[str | Path], check: bool) -> list[Prediction]:
    answers, images = {}, {}
    for position, file in enumerate(files):
        try:
            pixels = read_pixels(file)
        except ImageError as error:
            answers[position] = Prediction(str(file), error=str(error))
            continue
        reason = refusal(pixels) if check else ""
        if reason:
            answers[position] = Prediction(str(file), abstained=True, reason=reason)
        else:
            images[position] = resize(pixels, card.image_size)
    if images:
        logits = runs.predict_logits(model, np.stack(list(images.values())))
        covid = calibrated_probabilities(logits[COVID][:, 0], card.temperature)
        lesions = calibrated_probabilities(logits["lesions"], 1.0) if "lesions" in logits else [()] * len(images)
        for position, probability, row in zip(images, covid, lesions, strict=True):
            answers[position] = _answer(str(files[position]), float(probability), row, card)
    return [answers[position] for position in range(len(files))]


def _answer(file: str, covid: float, lesions: Sequence[float], card: Card) -> Prediction:
    if not np.isfinite(covid):
        return Prediction(file, error=f"{file}: the model gives no finite number for this image")
    named = dict(zip(LESIONS, map(float, lesions), strict=True)) if len(lesions) else {}
    return Prediction(file, covid, covid >= card.threshold, named)


def format_table(predictions: Sequence[Prediction], run: runs.Run) -> str:
    """The answers as text, a line per file, and how to read them."""
    card = run.card
    lesions = LESIONS if card.task == "ladnn" else ()
    width = max(len("file"), *(len(printable(p.file)) for p in predictions))
    lines = [f"{'file':<{width}}  {'COVID-19':>8}  {'call':<8}" + "".join(f"  {x:>8}" for x in lesions)]
    for p in predictions:
        file = f"{printable(p.file):<{width}}"
        if p.error:
            lines.append(f"{file}  no answer: {printable(p.error)}")
            continue
        if p.abstained:
            lines.append(f"{file}  no answer: not a chest-CT slice: {p.reason}")
            continue
        call = "positive" if p.positive else "negative"
        values = "".join(f"  {p.lesions[x]:>8.3f}" for x in lesions)
        lines.append(f"{file}  {p.covid:>8.3f}  {call:<8}{values}")
    lines.append("")
    lines.append(f"positive: COVID-19 at {card.threshold:.3f} or above ({card.threshold_rule}).")
    lines += card.caveats
    lines.append(card.notice)
    return "\n".join(lines)


def write_csv(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Writes the answers as CSV: `file, covid, positive`, a column per lesion, `abstained`, `reason`, `error`.

    Bytes of a name that are no UTF-8 are written as `\\udcXX`, as Python has them.
    """
    rows = [
        {"file": p.file, "covid": p.covid, "positive": p.positive}
        | {lesion: p.lesions.get(lesion) for lesion in LESIONS}
        | {"abstained": p.abstained, "reason": p.reason, "error": p.error}
        for p in predictions
    ]
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
        "predictions": [dataclasses.asdict(p) for p in predictions],
    }
    write_atomically(Path(path), (json.dumps(document, indent=2, allow_nan=False) + "\n").encode("ascii"))


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if a file could not be read or answered. An abstention is an answer."""
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
    files = command.parse(flag_values, argv, USAGE, positional=True)
    if not files:
        command.usage_error("no image files given", USAGE)
    for output in filter(None, (flag_values.csv, flag_values.json)):
        if not Path(output).absolute().parent.is_dir():
            raise ValueError(f"{output} cannot be written: there is no folder {Path(output).absolute().parent}")
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


if __name__ == "__main__":
    command.run(main)
