"""The answer for a series of slices: what was made of each, the person's, and why slices were left out."""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from ladnn_tf.answer import Answer
from ladnn_tf.card import Card

SLICES = ("equidistant", "all")
"""How slices of a series are chosen."""

_NUMBER = re.compile(r"\d+([.,]\d+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class SliceAnswer:
    """What was made of one slice.

    Attributes:
        index: of the slice in the volume, from 0.
        file: that it came from.
        answer: the model's, with a probability; None where the slice was left out.
        reason: why it was left out, without a full stop; empty if it was answered.
        pixels: `(H, W, 3)` uint8, what the model was shown, or would have been; read-only. All channels are equal
            and share their memory.
        failed: whether it was left out because the model or the program failed at it, which says nothing of the
            slice.
    """

    index: int
    file: str
    answer: Answer | None
    reason: str
    pixels: np.ndarray
    failed: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class SeriesAnswer:
    """The answer for one series.

    Attributes:
        name: of the series.
        card: of the model that answered.
        card_sha256: of the card's JSON.
        covid: the slices' calibrated probabilities of COVID-19, aggregated, in [0, 1]; None where there is no
            answer.
        low, high: 95 % interval of `covid` over the slices; None where there is no answer or too few slices.
        positive: whether `covid` reaches `threshold`; None where there is no answer.
        aggregation: one of `person.AGGREGATIONS`, by the card; the mean where the card has no rule for persons.
        threshold: for persons, by the card; that of single slices where the card has no rule for persons.
        classes: mean of each class' probability over the slices, not calibrated; empty for models without classes
            and where there is no answer.
        slices: the chosen ones, in order.
        suspicious: at most `SUSPICIOUS` positions in `slices`, the most suspicious first.
        report: what was irregular about the series, a sentence each.
        reason: why there is no answer; empty if there is one.
        count: slices of the series.
        spacing_mm: z, y, x; NaN where unknown.
        calibrated: whether the series is in Hounsfield units, and so was shown in the card's window.
        choice: one of `SLICES`.
        lungs_checked: whether slices without enough lung were left out: asked for, or as the model is shown the
            lungs alone.
    """

    name: str
    card: Card
    card_sha256: str
    covid: float | None
    low: float | None
    high: float | None
    positive: bool | None
    aggregation: str
    threshold: float
    classes: dict[str, float]
    slices: tuple[SliceAnswer, ...]
    suspicious: tuple[int, ...]
    report: tuple[str, ...]
    reason: str
    count: int = 0
    spacing_mm: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    calibrated: bool = True
    choice: str = SLICES[0]
    lungs_checked: bool = True

    @property
    def answered(self) -> tuple[SliceAnswer, ...]:
        """The slices that have an answer, in order."""
        return tuple(each for each in self.slices if each.answer)

    @property
    def failed(self) -> bool:
        """Whether there is no answer and the model failed at a slice: an error, and nothing about the series."""
        return self.covid is None and any(each.failed for each in self.slices)

    @property
    def most_probable_class(self) -> str:
        """Of `classes` the highest, of equal ones the first; empty without classes."""
        return max(self.classes, key=self.classes.__getitem__, default="")


def reasons(slices: Sequence[SliceAnswer]) -> list[tuple[int, str]]:
    """Why slices were left out, the most frequent reason first.

    Args:
        slices: of a series.

    Returns:
        Number of slices, and their reason in words. Reasons that differ in numbers only are one: the first, marked
        by "such as".
    """
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for each in slices:
        if each.reason:
            groups[_NUMBER.sub("#", each.reason)].append(each.reason)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [(len(found), found[0] if len(set(found)) == 1 else f"such as: {found[0]}") for found in ordered]
