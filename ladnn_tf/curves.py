"""ROC, precision-recall and reliability curves with intervals by bootstrap over patients; numbers, no drawing.

The bands are pointwise: at each abscissa the percentile interval of the curve's height over resampled patients,
which is the vertical averaging of Fawcett (2006), section 7, with patients in the place of test sets. The whole
true curve lies inside a pointwise band less often than the level says.

Functions that take several predictions of the same images (a model trained with several seeds) return the mean
of their curves. The band of a mean is over patients alone, of these very models; how much the seeds differ is
seen in their own curves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ladnn_tf import intervals, metrics

LEVEL = 0.95

GRID = np.arange(201) / 200
"""Abscissae of the bands. k / 200 is the float nearest to it, as a share such as 190 / 200 in the data is, so that
equal shares compare equal."""

RELIABILITY_BINS = 10
"""Most bins of a reliability diagram; fewer where a bin would hold fewer than `IMAGES_IN_A_BIN` images."""

IMAGES_IN_A_BIN = 10

_Heights = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curve:
    """The points of one model's curve, from the highest threshold to the lowest, (k,) float64 each.

    Attributes:
        x: false positive rate, or recall.
        y: sensitivity, or precision.
        thresholds: an image is positive from this probability on.
    """

    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class Band:
    """A curve on a grid with its pointwise interval, (g,) float64 each.

    Attributes:
        x: the grid.
        y: of the images as they are.
        low: lower limit; NaN if no resample has both classes.
        high: upper limit, likewise.
        undefined_resamples: left out, because they lack a class.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    undefined_resamples: int


@dataclass(frozen=True)
class Reliability:
    """Mean probability and share of positives in bins of about as many images each, (k,) arrays.

    Attributes:
        probability: mean of the bin's probabilities.
        share: of positives among the bin's images.
        low: lower limit of the share; NaN where neither bootstrap nor Wilson gives one.
        high: upper limit, likewise.
        images: number in the bin.
    """

    probability: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: np.ndarray


