"""Evaluation of a table of predictions: the numbers of `metrics.json`. `report_text.py` makes them readable.

Nothing here needs a model: the input is a DataFrame with a row per image and the columns `image, patient,
source, sex, age, covid` (0 or 1), `covid_logit`, `covid_probability` (= sigmoid(covid_logit / temperature)),
the five lesions (1, 0 or NaN for unknown) and, of LA-DNN, `<lesion>_probability` for each. A model with a softmax
has `<class>_probability` for each of its classes, with sum 1; its table needs the column `diagnosis`, too.
"""

import dataclasses

import numpy as np
import pandas as pd

from ladnn_tf import calibration, intervals, metrics, person_report, report_metrics, same_images
from ladnn_tf.card import PersonRule
from ladnn_tf.data.sources import OTHER_SOURCES, pooled_sources
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.report_metrics import LEVEL, counts

SMALLEST_SOURCE = 10
"""Sources with fewer images than this are pooled as `OTHER_SOURCES`."""

AGE_BANDS = {"0 to 39": (0, 40), "40 to 59": (40, 60), "60 and over": (60, np.inf)}
"""Bands of age in years: from, inclusive, to below."""

_REQUIRED = ("image", "patient", "source", "sex", "age", COVID, "covid_logit", "covid_probability", *LESIONS)


def evaluate_predictions(
    test: pd.DataFrame,
    *,
    threshold: float,
    temperature: float,
    threshold_rule: str,
    person: PersonRule | None = None,
    prevalence: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict:
    """Returns the evaluation of a table of predictions, ready for JSON (`None` where undefined, no NaN).

    Args:
        test: the predictions, see the module's description.
        threshold: of the calibrated COVID-19 probability, in [0, 1], chosen on validation.
        temperature: that the probabilities were calibrated with, fitted on validation.
        threshold_rule: how the threshold was chosen, in words.
        person: how slices become a person's answer, chosen on validation; `None` where there is no such rule
            (older runs), for the mean over the slices at `threshold`.
        prevalence: share of COVID-19, in (0, 1), at which to give predictive values; `None` for none.
        resamples: bootstrap resamples of the patients.
        seed: of the resamples.

    Returns:
        `images`, `patients`, `positives`, `resamples`, `seed`, `level`, `temperature`, `prevalence`, and

        - `covid`: the metrics of the probabilities, Brier score and calibration error before the temperature
          too (`..._uncalibrated`), and under `at_0.5` and `at_threshold` `threshold`, `rule`, the metrics of
          the decision and the `confusion` matrix;
        - `persons`: the same with a row per patient (`person_report.evaluate_persons`);
        - `classes`: of images and of persons (`person_report.evaluate_classes`); empty for models without classes;
        - `lesions`: per lesion `images` with a known label, `patients`, `positives`, `auc`,
          `average_precision`; empty for models without lesions. Only lesion-annotated COVID-19 images have a known
          label, unless the data say more;
        - `subgroups`: by `source`, `sex` and `age` the number of `unknown` and `groups`, each with `images`,
          `patients`, `positives`, `auc` and, at the chosen threshold, `sensitivity` and `specificity`.

        Every metric is a dict of `value`, `low`, `high`, `undefined_resamples` and `method`. Where a share is
        0 or 1, so that the bootstrap has no width, the interval is Wilson's with the patients as trials.

    Raises:
        ValueError: if a column is missing, the table is empty, an image occurs twice, a patient is missing,
            a label or a probability is out of range, probabilities and temperature disagree, or a patient has
            images of two diagnoses although the model tells them apart.
    """
    _check_table(test)
    _check_temperature(test, temperature)
    options = {"resamples": resamples, "seed": seed, "level": LEVEL}
    return {
        **counts(test, test[COVID]),
        **options,
        "temperature": float(temperature),
        "prevalence": prevalence,
        "covid": _evaluate_covid(test, threshold, threshold_rule, prevalence, options),
        "persons": person_report.evaluate_persons(test, person, threshold, prevalence, options),
        "classes": person_report.evaluate_classes(test, options),
        "lesions": _evaluate_lesions(test, options),
        "subgroups": {
            name: _evaluate_groups(test, groups, threshold, options)
            for name, groups in (
                ("source", pooled_sources(test["source"], SMALLEST_SOURCE)),
                ("sex", test["sex"].replace("", np.nan)),
                ("age", _age_bands(test["age"])),
            )
        },
    }


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    thresholds: tuple[float, float] = (0.5, 0.5),
    resamples: int = 2000,
    seed: int = 0,
) -> dict:
    """Returns the COVID-19 metrics of two runs on the same images, with paired intervals of the differences.

    Args:
        a: predictions of the first run, such as LA-DNN; see the module's description.
        b: predictions of the second run, such as the baseline, in any order.
        thresholds: of the first and of the second run.
        resamples: bootstrap resamples of the patients, the same for both.
        seed: of the resamples.

    Returns:
        `images`, `patients`, `positives`, `resamples`, `seed`, `level`, `thresholds` and `metrics`: for each
        a dict with the fields of `intervals.PairedDifference`, the difference being a - b.

    Raises:
        ValueError: if the tables do not hold the same images with the same labels and patients.
    """
    _check_table(a)
    _check_table(b)
    only = same_images.unshared_images(a, b)
    if only:
        raise ValueError(
            f"two runs can be compared on the same images only; {len(only)} images are in one table alone, "
            f"such as {only[0]!r}; predict the same split of the same manifest with both"
        )
    b = same_images.in_the_order_of(a, b)
    if found := same_images.first_disagreement(a, b):
        column, image = found
        raise ValueError(
            f"the two runs disagree about the {column} of image {image!r}; predict with both from the same "
            "manifest"
        )

    def statistic(frame: pd.DataFrame, threshold: float) -> intervals.Statistic:
        def values(weights: np.ndarray) -> dict[str, np.ndarray]:
            arguments = frame[COVID], frame["covid_probability"]
            return metrics.probability_metrics(*arguments, weights) | metrics.threshold_metrics(
                *arguments, threshold, weights
            )

        return values

    options = {"resamples": resamples, "seed": seed, "level": LEVEL}
    differences = intervals.paired_bootstrap(
        a["patient"], statistic(a, thresholds[0]), statistic(b, thresholds[1]), **options
    )
    return {
        **counts(a, a[COVID]),
        **options,
        "thresholds": [float(threshold) for threshold in thresholds],
        "metrics": {name: dataclasses.asdict(difference) for name, difference in differences.items()},
    }


