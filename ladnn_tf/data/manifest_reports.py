"""Fills the unknown lesions of a manifest from its reports."""

from dataclasses import dataclass

import pandas as pd

from ladnn_tf.data.covid_ct import LABEL_CORRECTIONS
from ladnn_tf.data.reports import lesions_from_report, speaks_of_lungs
from ladnn_tf.labels import COVID, LESIONS

NO_REPORT = "no report"
SAYS_NOTHING = "the report names none of the five lesions and does not say that the lungs are normal"
SEVERAL_IMAGES = "the caption describes several controls of COVID-CT in turn"


@dataclass(frozen=True)
class Filling:
    """What was filled from reports.

    Attributes:
        labels: how many labels each lesion got, as (present, absent).
        filled: images that got at least one label.
        complete: images whose lesions were all known before.
        unknown: reason -> how many images kept an unknown lesion for it.
        negatives: images that got a lesion although they are no COVID-19. That is no error: bacteria, water and
            tumours make these lesions, too.
        contradictions: one line for each label that was there, was kept, and is otherwise in the report.
    """

    labels: dict[str, tuple[int, int]]
    filled: int
    complete: int
    unknown: dict[str, int]
    negatives: int
    contradictions: list[str]


def fill_lesions(frame: pd.DataFrame) -> tuple[pd.DataFrame, Filling]:
    """Fills lesions that are unknown with what the image's report says; a label that is there stays.

    Left unknown are the lesions of an image without a report; of one whose report does not tell them
    (`reports.speaks_of_lungs`); and of the five images of COVID-CT in `covid_ct.LABEL_CORRECTIONS`, as one
    caption describes five patients there.

    Args:
        frame: a manifest's rows.

    Returns:
        A filled copy, and what was filled.
    """
    filled = frame.copy()
    unknown = dict.fromkeys((NO_REPORT, SAYS_NOTHING, SEVERAL_IMAGES), 0)
    new: dict[str, list[bool]] = {lesion: [] for lesion in LESIONS}
    contradictions = []
    images = complete = negatives = 0
    for index, row in frame.iterrows():
        empty = [lesion for lesion in LESIONS if pd.isna(row[lesion])]
        complete += not empty
        reason = _why_unknown(row)
        if reason:
            unknown[reason] += bool(empty)
            continue
        read = lesions_from_report(row["report"])
        for lesion in LESIONS:
            if lesion in empty:
                filled.at[index, lesion] = float(read[lesion])
                new[lesion].append(read[lesion])
            elif row[lesion] != read[lesion]:
                contradictions.append(
                    f"{row['image']} ({row['patient']}): {lesion} is {row[lesion]:.0f}, the report says"
                    f" {int(read[lesion])}"
                )
        images += bool(empty)
        negatives += row[COVID] == 0 and any(read[lesion] for lesion in empty)
    labels = {lesion: (sum(values), len(values) - sum(values)) for lesion, values in new.items()}
    return filled, Filling(labels, images, complete, unknown, int(negatives), contradictions)


def summary(filling: Filling) -> str:
    """Returns what was filled, as the manifest's command prints it."""
    labels = ", ".join(f"{lesion} {present} / {absent}" for lesion, (present, absent) in filling.labels.items())
    lines = [
        "",
        f"Lesions from reports: filled in {filling.filled} images (ladnn_tf.data.reports measures how well)",
        f"  labels filled, present / absent: {labels}",
        f"  {filling.negatives} of these images are no COVID-19 and got a lesion, which is possible",
        f"  all lesions known before: {filling.complete} images",
    ]
    lines += [f"  left unknown: {images} images: {reason}" for reason, images in filling.unknown.items() if images]
    lines.append(f"  labels that were there and contradict the report (kept): {len(filling.contradictions)}")
    return "\n".join(lines + [f"    {line}" for line in filling.contradictions])


def _why_unknown(row: pd.Series) -> str:
    """Why a report tells nothing of its image, `""` if it does."""
    if not row["report"].strip():
        return NO_REPORT
    if row["source"].startswith("covid_ct/") and row["image"].rsplit("/", 1)[-1] in LABEL_CORRECTIONS:
        return SEVERAL_IMAGES
    return "" if speaks_of_lungs(row["report"]) else SAYS_NOTHING
