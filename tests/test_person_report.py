import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ladnn_tf import intervals, metrics, person, person_report, report, report_text
from ladnn_tf.calibration import calibrated_probabilities
from ladnn_tf.card import PersonRule
from ladnn_tf.labels import CLASSES, LESIONS

OPTIONS = {"resamples": 200, "seed": 0, "level": 0.95}
NOISY_OR = PersonRule("noisy_or", 0.7, "noisy-or, by hand", patients=12, positives=6)

# patient: mean, noisy-or.  a: 0.6, 1 - 0.1 0.7 = 0.93;  b: 0.6;  c: 0.3, 1 - 0.8 0.6 = 0.52;  d: 0.4, 1 - 0.3 0.9
SLICES = pd.DataFrame(
    {
        "patient": ["d", "a", "b", "c", "c", "a", "d"],
        "covid": [0, 1, 1, 0, 0, 0, 0],  # a has slices of both labels
        "covid_probability": [0.7, 0.9, 0.6, 0.2, 0.4, 0.3, 0.1],
    }
)


def evaluate(table=SLICES, rule=NOISY_OR, threshold=0.35, prevalence=None, **options):
    return person_report.evaluate_persons(table, rule, threshold, prevalence, OPTIONS | options)


def cohort(persons=40, slices=3, seed=0, classes=()):
    """A table as `runs.predictions_table`: every second patient has COVID-19, `slices` slices each."""
    generator = np.random.default_rng(seed)
    number = np.repeat(np.arange(persons), slices)
    kind = number % max(2, len(classes))
    rows = len(number)
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(rows)]})
    table["patient"] = [f"p{each:02d}" for each in number]
    table["diagnosis"] = np.array(classes or ("covid19", "normal"))[kind]
    table["covid"] = (kind == 0).astype(int)
    table["covid_logit"] = 2.0 * table["covid"] - 1 + np.repeat(generator.normal(size=persons), slices)
    table["covid_logit"] += generator.normal(size=rows)
    table["covid_probability"] = calibrated_probabilities(table["covid_logit"], 1.0)
    scores = np.exp(generator.normal(size=(rows, max(2, len(classes)))) + 1.5 * np.eye(max(2, len(classes)))[kind])
    for column, name in enumerate(classes):
        table[f"{name}_probability"] = (scores / scores.sum(axis=1, keepdims=True))[:, column]
    return table.assign(source="", sex="", age=np.nan, **dict.fromkeys(LESIONS, np.nan))


def full_report(table, rule=None, **changes):
    options = {"threshold": 0.4, "temperature": 1.0, "threshold_rule": "by hand", "resamples": 100}
    return report.evaluate_predictions(table, person=rule, **options | changes)


def test_a_small_case_worked_out_by_hand():
    found = evaluate()
    assert (found["patients"], found["positives"], found["single_image"]) == (4, 2, 1)
    assert found["both_labels"] == ["a"]
    assert (found["aggregation"], found["chosen"]) == ("noisy_or", True)
    covid = found["covid"]
    # Of the four pairs of noisy-ors (0.93 and 0.6 against 0.52 and 0.73) one is in the wrong order.
    assert covid["auc"]["value"] == pytest.approx(3 / 4)
    assert covid["brier"]["value"] == pytest.approx((0.07**2 + 0.4**2 + 0.52**2 + 0.73**2) / 4)
    assert covid["at_threshold"]["threshold"] == 0.7
    assert covid["at_threshold"]["rule"] == "noisy-or, by hand"
    assert covid["at_threshold"]["confusion"] == {"tp": 1, "fn": 1, "tn": 1, "fp": 1}
    assert covid["at_threshold"]["precision"]["value"] == pytest.approx(1 / 2)
    # At 0.5 it is the mean, as in the paper: 0.6 and 0.6 against 0.3 and 0.4.
    assert covid["at_0.5"]["threshold"] == 0.5
    assert covid["at_0.5"]["confusion"] == {"tp": 2, "fn": 0, "tn": 2, "fp": 0}
    assert "mean over the slices" in covid["at_0.5"]["rule"]
    # Slices: 0.9 is above all five negatives, 0.6 above four.
    difference = found["auc_difference"]
    assert (difference["a"], difference["b"]) == (pytest.approx(3 / 4), pytest.approx(9 / 10))
    assert difference["difference"] == pytest.approx(3 / 4 - 9 / 10)


