"""Readers of the two published datasets of LA-DNN, in the file formats in which they were published.

D0 is COVID-CT (He et al. 2020, "Sample-Efficient Deep Learning for COVID-19 Diagnosis Based on CT Scans")
with the lesion labels and the split of LA-DNN (Liu et al. 2020). D1 is LA-DNN's own addition to it.

A reader changes nothing silently: a row that it mends or refuses is listed with file, row and reason. A row
number is that of a text editor: the header is row 1.

Three ideas hold for both datasets:

- *Lesions.* A row's lesions are known (1 or 0) where it carries at least one lesion label, and unknown
  otherwise: 111 of the 349 positives of D0 carry none, although the paper says that each has one to five, and
  the negatives carry none either.
- *Patients* get the dataset's name as a name space (`covid_ct/Patient 12`), since both count from one.
- *Sources* are the paper that an image was cut from (`covid_ct/20040782`: medRxiv and bioRxiv identifiers go
  without their date, so that a preprint's versions are one source), or an archive (`published_table.ARCHIVES`).
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ladnn_tf.data.published_table import LABELS, Remark, Row, read_labels, read_table
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

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

_D0_SPLIT_FILES = dict(zip(SPLITS, ("train_meta.csv", "val_meta.csv", "test_meta.csv"), strict=True))
_D0_IMAGES = {1: Path("images", "CT_COVID"), 0: Path("images", "CT_NonCOVID")}
_D0_ANNOTATION = Path("la-dnn", "COVID-CT-MetaInfo_new.csv")
_D0_POSITIVES = Path("ucsd", "COVID-CT-MetaInfo.csv")
_D0_NEGATIVES = Path("ucsd", "NonCOVID-CT-MetaInfo.csv")

_D1_DIAGNOSES = {
    "lungadenocarcinomas": "cancer",
    "Lungsquamouscellcarcinoma": "cancer",
    "lung_nodules": "nodule",
    "PulmonaryViralPneumonia": "viral",
    "H1N1": "viral",
    "Bacterial": "bacterial",
}


@dataclass(frozen=True)
class Reading:
    """What a reader made of a dataset.

    Attributes:
        rows: the manifest's columns (`manifest.COLUMNS`) and `path`, the image's absolute path. `image` is
            relative to the dataset's folder; `split` is empty where none is published.
        mended: rows that were read after a correction, and what was corrected.
        refused: rows that are not in `rows`, and why.
    """

    rows: pd.DataFrame
    mended: list[Remark]
    refused: list[Remark]


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
        ValueError: if a file is not of the format, or a label is unknown; the message names file and row.
    """
    folder = absolute_folder(folder)
    split_files = {split: Path("la-dnn", name) for split, name in _D0_SPLIT_FILES.items()}
    _require(
        folder,
        [*_D0_IMAGES.values(), *split_files.values(), _D0_ANNOTATION, _D0_POSITIVES, _D0_NEGATIVES],
        "COVID-CT with LA-DNN's annotation (D0)",
    )
    mended: list[Remark] = []
    refused: list[Remark] = []
    annotation = _annotation(folder, mended)
    demographics = _demographics(folder, mended)
    negatives = _negative_patients(folder, mended)

    listed = {split: read_table(folder, file, ["imgname", *LABELS], mended) for split, file in split_files.items()}
    names = {row.cells[0] for rows in listed.values() for row in rows}
    used: set[Path] = set()
    records = []
    for split, rows in listed.items():
        for row in rows:
            name = row.cells[0]
            covid, lesions = read_labels(row, row.cells[1 : 1 + len(LABELS)])
            path = _find(folder / _D0_IMAGES[covid], name, names)
            patient, report = annotation.get(name, ("", "")) if covid else (negatives.get(name, ""), "")
            if path is None:
                refused.append(row.remark(name, f"no such image in {_D0_IMAGES[covid].as_posix()}"))
            elif not patient:
                file = _D0_ANNOTATION if covid else _D0_NEGATIVES
                refused.append(row.remark(name, f"no patient for it in {file.as_posix()}"))
            elif path in used:
                refused.append(row.remark(name, "listed before"))
            else:
                if path.name != name:
                    mended.append(row.remark(name, f"the image is there as {path.name}"))
                used.add(path)
                age, sex = demographics.get(name, (float("nan"), ""))
                records.append(
                    {
                        "image": path.relative_to(folder).as_posix(),
                        "patient": f"covid_ct/{patient}",
                        "source": f"covid_ct/{_d0_source(path.stem, patient, covid)}",
                        "split": split,
                        COVID: covid,
                        **lesions,
                        "report": report,
                        "diagnosis": _d0_diagnosis(path.stem, covid),
                        "age": age,
                        "sex": sex,
                        "path": str(path),
                    }
                )
    refused += _unlisted_images(folder, names, used)
    return _reading(records, mended, refused)


