"""Tests of AUCs that were measured on the same images, several of them of the same patient.

DeLong, DeLong and Clarke-Pearson (1988) estimate the covariance of correlated AUCs from the placement values
of the images. Obuchowski (1997) does so for clustered data: here the images of a patient are a cluster. With
one image for each patient both are the same.

Notation as in Obuchowski (1997): m positives X, n negatives Y; V10(X) is the share of the negatives that score
below X, V01(Y) the share of the positives that score above Y, ties counting a half; the AUC is the mean of either.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

# A contrast of equal scores has variance 0, but for rounding: this share of the variance of uncorrelated AUCs.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class AucContrast:
    """A weighted sum of AUCs and the test that it is 0; `None` is undefined.

    Attributes:
        value: the sum.
        standard_error: of the sum.
        z: value / standard error.
        p: two-sided, by the normal distribution; of a single test, without a correction for many.
    """

    value: float | None
    standard_error: float | None = None
    z: float | None = None
    p: float | None = None


def auc_covariance(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns AUCs on the same images and their covariance (Obuchowski 1997, section 3).

    With I patients, of whom I10 have a positive and I01 a negative, and the deviations of a patient's sum,
    D10 = sum of V10 - AUC over its positives and D01 likewise over its negatives:

    covariance = S10 / m + S01 / n + (S11 + S11') / (m n), where S10 = I10 / ((I10 - 1) m) x sum of D10 D10',
    S01 = I01 / ((I01 - 1) n) x sum of D01 D01' and S11 = I / (I - 1) x sum of D10 D01'.

    Args:
        labels: (n,) 0 or 1.
        scores: (models, n), higher for label 1; finite.
        patients: (n,) the patient of each image, any type that can be compared.

    Returns:
        The AUCs (models,) and their covariance (models, models), float64. Both are NaN where a class is missing,
        the covariance also where only one patient has a positive or only one a negative.

    Raises:
        ValueError: if the shapes do not fit, there is no image, a label is not 0 or 1, or a score is not finite.
    """
    labels, scores, patients = _checked(labels, scores, patients)
    models = len(scores)
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    undefined = np.full((models, models), np.nan)
    if not m or not n:
        return undefined[0], undefined
    ranks = rankdata(scores, axis=1)
    placed = np.empty_like(ranks)
    placed[:, positive] = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / n
    placed[:, ~positive] = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / m
    aucs = placed[:, positive].mean(axis=1)

    names, patient_of_image = np.unique(patients, return_inverse=True)
    of_patient = patient_of_image == np.arange(len(names))[:, None]
    with_positive, with_negative = (int((of_patient & each).any(axis=1).sum()) for each in (positive, ~positive))
    if with_positive < 2 or with_negative < 2:
        return aucs, undefined
    deviations = placed - aucs[:, None]
    d10 = (deviations * positive) @ of_patient.T
    d01 = (deviations * ~positive) @ of_patient.T
    s10 = with_positive / ((with_positive - 1) * m) * d10 @ d10.T
    s01 = with_negative / ((with_negative - 1) * n) * d01 @ d01.T
    s11 = len(names) / (len(names) - 1) * d10 @ d01.T
    return aucs, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def auc_contrast(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, weights: ArrayLike) -> AucContrast:
    """Tests a weighted sum of AUCs against 0, such as the difference of two models with weights (1, -1).

    The patients are what is drawn at random. Weights (1/3, 1/3, 1/3, -1/3, -1/3, -1/3) compare two means over
    three trained networks each, and say nothing of networks trained with other seeds.

    Args:
        labels: (n,) 0 or 1.
        scores: (models, n), higher for label 1.
        patients: (n,) the patient of each image.
        weights: (models,) of the AUCs in the sum.

    Returns:
        The sum with its test. All is `None` where a class is missing; all but the value where one class is of a
        single patient; z and p where the sum has no variance, as for equal scores.

    Raises:
        ValueError: as `auc_covariance`, or if there is not one weight for each model.
    """
    aucs, covariance = auc_covariance(labels, scores, patients)
    weights = np.asarray(weights, np.float64)
    if weights.shape != aucs.shape:
        raise ValueError(f"weights should have shape {aucs.shape}, one for each model, got {weights.shape}")
    value, variance = float(weights @ aucs), float(weights @ covariance @ weights)
    if math.isnan(value):
        return AucContrast(None)
    if math.isnan(variance):
        return AucContrast(value)
    # Obuchowski's estimate may fall below 0 where positives and negatives of a patient go together.
    if variance <= _ROUNDING * float(weights**2 @ np.abs(np.diag(covariance))):
        return AucContrast(value, 0.0)
    error = math.sqrt(variance)
    return AucContrast(value, error, value / error, float(2 * norm.sf(abs(value / error))))


def _checked(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores, patients = np.asarray(labels), np.asarray(scores, np.float64), np.asarray(patients)
    if labels.ndim != 1 or not len(labels) or patients.shape != labels.shape:
        raise ValueError(
            "labels and patients should be two lists of the same length, at least 1, "
            f"got shapes {labels.shape} and {patients.shape}"
        )
    if scores.ndim != 2 or not len(scores) or scores.shape[1] != len(labels):
        raise ValueError(f"scores should have shape (models, {len(labels)}), got {scores.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"every label should be 0 or 1, got {labels[~np.isin(labels, (0, 1))][0]}")
    if not np.isfinite(scores).all():
        raise ValueError("every score should be finite")
    return labels, scores, patients
