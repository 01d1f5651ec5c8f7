"""The thresholds of lesions, by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ladnn_tf import runs
from ladnn_tf.labels import COVID, LESIONS
from ladnn_tf.lesion_thresholds import lesion_thresholds


def with_validation(run, tmp_path, table):
    """The run with other validation predictions."""
    folder = tmp_path / "run"
    folder.mkdir()
    runs.write_predictions(folder, "validation", table)
    return dataclasses.replace(run, folder=folder)


def validation_table(probabilities, labels):
    """GGO as given, of the other lesions one image of each kind."""
    n = len(labels)
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(n)], COVID: [1] * n})
    table["patient"] = table["image"]
    for lesion in LESIONS:
        table[lesion] = [1.0, 0.0] + [np.nan] * (n - 2)
        table[f"{lesion}_probability"] = np.linspace(0.1, 0.9, n)
    table["GGO"], table["GGO_probability"] = labels, probabilities
    return table


def test_lesion_thresholds_by_hand(tiny_run, tmp_path):
    """0.35 has the sensitivity 6/6 and the specificity 4/5, 0.55 4/6 and 5/5."""
    probabilities = [0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    labels = [0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, np.nan]
    run = with_validation(runs.load_run(tiny_run), tmp_path, validation_table(probabilities, labels))
    expected = dict.fromkeys(LESIONS, 0.5) | {"GGO": 0.35}
    assert lesion_thresholds(run)[0] == pytest.approx(expected)


def test_of_equally_good_thresholds_the_highest(tiny_run, tmp_path):
    """0.35 and 0.55 both have 1.8: 5/5 and 4/5, 4/5 and 5/5."""
    probabilities = [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    table = validation_table(probabilities, [0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
    run = with_validation(runs.load_run(tiny_run), tmp_path, table)
    assert lesion_thresholds(run)[0]["GGO"] == pytest.approx(0.55)


def test_negatives_count_where_they_were_learnt_as_free_of_lesions(tiny_run, tmp_path):
    """Only with the negatives are there five without GGO."""
    table = validation_table([0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.1, 0.1, 0.1, 0.1, 0.1], [1.0] * 5 + [np.nan] * 6)
    table[COVID] = [1] * 5 + [0] * 6
    run = with_validation(runs.load_run(tiny_run), tmp_path, table)
    assert lesion_thresholds(run)[0]["GGO"] == 0.5
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, lesion_targets="all"))
    assert lesion_thresholds(run)[0]["GGO"] == pytest.approx((0.5 + 0.45) / 2)


def test_the_baseline_has_no_lesion_thresholds(tiny_baseline_run):
    assert lesion_thresholds(runs.load_run(tiny_baseline_run)) == ({}, ())


def test_where_validation_does_not_tell_a_lesion_apart_nothing_is_chosen(tiny_run, tmp_path):
    """An AUC of 0.5 has a best cut, too, but it means nothing."""
    table = validation_table([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [1, 0, 0, 1, 0, 1, 1, 0, 0, 1])
    run = with_validation(runs.load_run(tiny_run), tmp_path, table)
    thresholds, not_chosen = lesion_thresholds(run)
    assert thresholds["GGO"] == 0.5
    assert not_chosen == LESIONS
