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
from ladnn_tf.data.preprocess import ImageError, read_image
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.models.ladnn import logits_model

USAGE = "python -m ladnn_tf.predict --run=runs/NAME FILE... [--csv=FILE] [--json=FILE]"
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: as it was given.
        covid: calibrated probability of COVID-19, in [0, 1]; None where there is no answer.
        positive: whether `covid` reaches the card's threshold; None where there is no answer.
        lesions: probability of each lesion, in [0, 1], not calibrated; empty for the baseline.
        error: why there is no answer, or empty.
    """

    file: str
    covid: float | None = None
    positive: bool | None = None
    lesions: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""


def predict(run: runs.Run, files: Sequence[str | Path]) -> list[Prediction]:
    """Predicts image files, one answer per file, in order; a file that cannot be read gets its error.

    Args:
        run: the model and its card.
        files: PNG or JPEG files.

    Returns:
        One `Prediction` per file.
    """
    model = logits_model(run.model)
    answers = []
    for start in range(0, len(files), _BATCH):
        answers += _predict_batch(model, run.card, files[start : start + _BATCH])
    return answers


def _predict_batch(model, card: Card, files: Sequence[str | Path]) -> list[Prediction]:
    images, errors = {}, {}
    for position, file in enumerate(files):
        try:
            images[position] = read_image(file, card.image_size)
        except ImageError as error:
            errors[position] = str(error)
    if not images:
        return [Prediction(str(file), error=errors[position]) for position, file in enumerate(files)]
    logits = runs.predict_logits(model, np.stack(list(images.values())))
    covid = calibrated_probabilities(logits[COVID][:, 0], card.temperature)
    lesions = calibrated_probabilities(logits["lesions"], 1.0) if "lesions" in logits else None
    rows = {position: row for row, position in enumerate(images)}
    for position, row in rows.items():
        if not np.isfinite(covid[row]):
            errors[position] = f"{files[position]}: the model gives no finite number for this image"
    return [
        Prediction(str(file), error=errors[position])
        if position in errors
        else Prediction(
            str(file),
            float(covid[rows[position]]),
            bool(covid[rows[position]] >= card.threshold),
            {} if lesions is None else dict(zip(LESIONS, map(float, lesions[rows[position]]), strict=True)),
        )
        for position, file in enumerate(files)
    ]


def format_table(predictions: Sequence[Prediction], run: runs.Run) -> str:
    """The answers as text, a line per file, and how to read them."""
    card = run.card
    lesions = LESIONS if card.task == "ladnn" else ()
    width = max(len("file"), *(len(p.file) for p in predictions))
    lines = [f"{'file':<{width}}  {'COVID-19':>8}  {'call':<8}" + "".join(f"  {x:>8}" for x in lesions)]
    for p in predictions:
        if p.error:
            lines.append(f"{p.file:<{width}}  no answer: {p.error}")
            continue
        call = "positive" if p.positive else "negative"
        values = "".join(f"  {p.lesions[x]:>8.3f}" for x in lesions)
        lines.append(f"{p.file:<{width}}  {p.covid:>8.3f}  {call:<8}{values}")
    lines.append("")
    lines.append(f"positive: COVID-19 at {card.threshold:.3f} or above ({card.threshold_rule}).")
    lines += _caveats(run)
    lines.append(card.notice)
    return "\n".join(lines)


def _caveats(run: runs.Run) -> list[str]:
    if run.card.task == "ladnn" and run.config.lesion_targets == "positives":
        return ["The lesions were learnt on COVID-19 images alone: where the call is negative, ignore them."]
    return []


def write_csv(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Writes the answers as CSV: `file, covid, positive`, a column per lesion, `error`."""
    rows = [
        {"file": p.file, "covid": p.covid, "positive": p.positive}
        | {lesion: p.lesions.get(lesion) for lesion in LESIONS}
        | {"error": p.error}
        for p in predictions
    ]
    pd.DataFrame(rows).to_csv(path, index=False)


def write_json(predictions: Sequence[Prediction], run: runs.Run, path: str | Path) -> None:
    """Writes the answers as JSON, with what is needed to read them."""
    card = run.card
    document = {
        "model": {"name": card.name, "sha256": card.model_sha256},
        "threshold": card.threshold,
        "threshold_rule": card.threshold_rule,
        "caveats": _caveats(run),
        "notice": card.notice,
        "predictions": [dataclasses.asdict(p) for p in predictions],
    }
    Path(path).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if any file had no answer."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("run", None, "folder of the run", required=True, flag_values=flag_values)
    flags.DEFINE_string("csv", None, "write the answers to this CSV file", flag_values=flag_values)
    flags.DEFINE_string("json", None, "write the answers to this JSON file", flag_values=flag_values)
    files = command.parse(flag_values, argv, USAGE, positional=True)
    if not files:
        command.usage_error("no image files given", USAGE)
    for output in filter(None, (flag_values.csv, flag_values.json)):
        if not Path(output).absolute().parent.is_dir():
            raise ValueError(f"{output} cannot be written: there is no folder {Path(output).absolute().parent}")
    run = runs.load_run(flag_values.run)
    predictions = predict(run, files)
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
