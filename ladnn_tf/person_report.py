"""The sections `persons` and `classes` of an evaluation: what is said of a person out of its slices."""

import dataclasses

import numpy as np
import pandas as pd

from ladnn_tf import intervals, metrics, metrics_classes, report_metrics
from ladnn_tf.card import PersonRule
from ladnn_tf.labels import CLASSES, COVID
from ladnn_tf.person import by_person

WITHOUT_RULE = (
    "no rule for persons was chosen on validation (an older run, or fewer than two patients of a class there); "
    "mean over the slices, at the threshold of the slices"
)

AS_IN_THE_PAPER = "mean over the slices, as Song et al. cut it"


def person_point(table: pd.DataFrame, rule: PersonRule | None, threshold: float) -> report_metrics.Point:
    """Aggregates a run's answers per person as its card says.

    Args:
        table: predictions with a row per image, `patient`, `covid` and `covid_probability`.
        rule: of the card; None for the mean over the slices.
        threshold: of the slices, taken where there is no rule.

    Returns:
        The operating point, its probabilities by patient in ascending order.
    """
    if rule is None:
        return report_metrics.Point(float(threshold), WITHOUT_RULE, _aggregated(table, "mean"))
    return report_metrics.Point(rule.threshold, rule.rule, _aggregated(table, rule.aggregation))


def paper_point(table: pd.DataFrame) -> report_metrics.Point:
    """The same as the paper has it: the mean over the slices at 0.5."""
    return report_metrics.Point(0.5, AS_IN_THE_PAPER, _aggregated(table, "mean"))


def evaluate_persons(
    table: pd.DataFrame, rule: PersonRule | None, threshold: float, prevalence: float | None, options: dict
) -> dict:
    """Evaluates the diagnosis with a row per patient, who is positive if any image is labelled COVID-19.

    Args:
        table: predictions as `report.evaluate_predictions` has them.
        rule: how slices become a person's answer; None as in `person_point`.
        threshold: of the slices.
        prevalence: share of COVID-19, in (0, 1), at which to give predictive values; None for none.
        options: `resamples`, `seed` and `level` of the bootstrap over patients.

    Returns:
        - `patients`, `positives`, `single_image`: patients with one image, whose answer is that of the image, and
          `both_labels`: the names of patients with images of both labels;
        - `aggregation`, and `chosen`: whether it and the threshold were chosen on validation;
        - `covid`: as by `report.evaluate_predictions`, of the aggregated probabilities, with `at_0.5` of the mean
          over the slices whatever the aggregation, as in the paper;
        - `auc_difference`: `auc` of persons minus that of slices as an `intervals.PairedDifference`, over the same
          resamples of the patients.
    """
    patients, labels, _ = by_person(table["patient"], table[COVID], table[f"{COVID}_probability"], "mean")
    chosen = person_point(table, rule, threshold)
    points = {"at_0.5": paper_point(table), "at_threshold": chosen}
    images = table.groupby("patient")[COVID].agg(["size", "nunique"])
    return {
        "patients": len(patients),
        "positives": int(labels.sum()),
        "single_image": int((images["size"] == 1).sum()),
        "both_labels": sorted(map(str, images.index[images["nunique"] > 1])),
        "aggregation": rule.aggregation if rule else "mean",
        "chosen": rule is not None,
        "covid": report_metrics.diagnosis(
            patients, labels, chosen.probabilities, points, options, prevalence=prevalence
        ),
        "auc_difference": _auc_difference(table, labels, chosen.probabilities, options),
    }


def evaluate_classes(table: pd.DataFrame, options: dict) -> dict:
    """Evaluates the classes of images, and of persons by the mean of each class's probability over the slices.

    A patient's class is the diagnosis of its images. Images of a diagnosis that the model does not know, or of
    none, are left out.

    Args:
        table: predictions with `patient`, `diagnosis` and `<class>_probability`.
        options: as for `evaluate_persons`.

    Returns:
        `names` of the classes, the numbers of `images`, `patients` and images `left_out`, and `slices` and
        `persons` as by `report_metrics.classes`, `None` without images. Empty for a model without classes.

    Raises:
        ValueError: if a class probability is out of range, or a patient has images of two diagnoses.
    """
    names = class_names(table)
    if not names:
        return {}
    known = table[table["diagnosis"].isin(names)]
    result = {"names": list(names), "images": len(known), "patients": int(known["patient"].nunique())}
    result |= {"left_out": len(table) - len(known), "slices": None, "persons": None}
    if known.empty:
        return result
    predicted = metrics_classes.predicted_classes(known[_columns(names)])
    labels = known["diagnosis"].map(names.index).to_numpy()
    return result | {
        "slices": report_metrics.classes(known["patient"], labels, predicted, names, options),
        "persons": report_metrics.classes(*persons_classes(table), names, options),
    }


def class_names(table: pd.DataFrame) -> tuple[str, ...]:
    """The classes of the model that predicted a table, in the order of `labels.CLASSES`; empty for one without."""
    return tuple(name for name in CLASSES if f"{name}_probability" in table)


def persons_classes(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each patient's name (m,) in ascending order, true and predicted class (m,) int.

    Args:
        table: as `evaluate_classes`, with at least one image of a class.

    Raises:
        ValueError: as `evaluate_classes`.
    """
    names = class_names(table)
    diagnosed = table[table["diagnosis"].notna() & (table["diagnosis"] != "")]
    several = diagnosed.groupby("patient")["diagnosis"].unique()
    for patient, found in several[several.map(len) > 1].items():
        raise ValueError(
            f"patient {patient!r} has images of two diagnoses, {found[0]} and {found[1]}, and a person has one "
            "class only; correct the manifest"
        )
    known = table[table["diagnosis"].isin(names)]
    persons = known.assign(patient=known["patient"].astype(str)).groupby("patient", sort=True)
    predicted = metrics_classes.predicted_classes(persons[_columns(names)].mean())
    return (
        np.array(list(persons.groups)),
        persons["diagnosis"].first().map(names.index).to_numpy(),
        predicted,
    )


def _columns(names: tuple[str, ...]) -> list[str]:
    return [f"{name}_probability" for name in names]


def _aggregated(table: pd.DataFrame, aggregation: str) -> np.ndarray:
    return by_person(table["patient"], table[COVID], table[f"{COVID}_probability"], aggregation)[2]


def _auc_difference(table: pd.DataFrame, labels: np.ndarray, probabilities: np.ndarray, options: dict) -> dict:
    _, first = np.unique(table["patient"].astype(str), return_index=True)
    slice_labels, slice_probabilities = metrics.checked(table[COVID], table[f"{COVID}_probability"])

    def of_persons(weights: np.ndarray) -> dict[str, np.ndarray]:
        # All images of a patient are drawn together: any one's weight is the patient's.
        return {"auc": metrics.probability_metrics(labels, probabilities, weights[:, first])["auc"]}

    def of_slices(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"auc": metrics.probability_metrics(slice_labels, slice_probabilities, weights)["auc"]}

    found = intervals.paired_bootstrap(table["patient"], of_persons, of_slices, **options)
    return dataclasses.asdict(found["auc"])
