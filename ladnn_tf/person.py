"""From slices to a person: one probability out of many, its interval over slices, the rule chosen on validation.

A person is positive if any of its images is labelled COVID-19.
"""

import statistics

import numpy as np
from numpy.typing import ArrayLike

from ladnn_tf import intervals, metrics
from ladnn_tf.card import PersonRule

AGGREGATIONS = ("mean", "noisy_or", "top_k_mean")
"""`mean` of the slices, as Song et al. take it; `noisy_or`: 1 - prod(1 - p), the probability that at least one
slice is positive if they were independent; `top_k_mean`: the mean of the `TOP_K` highest (all of fewer)."""

TOP_K = 3

AGGREGATION_NAMES = {
    "mean": "mean over the slices",
    "noisy_or": "noisy-or over the slices",
    "top_k_mean": f"mean of the {TOP_K} highest slices",
}

SMALLEST_CLASS = 5
"""With fewer patients of a class on validation no other aggregation than the mean is considered: the right order
of four and four is one of 70, of five and five one of 252."""

SMALLEST_SERIES = 5
"""With fewer images per patient (the lower median) no other aggregation than the mean is considered: the three
highest are then nearly all there are, and noisy-or grows with the number of slices, so that neither order nor
threshold would hold for the 15 slices of a series (of 0.05 each it is 0.10 for 2 and 0.54 for 15)."""

_LEVEL = 1 - 0.05 / (len(AGGREGATIONS) - 1)  # Bonferroni: each of the others is compared with the mean


def aggregate(probabilities: ArrayLike, aggregation: str) -> float:
    """Returns a person's probability from its slices'.

    For example 0.5 and 0.5 have the mean 0.5 and the noisy-or 0.75.

    Args:
        probabilities: (n,) in [0, 1], at least one.
        aggregation: one of `AGGREGATIONS`.

    Returns:
        In [0, 1]; of a single slice its own probability, whatever the aggregation.

    Raises:
        ValueError: if there is no slice, a probability is outside [0, 1], or the aggregation is unknown.
    """
    probabilities = _checked(probabilities, aggregation)
    if len(probabilities) == 1:  # to the last digit
        return float(probabilities[0])
    return float(_aggregated(probabilities, aggregation, np.ones((1, len(probabilities))))[0])