def test_a_share_of_1_has_wilsons_interval_over_persons():
    found = evaluate()["covid"]["at_0.5"]["sensitivity"]
    assert (found["value"], found["method"]) == (1, "wilson")
    assert (found["low"], found["high"]) == intervals.wilson_interval(2, 2)


def test_without_a_rule_it_is_the_mean_at_the_slices_threshold_and_says_so():
    found = evaluate(rule=None)
    assert (found["aggregation"], found["chosen"]) == ("mean", False)
    point = found["covid"]["at_threshold"]
    assert point["threshold"] == 0.35
    assert point["confusion"] == {"tp": 2, "fn": 0, "tn": 1, "fp": 1}
    assert "no rule for persons was chosen on validation" in point["rule"]
    assert found["covid"]["auc"]["value"] == 1


def test_intervals_are_over_persons_with_a_row_each():
    table = cohort()
    found = evaluate(table)["covid"]
    names, labels, values = person.by_person(
        table["patient"], table["covid"], table["covid_probability"], "noisy_or"
    )
    assert len(names) == 40
    expected = intervals.bootstrap_patients(
        names,
        lambda weights: (
            metrics.probability_metrics(labels, values, weights)
            | metrics.threshold_metrics(labels, values, 0.7, weights)
        ),
        **OPTIONS,
    )
    for name in ("auc", "average_precision", "brier"):
        assert (found[name]["low"], found[name]["high"]) == (expected[name].low, expected[name].high)
    for name in ("sensitivity", "specificity", "precision", "npv", "f1", "accuracy"):
        cell = found["at_threshold"][name]
        assert (cell["value"], cell["low"]) == (expected[name].value, expected[name].low)


def test_auc_of_persons_minus_slices_is_paired_over_patients():
    """Beside a plain loop that draws patients, with other random numbers."""
    table = cohort()
    found = evaluate(table, rule=None, resamples=3000)["auc_difference"]
    _, labels, values = person.by_person(table["patient"], table["covid"], table["covid_probability"], "mean")
    of_images = np.arange(len(table)).reshape(40, 3)  # three images of each patient, in the order of the names
    truth, scores = table["covid"].to_numpy(), table["covid_probability"].to_numpy()

    def auc(positive, probabilities):  # without ties
        return np.mean(probabilities[positive == 1][:, None] > probabilities[positive == 0])

    generator = np.random.default_rng(5)
    drawn = []
    for _ in range(3000):
        chosen = generator.integers(0, 40, 40)
        images = of_images[chosen].ravel()
        drawn.append(auc(labels[chosen], values[chosen]) - auc(truth[images], scores[images]))
    assert found["difference"] == pytest.approx(roc_auc_score(labels, values) - roc_auc_score(truth, scores))
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
    assert found["low"] < found["difference"] < found["high"]


@pytest.mark.parametrize("aggregation", person.AGGREGATIONS)
def test_with_one_image_per_patient_persons_are_the_slices(aggregation):
    table = cohort(slices=1)
    result = full_report(table, PersonRule(aggregation, 0.4, "by hand", 10, 5))
    assert result["persons"]["single_image"] == 40
    for point in ("at_0.5", "at_threshold"):
        mine, theirs = ({**group[point], "rule": ""} for group in (result["persons"]["covid"], result["covid"]))
        assert mine == theirs
    for name in metrics.PROBABILITY_METRICS:
        assert result["persons"]["covid"][name] == result["covid"][name]
    assert (result["persons"]["auc_difference"]["difference"], result["persons"]["auc_difference"]["low"]) == (
        0,
        None,
    )
    assert "persons minus slices" not in report_text.format_report(result)


