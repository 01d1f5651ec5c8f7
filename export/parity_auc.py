"""The gate's judgement of what a quantised model loses of the AUC, and on what that can be judged at all."""

import numpy as np

from export import parity_columns
from export.artefacts import Artefact
from export.parity_columns import COLUMNS
from export.parity_evidence import Evidence, Sample
from export.parity_tolerances import ROUNDING, Tolerances

MINIMUM_AUC = 0.75
"""Below it a model can lose little: the loss of AUC is then looked for on phantoms."""

MINIMUM_OF_CLASS = 20
"""Images of each class without which an AUC says nothing."""

MINIMUM_OF_DECISION = 10
"""Images of each of the run's own decisions without which they are not used in the place of labels."""


def auc_lost(
    evidence: Evidence, artefact: Artefact, thresholds: tuple[float, float], tolerances: Tolerances, measured: dict
) -> list[str]:
    """Judges the loss of AUC on the images, else on phantoms, else by the run's own decisions on the images.

    Args:
        evidence: of the run.
        artefact: the exported model.
        thresholds: of the run's card and of the artefact's.
        tolerances: of the judgement.
        measured: has the columns of the images; `phantoms` and `auc_judged_on` are written.

    Returns:
        The reasons against the artefact, a sentence each.
    """
    reasons = []
    images = {name: measured[name] for name in COLUMNS}
    if shows_loss(evidence.sample):
        measured["auc_judged_on"] = "images"
        return _too_large(images, tolerances)
    reasons += _surely_too_large(evidence.sample, images, tolerances)
    phantoms = parity_columns.ask(evidence.phantoms, artefact, thresholds, reasons, parity_columns.losses)
    measured["phantoms"] = {"data": evidence.phantoms.data, **phantoms}
    if shows_loss(evidence.phantoms):
        measured["auc_judged_on"] = "phantoms"
        return reasons + _too_large(phantoms, tolerances, "phantoms, ")
    decided = int((evidence.sample.reference.covid >= thresholds[0]).sum())
    if min(decided, len(evidence.sample.labels) - decided) >= MINIMUM_OF_DECISION:
        measured["auc_judged_on"] = "own decisions"
        return reasons + _decisions_lost(images, tolerances)
    measured["auc_judged_on"] = "nothing"
    found = [_sample_text(sample) for sample in (evidence.sample, evidence.phantoms)]
    return [
        *reasons,
        f"the loss of AUC cannot be judged: the run's own AUC is {found[0]} on the images and {found[1]} on "
        f"phantoms, {MINIMUM_AUC} on at least {MINIMUM_OF_CLASS} images of each class is needed on either; and "
        f"the run itself calls {decided} of {len(evidence.sample.labels)} images COVID-19, at least "
        f"{MINIMUM_OF_DECISION} of each decision are needed",
    ]


def shows_loss(sample: Sample) -> bool:
    """Whether the run's own AUC on a sample is high enough, and of enough images, for a loss to show."""
    return _enough(sample) and sample.auc >= MINIMUM_AUC


def _enough(sample: Sample) -> bool:
    return np.bincount(sample.labels, minlength=2).min() >= MINIMUM_OF_CLASS


def _too_large(columns: dict, tolerances: Tolerances, where: str = "") -> list[str]:
    return [
        f"{where}{COLUMNS[name]}: AUC {column['auc']['a']:.4f} falls to {column['auc']['b']:.4f}, a loss of "
        f"{column['auc']['difference']:.4f}; allowed are {tolerances.auc_loss:g}"
        for name, column in columns.items()
        if column is not None and column["auc"]["difference"] > tolerances.auc_loss + ROUNDING
    ]


def _surely_too_large(sample: Sample, columns: dict, tolerances: Tolerances) -> list[str]:
    """What a wreck loses on the images, where a smaller loss would not show on them."""
    if not _enough(sample):
        return []
    return [
        f"{COLUMNS[name]}: AUC {column['auc']['a']:.4f} falls to {column['auc']['b']:.4f} on the images, a loss "
        f"of at least {column['auc']['low']:.4f} by its interval; allowed are {tolerances.auc_loss:g}"
        for name, column in columns.items()
        if column is not None
        and column["auc"]["low"] is not None
        and column["auc"]["low"] > tolerances.auc_loss + ROUNDING
    ]


def _decisions_lost(columns: dict, tolerances: Tolerances) -> list[str]:
    return [
        f"{COLUMNS[name]}: the AUC by which its probabilities tell the run's own decisions is "
        f"{column['own_decisions']['b']:.4f}, a loss of {column['own_decisions']['difference']:.4f}; allowed are "
        f"{tolerances.auc_loss:g}"
        for name, column in columns.items()
        if column is not None and column["own_decisions"]["difference"] > tolerances.auc_loss + ROUNDING
    ]


def _sample_text(sample: Sample) -> str:
    if sample.auc is None:
        return "undefined (one class only)"
    positives = int(sample.labels.sum())
    return f"{sample.auc:.3f} ({positives} with COVID-19, {len(sample.labels) - positives} without)"
