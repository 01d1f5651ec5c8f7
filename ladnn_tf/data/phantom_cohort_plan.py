"""Who has what in a phantom cohort of three classes, how large it is in which slice, and who is in which split."""

from dataclasses import dataclass

import numpy as np

from ladnn_tf.data.phantom_plan import COMBINATIONS
from ladnn_tf.labels import CLASSES

SPLIT_FRACTIONS = {"train": 0.60, "validation": 0.10, "test": 0.30}
"""By patient, as DRENet's paper has it."""

MINIMUM_PATIENTS = 9
MINIMUM_SLICES = 5
LESION_SLICES = 0.6
"""The part of a patient's slices that show a lesion at least."""

DISTRACTORS = (
    (),
    ("nodule",),
    ("motion",),
    (),
    ("emphysema",),
    ("nodule", "emphysema"),
    (),
    ("nodule", "motion"),
)
"""Findings that are no pneumonia's, in turn and alike in the three classes, so that none gives a class away."""


@dataclass(frozen=True)
class CohortPatient:
    """A patient before drawing. The k-th patients of the three classes in a split are matched: they have the same
    build, scanner, window, levels and distractors, and the two that are ill are equally ill.

    Attributes:
        number: unique within the cohort, from 1; tells nothing.
        match: two numbers that the matched three share.
        split: of `SPLITS`.
        diagnosis: of `CLASSES`.
        lesions: of `LESIONS`, for COVID-19; empty for the others.
        distractors: of `phantom_slice.OTHER_FINDINGS`, for each slice.
        levels: of the slices, from the aortic arch (0) down to the diaphragm (1).
        extents: size of the lesions in each slice from 0 (none) to 1; all 0 in a healthy patient.
        patchy, bilateral, effusion: how bacterial pneumonia looks; False for the others.
        age: years.
        sex: M or F.
    """

    number: int
    match: tuple[int, int]
    split: str
    diagnosis: str
    lesions: tuple[str, ...]
    distractors: tuple[tuple[str, ...], ...]
    levels: tuple[float, ...]
    extents: tuple[float, ...]
    patchy: bool
    bilateral: bool
    effusion: bool
    age: int
    sex: str


def plan_cohort(patients: int, slices: int, seed: int) -> list[CohortPatient]:
    """Decides who has what, where, and who is in which split.

    Args:
        patients: how many; the three classes are equal, and so patients should be a multiple of three.
        slices: how many for each patient.
        seed: of everything.

    Returns:
        The patients by number; the numbers are in an order that tells nothing.

    Raises:
        ValueError: for too few patients or slices, or a number of patients that is no multiple of three.
    """
    if patients < MINIMUM_PATIENTS or patients % len(CLASSES):
        raise ValueError(
            f"patients should be a multiple of {len(CLASSES)}, at least {MINIMUM_PATIENTS}, so that every split"
            f" has the three classes; got {patients}"
        )
    if slices < MINIMUM_SLICES:
        raise ValueError(f"slices should be at least {MINIMUM_SLICES} for each patient; got {slices}")
    numbers = iter(np.random.default_rng([seed, 20]).permutation(patients) + 1)
    planned = []
    for number_of_split, (split, count) in enumerate(_split_counts(patients // len(CLASSES)).items()):
        for index in range(count):
            match = (number_of_split, index)
            for diagnosis in CLASSES:
                planned.append(_plan_patient(int(next(numbers)), match, split, diagnosis, slices, seed))
    return sorted(planned, key=lambda patient: patient.number)


def _plan_patient(number, match, split, diagnosis, slices, seed) -> CohortPatient:
    shared = np.random.default_rng([seed, 21, *match])
    levels = np.sort(shared.uniform(0.08, 0.95, slices))
    kinds = DISTRACTORS[match[1] % len(DISTRACTORS)]
    shown = shared.random((slices, len(kinds))) < 0.6
    severity = shared.uniform(0.3, 1.0)
    ill = int(shared.integers(int(np.ceil(LESION_SLICES * slices)), slices + 1))
    spread = shared.uniform(0.55, 1.0, slices)
    age, sex = int(shared.integers(19, 88)), str(shared.choice(["M", "F"]))
    own = np.random.default_rng([seed, 22, number])
    extents = np.zeros(slices)
    if diagnosis != "normal":
        # COVID-19 is largest below; the lobe that bacteria have may lie anywhere.
        middle = own.uniform(0.65, 0.95) if diagnosis == "covid19" else own.uniform(0.15, 0.9)
        away = np.abs(levels - middle)
        reached = np.argsort(away, kind="stable")[:ill]
        extents[reached] = severity * spread[reached] * np.exp(-((away[reached] / 0.7) ** 2))
        # COVID-19 may cover less of a slice at most; this brings the sizes of the two together.
        extents = np.minimum(1.0, extents * (1.6 if diagnosis == "covid19" else 0.85))
    bacterial = diagnosis == "bacterial"
    return CohortPatient(
        number=number,
        match=match,
        split=split,
        diagnosis=diagnosis,
        lesions=COMBINATIONS[match[1] % len(COMBINATIONS)] if diagnosis == "covid19" else (),
        distractors=tuple(
            tuple(kind for kind, seen in zip(kinds, row, strict=True) if seen) for row in shown.tolist()
        ),
        levels=tuple(levels.tolist()),
        extents=tuple(extents.tolist()),
        patchy=bacterial and match[1] % 4 == 2,
        bilateral=bacterial and match[1] % 4 == 3,
        effusion=bacterial and match[1] % 3 == 1,
        age=age,
        sex=sex,
    )


def _split_counts(count: int) -> dict[str, int]:
    """Patients of one class in each split; at least one each."""
    counts = {split: max(1, round(count * SPLIT_FRACTIONS[split])) for split in ("validation", "test")}
    return {"train": count - sum(counts.values()), **counts}
