"""Exports the data collection as a manifest, which training reads.

    python -m serving.collection.export --data=DIR --out=FILE.csv [--site=NAME] [--with_insisted]

The page may go on running. It needs pandas: `pip install '.[train]'`. One row is one picture (the columns
are in `ladnn_tf/data/manifest.py`):

- contributions without a stated diagnosis are left out, as a manifest needs one;
- pictures that look like no chest-CT slice, which the contributor said they are, are listed and left out, unless
  there is `--with_insisted`;
- a picture that was contributed several times is one row: what one contribution states of its lesions and another
  does not is taken over, and a picture of which they state the contrary is left out and listed;
- patients are told apart by the hash of their code; a contribution without one is a patient of its own. Two
  patients who share a picture, or have pictures that are nearly the same (`likeness.py`: one with erased corners,
  say), are taken for one person, and get the name of the one who was there first. That may join two people, and
  keeps both in one split;
- pictures that are nearly the same are rows of their own. They are listed where they joined two patients, and
  where their labels are contradictory: look at them, and withdraw what is wrong;
- the split is drawn from the patient's name alone, 60/15/25: what a patient is used for never changes as the data
  grow, unless the patient turns out to be another one, or the contribution that a patient without a code has the
  name of is withdrawn. A split of few patients can so be empty, which is said.

`python -m ladnn_tf.data.manifest --own=FILE --out=OTHER` joins the manifest with other data.
"""

import collections
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from absl import flags

from ladnn_tf import command
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID, SPLITS
from serving.collection.files import existing_folder
from serving.collection.patients import DATASET, joined, own_name
from serving.collection.records import read_records

try:
    import pandas as pd

    from ladnn_tf.data.manifest import write_manifest
    from ladnn_tf.data.manifest_rows import COLUMNS
    from ladnn_tf.data.splits import FRACTIONS
    from serving.collection.pictures import Picture, contrary_labels, near_pairs
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the export needs the package {error.name}: pip install '.[train]' in the project's folder",
        name=error.name,
    ) from error

