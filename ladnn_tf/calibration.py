"""Temperature scaling: one number that makes a trained network's probabilities mean what they say.

Guo et al. (2017), "On calibration of modern neural networks", section 4.2: the logits are divided by a
temperature T > 0 that minimises the negative log-likelihood on validation data. The order of the images, and
so the AUC and every decision at 0.5, stays as it is.
"""

import itertools

import numpy as np
from absl import logging
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit

from ladnn_tf.card import ScoreBin
from ladnn_tf.intervals import wilson_interval

SCORE_BINS = 5
"""Equal-width bins in which a card tells how often validation was positive; few, as validation is small."""

TEMPERATURE_BOUNDS = (0.05, 20.0)
# A table saved with six digits agrees better than this; another temperature does not.
_TOLERANCE = 1e-3


def calibrated_probabilities(logits: ArrayLike, temperature: float) -> np.ndarray:
    """Returns sigmoid(logits / temperature) in float64, of the logits' shape.

    Raises:
        ValueError: if the temperature is not a finite number above 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"the temperature should be a finite number above 0, got {temperature}")
    return expit(np.asarray(logits, np.float64) / temperature)


def worst_mismatch(logits: ArrayLike, probabilities: ArrayLike, temperature: float) -> int | None:
    """Returns the row whose probability is furthest from what its logit gives at a temperature.

    Args:
        logits: (n,), at least one.
        probabilities: (n,) in [0, 1], such as a file has them.
        temperature: that they are said to be calibrated with.

    Returns:
        The row, from 0; None where all agree within `_TOLERANCE`.

    Raises:
        ValueError: as `calibrated_probabilities`.
    """
    off = np.abs(calibrated_probabilities(logits, temperature) - np.asarray(probabilities, np.float64))
    row = int(np.argmax(off))
    return None if off[row] <= _TOLERANCE else row


def score_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = SCORE_BINS) -> tuple[ScoreBin, ...]:
    """Counts how often images with such a score were positive, to be called with validation data.

    The intervals are Wilson's, as if the images were independent; several slices of a patient make them too
    narrow.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) calibrated, in [0, 1].
        bins: how many of equal width; a probability on an edge belongs to the upper bin, 1 to the last.

    Returns:
        The bins from 0 to 1, empty ones too.

    Raises:
        ValueError: if the lengths differ, there is no image, or a value is out of range.
    """
    labels, probabilities = _checked(labels, probabilities)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError(f"probabilities should be in [0, 1], got {probabilities.min()} to {probabilities.max()}")
    edges = [number / bins for number in range(bins + 1)]
    of_image = np.searchsorted(edges[1:-1], probabilities, side="right")
    found = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        images = int((of_image == number).sum())
        positives = int(labels[of_image == number].sum())
        interval = wilson_interval(positives, images) if images else None
        found.append(ScoreBin(low, high, images, positives, interval))
    return tuple(found)


def fit_temperature(
    labels: ArrayLike, logits: ArrayLike, bounds: tuple[float, float] = TEMPERATURE_BOUNDS
) -> float:
    """Returns the temperature that minimises the negative log-likelihood, to be called with validation data.

    The likelihood is convex in 1 / T; its only stationary point is found by root finding, without a random
    start. Where the data do not determine a temperature, it is 1 (nothing changed) with a warning:

    - a class is missing;
    - every positive's logit is above 0 and every negative's below: the likelihood then grows without limit
      as T falls to 0, and any low value would turn the probabilities into exact 0 and 1 and lose their order.

    A minimum outside the bounds gives the nearer bound with a warning: the upper one, for instance, where the
    logits do not separate the classes at all.

    Args:
        labels: (n,) 0 or 1.
        logits: (n,) finite, before any calibration.
        bounds: lowest and highest temperature, 0 < lowest < highest.

    Raises:
        ValueError: if the lengths differ, there is no image, a label is not 0 or 1, a logit is not finite, or
            the bounds are out of order.
    """
    labels, logits = _checked(labels, logits)
    lowest, highest = bounds
    if not 0 < lowest < highest:
        raise ValueError(f"the bounds should be 0 < lowest < highest, got {bounds}")
    if labels.min() == labels.max():
        logging.warning("Temperature left at 1: all %d validation labels are %d.", len(labels), labels[0])
        return 1.0
    if np.all((2 * labels - 1) * logits > 0):
        logging.warning(
            "Temperature left at 1: the %d validation images are all on the right side of logit 0, so that"
            " their likelihood has no maximum.",
            len(labels),
        )
        return 1.0

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood by 1 / T; it never falls."""
        return float(np.mean(logits * (expit(logits * inverse) - labels)))

    if slope(1 / highest) >= 0:
        logging.warning("Temperature at its upper bound %g: the logits hardly tell the classes apart.", highest)
        return float(highest)
    if slope(1 / lowest) <= 0:
        logging.warning("Temperature at its lower bound %g: the logits are very small.", lowest)
        return float(lowest)
    return float(1 / brentq(slope, 1 / highest, 1 / lowest))


def _checked(labels: ArrayLike, logits: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    if labels.ndim != 1 or labels.shape != logits.shape or not len(labels):
        raise ValueError(
            "labels and logits should be two lists of the same length, at least 1, "
            f"got shapes {labels.shape} and {logits.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"every label should be 0 or 1, got {sorted(set(labels))[:5]}")
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise ValueError(f"every logit should be finite, got {logits[row]} in row {row}")
    return labels, logits
