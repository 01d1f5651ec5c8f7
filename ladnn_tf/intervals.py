"""Confidence intervals: bootstrap over patients, paired bootstrap of two models, Wilson's for a share.

The slices of one patient resemble each other, so an interval that draws single slices is too narrow. Here
whole patients are drawn with replacement, with all their images (the cluster bootstrap: Davison and Hinkley
1997; Field and Welsh 2007), and the interval is the percentile interval (Efron 1979).

A statistic is a function of image weights (resamples, n), how often each image was drawn, that returns one
(resamples,) array per name, NaN where undefined: thousands of resamples are then a few matrix products.
`ladnn_tf.metrics` has such functions.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]

_WEIGHTS_AT_ONCE = 4_000_000  # 32 MB of float64, whatever the numbers of images and of resamples


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; `None` is undefined.

    Attributes:
        value: on the images as they are.
        low: lower limit.
        high: upper limit.
        undefined_resamples: resamples left out because the value is undefined in them.
        method: `bootstrap` or `wilson`, `None` without an interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined_resamples: int = 0
    method: str | None = None


@dataclass(frozen=True)
class PairedDifference:
    """A metric of two models on the same images; `None` is undefined.

    Attributes:
        a: of the first model.
        b: of the second model.
        difference: a - b.
        low: lower limit of the difference.
        high: upper limit of the difference.
        p: two-sided p-value of no difference; of a single test, without a correction for many. `None` without an
            interval.
        undefined_resamples: resamples left out because either value is undefined in them.
    """

    a: float | None
    b: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    undefined_resamples: int = 0


def bootstrap_patients(
    patients: ArrayLike,
    statistic: Statistic,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Returns each value of a statistic with its percentile interval over resampled patients.

    An interval is left out (`None`) where there is nothing to resample (a single patient, or an undefined
    value) and where it has zero width: a sensitivity of 1 is 1 in every resample, and "[1, 1]" would claim a
    certainty that the data do not give (use `wilson_interval` for a share).

    Args:
        patients: (n,) the patient of each image, any type that can be compared.
        statistic: see the module's description.
        resamples: number of resamples, at least 1.
        seed: of the resamples; equal seeds and patients draw the same patients.
        level: confidence, inside (0, 1).

    Returns:
        An `Interval` per name that the statistic returns.

    Raises:
        ValueError: if there is no image, or `resamples` or `level` is out of range.
    """
    samples = _resampled(patients, statistic, resamples, seed)
    intervals = {}
    for name, (value,) in statistic(np.ones((1, len(patients)))).items():
        defined = samples[name][np.isfinite(samples[name])]
        if not np.isfinite(value):
            intervals[name] = Interval(None, undefined_resamples=resamples - len(defined))
            continue
        low, high = _percentiles(defined, level)
        if low is None or low == high:
            intervals[name] = Interval(float(value), undefined_resamples=resamples - len(defined))
        else:
            intervals[name] = Interval(float(value), low, high, resamples - len(defined), "bootstrap")
    return intervals


