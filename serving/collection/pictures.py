"""The pictures of the data collection, each with what all its contributions state of it, for the export."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from ladnn_tf.data.preprocess import decode
from ladnn_tf.files import file_sha256
from ladnn_tf.labels import COVID, LESIONS
from serving.collection.files import image_path
from serving.collection.likeness import Likeness, Pair
from serving.collection.patients import own_name
from serving.collection.records import erasure_of


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture with the record of each contribution that has it.

    Attributes:
        records: of `records.read_records`, the first contribution first.
        path: of its file.
        labels: `labels.COVID` and `labels.LESIONS` -> 1 or 0, or "" where it is unknown, of the contributions with
            a stated diagnosis.
        contrary: the labels in which these contradict each other.
        insisted: why it is not taken for a chest-CT slice, where the contributor said that it is one; else empty.
    """

    records: Sequence[sa.Row]
    path: Path
    labels: Mapping[str, int | str]
    contrary: Sequence[str]
    insisted: str

    @classmethod
    def of(cls, records: Sequence[sa.Row], folder: Path) -> "Picture":
        """The picture of these records, in this data folder."""
        stated = [record for record in records if record.covid is not None]
        values = {label: {getattr(record, label) for record in stated} - {None} for label in (COVID, *LESIONS)}
        return cls(
            records=records,
            path=image_path(folder, records[0].sha256),
            labels={label: next(iter(found)) if len(found) == 1 else "" for label, found in values.items()},
            contrary=[label for label, found in values.items() if len(found) > 1],
            # A picture is judged before its corners are erased, so that one judgement in its favour is enough.
            insisted=records[0].refusal if all(record.refusal for record in records) else "",
        )

    @property
    def first(self) -> sa.Row:
        """Its first record."""
        return self.records[0]

    @property
    def stated(self) -> bool:
        """Whether any contribution states a diagnosis."""
        return any(record.covid is not None for record in self.records)

    @property
    def patients(self) -> set[str]:
        """The names of its patients, by each contribution alone."""
        return set(map(own_name, self.records))

    @property
    def contributions(self) -> list[str]:
        """The ids of the contributions that have it."""
        return list(dict.fromkeys(record.id for record in self.records))


def near_pairs(pictures: Sequence[Picture]) -> list[Pair]:
    """Reads the pictures' files and finds the pairs that are nearly the same.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    likeness = Likeness([erasure_of(picture.first) for picture in pictures])
    bad = []
    for picture in pictures:
        try:
            if file_sha256(picture.path) == picture.path.stem:
                likeness.add(decode(picture.path.read_bytes()))
            else:
                bad.append(f"{picture.path} is damaged")
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(pictures)} images are missing or damaged; copy them back from a backup (if one "
            f"was withdrawn just now, export again): {'; '.join(bad[:3])}"
        )
    return list(likeness.pairs())


def contrary_labels(one: Picture, other: Picture) -> list[str]:
    """The labels that are known of two pictures and differ."""
    return [
        label
        for label, value in one.labels.items()
        if "" not in (value, other.labels[label]) and value != other.labels[label]
    ]