def test_predictive_values_at_a_prevalence_are_given_of_persons_too():
    found = evaluate(cohort(), prevalence=0.05)["covid"]["at_threshold"]
    ppv, npv = metrics.predictive_values(found["sensitivity"]["value"], found["specificity"]["value"], 0.05)
    assert found["ppv_at_prevalence"]["value"] == pytest.approx(float(ppv))
    assert found["npv_at_prevalence"]["value"] == pytest.approx(float(npv))


def test_slices_and_persons_stand_side_by_side_in_the_text():
    table = cohort()
    table.loc[table["patient"] == "p07", "covid"] = [1, 0, 0]
    result = full_report(table, NOISY_OR)
    lines = report_text.format_report(result).splitlines()
    assert "Persons: 40 patients, 21 positive, as at least one of their images is; 0 with a single image." in lines
    assert "1 have images of both labels, and count as positive: p07." in lines
    assert "Persons at 0.7000: noisy-or, by hand." in lines
    heading = next(line for line in lines if "persons at 0.7000 " in line or line.endswith("persons at 0.7000"))
    assert heading.split("   ")[-1] == "persons at 0.7000"
    row = lines[lines.index(heading) + 1]
    assert row.startswith("sensitivity")
    expected = [
        result[group]["covid"][point]["sensitivity"] if group == "persons" else result[group][point]["sensitivity"]
        for point in ("at_0.5", "at_threshold")
        for group in ("covid", "persons")
    ]
    shown = [cell for cell in row.split("   ")[1:] if cell.strip()]
    assert [float(cell.split("%")[0]) for cell in shown] == pytest.approx(
        [100 * cell["value"] for cell in expected], abs=0.05
    )
    difference = next(line for line in lines if line.startswith("AUC, persons minus slices"))
    assert difference.split()[-1] == f"{result['persons']['auc_difference']['p']:.4f}"
    matrix = next(row for row, line in enumerate(lines) if line.startswith("persons at 0.7000"))
    cells = result["persons"]["covid"]["at_threshold"]["confusion"]
    assert lines[matrix + 1].split() == ["COVID-19", str(cells["tp"]), str(cells["fn"])]
    assert max(map(len, lines)) < 140
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_many_persons_of_both_labels_are_counted_and_the_first_named():
    table = cohort()
    table["covid"] = np.arange(len(table)) % 2
    text = report_text.format_report(full_report(table))
    assert "40 have images of both labels, and count as positive: p00, p01, p02, p03, p04, ..." in text


def test_a_split_without_negatives_has_undefined_figures_and_no_error():
    table = cohort().query("covid == 1")
    result = full_report(table)
    assert result["persons"]["covid"]["auc"]["value"] is None
    assert result["persons"]["auc_difference"]["difference"] is None
    assert "nan" not in report_text.format_report(result).lower().split()


# Classes. By person, means over two slices each: a (0.6, 0.3, 0.1) covid19, right; b (0.2, 0.6, 0.2) bacterial,
# right; c (0.5, 0.4, 0.1) covid19, but it is bacterial; d (0.1, 0.1, 0.8) normal, right.
CLASS_SLICES = pd.DataFrame(
    {
        "patient": ["a", "a", "b", "b", "c", "c", "d"],
        "diagnosis": ["covid19"] * 2 + ["bacterial"] * 4 + ["normal"],
        "covid19_probability": [0.9, 0.3, 0.1, 0.3, 0.7, 0.3, 0.1],
        "bacterial_probability": [0.1, 0.5, 0.8, 0.4, 0.2, 0.6, 0.1],
        "normal_probability": [0.0, 0.2, 0.1, 0.3, 0.1, 0.1, 0.8],
    }
)


