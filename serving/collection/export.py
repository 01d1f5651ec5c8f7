"""Exports the data collection as a manifest, which training reads.

    python -m serving.collection.export --data=DIR --out=FILE.csv [--site=NAME]

The page may go on running. It needs pandas: `pip install 'ladnn_tf[train]'`. One row is one picture (the columns
are in `ladnn_tf/data/manifest.py`):

- contributions without a stated diagnosis are left out, as a manifest needs one;
- a picture that was contributed several times is one row: what one contribution states of its lesions and another
  does not is taken over, and a picture of which they state the contrary is left out and listed;
- patients are told apart by the hash of their code; a contribution without one is a patient of its own. Two
  patients who share a picture are one person, and get the name of the one who was there first;
- the split is drawn from the patient's name alone, 60/15/25: what a patient is used for never changes as the data
  grow, unless the patient turns out to be another one, or the contribution that a patient without a code has the
  name of is withdrawn. A split of few patients can so be empty, which is said.

Near-duplicates (the same picture once with erased corners, say) are rows of their own. `python -m
ladnn_tf.data.manifest --own=FILE --out=OTHER` lists those in two splits, and joins the manifest with other data.
"""

import collections
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from absl import flags

from ladnn_tf import command
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID, LESIONS, SPLITS
from serving.collection.files import existing_folder, image_path, read_key
from serving.collection.records import check_belongs
from serving.collection.tables import CONTRIBUTIONS, IMAGES, cause, database_url, open_engine

try:
    import pandas as pd

    from ladnn_tf.data.manifest import write_manifest
    from ladnn_tf.data.manifest_rows import COLUMNS
    from ladnn_tf.data.splits import FRACTIONS
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the export needs the package {error.name}: pip install 'ladnn_tf[train]'", name=error.name
    ) from error

USAGE = "python -m serving.collection.export --data=DIR --out=FILE.csv [--site=NAME] [--database=URL]"

DATASET = "collected"
"""The first part of `source` and `patient` in the manifest."""

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LISTED = 20  # of what is named in the summary


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export took and what it left.

    Attributes:
        rows: the manifest's columns, and `path`.
        contributions: how many there are, without those that were withdrawn.
        unstated: how many of them are left out, as they state no diagnosis.
        repeated: how many pictures were contributed more than once and are listed once.
        contradictions: the pictures left out, with what is contradictory and where.
        joined: how many patients are another one, as they share a picture.
        insisted: how many of the pictures look like no chest-CT slice, which the contributor said they are.
    """

    rows: pd.DataFrame
    contributions: int
    unstated: int
    repeated: int
    contradictions: tuple[str, ...]
    joined: int
    insisted: int


def read_records(folder: Path, url: str | None = None) -> list[sa.Row]:
    """Reads the images of all contributions that were not withdrawn, the first contribution first.

    Args:
        folder: the data folder; it may be in use.
        url: of its database, unless that is in the folder.

    Returns:
        A row for each image of each contribution: the columns of both tables; the contribution's are `id`,
        `covid`, the lesions and `patient_hash`.

    Raises:
        ValueError: if the database does not belong to the folder or its address is unknown.
        OSError: if it cannot be read.
    """
    query = (
        sa.select(IMAGES, *(CONTRIBUTIONS.c[name] for name in ("id", COVID, *LESIONS, "patient_hash")))
        .join_from(IMAGES, CONTRIBUTIONS)
        .where(CONTRIBUTIONS.c.withdrawn.is_(None))
        .order_by(CONTRIBUTIONS.c.number, IMAGES.c.position)
    )
    engine = open_engine(database_url(folder, url), read_only=True)
    try:
        with engine.connect() as connection:
            check_belongs(connection, folder, read_key(folder))
            return list(connection.execute(query))
    except sa.exc.SQLAlchemyError as error:
        raise OSError(f"the data collection's database cannot be read: {cause(error)}") from error
    finally:
        engine.dispose()


def export(records: Sequence[sa.Row], folder: Path, site: str) -> Exported:
    """Makes the rows of a manifest.

    Args:
        records: of `read_records`.
        folder: the data folder.
        site: the part of `source` behind `collected/`.

    Raises:
        ValueError: if `site` is not made of letters, digits, dots, hyphens and underscores, an image's file is
            missing or damaged, or there is nothing to export.
    """
    if not _SITE.fullmatch(site):
        raise ValueError(f"site should be letters, digits, dots, hyphens and underscores. Received: {site!r}")
    names = _patients(records)
    pictures = collections.defaultdict(list)
    for record in records:
        if record.covid is not None:
            pictures[record.pixels_sha256].append(record)
    rows, contradictions, insisted = [], [], 0
    for occurrences in pictures.values():
        labels, contrary = _merged(occurrences)
        first = occurrences[0]
        path = image_path(folder, first.sha256)
        if contrary:
            where = ", ".join(dict.fromkeys(record.id for record in occurrences))
            contradictions.append(f"{path}: {', '.join(contrary)} (contributions {where})")
            continue
        insisted += bool(first.refusal)
        patient = names[_own_name(first)]
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {"path": str(path), "patient": patient, "source": f"{DATASET}/{site}", "split": split_of(patient)}
            | labels
        )
    _check_files([Path(row["path"]) for row in rows])
    if not rows:
        raise ValueError(
            f"{folder}: no image to export; of {len({record.id for record in records})} contributions "
            f"{len({record.id for record in records if record.covid is None})} state no diagnosis, and "
            f"{len(contradictions)} images have contradicting labels"
        )
    return Exported(
        rows=pd.DataFrame(rows),
        contributions=len({record.id for record in records}),
        unstated=len({record.id for record in records if record.covid is None}),
        repeated=sum(len(occurrences) > 1 for occurrences in pictures.values()),
        contradictions=tuple(contradictions),
        joined=sum(own != name for own, name in names.items()),
        insisted=insisted,
    )


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
    counts = {
        "contributions left out, as they state no diagnosis": exported.unstated,
        "images contributed more than once, listed once": exported.repeated,
        "images left out, as contributions state the contrary": len(exported.contradictions),
        "patients joined to another one, as they share a picture": exported.joined,
        "images that look like no chest-CT slice, which the contributor said they are": exported.insisted,
    }
    lines += [f"{text}: {number}" for text, number in counts.items() if number]
    lines += [f"  contradicting: {text}" for text in exported.contradictions[:_LISTED]]
    if len(exported.contradictions) > _LISTED:
        lines.append(f"  and {len(exported.contradictions) - _LISTED} more")
    return "\n".join(lines + [f"warning: {text}" for text in warnings_of(rows)])


def _own_name(record: sa.Row) -> str:
    """The patient's name by the contribution alone. 16 digits tell any number of patients apart."""
    if record.patient_hash:
        return f"{DATASET}/patient-{record.patient_hash[:16]}"
    return f"{DATASET}/contribution-{record.id}"


