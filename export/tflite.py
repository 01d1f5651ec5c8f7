"""Writes a run's model as TFLite, in every precision: `python -m export.tflite --run=runs/NAME --out=models/edge`.

Each file is compared with the run's own model on real images before it takes its place (`export/parity.py`); one
that got worse than the tolerances allow is not written, and the exit status is 3.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from export import parity, parity_report, placing
from export.artefacts import TFLiteArtefact
from export.saved_model import staging
from export.tflite_convert import FORMATS, Decisions, convert, formats_of
from ladnn_tf import command, runs
from ladnn_tf.card import Card, Export
from ladnn_tf.data import lung_images, pipeline
from ladnn_tf.data.manifest import read_manifest, select_split
from ladnn_tf.tflite_file import SUFFIX, card_beside, with_card

USAGE = """python -m export.tflite --run=runs/NAME --out=models/edge [--formats=float32,int8] [--keep_failed]

Writes OUT/<format>.tflite with its card inside and beside it, and OUT/parity.md and .json, which compare each with
the run's own model. Exit status: 0 if all are fit, 3 if one is not: it is then not written, or with --keep_failed
written with a card that says "unfit"; 1 for an error."""


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


def training_data(run: runs.Run, manifest: str) -> str:
    """The manifest that a run was trained on.

    Args:
        run: the run.
        manifest: that was given for the comparison; it serves too if the run was trained on it.

    Returns:
        Its path.

    Raises:
        ValueError: if it is not here.
    """
    for path in filter(None, (run.config.manifest, manifest)):
        if Path(path).is_file() and runs.is_own(run, path):
            return path
    raise ValueError(
        f"int8 needs the images that {run.folder} was trained on: {run.config.manifest} is not here (looked for "
        f"from {Path.cwd()}) or was changed since; bring it back, or give --formats=float32,float16"
    )


def split_images(run: runs.Run, manifest: str, split: str, count: int) -> np.ndarray:
    """Images of one split of the run's own data, as its model is shown them.

    Args:
        run: the run.
        manifest: from `training_data`.
        split: `train` or `validation`.
        count: how many, evenly over the split; 0 for all.

    Returns:
        `(count, S, S, 3)` uint8 RGB in [0, 255]; fewer where the split has fewer, or where some show no lungs and
        the model is shown the lungs alone.

    Raises:
        ValueError: if one of them cannot be read, or none shows lungs that the model needs.
    """
    frame = select_split(read_manifest(manifest), split)
    if count:
        frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, count).round().astype(int))]
    pipeline.verify_images(frame)
    return lung_images.load_split(frame, run.card.image_size, run.card.lungs)[1]


def check_formats(card: Card, formats: Sequence[str]) -> None:
    """Checks that a run is exported in formats.

    Raises:
        ValueError: naming the first that it is not exported in, and of a model with classes the reason.
    """
    allowed = formats_of(card.backbone, card.classes)
    wrong = [form for form in formats if form not in allowed]
    if not wrong:
        return
    if card.classes and wrong[0] in FORMATS:
        raise ValueError(
            f"a {card.task} is not exported in {wrong[0]}: a DRENet looks again at the best of many regions, and "
            "scores in 256 steps would make it look elsewhere (a plain trunk is set beside it and has the same "
            f"formats); --formats should be some of {', '.join(allowed)}"
        )
    raise ValueError(
        f"--formats should be some of {', '.join(allowed)} for {card.backbone}. Received: {wrong[0]!r}"
    )


def convert_run(run: runs.Run, formats: Sequence[str], manifest: str, count: int) -> dict[str, bytes]:
    """Converts a run's model, with the images of its own data that int8 needs.

    Args:
        run: the run.
        formats: of `FORMATS`.
        manifest: as in `training_data`.
        count: training images that int8 takes its ranges from.

    Returns:
        TFLite models by format.

    Raises:
        ValueError: as `training_data`.
    """
    images, decisions = np.empty((0,), np.uint8), None
    if any(form.startswith("int8") for form in formats):
        manifest = training_data(run, manifest)
        images = split_images(run, manifest, "train", count)
    if "int8_mixed" in formats:
        decisions = Decisions(split_images(run, manifest, "validation", 0), run.card.threshold)
    logging.info("converting %s to %s", run.card.name, ", ".join(formats))
    return convert(run.model, run.card.temperature, formats, images, decisions)


def export(
    run: runs.Run,
    out: Path,
    evidence: parity.Evidence,
    models: Mapping[str, bytes],
    tolerances: parity.Tolerances,
    *,
    keep_failed: bool,
) -> list[parity.Comparison]:
    """Compares converted models with the run's own, and writes what is fit.

    Args:
        run: the run.
        out: folder of the files.
        evidence: what is compared on.
        models: by format, from `convert`.
        tolerances: what may differ.
        keep_failed: whether an unfit one is written too; its card then says so.

    Returns:
        A comparison for each format; those that are not fit were not written, but for `keep_failed`.
    """
    comparisons = []
    with staging(out) as staged:
        for form, model in models.items():
            logging.info("comparing %s with %s", form, run.folder)
            card = card_for(run, form, model)
            path = staged / f"{form}{SUFFIX}"
            path.write_bytes(with_card(model, card))
            comparison = parity.compare(evidence, TFLiteArtefact(path), tolerances)
            placing.place_tflite(model, card, comparison, out / path.name, keep_failed)
            comparisons.append(comparison)
            parity_report.write_report(out, parity_report.STEM, comparisons, evidence)
    return comparisons


def main(argv: list[str]) -> int:
    """The command; the exit status is 3 if a format was not fit."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("run", None, "folder of the run", required=True, **fv)
    flags.DEFINE_string("out", None, "folder of the files", required=True, **fv)
    flags.DEFINE_list("formats", "", f"of {', '.join(FORMATS)}; empty for all that the model has", **fv)
    flags.DEFINE_integer("calibration_images", 128, "training images that int8 takes its ranges from", 1, **fv)
    parity.define_flags(flag_values)
    command.parse(flag_values, argv, USAGE)
    run = runs.load_run(flag_values.run)
    formats = tuple(dict.fromkeys(flag_values.formats)) or formats_of(run.card.backbone, run.card.classes)
    check_formats(run.card, formats)
    tolerances = parity.tolerances_from(flag_values)
    # The evidence first: a bad image is named before the minutes that converting takes.
    evidence = parity.load_evidence(run, flag_values.manifest, flag_values.split, flag_values.images)
    models = convert_run(run, formats, flag_values.manifest, flag_values.calibration_images)
    out = Path(flag_values.out)
    comparisons = export(run, out, evidence, models, tolerances, keep_failed=flag_values.keep_failed)
    print(parity_report.format_table(comparisons))
    for form, comparison in zip(formats, comparisons, strict=True):
        if comparison.fitness == "fit" or flag_values.keep_failed:
            path = out / f"{form}{SUFFIX}"
            print(f"written: {path} {card_beside(path)}")
    report = out / parity_report.STEM
    print(f"report: {report}.md {report}.json")
    return 0 if all(comparison.fitness == "fit" for comparison in comparisons) else parity.UNFIT


if __name__ == "__main__":
    command.run(main)
