"""Metrics of a binary classifier, for one sample and, by image weights, for thousands of resamples at once.

Everything is computed from probabilities, never from predictions that are already cut at a threshold: the
original LA-DNN code did the latter and printed a balanced accuracy as AUC. An image counts as positive if
and only if its probability is >= the threshold. What is undefined is NaN in an array and `None` in a dict,
never 0 or 1.

The functions with `weights` take one row of image weights per resample (how often each image was drawn) and
return one value per row; `binary_metrics` is the case of a single row of ones.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error, as Guo et al. (2017) use."""

PROBABILITY_METRICS = ("auc", "average_precision", "brier", "ece")
"""Metrics of the probabilities themselves."""

THRESHOLD_METRICS = ("sensitivity", "specificity", "precision", "npv", "f1", "accuracy")
"""Metrics of the decision `probability >= threshold`."""

CONFUSION = ("tp", "fn", "tn", "fp")


def binary_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float | None]:
    """Returns every metric of one set of predictions.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1], of label 1.
        threshold: in [0, 1]; an image is positive if its probability is >= it.

    Returns:
        The floats named in `PROBABILITY_METRICS` and `THRESHOLD_METRICS`, each `None` where undefined, and
        the integers `n`, `positives`, `tp`, `fn`, `tn`, `fp`. See `probability_metrics` and
        `threshold_metrics` for the definitions.

    Raises:
        ValueError: if there is no image, a label is not 0 or 1, or a probability is outside [0, 1].
    """
    labels, probabilities = checked(labels, probabilities)
    weights = np.ones((1, len(labels)))
    values = probability_metrics(labels, probabilities, weights)
    values |= threshold_metrics(labels, probabilities, threshold, weights)
    result = {name: none_if_nan(value[0]) for name, value in values.items()}
    counts = {name: int(value[0]) for name, value in confusion(labels, probabilities, threshold, weights).items()}
    return result | {"n": len(labels), "positives": int(labels.sum())} | counts


