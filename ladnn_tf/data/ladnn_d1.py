"""Reader of LA-DNN's own data (D1), in the file formats in which it was published.

D1 is what LA-DNN (Liu et al. 2020) added to COVID-CT. `published_table.py` says how lesions, patients and
sources are read, and that nothing is changed silently.
"""

import re
from pathlib import Path

from ladnn_tf.data.published_table import (
    IMAGE_SUFFIXES,
    LABELS,
    Reading,
    Remark,
    absolute_folder,
    make_reading,
    read_labels,
    read_table,
    require_files,
)
from ladnn_tf.labels import COVID

_DIAGNOSES = {
    "lungadenocarcinomas": "cancer",
    "Lungsquamouscellcarcinoma": "cancer",
    "lung_nodules": "nodule",
    "PulmonaryViralPneumonia": "viral",
    "H1N1": "viral",
    "Bacterial": "bacterial",
}


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
    tables = _tables(folder)
    images: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
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
                source, patient, slice_index = _origin(found[0].stem)
                records.append(
                    {
                        "image": found[0].relative_to(folder).as_posix(),
                        "patient": f"ladnn_d1/{patient}",
                        "source": f"ladnn_d1/{source}",
                        COVID: covid,
                        **lesions,
                        "diagnosis": _diagnosis(found[0].stem, covid),
                        "slice_index": slice_index,
                        "path": str(found[0]),
                    }
                )
    return make_reading(records, mended, refused)


def _tables(folder: Path) -> list[Path]:
    require_files(folder, [], "LA-DNN's own data (D1)")
    negatives = sorted(folder.glob("*NonCOVIDCT_meta*.csv"))
    positives = sorted(set(folder.glob("*COVIDCT_meta*.csv")) - set(negatives))
    if len(positives) != 1 or len(negatives) != 1:
        found = [path.name for path in (*positives, *negatives)]
        raise FileNotFoundError(
            f"{folder} does not hold LA-DNN's own data (D1): expected one *_COVIDCT_meta*.csv and one"
            f" *_NonCOVIDCT_meta*.csv in it, found {found or 'neither'}"
        )
    return [path.relative_to(folder) for path in (*positives, *negatives)]


def _origin(stem: str) -> tuple[str, str, float]:
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


def _diagnosis(stem: str, covid: int) -> str:
    if covid:
        return "covid19"
    for prefix, diagnosis in _DIAGNOSES.items():
        if stem.startswith(f"{prefix}_"):
            return diagnosis
    return ""