def read_ladnn_d1(folder: str | Path) -> Reading:
    """Reads D1: two tables, and images in any sub-folder, found by their name.

    D1 has no column for the patient: it is derived from the file name, where that tells it.

    - `..._LungCT-Diagnosis_004_30`, `..._CPTAC-LSCC_00497_24`: patient 004 or 00497 of the archive, slice 30
      or 24 (`slice_index`).
    - `lung_nodules_luna16_95397`, the images of covid-chestxray-dataset (a UUID as name) and of the HKU
      students (`...GTnegTestpos2`): each its own patient, for nothing tells otherwise.
    - Images cut from a paper (`10.1148ryct.2020200196-p23-1`): the whole paper counts as one patient. This
      is the conservative reading: whoever shares a patient then shares a split.

    The diagnosis is read from the name's beginning where that is one of `labels.DIAGNOSES`; patterns such as
    `Lobar` or `Interstitial`, which name no cause, leave it empty. There is no published split.

    Args:
        folder: holds `*_COVIDCT_meta*.csv` and `*_NonCOVIDCT_meta*.csv`.

    Returns:
        One row for each listed image that is there.

    Raises:
        FileNotFoundError: if the folder or a table is not there.
        ValueError: if a table is not of the format, or a label is unknown; the message names file and row.
    """
    folder = absolute_folder(folder)
    tables = _d1_tables(folder)
    images: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _IMAGE_SUFFIXES:
            images.setdefault(path.name, []).append(path)

    mended: list[Remark] = []
    refused: list[Remark] = []
    records = []
    used: set[str] = set()
    for table in tables:
        for row in read_table(folder, table, ["imgname", *LABELS], mended):
            name = row.cells[0]
            covid, lesions = read_labels(row, row.cells[1 : 1 + len(LABELS)])
            found = images.get(name, [])
            if name in used:
                refused.append(row.remark(name, "listed before"))
            elif not found:
                refused.append(row.remark(name, "no image of this name in the folder or its sub-folders"))
            elif len(found) > 1:
                places = " and ".join(path.relative_to(folder).as_posix() for path in found)
                refused.append(row.remark(name, f"more than one image of this name: {places}"))
            else:
                used.add(name)
                source, patient, slice_index = _d1_origin(found[0].stem)
                records.append(
                    {
                        "image": found[0].relative_to(folder).as_posix(),
                        "patient": f"ladnn_d1/{patient}",
                        "source": f"ladnn_d1/{source}",
                        COVID: covid,
                        **lesions,
                        "diagnosis": _d1_diagnosis(found[0].stem, covid),
                        "slice_index": slice_index,
                        "path": str(found[0]),
                    }
                )
    return _reading(records, mended, refused)


def absolute_folder(folder: str | Path) -> Path:
    """Returns a folder as an absolute path without `..`, by which paths can be compared.

    Links are followed only where a `..` makes it necessary, so that a linked folder keeps its place.
    """
    folder = Path(folder).absolute()
    return folder.resolve() if ".." in folder.parts else folder


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


def _reading(records: list[dict], mended: list[Remark], refused: list[Remark]) -> Reading:
    if not records:
        reasons = "; ".join(f"{r.file} row {r.row}: {r.image}: {r.reason}" for r in refused[:3])
        raise ValueError(f"not one image could be read. First refused rows: {reasons or 'the tables are empty'}")
    unknown = {
        "split": "", "report": "", "diagnosis": "", "age": float("nan"), "sex": "", "series": "",
        "slice_index": float("nan"),
    }  # fmt: skip
    return Reading(pd.DataFrame([unknown | record for record in records]), mended, refused)


def _require(folder: Path, expected: Iterable[Path], name: str) -> None:
    missing = [path.as_posix() for path in expected if not (folder / path).exists()]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one that holds {name}")
    if missing:
        raise FileNotFoundError(f"{folder} does not hold {name}: {', '.join(missing)} not found in it")


def _annotation(folder: Path, mended: list[Remark]) -> dict[str, tuple[str, str]]:
    """LA-DNN's annotation: image name -> (patient, report)."""
    patients = {}
    for row in read_table(folder, _D0_ANNOTATION, ["", "", *LABELS], mended):
        name = _with_suffix(row, row.cells[0], mended)
        report = row.cells[8] if len(row.cells) > 8 else ""
        text = _report_text(report)
        if text is None:
            text = report.removeprefix("['").removesuffix("']")
            mended.append(row.remark(name, "the report is no well-formed list: its brackets removed"))
        patients[name] = (row.cells[1], " ".join(text.split()))
    return patients


def _report_text(cell: str) -> str | None:
    """A report's text: the cell itself, or the items of a Python list printed as text; None if malformed."""
    if not cell.startswith("["):
        return cell
    try:
        items = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return None
    return " ".join(str(item) for item in items)