def _check_table(table: pd.DataFrame) -> None:
    missing = [column for column in _REQUIRED if column not in table]
    if missing:
        raise ValueError(f"the predictions lack the columns {', '.join(missing)}; predict the split again")
    if table.empty:
        raise ValueError("the predictions should have at least one image, got none; is the split empty?")
    for column, wrong, problem in (
        ("image", table["image"].duplicated(), "occurs twice"),
        ("patient", table["patient"].isna(), "has no patient; give each unknown patient an id of its own"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"row {row} of the predictions, column {column}: {table['image'].iloc[row]!r} {problem}"
            )
    with_lesions = [lesion for lesion in LESIONS if f"{lesion}_probability" in table]
    if with_lesions and len(with_lesions) < len(LESIONS):
        raise ValueError(f"the predictions should have all of {', '.join(LESIONS)} or none, got {with_lesions}")


def _check_temperature(table: pd.DataFrame, temperature: float) -> None:
    expected = calibration.calibrated_probabilities(table["covid_logit"], temperature)
    row = calibration.worst_mismatch(table["covid_logit"], table["covid_probability"], temperature)
    if row is not None:
        raise ValueError(
            f"covid_probability of image {table['image'].iloc[row]!r} (row {row}) is "
            f"{table['covid_probability'].iloc[row]}, but its logit at temperature {temperature:g} gives "
            f"{expected[row]:.6g}; the table was predicted with another temperature, predict it again"
        )


def _evaluate_covid(
    table: pd.DataFrame, threshold: float, rule: str, prevalence: float | None, options: dict
) -> dict:
    labels, probabilities = metrics.checked(table[COVID], table["covid_probability"])
    points = {
        "at_0.5": report_metrics.Point(0.5, "fixed", probabilities),
        "at_threshold": report_metrics.Point(float(threshold), rule, probabilities),
    }
    before = calibration.calibrated_probabilities(table["covid_logit"], 1.0)
    return report_metrics.diagnosis(
        table["patient"],
        labels,
        probabilities,
        points,
        options,
        uncalibrated=before,
        prevalence=prevalence,
    )


def _evaluate_lesions(table: pd.DataFrame, options: dict) -> dict:
    result = {}
    for lesion in LESIONS:
        if f"{lesion}_probability" not in table:
            continue
        known = table[table[lesion].notna()]
        values = {"auc": intervals.Interval(None), "average_precision": intervals.Interval(None)}
        if known[lesion].nunique() == 2:
            values = _bootstrap_probabilities(known, known[lesion], known[f"{lesion}_probability"], options)
        result[lesion] = counts(known, known[lesion]) | {
            name: dataclasses.asdict(values[name]) for name in ("auc", "average_precision")
        }
    return result


def _bootstrap_probabilities(
    table: pd.DataFrame, labels: pd.Series, probabilities: pd.Series, options: dict
) -> dict[str, intervals.Interval]:
    labels, probabilities = metrics.checked(labels, probabilities)
    return intervals.bootstrap_patients(
        table["patient"],
        lambda weights: metrics.probability_metrics(labels, probabilities, weights),
        **options,
    )


def _age_bands(ages: pd.Series) -> pd.Series:
    ages = pd.to_numeric(ages)
    bands = pd.Series(np.nan, index=ages.index, dtype=object)
    for name, (low, high) in AGE_BANDS.items():
        bands[(ages >= low) & (ages < high)] = name
    return bands


def _evaluate_groups(table: pd.DataFrame, groups: pd.Series, threshold: float, options: dict) -> dict:
    names = sorted(groups.dropna().unique(), key=lambda name: (name == OTHER_SOURCES, str(name)))
    return {
        "unknown": int(groups.isna().sum()),
        "groups": {str(name): _evaluate_group(table[groups == name], threshold, options) for name in names},
    }


def _evaluate_group(group: pd.DataFrame, threshold: float, options: dict) -> dict:
    labels, probabilities = metrics.checked(group[COVID], group["covid_probability"])

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        decided = metrics.threshold_metrics(labels, probabilities, threshold, weights)
        return {
            "auc": metrics.probability_metrics(labels, probabilities, weights)["auc"],
            "sensitivity": decided["sensitivity"],
            "specificity": decided["specificity"],
        }

    found = intervals.bootstrap_patients(group["patient"], statistic, **options)
    return counts(group, group[COVID]) | {
        name: dataclasses.asdict(
            report_metrics.decision_interval(interval, name, group["patient"], labels, probabilities >= threshold)
        )
        for name, interval in found.items()
    }
