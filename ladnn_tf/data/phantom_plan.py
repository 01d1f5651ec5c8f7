"""Who has what in a phantom dataset, and who is in which split."""

from dataclasses import dataclass

import numpy as np

SPLIT_FRACTIONS = {"train": 0.60, "validation": 0.15, "test": 0.25}
MINIMUM_PATIENTS = 6

COMBINATIONS = (
    ("GGO",),
    ("Csld", "AirBr"),
    ("GGO", "CrPa"),
    ("InSepThi",),
    ("GGO", "Csld"),
    ("GGO",),
    ("GGO", "Csld", "AirBr"),
    ("GGO", "InSepThi"),
    ("GGO",),
    ("GGO", "Csld"),
    ("Csld",),
    ("GGO",),
    ("GGO", "CrPa"),
    ("GGO", "Csld", "CrPa"),
    ("GGO",),
    ("GGO", "Csld"),
    ("GGO",),
    ("GGO", "AirBr"),
)
"""The positives of a split take these in turn; the first four hold every lesion."""

UNLABELLED_EVERY = 10
"""Every tenth positive patient of a split has no lesion labels, as many of the published ones."""

NEGATIVE_FINDINGS = ((), ("nodule",), ("emphysema",), ("motion",), ())
POSITIVE_EXTRAS = ((), ("motion",), (), ("nodule",), (), ("emphysema",), ())
"""Other findings, in turn: each occurs with and without COVID-19, so that none gives it away."""


@dataclass(frozen=True)
class PlannedPatient:
    """A patient before drawing.

    Attributes:
        number: unique within the dataset.
        match: two numbers which a positive shares with one negative of its split: the two have the same build,
            scanner, window and levels, so that in no split brightness differs between the classes by chance.
        split: of `SPLITS`.
        lesions: of `LESIONS`; empty for a negative.
        others: of `phantom_slice.OTHER_FINDINGS`.
        labelled: whether the lesion labels are written.
        slices: how many slices.
        age: years, or None where the metadata do not say.
        sex: M or F, or empty.
        suffix: of the image files.
    """

    number: int
    match: tuple[int, int]
    split: str
    lesions: tuple[str, ...]
    others: tuple[str, ...]
    labelled: bool
    slices: int
    age: int | None
    sex: str
    suffix: str

    @property
    def name(self) -> str:
        return f"Patient {self.number}" if self.lesions else f"phantom_patient_{self.number}"

    @property
    def kind(self) -> str:
        """What the file names say of the patient."""
        return "covid" if self.lesions else "-".join(self.others) or "normal"


def plan_patients(patients: int, seed: int) -> list[PlannedPatient]:
    """Decides who has what and who is in which split.

    Args:
        patients: how many; half of them have COVID-19.
        seed: of the numbering, the number of slices, ages and so on.

    Returns:
        The patients, numbered from 1 in an order that tells nothing.

    Raises:
        ValueError: if there are too few for both classes in each split.
    """
    if patients < MINIMUM_PATIENTS:
        raise ValueError(
            f"patients should be at least {MINIMUM_PATIENTS}, so that every split has both classes; got {patients}"
        )
    rng = np.random.default_rng([seed, 0])
    numbers = iter(rng.permutation(patients) + 1)
    positives = patients // 2
    planned = []
    for positive, count in ((True, positives), (False, patients - positives)):
        for number_of_split, (split, share) in enumerate(_split_counts(count).items()):
            for index in range(share):
                match = (number_of_split, index)
                lesions = COMBINATIONS[index % len(COMBINATIONS)] if positive else ()
                extras = POSITIVE_EXTRAS if positive else NEGATIVE_FINDINGS
                planned.append(
                    PlannedPatient(
                        number=int(next(numbers)),
                        match=match,
                        split=split,
                        lesions=lesions,
                        others=extras[index % len(extras)],
                        labelled=index % UNLABELLED_EVERY != UNLABELLED_EVERY - 1,
                        slices=int(np.random.default_rng([seed, 1, *match]).integers(2, 5)),
                        age=int(rng.integers(19, 88)) if rng.random() < 0.9 else None,
                        sex=str(rng.choice(["M", "F", ""], p=[0.5, 0.4, 0.1])),
                        suffix=".jpg" if rng.random() < 0.15 else ".png",
                    )
                )
    return sorted(planned, key=lambda patient: patient.number)


def _split_counts(count: int) -> dict[str, int]:
    """Patients of one class in each split; at least one each."""
    counts = {split: max(1, round(count * SPLIT_FRACTIONS[split])) for split in ("validation", "test")}
    return {"train": count - sum(counts.values()), **counts}