def _demographics(folder: Path, mended: list[Remark]) -> dict[str, tuple[float, str]]:
    """The original dataset's table of positives: image name -> (age in years, sex)."""
    people = {}
    header = ["File name", "Patient ID", "patient_id", "Age", "Gender"]
    for row in read_table(folder, _D0_POSITIVES, header, mended):
        name = _with_suffix(row, row.cells[0], mended)
        age, sex = row.cells[3], row.cells[4].upper()
        years = float("nan")
        if re.fullmatch(r"\d{1,3}", age):
            years = float(age)
        elif age:
            mended.append(row.remark(name, f"age {age!r} is no number of years: left empty"))
        if sex not in ("F", "M", ""):
            mended.append(row.remark(name, f"sex {sex!r} is neither F nor M: left empty"))
            sex = ""
        people[name] = (years, sex)
    return people


def _negative_patients(folder: Path, mended: list[Remark]) -> dict[str, str]:
    """The original dataset's table of negatives: image name -> patient."""
    header = ["", "image name", "patient id", "", "patient_id"]
    return {row.cells[1]: row.cells[2] for row in read_table(folder, _D0_NEGATIVES, header, mended, name_column=1)}


def _with_suffix(row: Row, name: str, mended: list[Remark]) -> str:
    if name.lower().endswith(_IMAGE_SUFFIXES):
        return name
    mended.append(row.remark(name, "the name lacks .png: appended"))
    return f"{name}.png"


def _find(folder: Path, name: str, listed: set[str]) -> Path | None:
    """The image of this name, or of this name with another suffix unless that is listed as another image."""
    if (folder / name).is_file():
        return folder / name
    stem = name.rsplit(".", 1)[0] if name.lower().endswith(_IMAGE_SUFFIXES) else name
    for suffix in _IMAGE_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.name not in listed and path.is_file():
            return path
    return None


def _unlisted_images(folder: Path, listed: set[str], used: set[Path]) -> list[Remark]:
    return [
        Remark(path.relative_to(folder).as_posix(), 0, path.name, "no split file lists this image")
        for images in _D0_IMAGES.values()
        for path in sorted((folder / images).iterdir())
        if path.suffix.lower() in _IMAGE_SUFFIXES and path not in used and path.name not in listed
    ]


def _d0_source(stem: str, patient: str, covid: int) -> str:
    if stem.startswith("phantom-"):
        return "phantom"
    if not covid:
        return patient.split("_patient_")[0]
    preprint = re.match(r"\d{4}\.\d{2}\.\d{2}\.(\d+)-p", stem)
    if preprint:
        return preprint[1]
    # `kjr-21-e24-p2-8` and `bmj.m606.full-p4-22%0`; `PIIS0140673620301549_0%1`, `PIIS0140673620303603%2`.
    return re.sub(r"(-p\d+-[\d_]+|_\d+)?(%\d+)?$", "", stem)


def _d0_diagnosis(stem: str, covid: int) -> str:
    if covid:
        return "covid19"
    phantom = re.match(r"phantom-(nodule|normal)_", stem)
    return phantom[1] if phantom else ""


def _d1_tables(folder: Path) -> list[Path]:
    _require(folder, [], "LA-DNN's own data (D1)")
    negatives = sorted(folder.glob("*NonCOVIDCT_meta*.csv"))
    positives = sorted(set(folder.glob("*COVIDCT_meta*.csv")) - set(negatives))
    if len(positives) != 1 or len(negatives) != 1:
        found = [path.name for path in (*positives, *negatives)]
        raise FileNotFoundError(
            f"{folder} does not hold LA-DNN's own data (D1): expected one *_COVIDCT_meta*.csv and one"
            f" *_NonCOVIDCT_meta*.csv in it, found {found or 'neither'}"
        )
    return [path.relative_to(folder) for path in (*positives, *negatives)]


def _d1_origin(stem: str) -> tuple[str, str, float]:
    """Source, patient and slice index (NaN where unknown) by the name's parts; see `read_ladnn_d1`."""
    series = re.search(r"(LungCT-Diagnosis|CPTAC-LSCC)_(\d+)_(\d+)$", stem)
    if series:
        return series[1], f"{series[1]}_{series[2]}", float(series[3])
    nodule = re.search(r"(luna16)_(\d+)$", stem)
    if nodule:
        return "luna16", nodule[0], float("nan")
    if re.search(r"GT(pos|neg)Test(pos|neg)\d+$", stem):
        return "hku", f"hku_{stem}", float("nan")
    if re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", stem):
        return "covid-chestxray-dataset", stem, float("nan")
    # `covid19_10.1016j.ijid.2020.03.042_1`, `10.1148ryct.2020200196-p23-1`, `10.1148ryct.2020200047-1`,
    # `jkms-35-e79-g001-l-d`, `1-s2.0-S0929664620300449-gr3_lrg-a`.
    paper = re.sub(r"^(covid19|PulmonaryViralPneumonia)_", "", stem)
    paper = re.sub(r"(-p\d+-\d+|-g\d+-l-[a-z]|-gr\d+_lrg-[a-z]|[-_]\d+)$", "", paper)
    return paper, paper, float("nan")


def _d1_diagnosis(stem: str, covid: int) -> str:
    if covid:
        return "covid19"
    for prefix, diagnosis in _D1_DIAGNOSES.items():
        if stem.startswith(f"{prefix}_"):
            return diagnosis
    return ""
