"""From which probability a lesion counts as found: chosen on validation, where validation can tell."""

import numpy as np

from ladnn_tf import intervals, metrics, runs
from ladnn_tf.data import pipeline
from ladnn_tf.labels import LESIONS

DEFAULT = 0.5
_FEWEST = 5


def lesion_thresholds(run: runs.Run) -> tuple[dict[str, float], tuple[str, ...]]:
    """The probability from which each lesion counts as found.

    It is chosen on the run's validation predictions: the highest threshold with the largest sensitivity plus
    specificity (Youden 1950) over the images whose label is known; those without COVID-19 count as known to have
    none where the run learnt them so (`--lesion_targets=all`). It is 0.5 where validation cannot tell: where fewer
    than five images have the lesion, or have it not, or the 95 % interval of its AUC over patients reaches down to
    0.5.

    Args:
        run: whose `predictions_validation.csv` is read.

    Returns:
        By lesion, in [0, 1], and the lesions whose threshold was not chosen; both empty for the baseline.

    Raises:
        ValueError: if there are no validation predictions.
    """
    if run.card.task == "baseline":
        return {}, ()
    table = runs.read_predictions(run.folder, "validation")
    targets = pipeline.targets(table, run.config.lesion_targets)["lesions"]
    thresholds, not_chosen = {}, []
    for lesion, labels in zip(LESIONS, targets.T, strict=True):
        known = labels != pipeline.UNKNOWN
        probabilities = table[f"{lesion}_probability"].to_numpy()
        if _told_apart(labels[known], probabilities[known], table["patient"].to_numpy()[known]):
            thresholds[lesion] = _youden(labels[known], probabilities[known])
        else:
            thresholds[lesion] = DEFAULT
            not_chosen.append(lesion)
    return thresholds, tuple(not_chosen)


def _told_apart(labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray) -> bool:
    if min((labels == 1).sum(), (labels == 0).sum()) < _FEWEST:
        return False
    auc = intervals.bootstrap_patients(
        patients, lambda weights: {"auc": metrics.probability_metrics(labels, probabilities, weights)["auc"]}
    )["auc"]
    return auc.value == 1.0 or (auc.low is not None and auc.low > 0.5)


def _youden(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The middle between the lowest probability that is to count and the next lower one."""
    levels = np.unique(probabilities)[::-1]
    ones = np.ones((1, len(labels)))
    gains = []
    for level in levels:
        decided = metrics.threshold_metrics(labels, probabilities, level, ones)
        gains.append(decided["sensitivity"][0] + decided["specificity"][0])
    best = int(np.argmax(gains))
    lower = levels[best + 1] if best + 1 < len(levels) else levels[best]
    return float((levels[best] + lower) / 2)
