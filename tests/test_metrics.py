import numpy as np
import pytest
from sklearn import metrics as reference

from ladnn_tf import metrics

# Four positives and four negatives; at 0.5: tp = 3, fn = 1, tn = 2, fp = 2.
LABELS = [1, 1, 1, 1, 0, 0, 0, 0]
PROBABILITIES = [0.9, 0.8, 0.6, 0.3, 0.7, 0.6, 0.2, 0.1]


def test_every_metric_of_a_small_case_worked_out_by_hand():
    values = metrics.binary_metrics(LABELS, PROBABILITIES, 0.5)
    assert (values["n"], values["positives"]) == (8, 4)
    assert [values[cell] for cell in metrics.CONFUSION] == [3, 1, 2, 2]
    assert values["sensitivity"] == pytest.approx(3 / 4)
    assert values["specificity"] == pytest.approx(2 / 4)
    assert values["precision"] == pytest.approx(3 / 5)
    assert values["npv"] == pytest.approx(2 / 3)
    assert values["f1"] == pytest.approx(6 / 9)
    assert values["accuracy"] == pytest.approx(5 / 8)
    # Of the 16 pairs: 0.9 and 0.8 win all 4; 0.6 loses to 0.7, ties with 0.6, wins 2; 0.3 wins 2.
    assert values["auc"] == pytest.approx((4 + 4 + 2.5 + 2) / 16)
    # Going down: 0.9 (1/1), 0.8 (2/2), 0.7 (2/3, no gain), 0.6 and 0.6 together (3/5), 0.3 (4/6).
    assert values["average_precision"] == pytest.approx((1 / 1 + 2 / 2 + 3 / 5 + 4 / 6) / 4)
    assert values["brier"] == pytest.approx((0.01 + 0.04 + 0.16 + 0.49 + 0.49 + 0.36 + 0.04 + 0.01) / 8)


def test_calibration_error_by_hand():
    # 15 bins: 0.61 and 0.65 share (9/15, 10/15], where one of two is positive; 0.69 is alone in the next one,
    # 0.05 in the first. Ten bins would put the first three together.
    values = metrics.binary_metrics([1, 0, 1, 0], [0.61, 0.65, 0.69, 0.05], 0.5)
    assert values["ece"] == pytest.approx((2 * abs(1 / 2 - 0.63) + abs(1 - 0.69) + abs(0 - 0.05)) / 4)


def test_calibration_bins_include_both_ends():
    values = metrics.binary_metrics([1, 0], [1.0, 0.0], 0.5)
    assert values["ece"] == 0
    assert metrics.binary_metrics([0, 1], [1.0, 0.0], 0.5)["ece"] == 1


def test_confusion_matrix_of_the_paper_gives_its_table_2():
    """DenseNet-169 on D0: TP 84, FN 14, TN 89, FP 16 (Table 2: 85.7, 84.8, 85.2)."""
    labels = [1] * 98 + [0] * 105
    probabilities = [0.9] * 84 + [0.1] * 14 + [0.1] * 89 + [0.9] * 16
    values = metrics.binary_metrics(labels, probabilities, 0.5)
    assert [values[cell] for cell in metrics.CONFUSION] == [84, 14, 89, 16]
    assert round(100 * values["sensitivity"], 1) == 85.7
    assert round(100 * values["f1"], 1) == 84.8
    assert round(100 * values["accuracy"], 1) == 85.2


def test_auc_is_of_the_probabilities_not_of_the_decisions():
    values = metrics.binary_metrics([1, 1, 0, 0], [0.4, 0.3, 0.2, 0.1], 0.5)
    assert values["auc"] == 1
    assert values["sensitivity"] == 0


