import numpy as np
import pytest
from absl import logging

from ladnn_tf import calibration


def negative_log_likelihood(labels, logits, temperature=1.0):
    """Mean binary cross entropy of sigmoid(logits / temperature), in nats."""
    scaled = np.asarray(logits) / temperature
    return float(np.mean(np.logaddexp(0, scaled) - np.asarray(labels) * scaled))


@pytest.fixture
def warnings_logged(monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: messages.append(message % values))
    return messages


def test_temperature_by_hand():
    # Three of four images with logit 2 are positive and so on the other side: the best probability is 3/4,
    # whose logit is ln 3, so that T = 2 / ln 3.
    labels, logits = [1, 1, 1, 0, 0, 0, 0, 1], [2.0] * 4 + [-2.0] * 4
    assert calibration.fit_temperature(labels, logits) == pytest.approx(2 / np.log(3))
    assert calibration.calibrated_probabilities([2.0], 2 / np.log(3)) == pytest.approx([0.75])


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0, 10.0])
def test_known_temperature_is_recovered(temperature):
    generator = np.random.default_rng(0)
    true_logits = generator.normal(size=20000) * 2
    labels = generator.random(20000) < 1 / (1 + np.exp(-true_logits))
    assert calibration.fit_temperature(labels, true_logits * temperature) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_is_more_likely():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 118)
    logits = 6 * (labels - 0.5) + 5 * generator.normal(size=118)
    best = calibration.fit_temperature(labels, logits)
    least = negative_log_likelihood(labels, logits, best)
    for temperature in np.geomspace(0.05, 20, 400):
        assert least <= negative_log_likelihood(labels, logits, temperature) + 1e-12
    assert least < negative_log_likelihood(labels, logits)


def test_order_and_decisions_at_one_half_stay():
    logits = np.array([-3.0, -0.1, 0.0, 0.2, 4.0])
    probabilities = calibration.calibrated_probabilities(logits, 2.7)
    assert (np.diff(probabilities) > 0).all()
    assert list(probabilities >= 0.5) == [False, False, True, True, True]


def test_extreme_logits_overflow_nowhere():
    assert list(calibration.calibrated_probabilities([-1e4, 1e4], 0.05)) == [0, 1]


@pytest.mark.parametrize("label", [0, 1])
def test_a_missing_class_leaves_the_temperature_at_1(label, warnings_logged):
    assert calibration.fit_temperature([label] * 3, [1.0, -2.0, 3.0]) == 1
    assert "all 3 validation labels" in warnings_logged[0]


def test_separated_classes_leave_the_temperature_at_1(warnings_logged):
    assert calibration.fit_temperature([1, 0, 1], [0.3, -2.0, 3.0]) == 1
    assert "right side" in warnings_logged[0]


def test_a_minimum_outside_the_bounds_gives_the_nearer_bound(warnings_logged):
    assert calibration.fit_temperature([0, 1], [1.0, -2.0]) == 20  # the wrong way round
    assert "upper bound" in warnings_logged[0]
    labels, logits = [1, 1, 1, 0, 0, 0, 0, 1], np.array([0.02] * 4 + [-0.02] * 4)  # best: 0.02 / ln 3
    assert calibration.fit_temperature(labels, logits) == 0.05
    assert "lower bound" in warnings_logged[1]
    assert calibration.fit_temperature(labels, logits, bounds=(0.001, 2)) == pytest.approx(0.02 / np.log(3))


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([0, 1], [0.1], "same length"),
        ([], [], "at least 1"),
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([0, 1], [0.1, np.inf], "finite, got inf in row 1"),
    ],
)
def test_wrong_input_is_named(labels, logits, message):
    with pytest.raises(ValueError, match=message):
        calibration.fit_temperature(labels, logits)


def test_wrong_bounds_and_temperatures_are_refused():
    with pytest.raises(ValueError, match="bounds"):
        calibration.fit_temperature([0, 1], [0.1, 0.2], bounds=(2, 1))
    for temperature in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="temperature"):
            calibration.calibrated_probabilities([0.0], temperature)


def test_score_bins_count_the_images_and_the_positives_of_each_fifth():
    labels = [0, 0, 1, 1, 1, 0]
    probabilities = [0.0, 0.19, 0.2, 0.59, 1.0, 0.8]
    first, second, third, fourth, fifth = calibration.score_bins(labels, probabilities)
    assert [(x.low, x.high) for x in (first, fifth)] == [(0.0, 0.2), (0.8, 1.0)]
    assert [(x.images, x.positives) for x in (first, second, third, fourth, fifth)] == [
        (2, 0), (1, 1), (1, 1), (0, 0), (2, 1)
    ]  # fmt: skip
    assert fourth.interval is None
    # Wilson's interval of 1 in 2 with z = 1.96: (1 + 1.9207) / 5.8415 -+ 1.96 / 5.8415 * sqrt(0.5 + 0.9604).
    assert fifth.interval == pytest.approx((0.0945, 0.9055), abs=1e-3)


@pytest.mark.parametrize("probabilities", [[0.5, 1.5], [-0.1, 0.5], [0.5, float("nan")], [0.5]])
def test_score_bins_take_probabilities_only(probabilities):
    with pytest.raises(ValueError, match=r"probabilities should be in|should be finite|of the same length"):
        calibration.score_bins([0, 1], probabilities)
