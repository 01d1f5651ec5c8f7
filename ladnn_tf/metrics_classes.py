"""Metrics of a classifier of several classes, for one sample and, by image weights, for thousands of resamples.

As in `ladnn_tf.metrics`, undefined is NaN, and functions with `weights` take one row of weights per resample. The
class with the highest probability is predicted; of equal ones the first. F1 is the harmonic mean of precision and
recall; Song et al. print (precision + recall) / 2 under that name.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

CLASS_METRICS = ("recall", "precision", "specificity", "f1")
"""Of each class against all others."""

MACRO = "macro"
"""Before the names of the metrics that are averaged over the classes, each class with the same weight."""

_SUM_TOLERANCE = 1e-3  # float16 and a table of six digits are well within


def predicted_classes(probabilities: ArrayLike) -> np.ndarray:
    """Returns the number of each row's class, (n,) int.

    Args:
        probabilities: (n, C) in [0, 1], at least two classes; each row's sum is 1.

    Raises:
        ValueError: if the shape is another, a probability is outside [0, 1], or a row's sum is not 1.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"class probabilities should be (n, C) with C at least 2, got {probabilities.shape}")
    right = ((probabilities >= 0) & (probabilities <= 1)).all(axis=1)
    right &= np.abs(probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE
    if not right.all():
        row = int(np.flatnonzero(~right)[0])
        raise ValueError(
            "class probabilities should be in [0, 1] with a sum of 1, got "
            f"{probabilities[row].tolist()} in row {row}"
        )
    return probabilities.argmax(axis=1)


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted confusion matrices: (resamples, C, C) float64, [:, true class, predicted class].

    Args:
        labels: (n,) int in [0, classes).
        predicted: (n,) the same.
        classes: their number C.
        weights: (resamples, n) not negative.

    Raises:
        ValueError: if the lengths differ, there is no image, or a number is no class.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.ndim != 1 or labels.shape != predicted.shape or not len(labels):
        raise ValueError(
            "true and predicted classes should be two lists of the same length, at least 1, got shapes "
            f"{labels.shape} and {predicted.shape}"
        )
    for name, values in (("true", labels), ("predicted", predicted)):
        wrong = ~np.isin(values, np.arange(classes))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"every {name} class should be from 0 to {classes - 1}, got {values[row]} in row {row}"
            )
    cells = labels.astype(int) * classes + predicted.astype(int)
    return (weights @ np.eye(classes * classes)[cells]).reshape(-1, classes, classes)


def class_metrics(
    labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns accuracy, and recall, precision, specificity and F1 of each class and averaged over the classes.

    With a class's true positives tp and so on against all others: recall tp / (tp + fn), precision tp / (tp + fp),
    specificity tn / (tn + fp), f1 2 tp / (2 tp + fp + fn). A zero denominator is undefined; precision and f1 are
    so, too, unless there are images both of the class and of others. A mean over classes is undefined where one of
    them is: the macro precision of a model that never calls a class is, and its macro F1 counts a 0 for it.

    Args:
        labels: (n,) int, numbers of the true classes.
        predicted: (n,) int, of the predicted ones.
        classes: names, in the order of the numbers.
        weights: (resamples, n) not negative.

    Returns:
        (resamples,) float64 arrays, NaN where undefined: `accuracy`, `<class>/<metric>` and `macro/<metric>` for
        each of `CLASS_METRICS`.

    Raises:
        ValueError: as `confusion_matrix`.
    """
    matrix = confusion_matrix(labels, predicted, len(classes), weights)
    total = matrix.sum(axis=(1, 2))[:, None]
    true_positive = np.einsum("rcc->rc", matrix)
    actual, called = matrix.sum(axis=2), matrix.sum(axis=1)
    others = total - actual
    both = (actual > 0) & (others > 0)
    values = {
        "recall": _divide(true_positive, actual),
        "precision": _divide(true_positive, np.where(both, called, 0)),
        "specificity": _divide(others - (called - true_positive), others),
        "f1": _divide(2 * true_positive, np.where(both, actual + called, 0)),
    }
    found = {"accuracy": _divide(true_positive.sum(axis=1), total[:, 0])}
    for metric in CLASS_METRICS:
        found[f"{MACRO}/{metric}"] = values[metric].mean(axis=1)
    for number, name in enumerate(classes):
        found |= {f"{name}/{metric}": values[metric][:, number] for metric in CLASS_METRICS}
    return found


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
