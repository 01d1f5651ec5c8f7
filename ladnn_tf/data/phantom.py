"""Synthetic chest-CT slices, written as a dataset in the published formats of COVID-CT and LA-DNN.

    python -m ladnn_tf.data.phantom --out=data/phantoms --contact_sheet=phantoms.png

The dataset is the project's embedded default: it needs no download and no patient's consent, and its lesion and
lung masks are known exactly. It says nothing about a model's worth in people.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags, logging

from ladnn_tf import command
from ladnn_tf.data.phantom_anatomy import sample_patient
from ladnn_tf.data.phantom_files import whole_folder, write_slice
from ladnn_tf.data.phantom_plan import MINIMUM_PATIENTS, PlannedPatient, plan_patients
from ladnn_tf.data.phantom_report import write_report
from ladnn_tf.data.phantom_sheet import write_contact_sheet
from ladnn_tf.data.phantom_slice import Slice, draw_slice
from ladnn_tf.labels import LESIONS, SPLITS

_USAGE = "python -m ladnn_tf.data.phantom --out=DIR [--patients=300] [--size=224] [--contact_sheet=FILE]"

# The names of the published files.
SPLIT_FILES = {
    "train": "la-dnn/train_meta.csv",
    "validation": "la-dnn/val_meta.csv",
    "test": "la-dnn/test_meta.csv",
}
ANNOTATION = "la-dnn/COVID-CT-MetaInfo_new.csv"
POSITIVES = "ucsd/COVID-CT-MetaInfo.csv"
NEGATIVES = "ucsd/NonCOVID-CT-MetaInfo.csv"
SPLIT_HEADER = ("imgname", "CVD19", *LESIONS)
ANNOTATION_HEADER = (
    "",
    "",
    "C0VID19",
    "GGO",
    "consolidation(Csld)",
    "Crazy paving appearance(CrPa)",
    "air bronchograms(AirBr)",
    "interlobular septal thickening(InSepThi)",
    "",
)
POSITIVE_HEADER = ("File name", "Patient ID", "patient_id", "Age", "Gender")
NEGATIVE_HEADER = ("", "image name", "patient id", "", "patient_id")

README = """Synthetic chest-CT slices (phantoms)

Nothing in this folder shows a person: every slice, patient and report was drawn by a program. Do not use these
files to judge how a model does on people.

Made by: python -m ladnn_tf.data.phantom --out=DIR --patients={patients} --size={size} --seed={seed}
Holds: {slices} slices ({positive} COVID-19, {negative} other) of {patients} patients.

images/            slices, grey, {size} x {size} pixels
la-dnn/, ucsd/     splits, labels, reports and patients in the formats of the COVID-CT dataset
masks/lung/        the lungs, 0 or 255
masks/<lesion>/    the lesions' extents, only for slices which have them; also of slices whose lesion labels are
                   left empty (unknown), as they are for some of the published ones
masks/pathology/   extents of findings that are not COVID-19's
"""


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        out: the dataset's folder.
        patients: patients by (split, "covid" or "other").
        slices: slices by (split, "covid" or "other").
        lesions: slices by (split, lesion), as labelled.
        unlabelled: positives without lesion labels by split.
    """

    out: Path
    patients: Counter
    slices: Counter
    lesions: Counter
    unlabelled: Counter


def write_dataset(out: Path, *, patients: int = 300, size: int = 224, seed: int = 0) -> Summary:
    """Draws and writes a dataset in the published formats.

    The folder appears under its name only when it is whole; the same arguments give the same bytes.

    Args:
        out: the folder; it must not exist or be empty.
        patients: how many patients, two to four slices each.
        size: side of the slices in pixels.
        seed: of everything.

    Returns:
        What was written.

    Raises:
        FileExistsError: if `out` holds anything already.
        ValueError: for too few patients or too small slices.
    """
    out = Path(out)
    planned = plan_patients(patients, seed)
    with whole_folder(out) as folder:
        return _write_folder(folder, out, planned, size, seed)