USAGE = "python -m serving.collection.export --data=DIR --out=FILE.csv [--site=NAME] [--with_insisted] [...]"

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LISTED = 20  # of each list in the summary


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export took and what it left.

    Attributes:
        rows: the manifest's columns, and `path`.
        contributions: how many there are, without those that were withdrawn.
        unstated: how many of them are left out, as they state no diagnosis.
        repeated: how many pictures were contributed more than once and are listed once.
        contradictions: the pictures left out, with what is contradictory and where.
        joined: how many patients are another one, as they share a picture or have nearly the same.
        near: the pairs of nearly the same picture for which two patients are taken for one.
        near_contradictions: the pairs of nearly the same picture with contradicting labels; both are rows.
        insisted: the pictures that look like no chest-CT slice, which the contributor said they are.
        with_insisted: whether these are rows.
    """

    rows: pd.DataFrame
    contributions: int
    unstated: int
    repeated: int
    contradictions: tuple[str, ...]
    joined: int
    near: tuple[str, ...]
    near_contradictions: tuple[str, ...]
    insisted: tuple[str, ...]
    with_insisted: bool


def export(records: Sequence[sa.Row], folder: Path, site: str, *, with_insisted: bool = False) -> Exported:
    """Makes the rows of a manifest.

    Args:
        records: of `read_records`.
        folder: the data folder.
        site: the part of `source` behind `collected/`.
        with_insisted: whether pictures are taken that look like no chest-CT slice.

    Raises:
        ValueError: if `site` is not made of letters, digits, dots, hyphens and underscores, an image's file is
            missing or damaged, or there is nothing to export.
    """
    if not _SITE.fullmatch(site):
        raise ValueError(f"site should be letters, digits, dots, hyphens and underscores. Received: {site!r}")
    of_picture = collections.defaultdict(list)
    for record in records:
        of_picture[record.pixels_sha256].append(record)
    pictures = [Picture.of(found, folder) for found in of_picture.values()]
    taken = [picture for picture in pictures if with_insisted or not picture.insisted]
    pairs = [(taken[one], taken[other], distance) for one, other, distance in near_pairs(taken)]
    names = joined(records, [(one.first, other.first) for one, other, _ in pairs])
    rows = [_row(picture, names, site) for picture in taken if picture.stated and not picture.contrary]
    stated = [picture for picture in pictures if picture.stated]
    contradictions = [
        f"{_where(picture)}: {', '.join(picture.contrary)}" for picture in stated if picture.contrary
    ]
    insisted = [f"{_where(picture)}: {picture.insisted}" for picture in stated if picture.insisted]
    near, near_contradictions = [], []
    for one, other, distance in pairs:
        said = f"{_where(one)} and {_where(other)}: distance {distance}"
        if not one.patients & other.patients:
            near.append(said)
        if contrary := contrary_labels(one, other):
            near_contradictions.append(f"{said}, {', '.join(contrary)}")
    contributions = {record.id for record in records}
    unstated = {record.id for record in records if record.covid is None}
    if not rows:
        raise ValueError(
            f"{folder}: no image to export; of {len(contributions)} contributions {len(unstated)} state no"
            f" diagnosis, {len(contradictions)} images have contradicting labels, and {len(insisted)} look like no"
            " chest-CT slice (--with_insisted takes them)"
        )
    return Exported(
        rows=pd.DataFrame(rows),
        contributions=len(contributions),
        unstated=len(unstated),
        repeated=sum(len(picture.records) > 1 for picture in stated),
        contradictions=tuple(contradictions),
        joined=sum(own != name for own, name in names.items()),
        near=tuple(near),
        near_contradictions=tuple(near_contradictions),
        insisted=tuple(insisted),
        with_insisted=with_insisted,
    )


def _row(picture: Picture, names: Mapping[str, str], site: str) -> dict[str, int | str]:
    patient = names[own_name(picture.first)]
    known = {
        "path": str(picture.path),
        "patient": patient,
        "source": f"{DATASET}/{site}",
        "split": split_of(patient),
    }
    return dict.fromkeys(COLUMNS, "") | known | picture.labels


def _where(picture: Picture) -> str:
    return f"{picture.path} (contributions {', '.join(picture.contributions)})"


def split_of(patient: str) -> str:
    """The split of a patient, by the SHA-256 of the name: 60 % training, 15 % validation, 25 % test.

    Args:
        patient: as in the manifest.

    Returns:
        Of `labels.SPLITS`.
    """
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) / 2**64
    ends = itertools.accumulate(FRACTIONS[:-1])
    return next((split for split, end in zip(SPLITS, ends, strict=False) if place < end), SPLITS[-1])


def warnings_of(rows: pd.DataFrame) -> list[str]:
    """Says which splits are empty or lack a class, in sentences."""
    said = []
    for split in SPLITS:
        covid = set(rows.loc[rows["split"] == split, COVID])
        if not covid:
            said.append(f"no patient is in split {split!r} yet")
        elif len(covid) < 2:
            lacking = "without" if covid == {1} else "with"
            said.append(f"split {split!r} has no image {lacking} COVID-19 yet")
    return said


def summary(exported: Exported) -> str:
    """What was exported and what was not, as text."""
    rows = exported.rows
    lines = [
        f"images: {len(rows)}, patients: {rows['patient'].nunique()}, contributions: {exported.contributions}"
    ]
    for split in SPLITS:
        part = rows[rows["split"] == split]
        lines.append(
            f"  {split:<10}  {len(part):>5} images  {part['patient'].nunique():>5} patients"
            f"  {(part[COVID] == 1).sum():>5} COVID-19  {(part[COVID] == 0).sum():>5} other"
        )
    lines += [
        f"{text}: {number}"
        for text, number in {
            "contributions left out, as they state no diagnosis": exported.unstated,
            "images contributed more than once, listed once": exported.repeated,
            "patients joined to another one, as they share a picture or have nearly the same": exported.joined,
        }.items()
        if number
    ]
    insisted = "taken all the same" if exported.with_insisted else "left out"
    for text, named in {
        "images left out, as contributions state the contrary": exported.contradictions,
        "pairs of nearly the same picture of two patients, taken for one": exported.near,
        "pairs of nearly the same picture with contradicting labels, not left out": exported.near_contradictions,
        f"images that look like no chest-CT slice, though the contributor says so, {insisted}": exported.insisted,
    }.items():
        if named:
            lines += [f"{text}: {len(named)}", *(f"  {one}" for one in named[:_LISTED])]
        if len(named) > _LISTED:
            lines.append(f"  and {len(named) - _LISTED} more")
    return "\n".join(lines + [f"warning: {text}" for text in warnings_of(rows)])


def main(argv: list[str]) -> int:
    """The command; `argv` is as `sys.argv`."""
    flag_values = flags.FlagValues()
    flags.DEFINE_string("data", None, "the data folder", required=True, flag_values=flag_values)
    flags.DEFINE_string(
        "database", None, "its database's address, unless that is in the folder", flag_values=flag_values
    )
    flags.DEFINE_string("out", None, "manifest to write (CSV)", required=True, flag_values=flag_values)
    flags.DEFINE_string(
        "site", "site", "who collected: the source of the images is collected/SITE", flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "with_insisted", False, "take pictures that look like no chest-CT slice", flag_values=flag_values
    )
    command.parse(flag_values, argv, USAGE)
    folder = existing_folder(flag_values.data)
    records = read_records(folder, flag_values.database)
    exported = export(records, folder, flag_values.site, with_insisted=flag_values.with_insisted)
    write_manifest(exported.rows, flag_values.out)
    print(summary(exported))
    print(f"written: {Path(flag_values.out).absolute()}")
    print(f"SHA-256 {file_sha256(flag_values.out)}")
    return 0


if __name__ == "__main__":
    command.run(main)