@pytest.mark.parametrize("decimals", [1, 2, 12])  # one decimal: nearly all are ties
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed, decimals):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 150)
    probabilities = np.round(np.clip(0.3 * labels + 0.8 * generator.random(150), 0, 1), decimals)
    predicted = probabilities >= 0.5
    values = metrics.binary_metrics(labels, probabilities, 0.5)
    expected = {
        "auc": reference.roc_auc_score(labels, probabilities),
        "average_precision": reference.average_precision_score(labels, probabilities),
        "brier": reference.brier_score_loss(labels, probabilities),
        "sensitivity": reference.recall_score(labels, predicted),
        "specificity": reference.recall_score(labels, predicted, pos_label=0),
        "precision": reference.precision_score(labels, predicted),
        "npv": reference.precision_score(labels, predicted, pos_label=0),
        "f1": reference.f1_score(labels, predicted),
        "accuracy": reference.accuracy_score(labels, predicted),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-12), name
    tn, fp, fn, tp = reference.confusion_matrix(labels, predicted).ravel()
    assert [values[cell] for cell in metrics.CONFUSION] == [tp, fn, tn, fp]


def test_weights_are_repetitions():
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 2, 60)
    probabilities = np.round(generator.random(60), 1)
    weights = generator.integers(0, 4, (5, 60)).astype(float)
    weighted = metrics.probability_metrics(labels, probabilities, weights)
    weighted |= metrics.threshold_metrics(labels, probabilities, 0.3, weights)
    for row, counts in enumerate(weights.astype(int)):
        repeated = metrics.binary_metrics(np.repeat(labels, counts), np.repeat(probabilities, counts), 0.3)
        assert set(weighted) < set(repeated)
        for name, values in weighted.items():
            assert values[row] == pytest.approx(repeated[name], abs=1e-12), name


def test_average_precision_where_the_most_probable_images_are_not_drawn():
    values = metrics.probability_metrics([1, 1, 0], [0.9, 0.5, 0.7], np.array([[0.0, 1.0, 1.0]]))
    assert values["average_precision"][0] == pytest.approx(1 / 2)
    assert values["auc"][0] == 0


def test_a_missing_class_is_undefined_and_never_0_or_1():
    only_positives = metrics.binary_metrics([1, 1, 1], [0.9, 0.8, 0.2], 0.5)
    undefined = {name for name, value in only_positives.items() if value is None}
    assert undefined == {"auc", "average_precision", "specificity", "precision", "npv", "f1"}
    assert only_positives["sensitivity"] == pytest.approx(2 / 3)
    only_negatives = metrics.binary_metrics([0, 0], [0.9, 0.2], 0.5)
    undefined = {name for name, value in only_negatives.items() if value is None}
    assert undefined == {"auc", "average_precision", "sensitivity", "precision", "npv", "f1"}
    assert only_negatives["specificity"] == pytest.approx(1 / 2)


def test_no_positive_prediction_leaves_the_precision_undefined():
    values = metrics.binary_metrics([1, 0], [0.2, 0.1], 0.5)
    assert values["precision"] is None
    assert values["f1"] == 0
    assert values["npv"] == pytest.approx(1 / 2)
    assert metrics.binary_metrics([1, 0], [0.9, 0.8], 0.5)["npv"] is None


def test_an_image_on_the_threshold_is_positive():
    assert metrics.binary_metrics([1, 0], [0.5, 0.4], 0.5)["tp"] == 1


def test_a_threshold_is_not_rounded_to_the_type_of_the_probabilities():
    probability = np.float32(0.3)  # 0.30000001192...
    values = metrics.binary_metrics([1, 0], np.array([probability, 0.1], np.float32), float(probability) + 1e-9)
    assert values["tp"] == 0


def test_predictive_values_by_hand():
    # Of 1000 patients 50 are ill: 45 found, 5 not; of 950 well 760 cleared, 190 not.
    ppv, npv = metrics.predictive_values(0.9, 0.8, 0.05)
    assert ppv == pytest.approx(45 / (45 + 190))
    assert npv == pytest.approx(760 / (760 + 5))


def test_predictive_values_at_the_prevalence_of_the_sample_are_precision_and_npv():
    values = metrics.binary_metrics(LABELS, PROBABILITIES, 0.5)
    ppv, npv = metrics.predictive_values(values["sensitivity"], values["specificity"], 4 / 8)
    assert ppv == pytest.approx(values["precision"])
    assert npv == pytest.approx(values["npv"])