def roc_curve(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Returns the ROC curve, a point per distinct probability after (0, 0), whose threshold is infinite.

    The points are to be joined by straight lines: between two of them lie the decisions that draw lots.

    Args:
        labels: (n,) 0 or 1, both present.
        probabilities: (n,) in [0, 1].

    Raises:
        ValueError: as `metrics.checked`, or if a class is missing.
    """
    labels, probabilities = _both_classes(labels, probabilities)
    true, false, thresholds = _cumulated(labels, probabilities, np.ones((1, len(labels))))
    x, y = (np.concatenate([[0.0], counts[0] / counts[0, -1]]) for counts in (false, true))
    return Curve(x, y, np.concatenate([[np.inf], thresholds]))


def precision_recall_curve(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Returns the precision-recall curve, a point per distinct probability.

    It is a step function: from the recall of the point before (0 before the first) up to its own, a point's
    precision holds. The area below is then the average precision. Straight lines between the points would be too
    high (Davis and Goadrich 2006).

    Args:
        labels: (n,) 0 or 1, both present.
        probabilities: (n,) in [0, 1].

    Raises:
        ValueError: as `metrics.checked`, or if a class is missing.
    """
    labels, probabilities = _both_classes(labels, probabilities)
    true, false, thresholds = _cumulated(labels, probabilities, np.ones((1, len(labels))))
    return Curve(true[0] / true[0, -1], true[0] / (true[0] + false[0]), thresholds)


def roc_band(
    labels: ArrayLike,
    predictions: Sequence[ArrayLike],
    patients: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Band:
    """Returns sensitivity over the false positive rate, with a pointwise interval.

    Args:
        labels: (n,) 0 or 1, both present.
        predictions: of one model or more, (n,) probabilities each, whose curves are averaged.
        patients: (n,) the patient of each image.
        resamples: of the patients, at least 1.
        seed: of the resamples.

    Returns:
        The band on `GRID`. Where the curve is vertical, its upper end counts.

    Raises:
        ValueError: as `metrics.checked`, or if a class is missing.
    """
    return _band(_sensitivities, GRID, labels, predictions, patients, resamples, seed)


def precision_recall_band(
    labels: ArrayLike,
    predictions: Sequence[ArrayLike],
    patients: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Band:
    """Returns precision over recall, with a pointwise interval: the precision at the highest threshold that
    reaches the recall, nothing being interpolated.

    Args:
        labels: (n,) 0 or 1, both present.
        predictions: of one model or more, (n,) probabilities each, whose curves are averaged.
        patients: (n,) the patient of each image.
        resamples: of the patients, at least 1.
        seed: of the resamples.

    Returns:
        The band on `GRID` without 0, where precision is undefined.

    Raises:
        ValueError: as `metrics.checked`, or if a class is missing.
    """
    return _band(_precisions, GRID[1:], labels, predictions, patients, resamples, seed)


def mean_metrics(
    labels: ArrayLike,
    predictions: Sequence[ArrayLike],
    patients: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, intervals.Interval]:
    """Returns `metrics.probability_metrics`, the mean of one model or more, with intervals over patients.

    Args and Raises as `roc_band`.
    """

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = [metrics.probability_metrics(labels, each, weights) for each in predictions]
        return {name: np.mean([values[name] for values in found], axis=0) for name in found[0]}

    return intervals.bootstrap_patients(patients, statistic, resamples=resamples, seed=seed)


def reliability(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Reliability:
    """Returns what a reliability diagram shows: how many images are positive where the model says how probable.

    The bins hold about as many images each; bins of equal width, as in the calibration error, would be nearly
    empty where a network is seldom unsure. Equal probabilities stay together. The interval is the bootstrap's
    over patients, for a share of 0 or 1 Wilson's with the bin's patients as trials.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        patients: (n,) the patient of each image.
        resamples: of the patients, at least 1.
        seed: of the resamples.

    Raises:
        ValueError: as `metrics.checked`.
    """
    labels, probabilities = metrics.checked(labels, probabilities)
    patients = np.asarray(patients)
    bins = max(1, min(RELIABILITY_BINS, len(labels) // IMAGES_IN_A_BIN))
    inner = np.quantile(probabilities, np.arange(1, bins) / bins)
    numbers = np.searchsorted(np.unique(inner), probabilities, side="right")
    members = [numbers == number for number in np.unique(numbers)]

    def shares(weights: np.ndarray) -> dict[int, np.ndarray]:
        drawn = np.stack([weights @ member for member in members])
        positive = np.stack([weights @ (member * labels) for member in members])
        quotients = np.divide(positive, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
        return dict(enumerate(quotients))

    found = intervals.bootstrap_patients(patients, shares, resamples=resamples, seed=seed)
    limits = [_share_limits(found[number], patients[member]) for number, member in enumerate(members)]
    return Reliability(
        np.array([probabilities[member].mean() for member in members]),
        np.array([labels[member].mean() for member in members]),
        np.array([low for low, _ in limits]),
        np.array([high for _, high in limits]),
        np.array([member.sum() for member in members]),
    )


def _share_limits(interval: intervals.Interval, patients: np.ndarray) -> tuple[float, float]:
    if interval.low is not None:
        return interval.low, interval.high
    if interval.value in (0.0, 1.0):
        trials = len(np.unique(patients))
        return intervals.wilson_interval(round(interval.value * trials), trials, LEVEL)
    return np.nan, np.nan


def _both_classes(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = metrics.checked(labels, probabilities)
    if labels.min() == labels.max():
        raise ValueError(
            f"a curve needs positives and negatives, but all {len(labels)} labels are {labels[0]:.0f}"
        )
    return labels, probabilities


def _cumulated(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns true and false positives (resamples, k) at each of the (k,) thresholds, from the highest down."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.flatnonzero(np.diff(probabilities[order], append=-1.0))
    true = np.cumsum((weights * labels)[:, order], axis=1)[:, ends]
    false = np.cumsum((weights * (1 - labels))[:, order], axis=1)[:, ends]
    return true, false, probabilities[order][ends]


def _band(
    heights: _Heights,
    grid: np.ndarray,
    labels: ArrayLike,
    predictions: Sequence[ArrayLike],
    patients: ArrayLike,
    resamples: int,
    seed: int,
) -> Band:
    checked = [_both_classes(labels, probabilities) for probabilities in predictions]

    def mean(weights: np.ndarray) -> np.ndarray:
        drawn = np.stack([weights @ (checked[0][0] == label) for label in (0, 1)])
        both = weights[(drawn > 0).all(axis=0)]
        return np.mean([heights(*each, both) for each in checked], axis=0)

    (y,) = mean(np.ones((1, len(checked[0][0]))))
    samples = np.concatenate([mean(weights) for weights in intervals.patient_weights(patients, resamples, seed)])
    if len(samples):
        low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    else:
        low = high = np.full(len(grid), np.nan)
    return Band(grid, y, low, high, resamples - len(samples))


def _sensitivities(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the ROC curve's height (resamples, g) on `GRID`, joined by straight lines."""
    true, false, _ = _cumulated(labels, probabilities, weights)
    y, x = (np.pad(counts / counts[:, -1:], ((0, 0), (1, 0))) for counts in (true, false))
    last = _positions(x, GRID, "right") - 1
    following = np.minimum(last + 1, x.shape[1] - 1)
    (x0, x1), (y0, y1) = (
        [np.take_along_axis(values, at, axis=1) for at in (last, following)] for values in (x, y)
    )
    width = x1 - x0
    share = np.divide(GRID - x0, width, out=np.zeros(width.shape), where=width > 0)
    return y0 + share * (y1 - y0)


def _precisions(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the precision (resamples, g) where each recall of `GRID` above 0 is reached first."""
    true, false, _ = _cumulated(labels, probabilities, weights)
    recall = true / true[:, -1:]
    first = _positions(recall, GRID[1:], "left")
    found, wrong = (np.take_along_axis(counts, first, axis=1) for counts in (true, false))
    return found / (found + wrong)


def _positions(rows: np.ndarray, grid: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """Returns where the grid's values belong in each of the ascending rows, (resamples, g) int."""
    return np.array([np.searchsorted(row, grid, side) for row in rows], int).reshape(len(rows), len(grid))
