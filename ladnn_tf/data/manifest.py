"""The manifest: one CSV file that lists a dataset's images, labels, patients and splits; and its command.

    python -m ladnn_tf.data.manifest --covid_ct=DIR --ladnn_d1=DIR --out=FILE

reads the published file formats (`covid_ct.py`) into a manifest. Everything after it reads manifests only, so
that own data needs no more than such a file. One row is one image:

| column | is |
| --- | --- |
| image | its path, relative to the manifest's folder, with forward slashes |
| patient | never empty, unique over all datasets; unknown patients are one for each image |
| source | the dataset, and behind a slash the paper or archive the image comes from |
| split | train, validation or test |
| covid | 1 or 0 |
| GGO, Csld, CrPa, AirBr, InSepThi | 1, 0 or empty for unknown |
| report | the report's text, or empty |
| diagnosis | one of `labels.DIAGNOSES`, or empty |
| age | years, or empty |
| sex | F, M, or empty |
| series, slice_index | the series of slices and the place in it, or empty |
"""

import csv
import hashlib
import io
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from absl import flags

from ladnn_tf import command
from ladnn_tf.card import file_sha256
from ladnn_tf.data import covid_ct, duplicates, manifest_report, splits
from ladnn_tf.labels import COVID, DIAGNOSES, LESIONS, SPLITS

COLUMNS = (
    "image", "patient", "source", "split", COVID, *LESIONS, "report", "diagnosis", "age", "sex", "series",
    "slice_index",
)  # fmt: skip
"""The manifest's columns, in order."""

_NUMBERS = ("age", "slice_index")
_USAGE = "python -m ladnn_tf.data.manifest --covid_ct=DIR --ladnn_d1=DIR --out=FILE"


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Reads and checks a manifest.

    Args:
        path: the CSV file (UTF-8).

    Returns:
        `COLUMNS` and `path` (the image's absolute path); index 0 to n - 1. `covid` is int; the lesions, `age`
        and `slice_index` are float, NaN where unknown; the others are str, `""` where empty. Columns that are
        not in `COLUMNS` are left out. `attrs` holds `path` (absolute) and `sha256` of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a value is not allowed, an image is listed twice or a patient is
            in two splits; the message names the file and the row as a text editor counts (the header is 1).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is no file; expected a manifest, written by `python -m ladnn_tf.data.manifest`"
        )
    return _parse(path.read_bytes(), path)


