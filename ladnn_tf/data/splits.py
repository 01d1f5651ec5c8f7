"""New splits into training, validation and test, grouped by patient or by source; papers that a split shares.

The method is iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of
Multi-Label Data"), carried over from single examples to groups of them that must stay together. The labels
are the two classes and the five lesions. The rarest label comes first, as a label of few patients can still
be placed well only while nothing else is; each of its groups goes to the split that

1. still lacks most labels which the group carries (a label counts the more, the fewer of its groups are
   left), so that every label reaches every split if at least three groups carry it; then
2. is furthest below its share of the label's images, and then of all images.
"""

import numpy as np
import pandas as pd

from ladnn_tf.data.sources import papers
from ladnn_tf.labels import COVID, LESIONS, SPLITS

FRACTIONS = (0.60, 0.15, 0.25)
"""Shares of training, validation and test."""


def split_by_patient(
    frame: pd.DataFrame, seed: int, fractions: tuple[float, float, float] = FRACTIONS
) -> pd.Series:
    """Splits images so that all of a patient are in one split, stratified by class and lesions.

    Patients of one source paper can come into different splits; `split_by_source` keeps them together.

    Args:
        frame: columns `patient`, `covid` and the lesions.
        seed: the same seed gives the same split of the same frame.
        fractions: shares of the images for training, validation and test; their sum is 1.

    Returns:
        The split of each row, with the frame's index.

    Raises:
        ValueError: if there are fewer than three patients, or the fractions do not sum to 1.
    """
    return _split(frame, frame["patient"], seed, fractions)


def split_by_source(
    frame: pd.DataFrame, seed: int, fractions: tuple[float, float, float] = FRACTIONS
) -> pd.Series:
    """Splits images so that all of a source paper are in one split, stratified by class and lesions.

    A paper is the same one in D0 and in D1. An archive (`sources.ARCHIVES`) is not one source: there, and
    where the source is empty, a patient is. A patient in two papers keeps both together.

    Args:
        frame: columns `patient`, `source`, `covid` and the lesions.
        seed: the same seed gives the same split of the same frame.
        fractions: shares of the images for training, validation and test; their sum is 1.

    Returns:
        The split of each row, with the frame's index.

    Raises:
        ValueError: if there are fewer than three sources, or the fractions do not sum to 1.
    """
    return _split(frame, source_groups(frame), seed, fractions)


def source_groups(frame: pd.DataFrame) -> pd.Series:
    """Returns the group of each row that `split_by_source` keeps together, as a name."""
    paper = papers(frame)
    group = paper.where(paper != "", frame["patient"])
    # A patient who occurs in two papers joins them, and so on until nothing changes.
    while True:
        joined = group.groupby(frame["patient"]).transform("min").groupby(group).transform("min")
        if joined.equals(group):
            return group
        group = joined


def papers_in_several_splits(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the papers whose images are in more than one split, with the number of images in each.

    Images of one paper share scanner, hospital and print, and sometimes a person under two names: a model can
    recognise them, which makes an evaluation look better than it is.

    Args:
        frame: columns `source` and `split`.

    Returns:
        (papers, splits) int, the papers' names as the sorted index, and `labels.SPLITS` as columns.
    """
    paper = papers(frame)
    known = paper != ""
    images = pd.crosstab(paper[known], frame.loc[known, "split"]).reindex(columns=list(SPLITS), fill_value=0)
    return images[(images > 0).sum(axis=1) > 1]


def _split(frame: pd.DataFrame, group: pd.Series, seed: int, fractions: tuple[float, float, float]) -> pd.Series:
    if len(fractions) != len(SPLITS) or min(fractions) <= 0 or not np.isclose(sum(fractions), 1.0):
        raise ValueError(f"fractions should be three positive numbers whose sum is 1. Received: {fractions!r}")
    names, group_of_row = np.unique(group.to_numpy(dtype=str), return_inverse=True)
    if len(names) < len(SPLITS):
        raise ValueError(f"three splits need three groups ({group.name}) or more; there are {len(names)}")
    # The last label is being an image at all: no split stays empty, and all get their share.
    labels = np.column_stack(
        [frame[COVID] == 1, frame[COVID] == 0, *(frame[lesion] == 1 for lesion in LESIONS), frame[COVID] >= 0]
    )
    counts = np.zeros((len(names), labels.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of_row, labels.astype(np.int64))
    split_of_group = _assign(counts, np.asarray(fractions), seed)
    return pd.Series(np.asarray(SPLITS)[split_of_group[group_of_row]], index=frame.index, name="split")


def _assign(counts: np.ndarray, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Assigns groups to splits.

    Args:
        counts: (groups, labels) int, the images of each group that carry each label; all carry the last.
        fractions: (splits,) float.
        seed: decides the order among the groups of one label. (Largest first would fill training with the
            few patients of many images, and leave seeds little to decide.)

    Returns:
        (groups,) int, the split of each group.
    """
    order = np.random.default_rng(seed).permutation(len(counts))
    present = counts > 0
    needed = fractions[:, None] * counts.sum(axis=0)  # images of each label that each split should still get
    lacking = np.ones(needed.shape, dtype=bool)
    split_of_group = np.full(len(counts), -1)
    while (split_of_group < 0).any():
        open_groups = split_of_group < 0
        remaining = present[open_groups].sum(axis=0)
        rarest = int(np.where(remaining > 0, remaining, len(counts) + 1).argmin())
        group = next(g for g in order if open_groups[g] and present[g, rarest])
        urgency = (lacking[:, present[group]] / remaining[present[group]]).sum(axis=1)
        split = max(range(len(fractions)), key=lambda s: (urgency[s], needed[s, rarest], needed[s, -1]))
        split_of_group[group] = split
        needed[split] -= counts[group]
        lacking[split] &= ~present[group]
    return split_of_group
