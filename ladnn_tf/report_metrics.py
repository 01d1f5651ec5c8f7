"""Metrics with their intervals, ready for JSON: of a diagnosis and of classes, for images or for persons."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ladnn_tf import intervals, metrics, metrics_classes

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Point:
    """An operating point.

    Attributes:
        threshold: of the probability, in [0, 1].
        rule: how it was chosen, in words.
        probabilities: (n,) that are cut there.
    """

    threshold: float
    rule: str
    probabilities: np.ndarray


def counts(table: pd.DataFrame, labels: pd.Series) -> dict[str, int]:
    """Numbers of images, patients and positives of a table with a row per image."""
    return {
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "positives": int(labels.sum()),
    }


def diagnosis(
    patients: ArrayLike,
    labels: np.ndarray,
    probabilities: np.ndarray,
    points: Mapping[str, Point],
    options: dict,
    *,
    uncalibrated: np.ndarray | None = None,
    prevalence: float | None = None,
) -> dict:
    """Evaluates the diagnosis of COVID-19 of images, or of persons, who are then a row each.

    Args:
        patients: (n,) the patient of each row.
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        points: operating points, by name.
        options: `resamples`, `seed` and `level` of the bootstrap over patients.
        uncalibrated: (n,) probabilities before the temperature; None where there are none.
        prevalence: share of COVID-19, in (0, 1), at which to give predictive values; None for none.

    Returns:
        The metrics of the probabilities (`brier_uncalibrated` and `ece_uncalibrated` too) as dicts of an
        `intervals.Interval`, and by point `threshold`, `rule`, the metrics of the decision and `confusion`.
    """

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = metrics.probability_metrics(labels, probabilities, weights)
        if uncalibrated is not None:
            before = metrics.probability_metrics(labels, uncalibrated, weights)
            values |= {f"{name}_uncalibrated": before[name] for name in ("brier", "ece")}
        for name, point in points.items():
            decided = metrics.threshold_metrics(labels, point.probabilities, point.threshold, weights)
            if prevalence is not None:
                decided["ppv_at_prevalence"], decided["npv_at_prevalence"] = metrics.predictive_values(
                    decided["sensitivity"], decided["specificity"], prevalence
                )
            values |= {f"{name}/{metric}": value for metric, value in decided.items()}
        return values

    result = {name: {"threshold": point.threshold, "rule": point.rule} for name, point in points.items()}
    for key, interval in intervals.bootstrap_patients(patients, statistic, **options).items():
        name, _, metric = key.rpartition("/")
        if name:
            predicted = points[name].probabilities >= points[name].threshold
            interval = decision_interval(interval, metric, patients, labels, predicted)
        (result[name] if name else result)[metric] = dataclasses.asdict(interval)
    ones = np.ones((1, len(labels)))
    for name, point in points.items():
        cells = metrics.confusion(labels, point.probabilities, point.threshold, ones)
        result[name]["confusion"] = {cell: int(count[0]) for cell, count in cells.items()}
    return result


def decision_interval(
    interval: intervals.Interval, metric: str, patients: ArrayLike, labels: np.ndarray, predicted: np.ndarray
) -> intervals.Interval:
    """Returns Wilson's interval for a share of exactly 0 or 1, which a bootstrap cannot give; else the same.

    Args:
        interval: by the bootstrap.
        metric: one of `metrics.THRESHOLD_METRICS`.
        patients: (n,) the patient of each row.
        labels: (n,) 0 or 1.
        predicted: (n,) bool.
    """
    counted = {
        "sensitivity": labels == 1,
        "specificity": labels == 0,
        "precision": predicted,
        "npv": ~predicted,
        "accuracy": np.ones(len(labels), bool),
    }
    return _with_wilson(interval, patients, counted.get(metric))


def classes(
    patients: ArrayLike, labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], options: dict
) -> dict:
    """Evaluates the classes of images, or of persons, who are then a row each.

    Args:
        patients: (n,) the patient of each row.
        labels: (n,) int, the number of the true class.
        predicted: (n,) int, of the predicted class.
        names: of the classes, in the order of their numbers.
        options: as for `diagnosis`.

    Returns:
        `accuracy`; under `macro` and by class the `metrics_classes.CLASS_METRICS`, all as dicts of an
        `intervals.Interval`, and of each class its `count` of rows; `confusion`: a row of counts of predicted
        classes for each true class.
    """

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return metrics_classes.class_metrics(labels, predicted, names, weights)

    result = {metrics_classes.MACRO: {}}
    result |= {name: {"count": int(np.sum(labels == number))} for number, name in enumerate(names)}
    for key, interval in intervals.bootstrap_patients(patients, statistic, **options).items():
        group, _, metric = key.rpartition("/")
        interval = _with_wilson(interval, patients, _counted(group, metric, labels, predicted, names))
        (result[group] if group else result)[metric] = dataclasses.asdict(interval)
    ones = np.ones((1, len(labels)))
    matrix = metrics_classes.confusion_matrix(labels, predicted, len(names), ones)[0]
    return result | {"confusion": matrix.astype(int).tolist()}


def _counted(
    group: str, metric: str, labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]
) -> np.ndarray | None:
    """Returns which rows are the trials of a share; None for what is no share."""
    if metric == "accuracy":
        return np.ones(len(labels), bool)
    if group not in names:
        return None
    number = names.index(group)
    rows = {"recall": labels == number, "precision": predicted == number, "specificity": labels != number}
    return rows.get(metric)


def _with_wilson(
    interval: intervals.Interval, patients: ArrayLike, counted: np.ndarray | None
) -> intervals.Interval:
    # The trials are patients, not images: the images of a patient may be right or wrong together.
    if counted is None or interval.value not in (0.0, 1.0) or interval.low is not None:
        return interval
    trials = len(np.unique(np.asarray(patients)[counted]))
    low, high = intervals.wilson_interval(round(interval.value * trials), trials, LEVEL)
    return dataclasses.replace(interval, low=low, high=high, method="wilson")
