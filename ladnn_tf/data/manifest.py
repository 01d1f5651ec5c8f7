"""The manifest: one CSV file that lists a dataset's images, labels, patients and splits; and its command.

    python -m ladnn_tf.data.manifest --covid_ct=DIR --ladnn_d1=DIR --out=FILE

reads the published file formats (`covid_ct.py`, `ladnn_d1.py`) into a manifest. Everything after it reads
manifests only, so that own data needs no more than such a file. `--own=FILE` takes one into another manifest, and

    python -m ladnn_tf.data.manifest --own=FILE --lesions_from_reports --out=FILE

fills its unknown lesions from its reports (`manifest_reports.py`). One row is one image:

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
| age | years, 0 to 120, or empty |
| sex | F, M, or empty |
| series, slice_index | the series of slices and the place in it, or empty |
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from absl import flags

from ladnn_tf import command
from ladnn_tf.data import duplicates, manifest_report, manifest_reports, sources, splits
from ladnn_tf.data.covid_ct import correct_labels, read_covid_ct
from ladnn_tf.data.ladnn_d1 import read_ladnn_d1
from ladnn_tf.data.manifest_rows import COLUMNS, parse, serialise
from ladnn_tf.data.published_table import Remark, absolute_folder
from ladnn_tf.files import file_sha256, write_atomically
from ladnn_tf.labels import SPLITS

_USAGE = "python -m ladnn_tf.data.manifest --covid_ct=DIR --ladnn_d1=DIR --own=FILE --out=FILE"


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Reads and checks a manifest.

    Args:
        path: the CSV file (UTF-8).

    Returns:
        `COLUMNS`, `path` (the image's absolute path) and `row` (int, where the image stands in the file, as a
        text editor counts: the header is 1); index 0 to n - 1. `covid` is int; the lesions, `age` and
        `slice_index` are float, NaN where unknown; the others are str, `""` where empty. Other columns of the
        file are left out. `attrs` holds `path` (absolute) and `sha256` of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing or there twice, a value is not allowed, an image is listed twice
            (under one spelling or two: `a.png`, `./a.png`) or a patient is in two splits; the message names
            the file and the row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is no file; expected a manifest, written by `python -m ladnn_tf.data.manifest`"
        )
    return parse(path.read_bytes(), path)


def write_manifest(frame: pd.DataFrame, path: str | Path) -> None:
    """Checks a manifest and writes it in one step: a reader sees the old file or the new one, never a half.

    Args:
        frame: `COLUMNS`, and `path` where `image` is to be written anew, relative to the manifest's folder.
        path: the CSV file; folders above it are made.

    Raises:
        ValueError: as `read_manifest`, but the message names image and patient, for there are no rows yet.
    """
    path = Path(path)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"{path}: a manifest needs the columns {missing}, which the frame lacks")
    rows = frame[list(COLUMNS)].copy()
    if "path" in frame:
        rows["image"] = [_relative(Path(image), path) for image in frame["path"]]
    content = serialise(rows)
    parse(content, path, in_file=False)
    write_atomically(path, content)


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


@dataclass(frozen=True)
class Built:
    """What `build_manifest` made.

    Attributes:
        rows: `COLUMNS` and `path`.
        mended: what was mended in the published files.
        refused: what was refused of them.
        filling: what was filled from the reports; None where that was not asked.
    """

    rows: pd.DataFrame
    mended: list[Remark]
    refused: list[Remark]
    filling: manifest_reports.Filling | None


def build_manifest(
    covid_ct_folder: str | None,
    ladnn_d1_folder: str | None,
    *,
    split: str,
    seed: int,
    fix_labels: bool,
    own: str | None = None,
    lesions_from_reports: bool = False,
) -> Built:
    """Reads one dataset or more into the rows of one manifest.

    No patient is in two splits, but a source paper can be: the published split has such papers, and "paper"
    and "patient" do not join them, neither within D0 nor over both datasets, whose patients are not known to
    be the same even where the paper is. "source" joins them; `splits.papers_in_several_splits` lists them.

    Args:
        covid_ct_folder: D0, or None.
        ladnn_d1_folder: D1, or None.
        split: "paper" keeps the published lists of D0 and the splits of `own`; D1, of which none is published,
            is then split by patient beside them. "patient" and "source" split everything anew by these
            (`splits.py`).
        seed: of a new split.
        fix_labels: whether to apply `covid_ct.LABEL_CORRECTIONS`.
        own: a manifest of other data, or None.
        lesions_from_reports: whether to fill unknown lesions from the reports (`manifest_reports.fill_lesions`);
            a new split is stratified by them, too.

    Returns:
        The manifest, and what was done to it.

    Raises:
        FileNotFoundError, ValueError: as the readers and `read_manifest`.
    """
    frames, mended, refused = [], [], []
    for folder, read in (
        (covid_ct_folder, read_covid_ct),
        (ladnn_d1_folder, read_ladnn_d1),
    ):
        if folder:
            reading = read(folder)
            frames.append(reading.rows)
            mended += reading.mended
            refused += reading.refused
    if own:
        frames.append(read_manifest(own).drop(columns="row"))
    if not frames:
        raise ValueError("no dataset was given; expected COVID-CT, LA-DNN's D1, a manifest, or several of them")
    frame = pd.concat(frames, ignore_index=True)
    if fix_labels:
        frame, corrected = correct_labels(frame)
        mended += corrected
    filling = None
    if lesions_from_reports:
        frame, filling = manifest_reports.fill_lesions(frame)
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
    return Built(frame[[*COLUMNS, "path"]], mended, refused, filling)


def main(argv: list[str]) -> int:
    """Runs the command; `argv` is as `sys.argv`."""
    flag_values = _define_flags()
    command.parse(flag_values, argv, _USAGE)

    if flag_values.own and Path(flag_values.own).resolve() == Path(flag_values.out).resolve():
        command.usage_error(
            f"--own and --out are the same file, {flag_values.own}; give --out another name", _USAGE
        )
    built = build_manifest(
        flag_values.covid_ct,
        flag_values.ladnn_d1,
        split=flag_values.split,
        seed=flag_values.seed,
        fix_labels=flag_values.fix_labels,
        own=flag_values.own,
        lesions_from_reports=flag_values.lesions_from_reports,
    )
    frame = built.rows
    write_manifest(frame, flag_values.out)
    print(manifest_report.remarks(built.mended, "mended"))
    print(manifest_report.remarks(built.refused, "refused"))
    if flag_values.duplicates:
        pairs = duplicates.near_duplicates(frame, flag_values.max_distance)
        print(manifest_report.duplicates(pairs, phantoms=sources.drawn(frame).any()))
    print(manifest_report.shared_papers(splits.papers_in_several_splits(frame)))
    if flag_values.covid_ct or flag_values.ladnn_d1:
        print(manifest_report.table1(frame))
    print(manifest_report.lesions(frame))
    if built.filling:
        print(manifest_reports.summary(built.filling))
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
    flags.DEFINE_string(
        "own",
        None,
        "manifest of your own data to take in; columns that are no manifest's are left out",
        flag_values=flag_values,
    )
    flags.DEFINE_string("out", None, "manifest to write (CSV)", required=True, flag_values=flag_values)
    flags.DEFINE_enum(
        "split",
        "paper",
        ["paper", "patient", "source"],
        "paper: the published lists, and that of --own (D1, which has none, is split by patient beside them);"
        " patient: a new 60/15/25 split grouped by patient; source: the same grouped by source paper, so that none"
        " is in two splits",
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
        "lesions_from_reports",
        False,
        "fill unknown lesions from the reports (English); labels that are there stay",
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
        ["covid_ct", "ladnn_d1", "own"],
        lambda values: any(values.values()),
        message="give --covid_ct, --ladnn_d1 or both, or --own",
        flag_values=flag_values,
    )
    return flag_values


def _relative(image: Path, manifest: Path) -> str:
    folder = absolute_folder(manifest.parent)
    if image.is_relative_to(folder):
        return image.relative_to(folder).as_posix()
    # A `..` leads out of what a link points to, not to where the link stands: compare the true folders.
    return Path(os.path.relpath(image.parent.resolve() / image.name, folder.resolve())).as_posix()


if __name__ == "__main__":
    command.run(main)