def test_classes_of_slices_and_of_persons_by_hand():
    found = person_report.evaluate_classes(CLASS_SLICES, OPTIONS)
    assert (found["names"], found["images"], found["patients"]) == (list(CLASSES), 7, 4)
    assert found["left_out"] == 0
    slices, persons = found["slices"], found["persons"]
    assert slices["confusion"] == [[1, 1, 0], [1, 3, 0], [0, 0, 1]]
    assert slices["accuracy"]["value"] == pytest.approx(5 / 7)
    assert slices["bacterial"]["recall"]["value"] == pytest.approx(3 / 4)
    assert persons["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert persons["accuracy"]["value"] == pytest.approx(3 / 4)
    assert persons["covid19"]["precision"]["value"] == pytest.approx(1 / 2)
    assert persons["covid19"]["specificity"]["value"] == pytest.approx(2 / 3)
    assert persons["macro"]["recall"]["value"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert persons["macro"]["f1"]["value"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert [persons[name]["count"] for name in CLASSES] == [1, 2, 1]
    # All of the only healthy person are found: Wilson's interval, one of one.
    assert persons["normal"]["recall"]["method"] == "wilson"
    assert persons["normal"]["recall"]["low"] == intervals.wilson_interval(1, 1)[0]
    # Six images of three persons are not healthy, none is called so: three of three.
    assert slices["normal"]["specificity"]["low"] == intervals.wilson_interval(3, 3)[0]


def test_intervals_of_classes_are_over_persons():
    table = cohort(60, classes=CLASSES)
    persons = person_report.evaluate_classes(table, OPTIONS | {"resamples": 2000})["persons"]
    _, labels, predicted = person_report.persons_classes(table)
    share = persons["accuracy"]["value"]
    assert share == pytest.approx(np.mean(labels == predicted))
    half = 1.96 * np.sqrt(share * (1 - share) / 60)  # a row per person: close to the normal interval
    assert persons["accuracy"]["low"] == pytest.approx(share - half, abs=0.02)
    assert persons["accuracy"]["high"] == pytest.approx(share + half, abs=0.02)
    assert persons["macro"]["f1"]["low"] < persons["macro"]["f1"]["value"] < persons["macro"]["f1"]["high"]


def test_images_of_other_diagnoses_are_left_out_and_counted():
    table = CLASS_SLICES.assign(diagnosis=["covid19"] * 2 + ["", ""] + ["viral"] * 2 + ["normal"])
    found = person_report.evaluate_classes(table, OPTIONS)
    assert (found["images"], found["patients"], found["left_out"]) == (3, 2, 4)
    assert found["persons"]["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    none = person_report.evaluate_classes(table.assign(diagnosis=""), OPTIONS)
    assert (none["images"], none["left_out"], none["slices"], none["persons"]) == (0, 7, None, None)


def test_a_patient_of_two_diagnoses_is_named():
    table = CLASS_SLICES.assign(diagnosis=["covid19", "normal", *["bacterial"] * 4, "normal"])
    with pytest.raises(ValueError, match="patient 'a' has images of two diagnoses, covid19 and normal"):
        person_report.evaluate_classes(table, OPTIONS)


def test_a_model_without_classes_has_no_such_section():
    assert person_report.evaluate_classes(SLICES, OPTIONS) == {}
    result = full_report(cohort())
    assert result["classes"] == {}
    assert "Classes" not in report_text.format_report(result)


def test_classes_read_as_a_table():
    table = cohort(60, classes=CLASSES)
    result = full_report(table)
    text = report_text.format_report(result)
    lines = text.splitlines()
    assert "Classes, by the highest probability: 180 images of 60 patients" in lines
    macro = result["classes"]["persons"]["macro"]["recall"]["value"]
    row = next(line for line in lines if line.startswith("mean over classes: recall"))
    assert f"{100 * macro:.1f} %" in row.split("]")[1]
    assert next(line for line in lines if line.startswith("bacterial pneumonia: precision (PPV)"))
    matrix = next(
        n for n, line in enumerate(lines) if line.startswith("persons   ") and "predicted healthy" in line
    )
    expected = result["classes"]["persons"]["confusion"][2]
    assert lines[matrix + 3].split() == ["healthy", *map(str, expected)]
    assert max(map(len, lines)) < 140
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    without = report_text.format_report(full_report(table.assign(diagnosis="")))
    assert "0 images of 0 patients; 180 of another diagnosis, or of none, left out" in without
