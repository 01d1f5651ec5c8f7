"""A phantom cohort of patients in three classes: COVID-19, bacterial pneumonia and healthy; and its command.

    python -m ladnn_tf.data.phantom_cohort --out=data/cohort --contact_sheet=cohort.png

DRENet (Song et al. 2021, doi:10.1109/TCBB.2021.3065361) diagnoses persons from several slices of each. The cohort
is what it can be tried on without a download and without anybody's consent: 120 patients of five slices, split by
patient 60/10/30, with a manifest and exact lesion masks. It says nothing about a model's worth in people.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags, logging
from PIL import Image, ImageDraw

from ladnn_tf import command
from ladnn_tf.data.manifest import write_manifest
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_bacterial import BACTERIAL_AREA_LIMIT, draw_pneumonia, sample_pneumonia
from ladnn_tf.data.phantom_cohort_plan import MINIMUM_PATIENTS, MINIMUM_SLICES, CohortPatient, plan_cohort
from ladnn_tf.data.phantom_files import whole_folder, write_slice
from ladnn_tf.data.phantom_sheet import outline_findings
from ladnn_tf.data.phantom_slice import Slice, draw_slice
from ladnn_tf.labels import CLASSES, LESIONS, PHANTOM_DATA, SPLITS

_USAGE = (
    "python -m ladnn_tf.data.phantom_cohort --out=DIR [--patients=120] [--slices=5] [--size=224]"
    " [--contact_sheet=FILE]"
)

SOURCE = f"{PHANTOM_DATA}/phantom"
"""The manifest's source of a cohort; behind the slash stands one of `sources.ARCHIVES`."""

MINIMUM_SIZE = 64

README = """A phantom cohort: synthetic chest-CT slices of patients in three classes

Nothing in this folder shows a person: every slice and every patient was drawn by a program. Do not use these files
to judge how a model does on people.

Made by: python -m ladnn_tf.data.phantom_cohort --out=DIR --patients={patients} --slices={slices} --size={size} --seed={seed}
Holds: {images} slices of {patients} patients, of whom a third each have COVID-19 (covid19), bacterial pneumonia
(bacterial) or neither (normal). At least three slices in five of an ill patient show a lesion.

manifest.csv       images, patients, splits (by patient), classes and lesions, as ladnn_tf.data.manifest reads them.
                   covid and diagnosis are the patient's; the lesions are the slice's own
images/            slices, grey, {size} x {size} pixels; the names tell nothing
masks/lung/        the lungs without effusion, 0 or 255
masks/<lesion>/    the lesions' extents, only for slices which have them: COVID-19's, and bacterial consolidation,
                   its rim of ground glass and the air in it
masks/pathology/   extents of nodules, emphysema and pleural effusion
"""  # noqa: E501


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        out: the cohort's folder.
        patients: patients by (split, diagnosis).
        slices: slices by (split, diagnosis).
        shown: slices with a lesion by (split, diagnosis).
    """

    out: Path
    patients: Counter
    slices: Counter
    shown: Counter


def write_cohort(out: Path, *, patients: int = 120, slices: int = 5, size: int = 224, seed: int = 0) -> Summary:
    """Draws and writes a cohort with its manifest.

    The folder appears under its name only when it is whole; the same arguments give the same bytes.

    Args:
        out: the folder; it must not exist or be empty.
        patients: how many, a multiple of three.
        slices: how many for each patient.
        size: side of the slices in pixels.
        seed: of everything.

    Returns:
        What was written.

    Raises:
        FileExistsError: if `out` holds anything already.
        ValueError: for too few patients or slices, or too small slices.
    """
    out = Path(out)
    if size < MINIMUM_SIZE:
        raise ValueError(f"size should be at least {MINIMUM_SIZE} pixels; got {size}")
    planned = plan_cohort(patients, slices, seed)
    summary = Summary(out, Counter(), Counter(), Counter())
    rows = []
    with whole_folder(out) as folder:
        for position, patient in enumerate(planned):
            if position % 20 == 0:
                logging.info("drawing patient %d of %d", position + 1, len(planned))
            group = patient.split, patient.diagnosis
            summary.patients[group] += 1
            for index, drawn in enumerate(draw_cohort_patient(patient, size, seed), start=1):
                image = Path(f"{patient.number:04d}-{index}.png")
                write_slice(folder, image, drawn)
                rows.append(_row(patient, image, index, drawn, seed))
                summary.slices[group] += 1
                summary.shown[group] += bool(drawn.lesions)
        write_manifest(pd.DataFrame(rows), folder / "manifest.csv")
        text = README.format(patients=patients, slices=slices, size=size, seed=seed, images=len(rows))
        (folder / "README.txt").write_text(text, encoding="utf-8")
    return summary


def draw_cohort_patient(planned: CohortPatient, size: int, seed: int) -> list[Slice]:
    """Draws the slices of a patient, from the aortic arch down.

    Args:
        planned: from `plan_cohort`.
        size: side of the slices in pixels.
        seed: that of the cohort.

    Returns:
        A slice for each of the patient's levels; those with an extent of 0 have no lesion.
    """
    body = sample_patient(
        np.random.default_rng([seed, 23, planned.number]), np.random.default_rng([seed, 24, *planned.match])
    )
    pneumonia = sample_pneumonia(
        np.random.default_rng([seed, 25, planned.number]),
        effusion=planned.effusion,
        bilateral=planned.bilateral,
        patchy=planned.patchy,
    )
    drawn = []
    slices = zip(planned.levels, planned.extents, planned.distractors, strict=True)
    for index, (level, extent, others) in enumerate(slices):
        options = {"level": level, "seed": [seed, 26, planned.number, index], "size": size}
        if planned.diagnosis == "bacterial":
            share = extent * BACTERIAL_AREA_LIMIT
            drawn.append(draw_pneumonia(body, pneumonia, others, share=share, **options))
        else:
            lesions = planned.lesions if extent else ()
            drawn.append(draw_slice(body, (*lesions, *others), extent=extent or 1.0, **options))
    return drawn


def _row(patient: CohortPatient, image: Path, index: int, drawn: Slice, seed: int) -> dict[str, str | int]:
    """A slice's row of the manifest."""
    name = f"{PHANTOM_DATA}/{seed}-{patient.number:04d}"
    return {
        "image": f"images/{image.as_posix()}",
        "patient": name,
        "source": SOURCE,
        "split": patient.split,
        "covid": int(patient.diagnosis == "covid19"),
        **{lesion: int(lesion in drawn.lesions) for lesion in LESIONS},
        "report": "",
        "diagnosis": patient.diagnosis,
        "age": patient.age,
        "sex": patient.sex,
        "series": name,
        "slice_index": index,
    }


