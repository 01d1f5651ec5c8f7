"""Reader of COVID-CT (D0), in the file formats in which it was published.

D0 is COVID-CT (He et al. 2020, "Sample-Efficient Deep Learning for COVID-19 Diagnosis Based on CT Scans")
with the lesion labels and the split of LA-DNN (Liu et al. 2020). `published_table.py` says how lesions, patients
and sources are read, and that nothing is changed silently.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ladnn_tf.data.manifest_rows import MAX_AGE
from ladnn_tf.data.published_table import (
    IMAGE_SUFFIXES,
    LABELS,
    Reading,
    Remark,
    Row,
    absolute_folder,
    index_by_name,
    make_reading,
    read_labels,
    read_table,
    require_files,
)
from ladnn_tf.labels import COVID, LESIONS, SPLITS

LABEL_CORRECTIONS = {
    "2020.02.25.20021568-p24-111%5.png": "bacterial",
    "2020.02.25.20021568-p24-111%6.png": "cancer",
    "2020.02.25.20021568-p24-111%7.png": "",
    "2020.02.25.20021568-p24-111%8.png": "",
    "2020.02.25.20021568-p24-111%9.png": "normal",
}
"""Training images of D0 labelled positive, which are "CT images of the control" by their caption, with the
diagnosis that it names in this order: bacterial pneumonia, tumour, tuberculosis, bronchiectasis, normal."""

_SPLIT_FILES = dict(zip(SPLITS, ("train_meta.csv", "val_meta.csv", "test_meta.csv"), strict=True))
_IMAGES = {1: Path("images", "CT_COVID"), 0: Path("images", "CT_NonCOVID")}
_ANNOTATION = Path("la-dnn", "COVID-CT-MetaInfo_new.csv")
_POSITIVES = Path("ucsd", "COVID-CT-MetaInfo.csv")
_NEGATIVES = Path("ucsd", "NonCOVID-CT-MetaInfo.csv")


def read_covid_ct(folder: str | Path) -> Reading:
    """Reads D0: the published split files, LA-DNN's annotation and the patients of the original dataset.

    Negatives get their patient and source from the string identifier (`medpix_patient_1`), never from the
    number beside it, which `crawled_patient_1` shares. Their diagnosis is unknown. Phantoms in this format
    (`phantom-nodule_7-1.png`) have the source `covid_ct/phantom` and the diagnosis of their name.

    Args:
        folder: holds `images/CT_COVID`, `images/CT_NonCOVID`, `la-dnn/` and `ucsd/`.

    Returns:
        One row for each listed image, in the order training, validation, test.

    Raises:
        FileNotFoundError: if a file or folder of the format is not there.
        ValueError: if a file is not of the format, a label is unknown, or two rows of a table contradict each
            other about an image; the message names file and row.
    """
    folder = absolute_folder(folder)
    split_files = {split: Path("la-dnn", name) for split, name in _SPLIT_FILES.items()}
    require_files(
        folder,
        [*_IMAGES.values(), *split_files.values(), _ANNOTATION, _POSITIVES, _NEGATIVES],
        "COVID-CT with LA-DNN's annotation (D0)",
    )
    mended: list[Remark] = []
    refused: list[Remark] = []
    annotation = index_by_name(_annotation(folder, mended), mended)
    demographics = index_by_name(_demographics(folder, mended), mended)
    negatives = index_by_name(_negative_patients(folder, mended), mended)

    listed = {split: read_table(folder, file, ["imgname", *LABELS], mended) for split, file in split_files.items()}
    names = {row.cells[0] for rows in listed.values() for row in rows}
    used: set[Path] = set()
    records = []
    for split, rows in listed.items():
        for row in rows:
            name = row.cells[0]
            covid, lesions = read_labels(row, row.cells[1 : 1 + len(LABELS)])
            path = _find(folder / _IMAGES[covid], name, names)
            patient, report = annotation.get(name, ("", "")) if covid else (negatives.get(name, ""), "")
            if path is None:
                refused.append(row.remark(name, f"no such image in {_IMAGES[covid].as_posix()}"))
            elif not patient:
                file = _ANNOTATION if covid else _NEGATIVES
                refused.append(row.remark(name, f"no patient for it in {file.as_posix()}"))
            elif path in used:
                refused.append(row.remark(name, "listed before"))
            else:
                if path.name != name:
                    mended.append(row.remark(name, f"the image is there as {path.name}"))
                used.add(path)
                age, sex = demographics.get(name, (None, ""))
                records.append(
                    {
                        "image": path.relative_to(folder).as_posix(),
                        "patient": f"covid_ct/{patient}",
                        "source": f"covid_ct/{_source(path.stem, patient, covid)}",
                        "split": split,
                        COVID: covid,
                        **lesions,
                        "report": report,
                        "diagnosis": _diagnosis(path.stem, covid),
                        "age": float("nan") if age is None else age,
                        "sex": sex,
                        "path": str(path),
                    }
                )
    refused += _unlisted_images(folder, names, used)
    return make_reading(records, mended, refused)


def correct_labels(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Remark]]:
    """Applies `LABEL_CORRECTIONS`: five controls of D0 that the published files call positive.

    Each of the five is a patient of its own, who has no other image, so that patients stay of one class.

    Args:
        rows: as `Reading.rows`.

    Returns:
        A corrected copy, in which these images are negative with unknown lesions, and what was corrected.
    """
    corrected = rows.copy()
    remarks = []
    for index, image in rows["image"].items():
        name = image.rsplit("/", 1)[-1]
        if name in LABEL_CORRECTIONS and rows.at[index, COVID] == 1:
            corrected.loc[index, COVID] = 0
            corrected.loc[index, list(LESIONS)] = float("nan")
            corrected.loc[index, "diagnosis"] = LABEL_CORRECTIONS[name]
            remarks.append(Remark(image, 0, name, "a control by its caption: covid 1 -> 0, lesions unknown"))
    return corrected, remarks


def _annotation(folder: Path, mended: list[Remark]) -> Iterator[tuple[Row, str, tuple[str, str]]]:
    """LA-DNN's annotation: row, image name, (patient, report)."""
    for row in read_table(folder, _ANNOTATION, ["", "", *LABELS], mended):
        name = _with_suffix(row, row.cells[0], mended)
        report = row.cells[8] if len(row.cells) > 8 else ""
        text = _report_text(report)
        if text is None:
            text = report.removeprefix("['").removesuffix("']")
            mended.append(row.remark(name, "the report is no well-formed list: its brackets removed"))
        yield row, name, (row.cells[1], " ".join(text.split()))


