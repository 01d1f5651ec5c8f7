"""Writes a run's model as TFLite, in every precision: `python -m export.tflite --run=runs/NAME --out=models/edge`.

Each file is compared with the run's own model on real images before it takes its place (`export/parity.py`); one
that got worse than the tolerances allow is not written, and the exit status is 1.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from export import parity, parity_report, placing
from export.artefacts import TFLiteArtefact
from export.tflite_convert import FORMATS, convert, formats_of
from ladnn_tf import command, runs
from ladnn_tf.card import Card, Export
from ladnn_tf.data import pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.files import file_sha256
from ladnn_tf.tflite_file import SUFFIX, card_beside, with_card

USAGE = "python -m export.tflite --run=runs/NAME --out=models/edge [--formats=float32,int8] [--keep_failed]"
REPORT = "parity"


def card_for(run: runs.Run, form: str, model: bytes) -> Card:
    """The card of a TFLite model that was not measured yet.

    Args:
        run: that it was made of.
        form: its format.
        model: its bytes.

    Returns:
        The card.
    """
    made = Export(format=form, source_sha256=run.card.model_sha256)
    return dataclasses.replace(run.card, model_sha256=hashlib.sha256(model).hexdigest(), export=made)


def calibration_images(run: runs.Run, manifest: str, count: int) -> np.ndarray:
    """Training images, from which int8 takes the ranges of its activations.

    Args:
        run: the run.
        manifest: that was given for the comparison; it serves too if the run was trained on it.
        count: how many, evenly over the training split.

    Returns:
        `(count, S, S, 3)` uint8 RGB in [0, 255]; fewer where the split has fewer.

    Raises:
        ValueError: if the run's training data are not here, or one of the images cannot be read.
    """
    for path in filter(None, (run.config.manifest, manifest)):
        if Path(path).is_file() and file_sha256(path) == run.card.manifest["sha256"]:
            break
    else:
        raise ValueError(
            f"int8 needs the images that {run.folder} was trained on: {run.config.manifest} is not here (looked "
            f"for from {Path.cwd()}) or was changed since; bring it back, or give --formats=float32,float16"
        )
    frame = select_split(read_manifest(path), "train")
    rows = np.unique(np.linspace(0, len(frame) - 1, count).round().astype(int))
    chosen = frame.iloc[rows]
    chosen.attrs["path"] = path
    pipeline.verify_images(chosen)
    return pipeline.load_images(chosen, run.card.image_size)


def export(
    run: runs.Run,
    out: Path,
    formats: Sequence[str],
    evidence: parity.Evidence,
    images: np.ndarray,
    tolerances: parity.Tolerances,
    *,
    keep_failed: bool,
) -> list[parity.Comparison]:
    """Converts a run's model, compares each format with it, and writes what is fit.

    Args:
        run: the run.
        out: folder of the files.
        formats: of `FORMATS`.
        evidence: what is compared on.
        images: from `calibration_images`.
        tolerances: what may differ.
        keep_failed: whether an unfit one is written too; its card then says so.

    Returns:
        A comparison for each format; those that are not fit were not written, but for `keep_failed`.
    """
    logging.info("converting %s to %s", run.card.name, ", ".join(formats))
    models = convert(run.model, run.card.temperature, formats, images)
    comparisons = []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".staged.") as staged:
        for form, model in models.items():
            logging.info("comparing %s with %s", form, run.folder)
            card = card_for(run, form, model)
            path = Path(staged) / f"{form}{SUFFIX}"
            path.write_bytes(with_card(model, card))
            comparison = parity.compare(evidence, TFLiteArtefact(path), tolerances)
            placing.place_tflite(model, card, comparison, out / path.name, keep_failed)
            comparisons.append(comparison)
            parity_report.write_report(out, REPORT, comparisons, evidence)
    return comparisons


def main(argv: list[str]) -> int:
    """The command; the exit status is 1 if a format was not fit."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("run", None, "folder of the run", required=True, **fv)
    flags.DEFINE_string("out", None, "folder of the files", required=True, **fv)
    flags.DEFINE_list("formats", "", f"of {', '.join(FORMATS)}; empty for all that the backbone has", **fv)
    flags.DEFINE_integer("calibration_images", 128, "training images that int8 takes its ranges from", 1, **fv)
    parity.define_flags(flag_values)
    command.parse(flag_values, argv, USAGE)
    run = runs.load_run(flag_values.run)
    formats = tuple(flag_values.formats) or formats_of(run.card.backbone)
    if wrong := [form for form in formats if form not in formats_of(run.card.backbone)]:
        raise ValueError(
            f"--formats should be some of {', '.join(formats_of(run.card.backbone))} for {run.card.backbone}. "
            f"Received: {wrong[0]!r}"
        )
    quantised = any(form.startswith("int8") for form in formats)
    images = (
        calibration_images(run, flag_values.manifest, flag_values.calibration_images)
        if quantised
        else np.empty((0,), np.uint8)
    )
    evidence = parity.load_evidence(run, flag_values.manifest, flag_values.split, flag_values.images)
    out = Path(flag_values.out)
    comparisons = export(
        run,
        out,
        formats,
        evidence,
        images,
        parity.tolerances_from(flag_values),
        keep_failed=flag_values.keep_failed,
    )
    print(parity_report.format_table(comparisons))
    for form, comparison in zip(formats, comparisons, strict=True):
        if comparison.fitness == "fit" or flag_values.keep_failed:
            path = out / f"{form}{SUFFIX}"
            print(f"written: {path} {card_beside(path)}")
    print(f"report: {out / REPORT}.md {out / REPORT}.json")
    return 0 if all(comparison.fitness == "fit" for comparison in comparisons) else 1


if __name__ == "__main__":
    command.run(main)