def write_cohort_sheet(
    path: Path, *, patients: int = 120, slices: int = 5, size: int = 224, seed: int = 0
) -> None:
    """Draws a picture of the cohort: a row for each of the first patients, class by class, findings outlined.

    Args:
        path: the PNG to write.
        patients, slices, size, seed: those of the cohort.
    """
    label = 90
    planned = plan_cohort(patients, slices, seed)
    chosen = [
        patient
        for diagnosis in CLASSES
        for patient in [patient for patient in planned if patient.diagnosis == diagnosis][:4]
    ]
    sheet = Image.new("RGB", (label + slices * (size + 4), len(chosen) * (size + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, patient in enumerate(chosen):
        top = row * (size + 4)
        draw.text((6, top + size // 2 - 10), f"{patient.diagnosis}\n{patient.number:04d}", fill="black")
        for column, drawn in enumerate(draw_cohort_patient(patient, size, seed)):
            sheet.paste(outline_findings(drawn, size), (label + column * (size + 4), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def format_summary(summary: Summary) -> str:
    """The counts as a table, a row for each split."""
    lines = [f"{'split':<12}" + "".join(f"{name:>34}" for name in CLASSES)]
    for split in SPLITS:
        cells = []
        for diagnosis in CLASSES:
            group = split, diagnosis
            cells.append(
                f"{summary.patients[group]} patients, {summary.shown[group]}/{summary.slices[group]} slices"
            )
        lines.append(f"{split:<12}" + "".join(f"{cell:>34}" for cell in cells))
    lines.append("slices: those that show a lesion / all")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("out", None, "folder to write; it must not exist or be empty", required=True, **fv)
    flags.DEFINE_integer(
        "patients", 120, "number of patients, a multiple of three", lower_bound=MINIMUM_PATIENTS, **fv
    )
    flags.DEFINE_integer("slices", 5, "slices of each patient", lower_bound=MINIMUM_SLICES, **fv)
    flags.DEFINE_integer("size", 224, "side of the slices in pixels", lower_bound=MINIMUM_SIZE, **fv)
    flags.DEFINE_integer("seed", 0, "seed of everything", lower_bound=0, **fv)
    flags.DEFINE_string("contact_sheet", None, "PNG file for a picture of four patients of each class", **fv)
    command.parse(flag_values, argv, _USAGE)
    options = {name: flag_values[name].value for name in ("patients", "slices", "size", "seed")}
    summary = write_cohort(Path(flag_values.out), **options)
    print(format_summary(summary))
    print(f"\ncohort         {summary.out}")
    print(f"manifest       {summary.out / 'manifest.csv'}")
    if flag_values.contact_sheet:
        write_cohort_sheet(Path(flag_values.contact_sheet), **options)
        print(f"contact sheet  {flag_values.contact_sheet}")
    return 0


if __name__ == "__main__":
    command.run(main)