def write_manifest(frame: pd.DataFrame, path: str | Path) -> None:
    """Checks a manifest and writes it in one step: a reader sees the old file or the new one, never a half.

    Args:
        frame: `COLUMNS`, and `path` where `image` is to be written anew, relative to the manifest's folder.
        path: the CSV file; folders above it are made.

    Raises:
        ValueError: as `read_manifest`.
    """
    path = Path(path)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"{path}: a manifest needs the columns {missing}, which the frame lacks")
    rows = frame[list(COLUMNS)].copy()
    if "path" in frame:
        rows["image"] = [_relative(Path(image), path) for image in frame["path"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in row] for row in rows.itertuples(index=False))
    content = text.getvalue().encode("utf-8")
    _parse(content, path)
    write_atomically(path, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file by way of a temporary one beside it; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide the manifest from other users of the data
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def select_split(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Returns the rows of one split, with an index of 0 to n - 1.

    Raises:
        ValueError: if the split is unknown, or has no rows.
    """
    if split not in SPLITS:
        raise ValueError(f"split should be one of {', '.join(SPLITS)}. Received: {split!r}")
    rows = frame[frame["split"] == split].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"{frame.attrs.get('path', 'the manifest')} has no rows in split {split!r}")
    return rows


def build_manifest(
    covid_ct_folder: str | None, ladnn_d1_folder: str | None, *, split: str, seed: int, fix_labels: bool
) -> tuple[pd.DataFrame, list[covid_ct.Remark], list[covid_ct.Remark]]:
    """Reads one dataset or both into the rows of one manifest.

    Args:
        covid_ct_folder: D0, or None.
        ladnn_d1_folder: D1, or None.
        split: "paper" keeps the published lists of D0; D1, of which none is published, is then split by
            patient beside it. "patient" and "source" split everything anew (`splits.py`).
        seed: of a new split.
        fix_labels: whether to apply `covid_ct.LABEL_CORRECTIONS`.

    Returns:
        The rows (`COLUMNS` and `path`), what was mended and what was refused.

    Raises:
        FileNotFoundError, ValueError: as the readers.
    """
    frames, mended, refused = [], [], []
    for folder, read in (
        (covid_ct_folder, covid_ct.read_covid_ct),
        (ladnn_d1_folder, covid_ct.read_ladnn_d1),
    ):
        if folder:
            reading = read(folder)
            frames.append(reading.rows)
            mended += reading.mended
            refused += reading.refused
    if not frames:
        raise ValueError("no dataset was given; expected the folder of COVID-CT, of LA-DNN's D1, or both")
    frame = pd.concat(frames, ignore_index=True)
    if fix_labels:
        frame, corrected = covid_ct.correct_labels(frame)
        mended += corrected
    if split == "patient":
        frame["split"] = splits.split_by_patient(frame, seed)
    elif split == "source":
        frame["split"] = splits.split_by_source(frame, seed)
    elif split == "paper":
        unpublished = frame["split"] == ""
        if unpublished.any():
            frame.loc[unpublished, "split"] = splits.split_by_patient(frame[unpublished], seed)
    else:
        raise ValueError(f"split should be paper, patient or source. Received: {split!r}")
    return frame[[*COLUMNS, "path"]], mended, refused


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    flag_values = _define_flags()
    command.parse(flag_values, argv, _USAGE)

    frame, mended, refused = build_manifest(
        flag_values.covid_ct,
        flag_values.ladnn_d1,
        split=flag_values.split,
        seed=flag_values.seed,
        fix_labels=flag_values.fix_labels,
    )
    write_manifest(frame, flag_values.out)
    print(manifest_report.remarks(mended, "mended"))
    print(manifest_report.remarks(refused, "refused"))
    if flag_values.duplicates:
        print(manifest_report.duplicates(duplicates.near_duplicates(frame, flag_values.max_distance)))
    print(manifest_report.table1(frame))
    print(manifest_report.lesions(frame))
    if flag_values.split == "paper" and flag_values.ladnn_d1:
        print("\nD1 has no published split: its patients were split 60/15/25 by --seed.")
    print(f"\n{len(frame)} images in {Path(flag_values.out).absolute()}")
    print(f"SHA-256 {file_sha256(flag_values.out)}")
    return 0


def _define_flags() -> flags.FlagValues:
    flag_values = flags.FlagValues()
    flags.DEFINE_string(
        "covid_ct", None, "folder of COVID-CT with LA-DNN's annotation (D0)", flag_values=flag_values
    )
    flags.DEFINE_string("ladnn_d1", None, "folder of LA-DNN's own data (D1)", flag_values=flag_values)
    flags.DEFINE_string("out", None, "manifest to write (CSV)", required=True, flag_values=flag_values)
    flags.DEFINE_enum(
        "split",
        "paper",
        ["paper", "patient", "source"],
        "paper: the published lists (D1, which has none, is split by patient beside them); patient: a new"
        " 60/15/25 split grouped by patient; source: the same grouped by source paper",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("seed", 0, "seed of a new split", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_boolean(
        "fix_labels",
        False,
        "make the five controls that D0 labels positive negative",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "duplicates",
        True,
        "report images that are in two splits, as they are or nearly",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_distance",
        duplicates.MAX_DISTANCE,
        f"bits of {duplicates.HASH_BITS} in which the perceptual hashes of near-duplicates may differ",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.register_multi_flags_validator(
        ["covid_ct", "ladnn_d1"],
        lambda values: bool(values["covid_ct"] or values["ladnn_d1"]),
        message="give --covid_ct, --ladnn_d1 or both",
        flag_values=flag_values,
    )
    return flag_values


def _relative(image: Path, manifest: Path) -> str:
    folder = covid_ct.absolute_folder(manifest.parent)
    if image.is_relative_to(folder):
        return image.relative_to(folder).as_posix()
    # A `..` leads out of what a link points to, not to where the link stands: compare the true folders.
    return Path(os.path.relpath(image.parent.resolve() / image.name, folder.resolve())).as_posix()


def _parse(content: bytes, path: Path) -> pd.DataFrame:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a manifest is UTF-8; {error}") from error
    records, rows = [], []
    for row, cells in _numbered_rows(text, path):
        try:
            records.append(_record(cells))
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
        rows.append(row)
    if not records:
        raise ValueError(f"{path} lists no images")
    _check_together(records, rows, path)
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    folder = path.parent.resolve()
    frame["path"] = [os.path.normpath(folder / image) for image in frame["image"]]
    frame.attrs = {"path": str(path.absolute()), "sha256": hashlib.sha256(content).hexdigest()}
    return frame


def _numbered_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows behind the header that are not empty: the number a text editor shows, and the cells."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise ValueError(f"{path}, row 1: the columns {missing} are missing; expected {list(COLUMNS)}")
        end = reader.line_num
        for cells in reader:
            row, end = end + 1, reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise ValueError(f"{path}, row {row}: {len(cells)} cells; the header has {len(header)}")
            named = dict(zip(header, cells, strict=True))
            yield row, {column: named[column] for column in COLUMNS}
    except csv.Error as error:
        raise ValueError(f"{path}, row {reader.line_num}: not a CSV file: {error}") from error


def _record(cells: dict[str, str]) -> dict[str, str | int | float]:
    """Checks one row's cells and gives them their types."""
    for column in ("image", "patient"):
        if not cells[column]:
            raise ValueError(f"{column} is empty; an image of an unknown patient needs one of its own")
    _one_of(cells, "split", SPLITS)
    _one_of(cells, COVID, ("0", "1"))
    for lesion in LESIONS:
        _one_of(cells, lesion, ("0", "1", ""))
    _one_of(cells, "diagnosis", (*DIAGNOSES, ""))
    _one_of(cells, "sex", ("F", "M", ""))
    record: dict[str, str | int | float] = dict(cells)
    record[COVID] = int(cells[COVID])
    for column in (*LESIONS, *_NUMBERS):
        try:
            number = float(cells[column]) if cells[column] else None
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{column} should be a number or empty. Received: {cells[column]!r}")
        record[column] = math.nan if number is None else number
    return record


def _one_of(cells: dict[str, str], column: str, allowed: tuple[str, ...]) -> None:
    if cells[column] not in allowed:
        names = ", ".join(value or "empty" for value in allowed)
        raise ValueError(f"{column} should be one of {names}. Received: {cells[column]!r}")


def _check_together(records: list[dict], rows: list[int], path: Path) -> None:
    images: dict[str, int] = {}
    patients: dict[str, tuple[str, int]] = {}
    for record, row in zip(records, rows, strict=True):
        image, patient, split = record["image"], record["patient"], record["split"]
        if image in images:
            raise ValueError(f"{path}, row {row}: image {image!r} is listed in row {images[image]} already")
        images[image] = row
        first_split, first_row = patients.setdefault(patient, (split, row))
        if split != first_split:
            raise ValueError(
                f"{path}, row {row}: patient {patient!r} is in split {split!r} here and in {first_split!r} in"
                f" row {first_row}; a patient in two splits makes any evaluation too good"
            )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return str(value)


if __name__ == "__main__":
    command.run(main)