def probability_metrics(labels: ArrayLike, probabilities: ArrayLike, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics that need no threshold.

    - `auc`: the area under the ROC curve, as the share of (positive, negative) pairs in the right order,
      ties counting a half (Hanley and McNeil 1982). Undefined unless both classes are present.
    - `average_precision`: sum over the distinct probabilities of (gain in recall) x precision, without
      interpolation. Undefined unless both classes are present.
    - `brier`: the mean squared difference of probability and label (Brier 1950).
    - `ece`: the expected calibration error (Guo et al. 2017) in its binary form: the images fall into
      `CALIBRATION_BINS` equal-width bins ((m - 1) / 15, m / 15] by the probability of label 1, and the
      absolute differences of mean label and mean probability are averaged by the bins' shares of the images.
      It is biased upwards in small samples and more so in a bootstrap resample of one, so that its
      percentile interval may lie above the value.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        weights: (resamples, n) not negative.

    Returns:
        One (resamples,) float64 array for each of `PROBABILITY_METRICS`, NaN where undefined.

    Raises:
        ValueError: as `binary_metrics`.
    """
    labels, probabilities = checked(labels, probabilities)
    positive, negative = _weights_by_probability(labels, probabilities, weights)
    total = weights.sum(axis=1)
    return {
        "auc": _auc(positive, negative),
        "average_precision": _average_precision(positive, negative),
        "brier": _divide(weights @ (probabilities - labels) ** 2, total),
        "ece": _divide(_summed_calibration_gaps(labels, probabilities, weights), total),
    }


def threshold_metrics(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the metrics of the decision `probability >= threshold`.

    Sensitivity is tp / (tp + fn), specificity tn / (tn + fp), precision tp / (tp + fp), npv tn / (tn + fn),
    f1 2 tp / (2 tp + fp + fn), accuracy (tp + tn) / all. A zero denominator is undefined. Precision, npv and
    f1 depend on the mixture of the classes and are undefined unless both are present: a precision of 1 among
    positives alone says nothing.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        threshold: in [0, 1].
        weights: (resamples, n) not negative.

    Returns:
        One (resamples,) float64 array for each of `THRESHOLD_METRICS`, NaN where undefined.

    Raises:
        ValueError: as `binary_metrics`, or if the threshold is outside [0, 1].
    """
    tp, fn, tn, fp = confusion(labels, probabilities, threshold, weights).values()
    both = (tp + fn > 0) & (tn + fp > 0)
    return {
        "sensitivity": _divide(tp, tp + fn),
        "specificity": _divide(tn, tn + fp),
        "precision": np.where(both, _divide(tp, tp + fp), np.nan),
        "npv": np.where(both, _divide(tn, tn + fn), np.nan),
        "f1": np.where(both, _divide(2 * tp, 2 * tp + fp + fn), np.nan),
        "accuracy": _divide(tp + tn, tp + fn + tn + fp),
    }


def confusion(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the weighted confusion matrix: (resamples,) float64 each of `tp`, `fn`, `tn`, `fp`.

    Args and Raises as `threshold_metrics`.
    """
    labels, probabilities = checked(labels, probabilities)
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold should be a probability in [0, 1], got {threshold}")
    actual, predicted = labels == 1, probabilities >= threshold
    cells = np.stack([actual & predicted, actual & ~predicted, ~actual & ~predicted, ~actual & predicted])
    return dict(zip(CONFUSION, cells.astype(np.float64) @ weights.T, strict=True))


def predictive_values(
    sensitivity: ArrayLike, specificity: ArrayLike, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positive and the negative predictive value at a prevalence, by Bayes' theorem.

    PPV = se p / (se p + (1 - sp)(1 - p)) and NPV = sp (1 - p) / (sp (1 - p) + (1 - se) p). The precision on
    a test set that is half COVID-19 is not what a clinic sees where one patient in twenty has it.

    Args:
        sensitivity: any shape, in [0, 1] or NaN.
        specificity: the same shape.
        prevalence: the share of positives, in (0, 1).

    Returns:
        PPV and NPV of the same shape, NaN where the denominator is zero or an input is NaN.

    Raises:
        ValueError: if the prevalence is not inside (0, 1).
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"the prevalence should be a share inside (0, 1), such as 0.05, got {prevalence}")
    sensitivity, specificity = np.asarray(sensitivity, np.float64), np.asarray(specificity, np.float64)
    true_positive, false_negative = sensitivity * prevalence, (1 - sensitivity) * prevalence
    true_negative, false_positive = specificity * (1 - prevalence), (1 - specificity) * (1 - prevalence)
    return (
        _divide(true_positive, true_positive + false_positive),
        _divide(true_negative, true_negative + false_negative),
    )


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike, target_sensitivity: float) -> float:
    """Returns the highest threshold at which the sensitivity is at least the target.

    To be called with validation data only. Every threshold between the lowest probability that must count as
    positive and the next lower one (of any image, or 0) decides all images alike; the midpoint of the two is
    taken, so that no image lies on the threshold and rounding in an exported model flips none.

    Args:
        labels: (n,) 0 or 1, with at least one 1.
        probabilities: (n,) in [0, 1].
        target_sensitivity: in (0, 1].

    Returns:
        The threshold. It differs from every probability given, unless a positive with probability 0 must be
        found (then 0), or two neighbours are so close that no float64 lies between them (then the higher).

    Raises:
        ValueError: if there is no positive or the target is outside (0, 1].
    """
    labels, probabilities = checked(labels, probabilities)
    if not 0 < target_sensitivity <= 1:
        raise ValueError(f"the target sensitivity should be in (0, 1], such as 0.95, got {target_sensitivity}")
    positives = np.sort(probabilities[labels == 1])[::-1]
    if not len(positives):
        raise ValueError(
            f"a threshold for a sensitivity needs positives, but all {len(labels)} images are negative; "
            "choose it on another split or give a threshold"
        )
    # In floating point 0.07 x 100 is 7.000000000000001, for which 7 positives should still be enough.
    needed = math.ceil(target_sensitivity * len(positives) - 1e-9)
    highest = positives[needed - 1]
    lower = probabilities[probabilities < highest].max(initial=0.0)
    middle = (highest + lower) / 2
    return float(middle if middle > lower else highest)


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and probabilities as (n,) float64 arrays.

    In float64 because NumPy would otherwise round a threshold to float32 to compare it with float32 values.

    Raises:
        ValueError: if the lengths differ, there is no image, a label is not 0 or 1, or a probability is
            outside [0, 1]; the message names the first such row.
    """
    labels, probabilities = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape or not len(labels):
        raise ValueError(
            "labels and probabilities should be two lists of the same length, at least 1, "
            f"got shapes {labels.shape} and {probabilities.shape}"
        )
    for name, values, right, expected in (
        ("label", labels, np.isin(labels, (0, 1)), "0 or 1"),
        ("probability", probabilities, (probabilities >= 0) & (probabilities <= 1), "in [0, 1]"),
    ):
        if not right.all():
            row = int(np.flatnonzero(~right)[0])
            raise ValueError(f"every {name} should be {expected}, got {values[row]} in row {row}")
    return labels, probabilities


def none_if_nan(value: float) -> float | None:
    """Returns a plain float, or `None` for NaN, which JSON does not know."""
    return None if math.isnan(value) else float(value)


def _weights_by_probability(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of positives and of negatives at each distinct probability, in ascending order."""
    order = np.argsort(probabilities, kind="stable")
    starts = np.flatnonzero(np.diff(probabilities[order], prepend=-1.0))
    positive = np.add.reduceat((weights * labels)[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (1 - labels))[:, order], starts, axis=1)
    return positive, negative


def _auc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    below = np.cumsum(negative, axis=1) - negative
    right_pairs = (positive * (below + negative / 2)).sum(axis=1)
    return _divide(right_pairs, positive.sum(axis=1) * negative.sum(axis=1))


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    true_positive = np.cumsum(positive[:, ::-1], axis=1)
    found = true_positive + np.cumsum(negative[:, ::-1], axis=1)
    # A probability above all drawn images has found nothing: no gain in recall, so any precision will do.
    precision = true_positive / np.where(found > 0, found, 1)
    summed = (positive[:, ::-1] * precision).sum(axis=1)
    return np.where(negative.any(axis=1), _divide(summed, positive.sum(axis=1)), np.nan)


def _summed_calibration_gaps(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    bins = np.clip(np.ceil(probabilities * CALIBRATION_BINS) - 1, 0, None)
    in_bin = bins[:, None] == np.arange(CALIBRATION_BINS)
    return np.abs(weights @ (in_bin * (labels - probabilities)[:, None])).sum(axis=1)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient, NaN where the denominator is zero."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    quotient = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
