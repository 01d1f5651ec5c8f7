"""Lesion labels that a function reads from COVID-CT's captions, against LA-DNN's annotation of the images.

Every positive image with a caption counts, 336 of 349. One without any lesion label (its lesions are unknown to
the manifest) counts as one without lesions here: with these the best function of the text reaches the micro F1
that is known for this annotation, 0.988 for 148 captions. Two of the 148 differ in nothing but white space,
which `covid_ct.py` mends; for the 147 that remain it is 0.985. The micro F1 of the labelled images alone stands
beside it.

Captions of one paper are alike, as its authors wrote them and somebody labelled them in one go. Intervals
therefore draw whole papers.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ladnn_tf.data.covid_ct import read_covid_ct
from ladnn_tf.data.report_rules import CUES, TERMS
from ladnn_tf.data.report_sentences import marked_panels, normalise, sentences
from ladnn_tf.data.splits import source_groups
from ladnn_tf.intervals import Interval, bootstrap_patients
from ladnn_tf.labels import COVID, LESIONS, SPLITS

Reader = Callable[[str], Mapping[str, bool]]

KEYWORDS = {
    "GGO": ("ground-glass", "ground glass", "ggo"),
    "Csld": ("consolidation",),
    "CrPa": ("crazy-paving", "crazy paving"),
    "AirBr": ("air bronchogram",),
    "InSepThi": ("septal thickening",),
}
"""The bare words that every better function has to beat."""

PARTS = {
    "train": ("train",),
    "validation": ("validation",),
    "test": ("test",),
    "validation+test": ("validation", "test"),
    "all": SPLITS,
}
"""The splits that are measured together. The rules were written on the captions of training."""

NAMED_NOT_LABELLED = "the text names it, the image has other labels only"
LABELLED_NOT_NAMED = "labelled, but the text does not name it"
UNLABELLED = "the text names it, the image has no lesion label at all"
OTHERWISE_ELSEWHERE = "the same text is labelled otherwise at another image"
READ_OTHERWISE = "the words are read otherwise than by the annotators"

LIKELY_ERRORS = (LABELLED_NOT_NAMED, NAMED_NOT_LABELLED)
"""The kinds of disagreement that look like errors of the annotation: no reading of the text agrees with it."""


@dataclass(frozen=True)
class Score:
    """True positives, false positives and false negatives; a share is NaN where it is undefined.

    Attributes:
        tp: lesions read and annotated.
        fp: lesions read only.
        fn: lesions annotated only.
    """

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def read_captions(folder: str) -> pd.DataFrame:
    """Reads the positive images of COVID-CT that have a caption.

    Returns:
        `image`, `split`, `report`, `group` (the source paper), `labelled` (bool, whether there is any lesion
        label), `panel` (the sub-figure's letter, `""` where it cannot be told) and the lesions (bool); index 0 to
        n - 1.

    Raises:
        FileNotFoundError, ValueError: as `covid_ct.read_covid_ct`; ValueError if no image has a caption.
    """
    rows = read_covid_ct(folder).rows
    rows = rows[(rows[COVID] == 1) & (rows["report"] != "")].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"{folder}: no positive image has a caption in la-dnn/COVID-CT-MetaInfo_new.csv")
    captions = rows[["image", "split", "report"]].copy()
    captions["group"] = source_groups(rows)
    captions["labelled"] = rows[list(LESIONS)].notna().any(axis=1)
    captions["panel"] = [_panel(image, text) for image, text in zip(rows["image"], rows["report"], strict=True)]
    for lesion in LESIONS:
        captions[lesion] = rows[lesion] == 1
    return captions


def keyword_lesions(text: str) -> dict[str, bool]:
    """Returns the lesions of which a text has one of the `KEYWORDS`: the baseline."""
    text = text.lower()
    return {lesion: any(word in text for word in KEYWORDS[lesion]) for lesion in LESIONS}


def apply(read: Reader, texts: pd.Series) -> pd.DataFrame:
    """Returns the lesions (bool) that a function reads from each text, with the texts' index."""
    return pd.DataFrame([dict(read(text)) for text in texts], index=texts.index, columns=list(LESIONS))


def score(captions: pd.DataFrame, lesions: pd.DataFrame) -> dict[str, Score]:
    """Returns the score of each lesion, and of all together as `micro`.

    Args:
        captions: as `read_captions`, or some rows of it.
        lesions: as `apply`, with the same index.
    """
    counts = _counts(captions, lesions)
    scores = {lesion: Score(*counts[:, :, i].sum(1).tolist()) for i, lesion in enumerate(LESIONS)}
    return scores | {"micro": Score(*counts.sum((1, 2)).tolist())}


def micro_f1_interval(captions: pd.DataFrame, lesions: pd.DataFrame) -> Interval:
    """Returns micro F1 with its 95 % interval over resampled papers."""
    per_image = _counts(captions, lesions).sum(2)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        tp, fp, fn = (weights @ per_image.T).T
        total = 2 * tp + fp + fn
        return {"f1": np.divide(2 * tp, total, out=np.full(len(tp), np.nan), where=total > 0)}

    return bootstrap_patients(captions["group"], statistic)["f1"]


def ceiling(captions: pd.DataFrame) -> Score:
    """Returns the score of the best function of the text: a majority vote of the images with the same text.

    A tie counts as present, which is the better choice for F1.
    """
    votes = captions.groupby("report")[list(LESIONS)].transform("mean")
    return score(captions, votes >= 0.5)["micro"]


def disagreements(
    captions: pd.DataFrame, lesions: pd.DataFrame, named: Callable[[str], frozenset[str]]
) -> pd.DataFrame:
    """Lists where the text is read otherwise than annotated; what looks like an error of the annotation is first.

    Args:
        captions: as `read_captions`, or some rows of it.
        lesions: as `apply`, with the same index.
        named: the lesions that a text names, be it to deny them.

    Returns:
        One row for each split, text and lesion: `split`, `lesion`, `annotated` and `read` (0 or 1), `kind`,
        `likely_annotation_error` (0 or 1), `images` (how many), `names` (theirs, with semicolons) and `report`.
    """
    records = []
    for lesion in LESIONS:
        both = captions.groupby("report")[lesion].transform("nunique") > 1
        wrong = captions[lesion] != lesions[lesion]
        for index, row in captions[wrong].iterrows():
            kind = _kind(row, lesion, bool(both[index]), named(row["report"]))
            records.append(
                {
                    "split": row["split"],
                    "lesion": lesion,
                    "annotated": int(row[lesion]),
                    "read": int(lesions.at[index, lesion]),
                    "kind": kind,
                    "likely_annotation_error": int(kind in LIKELY_ERRORS),
                    "names": row["image"].rsplit("/", 1)[-1],
                    "report": row["report"],
                }
            )
    keys = ["likely_annotation_error", "kind", "split", "report", "lesion", "annotated", "read"]
    frame = pd.DataFrame(records, columns=[*keys, "names"])
    joined = frame.groupby(keys, sort=False)["names"].agg([("images", "size"), ("names", "; ".join)]).reset_index()
    order = ["likely_annotation_error", "kind", "split", "report", "lesion"]
    joined = joined.sort_values(order, ascending=[False, True, True, True, True], ignore_index=True)
    return joined[
        ["split", "lesion", "annotated", "read", "kind", "likely_annotation_error", "images", "names", "report"]
    ]


def pattern_counts(captions: pd.DataFrame) -> pd.DataFrame:
    """Returns how many distinct captions, and of how many papers, each pattern of the rules touches.

    A pattern that touches none is general language; one that touched a single caption, and were no general
    language, would be a rule for that caption.

    Returns:
        `rule` (a lesion or the kind of cue), `pattern`, `captions` and `papers`.
    """
    texts = captions.drop_duplicates("report")
    parts = [sentences(normalise(text)) for text in texts["report"]]
    records = []
    for rule, patterns in (TERMS | CUES).items():
        for name, pattern in patterns.items():
            touched = np.array([any(pattern.search(part) for part in text) for text in parts], dtype=bool)
            papers = texts["group"][touched].nunique()
            records.append({"rule": rule, "pattern": name, "captions": int(touched.sum()), "papers": papers})
    return pd.DataFrame(records)


def _panel(image: str, text: str) -> str:
    """The letter of a picture in a caption of several, `""` where it cannot be told.

    The number behind `%` counts the pictures of a figure from 0. The caption must mark that letter and another.
    """
    number = re.search(r"%(\d)\.\w+$", image)
    letter = "abcdefghij"[int(number[1])] if number else ""
    marked = marked_panels(normalise(text))
    return letter if letter in marked and len(marked) > 1 else ""


def _counts(captions: pd.DataFrame, lesions: pd.DataFrame) -> np.ndarray:
    """(3, images, lesions) int: true positives, false positives, false negatives."""
    annotated, read = captions[list(LESIONS)].to_numpy(bool), lesions[list(LESIONS)].to_numpy(bool)
    return np.stack([annotated & read, ~annotated & read, annotated & ~read]).astype(np.int64)


def _kind(row: pd.Series, lesion: str, otherwise_elsewhere: bool, named: frozenset[str]) -> str:
    if otherwise_elsewhere:
        return OTHERWISE_ELSEWHERE
    has_keyword = keyword_lesions(row["report"])[lesion]
    if row[lesion]:
        return READ_OTHERWISE if lesion in named or has_keyword else LABELLED_NOT_NAMED
    if not row["labelled"]:
        return UNLABELLED
    return NAMED_NOT_LABELLED if has_keyword else READ_OTHERWISE


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