def _patients(records: Sequence[sa.Row]) -> dict[str, str]:
    """Joins the patients who share a picture.

    Returns:
        The patient's own name -> the name of the first of those it is joined with, perhaps itself.
    """
    leader: dict[str, str] = {}  # a name -> an earlier one of the same person; the first leads to itself
    order: dict[str, int] = {}
    seen: dict[str, str] = {}  # a picture -> whose it is

    def first(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for record in records:
        own = _own_name(record)
        leader.setdefault(own, own)
        order.setdefault(own, len(order))
        one, other = first(own), first(seen.setdefault(record.pixels_sha256, own))
        earlier, later = sorted((one, other), key=order.__getitem__)
        leader[later] = earlier
    return {name: first(name) for name in leader}


def _merged(occurrences: Sequence[sa.Row]) -> tuple[dict[str, int | str], list[str]]:
    """What the contributions of one picture state together, unknown being `""`, and in what they contradict."""
    labels, contrary = {}, []
    for label in (COVID, *LESIONS):
        stated = {getattr(record, label) for record in occurrences} - {None}
        if len(stated) > 1:
            contrary.append(label)
        labels[label] = stated.pop() if stated else ""
    return labels, contrary


def _check_files(paths: Sequence[Path]) -> None:
    bad = []
    for path in paths:
        try:
            if file_sha256(path) != path.stem:
                bad.append(f"{path} is damaged")
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(paths)} images are missing or damaged; copy them back from a backup (if one was "
            f"withdrawn just now, export again): {'; '.join(bad[:3])}"
        )


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
    command.parse(flag_values, argv, USAGE)
    folder = existing_folder(flag_values.data)
    exported = export(read_records(folder, flag_values.database), folder, flag_values.site)
    write_manifest(exported.rows, flag_values.out)
    print(summary(exported))
    print(f"written: {Path(flag_values.out).absolute()}")
    print(f"SHA-256 {file_sha256(flag_values.out)}")
    return 0


if __name__ == "__main__":
    command.run(main)