def _write_folder(folder: Path, out: Path, planned: list[PlannedPatient], size: int, seed: int) -> Summary:
    summary = Summary(out, Counter(), Counter(), Counter(), Counter())
    tables = _empty_tables()
    for position, patient in enumerate(planned):
        if position % 50 == 0:
            logging.info("drawing patient %d of %d", position + 1, len(planned))
        scan_rng = np.random.default_rng([seed, 2, *patient.match])
        levels = np.sort(scan_rng.uniform(0.05, 0.95, patient.slices))
        body = sample_patient(np.random.default_rng([seed, 5, patient.number]), scan_rng)
        summary.patients[patient.split, "covid" if patient.lesions else "other"] += 1
        for index, level in enumerate(levels.tolist(), start=1):
            findings = patient.lesions + patient.others
            drawn = draw_slice(body, findings, level=level, seed=[seed, 3, patient.number, index], size=size)
            stem = f"phantom-{patient.kind}_{patient.number}-{index}"
            kind = "CT_COVID" if patient.lesions else "CT_NonCOVID"
            write_slice(folder, Path(kind, stem + patient.suffix), drawn)
            _add_rows(tables, patient, stem + patient.suffix, drawn, seed)
            _count(summary, patient)
    for name, rows in tables.items():
        _write_csv(folder / name, rows)
    positive, negative = len(tables[POSITIVES]) - 1, len(tables[NEGATIVES]) - 1
    counts = {"slices": positive + negative, "positive": positive, "negative": negative}
    text = README.format(patients=len(planned), size=size, seed=seed, **counts)
    (folder / "README.txt").write_text(text, encoding="utf-8")
    return summary


def _empty_tables() -> dict[str, list[tuple]]:
    """The rows of each CSV file by its path, with the headers."""
    tables = {path: [SPLIT_HEADER] for path in SPLIT_FILES.values()}
    return {**tables, ANNOTATION: [ANNOTATION_HEADER], POSITIVES: [POSITIVE_HEADER], NEGATIVES: [NEGATIVE_HEADER]}


def _add_rows(tables: dict[str, list[tuple]], patient: PlannedPatient, name: str, drawn: Slice, seed: int) -> None:
    """Adds a slice to the tables."""
    known = patient.lesions if patient.labelled else ()
    tokens = ["CVD19" if patient.lesions else "", *(lesion if lesion in known else "" for lesion in LESIONS)]
    tables[SPLIT_FILES[patient.split]].append((name, *tokens))
    if patient.lesions:
        report = write_report(patient.name, patient.age, patient.sex, known, drawn, [seed, 4, patient.number])
        tables[ANNOTATION].append((name, patient.name, *tokens, str([report])))
        age = "" if patient.age is None else patient.age
        tables[POSITIVES].append((name, patient.name, patient.number, age, patient.sex))
    else:
        row = len(tables[NEGATIVES]) - 1
        # The published file's unnamed fourth column is the position of the last underscore.
        underscore = patient.name.rindex("_")
        tables[NEGATIVES].append((row, name, patient.name, underscore, patient.number))


def _count(summary: Summary, patient: PlannedPatient) -> None:
    summary.slices[patient.split, "covid" if patient.lesions else "other"] += 1
    if patient.lesions and not patient.labelled:
        summary.unlabelled[patient.split] += 1
    elif patient.lesions:
        summary.lesions.update((patient.split, lesion) for lesion in patient.lesions)


def _write_csv(path: Path, rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Latin-1 and CR LF, as the published files have them.
    with path.open("w", encoding="latin-1", newline="") as file:
        csv.writer(file).writerows(rows)


def format_summary(summary: Summary) -> str:
    """The counts as a table, a row for each split."""
    columns = ("patients", "slices", "COVID-19", *LESIONS, "unlabelled", "other")
    lines = [f"{'split':<12}" + "".join(f"{column:>11}" for column in columns)]
    for split in SPLITS:
        covid, other = summary.slices[split, "covid"], summary.slices[split, "other"]
        people = summary.patients[split, "covid"] + summary.patients[split, "other"]
        lesions = [summary.lesions[split, lesion] for lesion in LESIONS]
        row = (people, covid + other, covid, *lesions, summary.unlabelled[split], other)
        lines.append(f"{split:<12}" + "".join(f"{number:>11}" for number in row))
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    flag_values = flags.FlagValues()
    fv = {"flag_values": flag_values}
    flags.DEFINE_string("out", None, "folder to write; it must not exist or be empty", required=True, **fv)
    flags.DEFINE_integer("patients", 300, "number of patients", lower_bound=MINIMUM_PATIENTS, **fv)
    flags.DEFINE_integer("size", 224, "side of the slices in pixels", lower_bound=32, **fv)
    flags.DEFINE_integer("seed", 0, "seed of everything", lower_bound=0, **fv)
    flags.DEFINE_string("contact_sheet", None, "PNG file for a picture of every finding", **fv)
    command.parse(flag_values, argv, _USAGE)
    summary = write_dataset(
        Path(flag_values.out), patients=flag_values.patients, size=flag_values.size, seed=flag_values.seed
    )
    print(format_summary(summary))
    print(f"\ndataset        {summary.out}")
    if flag_values.contact_sheet:
        write_contact_sheet(Path(flag_values.contact_sheet), seed=flag_values.seed, size=flag_values.size)
        print(f"contact sheet  {flag_values.contact_sheet}")
    return 0


if __name__ == "__main__":
    command.run(main)