def test_predictive_values_are_undefined_without_predictions():
    ppv, npv = metrics.predictive_values([0.0, 1.0, np.nan], [1.0, 0.0, 0.5], 0.05)
    assert np.isnan(ppv[[0, 2]]).all()
    assert np.isnan(npv[[1, 2]]).all()
    assert ppv[1] == pytest.approx(0.05)
    assert npv[0] == pytest.approx(0.95)


@pytest.mark.parametrize("prevalence", [0, 1, -0.1, 5, np.nan])
def test_predictive_values_refuse_a_prevalence_that_is_no_share(prevalence):
    with pytest.raises(ValueError, match="prevalence"):
        metrics.predictive_values(0.9, 0.8, prevalence)


@pytest.mark.parametrize(
    ("target", "threshold"),
    [
        (0.25, 0.85),  # one of four positives: 0.9; the next lower image has 0.8
        (0.5, 0.75),  # two: 0.8; next is the negative with 0.7
        (0.51, 0.45),  # three: 0.6, which a negative shares; next is 0.3
        (0.75, 0.45),
        (1.0, 0.25),  # all four: 0.3; next is 0.2
    ],
)
def test_threshold_for_a_sensitivity_by_hand(target, threshold):
    assert metrics.choose_threshold(LABELS, PROBABILITIES, target) == pytest.approx(threshold)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", [0.1, 0.8, 0.95, 1.0])
def test_chosen_threshold_is_the_highest_that_reaches_the_target(seed, target):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 118)
    probabilities = generator.random(118).astype(np.float32)
    threshold = metrics.choose_threshold(labels, probabilities, target)
    assert metrics.binary_metrics(labels, probabilities, threshold)["sensitivity"] >= target
    assert threshold not in probabilities.astype(float)
    next_higher = probabilities[probabilities > threshold].min()
    assert (
        metrics.binary_metrics(labels, probabilities, np.nextafter(float(next_higher), 1))["sensitivity"] < target
    )


def test_chosen_threshold_asks_for_exactly_the_positives_needed():
    labels = np.ones(100)  # 0.07 x 100 is 7.000000000000001 in floating point; 7 are enough, not 8
    probabilities = np.arange(1, 101) / 100
    assert metrics.choose_threshold(labels, probabilities, 0.07) == pytest.approx(0.935)


def test_chosen_threshold_at_the_ends():
    assert metrics.choose_threshold([1, 0], [0.4, 0.9], 1.0) == pytest.approx(0.2)  # nothing below: half-way to 0
    assert metrics.choose_threshold([1, 0], [0.0, 0.9], 1.0) == 0.0
    close = np.nextafter(0.4, 1)
    assert metrics.choose_threshold([1, 0], [close, 0.4], 1.0) == close


def test_chosen_threshold_needs_positives_and_a_target():
    with pytest.raises(ValueError, match="all 2 images are negative"):
        metrics.choose_threshold([0, 0], [0.1, 0.2], 0.95)
    for target in (0, 1.1, 95):
        with pytest.raises(ValueError, match="target sensitivity"):
            metrics.choose_threshold([0, 1], [0.1, 0.2], target)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 2], [0.1, 0.2], "label should be 0 or 1, got 2.0 in row 1"),
        ([0, np.nan], [0.1, 0.2], "got nan in row 1"),
        ([0, 1], [0.1, 1.2], r"in \[0, 1\], got 1.2 in row 1"),
        ([0, 1], [np.nan, 0.2], "got nan in row 0"),
        ([0, 1], [0.1], r"got shapes \(2,\) and \(1,\)"),
        ([], [], "at least 1"),
    ],
)
def test_wrong_input_is_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.binary_metrics(labels, probabilities, 0.5)


def test_threshold_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="threshold"):
        metrics.binary_metrics([0, 1], [0.1, 0.2], 50)