def slice_interval(
    probabilities: ArrayLike, aggregation: str, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Returns the percentile interval of a person's probability over resampled slices.

    It says how much the answer hangs on which slices were looked at, and nothing about the model's own error.
    Neighbouring slices resemble each other, so that it is rather too narrow. A resample never holds a higher slice
    than the highest there is: the intervals of `noisy_or` and `top_k_mean` lie mostly below the value.

    Args:
        probabilities: (n,) in [0, 1], at least one.
        aggregation: one of `AGGREGATIONS`.
        resamples: number of resamples, at least 1.
        seed: of the resamples.
        level: confidence, inside (0, 1).

    Returns:
        Lower and upper limit; None for fewer than two slices, and where all resamples are alike, such as those of
        equal slices, whose zero width would claim a certainty that the slices do not give.

    Raises:
        ValueError: as `aggregate`, or if `resamples` or `level` is out of range.
    """
    probabilities = _checked(probabilities, aggregation)
    if np.ptp(probabilities) == 0:  # else rounding would give equal slices a width of 1e-16
        return None
    found = intervals.bootstrap_patients(
        np.arange(len(probabilities)),
        lambda weights: {"value": _aggregated(probabilities, aggregation, weights)},
        resamples=resamples,
        seed=seed,
        level=level,
    )["value"]
    return None if found.low is None else (found.low, found.high)


def by_person(
    patients: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, aggregation: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aggregates the slices of many persons.

    Args:
        patients: (n,) the patient of each image, as text.
        labels: (n,) 0 or 1.
        probabilities: (n,) in [0, 1].
        aggregation: one of `AGGREGATIONS`.

    Returns:
        (m,) names in ascending order, (m,) labels, 1 where any image has 1, and (m,) probabilities, float64.

    Raises:
        ValueError: if the lengths differ, there is no image, or a label, a probability or the aggregation is not
            allowed.
    """
    labels, probabilities = metrics.checked(labels, probabilities)
    patients = np.asarray(patients).astype(str)
    if patients.shape != labels.shape:
        raise ValueError(f"there should be a patient for each of {len(labels)} images, got shape {patients.shape}")
    names, person = np.unique(patients, return_inverse=True)
    positive = np.zeros(len(names))
    np.maximum.at(positive, person, labels)
    order = np.argsort(person, kind="stable")
    slices = np.split(probabilities[order], np.flatnonzero(np.diff(person[order])) + 1)
    return names, positive, np.array([aggregate(each, aggregation) for each in slices])


def choose_rule(
    patients: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, target_sensitivity: float
) -> PersonRule | None:
    """Chooses aggregation and threshold of a person's answer, to be called with validation data only.

    The mean is taken, as in the paper, unless another aggregation orders the persons better beyond chance: its
    AUC over persons minus the mean's has a paired bootstrap interval above 0 (95 % for both others together), and
    there are `SMALLEST_CLASS` persons of either class, who have `SMALLEST_SERIES` images or more. Of two such the
    one with the higher AUC is taken. The AUC is the criterion as the threshold is chosen afterwards, so that only
    the order counts. On a small validation set, where all may have an AUC of 1, this is the mean.

    The threshold is chosen over persons as the slices' is over slices (`metrics.choose_threshold`).

    Args:
        patients: (n,) the patient of each image, as text.
        labels: (n,) 0 or 1.
        probabilities: (n,) calibrated, in [0, 1].
        target_sensitivity: over persons, in (0, 1].

    Returns:
        The rule; None with fewer than two persons of either class, on which nothing can be chosen.

    Raises:
        ValueError: as `by_person`, or if the target is outside (0, 1].
    """
    persons = {each: by_person(patients, labels, probabilities, each) for each in AGGREGATIONS}
    names, positive, _ = persons["mean"]
    _, images = np.unique(np.asarray(patients).astype(str), return_counts=True)
    slices = statistics.median_low(images.tolist())
    smaller = int(min(positive.sum(), len(positive) - positive.sum()))
    if smaller < 2:
        return None
    better = {}
    others = AGGREGATIONS[1:] if smaller >= SMALLEST_CLASS and slices >= SMALLEST_SERIES else ()
    for other in others:
        auc = intervals.paired_bootstrap(
            names, _auc(*persons[other][1:]), _auc(*persons["mean"][1:]), level=_LEVEL
        )
        found = auc["auc"]
        # Without a width every resample has the same difference.
        if (found.difference if found.low is None else found.low) > 0:
            better[other] = found.a
    chosen = max(better, key=better.__getitem__, default="mean")
    threshold = metrics.choose_threshold(positive, persons[chosen][2], target_sensitivity)
    why = "neither other aggregation has a higher AUC beyond chance"
    if chosen in better:
        why = "its AUC is higher than the mean's beyond chance"
    elif smaller < SMALLEST_CLASS:
        why = "too few patients to choose another"
    elif slices < SMALLEST_SERIES:
        why = f"too few images of each patient, about {slices}, to choose another"
    rule = (
        f"{AGGREGATION_NAMES[chosen]} ({why}), and the highest threshold with a sensitivity of at least "
        f"{target_sensitivity:g}, over the {len(names)} patients of validation"
    )
    return PersonRule(chosen, threshold, rule, len(names), int(positive.sum()), slices)


def _auc(labels: np.ndarray, probabilities: np.ndarray) -> intervals.Statistic:
    return lambda weights: {"auc": metrics.probability_metrics(labels, probabilities, weights)["auc"]}


def _checked(probabilities: ArrayLike, aggregation: str) -> np.ndarray:
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation should be one of {', '.join(AGGREGATIONS)}. Received: {aggregation!r}")
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 1 or not len(probabilities):
        raise ValueError(
            "a person's answer needs the probabilities of its slices, (n,) with n at least 1, got shape "
            f"{probabilities.shape}"
        )
    right = (probabilities >= 0) & (probabilities <= 1)
    if not right.all():
        row = int(np.flatnonzero(~right)[0])
        raise ValueError(f"every probability should be in [0, 1], got {probabilities[row]} in slice {row}")
    return probabilities


def _aggregated(probabilities: np.ndarray, aggregation: str, weights: np.ndarray) -> np.ndarray:
    """Returns (resamples,) values; weights (resamples, n) are how often each slice was drawn, n in all."""
    if aggregation == "mean":
        return weights @ probabilities / len(probabilities)
    if aggregation == "noisy_or":
        with np.errstate(divide="ignore"):  # a slice of 1 has the logarithm -inf, and the noisy-or is 1
            none = np.log1p(-probabilities)
        # Not a product: 1 - (1 - 1e-20) would be 0.
        powers = np.multiply(weights, none, out=np.zeros_like(weights), where=weights > 0)
        return np.abs(np.expm1(powers.sum(axis=1)))
    order = np.argsort(-probabilities, kind="stable")
    drawn = weights[:, order]
    before = np.cumsum(drawn, axis=1) - drawn
    top = min(TOP_K, len(probabilities))
    return np.clip(top - before, 0, drawn) @ probabilities[order] / top