def paired_bootstrap(
    patients: ArrayLike,
    statistic_a: Statistic,
    statistic_b: Statistic,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Returns the differences a - b of two models' values, with intervals from the same resamples for both.

    Hard images are hard for both models; resampling them together removes that share of the variance, which
    two separate intervals keep.

    The p-value inverts the percentile interval (Efron and Tibshirani 1993): it is twice the smaller share of
    resamples on either side of zero. The observed sample counts as one more resample (Davison and Hinkley
    1997), so that it is never 0.

    Interval and p-value are left out (`None`) where there is nothing to resample and where the interval has zero
    width, as by `bootstrap_patients`: with one patient per class every resample has the same difference, and
    "[+13.5, +13.5]" would claim a certainty that the data do not give. So it is with two equal models.

    Args:
        patients: (n,) the patient of each image.
        statistic_a: of the first model, on these images in this order.
        statistic_b: of the second model, on the same images in the same order.
        resamples: number of resamples, at least 1.
        seed: of the resamples.
        level: confidence, inside (0, 1).

    Returns:
        A `PairedDifference` per name that both statistics return.

    Raises:
        ValueError: as `bootstrap_patients`.
    """
    samples_a = _resampled(patients, statistic_a, resamples, seed)
    samples_b = _resampled(patients, statistic_b, resamples, seed)
    ones = np.ones((1, len(patients)))
    values_a, values_b = statistic_a(ones), statistic_b(ones)
    differences = {}
    for name in values_a:
        if name not in values_b:
            continue
        a, b = (None if np.isnan(v[name][0]) else float(v[name][0]) for v in (values_a, values_b))
        change = samples_a[name] - samples_b[name]
        change = change[np.isfinite(change)]
        undefined = resamples - len(change)
        low, high = _percentiles(change, level)
        if a is None or b is None:
            differences[name] = PairedDifference(a, b, undefined_resamples=undefined)
        elif low is None or low == high:
            differences[name] = PairedDifference(a, b, a - b, undefined_resamples=undefined)
        else:
            one_side = min((change <= 0).sum(), (change >= 0).sum())
            p = min(1.0, 2 * (one_side + 1) / (len(change) + 1))
            differences[name] = PairedDifference(a, b, a - b, low, high, float(p), undefined)
    return differences


def weighted_means(values: np.ndarray, names: Sequence[str]) -> Statistic:
    """The statistic that is the weighted mean of each column, over the images where it is defined.

    Args:
        values: (n, m) float, NaN where undefined.
        names: of the m columns.
    """
    defined = np.isfinite(values)
    filled = np.where(defined, values, 0.0)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = weights @ defined
        sums = weights @ filled
        means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        return dict(zip(names, means.T, strict=True))

    return statistic


def paired_means(a: np.ndarray, b: np.ndarray, names: Sequence[str]) -> tuple[Statistic, Statistic]:
    """`weighted_means` of two sources for `paired_bootstrap`, over the images where both are defined.

    Args:
        a, b: (n, m) float, NaN where undefined.
        names: of the m columns.
    """
    both = np.isfinite(a) & np.isfinite(b)
    return weighted_means(np.where(both, a, np.nan), names), weighted_means(np.where(both, b, np.nan), names)


def patient_weights(patients: ArrayLike, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields image weights: how often each image's patient was drawn.

    Args:
        patients: (n,) the patient of each image, any type that can be compared.
        resamples: number of resamples, at least 1.
        seed: of the resamples; equal seeds and patients draw the same patients.

    Yields:
        (part of the resamples, n) float64, so many rows at once as fit into little memory.

    Raises:
        ValueError: if there is no image, or `resamples` is out of range.
    """
    patients = np.asarray(patients)
    if not len(patients):
        raise ValueError("a bootstrap over patients needs at least one image, got none")
    if resamples < 1:
        raise ValueError(f"the number of resamples should be at least 1, got {resamples}")
    names, patient_of_image = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // len(patients))
    equal = np.full(len(names), 1 / len(names))
    for start in range(0, resamples, at_once):
        drawn = generator.multinomial(len(names), equal, size=min(at_once, resamples - start))
        yield drawn[:, patient_of_image].astype(np.float64)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval (1927) of a share, which is sound at 0, at 1 and for small n.

    For example `wilson_interval(81, 263)` is (0.2553, 0.3662) (Newcombe 1998, method 3).

    Args:
        successes: from 0 to n.
        n: number of independent trials, at least 1.
        level: confidence, inside (0, 1).

    Returns:
        Lower and upper limit, in [0, 1].

    Raises:
        ValueError: if `n` is below 1, `successes` is not in [0, n], or the level is out of range.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share needs n >= 1 and 0 <= successes <= n, got {successes} of {n}")
    _check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (successes + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(successes * (n - successes) / n + z**2 / 4)
    # Rounding would otherwise leave 1e-17 for a limit that is 0, or 0.9999999999999999 for one that is 1.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def _resampled(patients: ArrayLike, statistic: Statistic, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the statistic's values in all resamples, (resamples,) each."""
    parts = [statistic(weights) for weights in patient_weights(patients, resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _percentiles(samples: np.ndarray, level: float) -> tuple[float, float] | tuple[None, None]:
    """Returns the percentile interval of the defined samples, or a pair of `None` where there are none."""
    _check_level(level)
    if not len(samples):
        return None, None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the confidence level should be inside (0, 1), such as 0.95, got {level}")