def _report_text(cell: str) -> str | None:
    """A report's text: the cell itself, or the items of a Python list printed as text; None if malformed."""
    if not cell.startswith("["):
        return cell
    try:
        items = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return None
    return " ".join(str(item) for item in items)


def _demographics(folder: Path, mended: list[Remark]) -> Iterator[tuple[Row, str, tuple[int | None, str]]]:
    """The original dataset's table of positives: row, image name, (age in years or None, sex)."""
    header = ["File name", "Patient ID", "patient_id", "Age", "Gender"]
    for row in read_table(folder, _POSITIVES, header, mended):
        name = _with_suffix(row, row.cells[0], mended)
        age, sex = row.cells[3], row.cells[4].upper()
        years = int(age) if re.fullmatch(r"[0-9]{1,3}", age) else None
        if age and (years is None or years > MAX_AGE):
            mended.append(row.remark(name, f"age {age!r} is no number of years: left empty"))
            years = None
        if sex not in ("F", "M", ""):
            mended.append(row.remark(name, f"sex {sex!r} is neither F nor M: left empty"))
            sex = ""
        yield row, name, (years, sex)


def _negative_patients(folder: Path, mended: list[Remark]) -> Iterator[tuple[Row, str, str]]:
    """The original dataset's table of negatives: row, image name, patient."""
    header = ["", "image name", "patient id", "", "patient_id"]
    for row in read_table(folder, _NEGATIVES, header, mended, name_column=1):
        yield row, row.cells[1], row.cells[2]


def _with_suffix(row: Row, name: str, mended: list[Remark]) -> str:
    if name.lower().endswith(IMAGE_SUFFIXES):
        return name
    mended.append(row.remark(name, "the name lacks .png: appended"))
    return f"{name}.png"


def _find(folder: Path, name: str, listed: set[str]) -> Path | None:
    """The image of this name, or of this name with another suffix unless that is listed as another image."""
    if (folder / name).is_file():
        return folder / name
    stem = name.rsplit(".", 1)[0] if name.lower().endswith(IMAGE_SUFFIXES) else name
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.name not in listed and path.is_file():
            return path
    return None


def _unlisted_images(folder: Path, listed: set[str], used: set[Path]) -> list[Remark]:
    return [
        Remark(path.relative_to(folder).as_posix(), 0, path.name, "no split file lists this image")
        for images in _IMAGES.values()
        for path in sorted((folder / images).iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path not in used and path.name not in listed
    ]


def _source(stem: str, patient: str, covid: int) -> str:
    if stem.startswith("phantom-"):
        return "phantom"
    if not covid:
        return patient.split("_patient_")[0]
    preprint = re.match(r"\d{4}\.\d{2}\.\d{2}\.(\d+)-p", stem)
    if preprint:
        return preprint[1]
    # `kjr-21-e24-p2-8` and `bmj.m606.full-p4-22%0`; `PIIS0140673620301549_0%1`, `PIIS0140673620303603%2`.
    return re.sub(r"(-p\d+-[\d_]+|_\d+)?(%\d+)?$", "", stem)


def _diagnosis(stem: str, covid: int) -> str:
    if covid:
        return "covid19"
    phantom = re.match(r"phantom-(nodule|normal)_", stem)
    return phantom[1] if phantom else ""
