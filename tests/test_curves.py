"""Curves against scikit-learn, bands against a slow loop over the same drawn weights, reliability by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from ladnn_tf import curves, intervals, metrics


@pytest.fixture
def predictions():
    """60 images of 20 patients, with ties."""
    generator = np.random.default_rng(4)
    labels = (np.arange(60) // 3 % 2).astype(int)
    noise = generator.normal(size=60) + np.repeat(generator.normal(size=20), 3)
    return labels, np.round(1 / (1 + np.exp(-(2 * labels - 1 + noise))), 1), np.arange(60) // 3


def other_model(probabilities):
    return np.roll(probabilities, 1) * 0.5 + probabilities * 0.5


def test_roc_curve_equals_scikit_learns(predictions):
    labels, probabilities, _ = predictions
    curve = curves.roc_curve(labels, probabilities)
    x, y, thresholds = reference.roc_curve(labels, probabilities, drop_intermediate=False)
    np.testing.assert_allclose(curve.x, x)
    np.testing.assert_allclose(curve.y, y)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


def test_precision_recall_curve_equals_scikit_learns(predictions):
    labels, probabilities, _ = predictions
    curve = curves.precision_recall_curve(labels, probabilities)
    precision, recall, thresholds = reference.precision_recall_curve(labels, probabilities)
    np.testing.assert_allclose(curve.x, recall[:-1][::-1])
    np.testing.assert_allclose(curve.y, precision[:-1][::-1])
    np.testing.assert_array_equal(curve.thresholds, thresholds[::-1])
    area = np.sum(np.diff(curve.x, prepend=0) * curve.y)
    assert area == pytest.approx(reference.average_precision_score(labels, probabilities))


def test_curves_of_four_images_by_hand():
    labels, probabilities = [1, 0, 1, 0], [0.9, 0.6, 0.6, 0.1]
    roc = curves.roc_curve(labels, probabilities)
    assert (roc.x.tolist(), roc.y.tolist()) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1])
    assert roc.thresholds.tolist() == [np.inf, 0.9, 0.6, 0.1]
    found = curves.precision_recall_curve(labels, probabilities)
    assert (found.x.tolist(), found.y.tolist()) == ([0.5, 1, 1], [1, 2 / 3, 0.5])


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
@pytest.mark.parametrize("curve", [curves.roc_curve, curves.precision_recall_curve])
def test_a_curve_needs_both_classes(curve, labels):
    with pytest.raises(ValueError, match=f"all 2 labels are {labels[0]}"):
        curve(labels, [0.2, 0.7])


def test_heights_of_four_images_by_hand():
    """Vertical at 0 up to 1 / 2, a straight line to (1 / 2, 1); precision 1 up to recall 1 / 2, then 2 / 3."""
    arguments = [1, 0, 1, 0], [[0.9, 0.6, 0.6, 0.1]], [1, 2, 3, 4]
    band = curves.roc_band(*arguments, resamples=10)
    assert dict(zip(band.x, band.y, strict=True))[0] == 0.5
    assert dict(zip(band.x, band.y, strict=True))[0.25] == 0.75
    assert (band.y[band.x >= 0.5] == 1).all()
    band = curves.precision_recall_band(*arguments, resamples=10)
    assert band.x[0] > 0
    assert (band.y[band.x <= 0.5] == 1).all()
    assert band.y[band.x > 0.5] == pytest.approx(2 / 3)


def slow_sensitivity(labels, probabilities, x):
    """The height of scikit-learn's ROC curve at a false positive rate; the upper end where it is vertical."""
    false, true, _ = reference.roc_curve(labels, probabilities, drop_intermediate=False)
    left = max(k for k in range(len(false)) if false[k] <= x + 1e-12)
    if left == len(false) - 1:
        return true[-1]
    return true[left] + (x - false[left]) / (false[left + 1] - false[left]) * (true[left + 1] - true[left])


def slow_precision(labels, probabilities, x):
    precision, recall, _ = reference.precision_recall_curve(labels, probabilities)
    return next(p for p, r in list(zip(precision, recall, strict=True))[-2::-1] if r >= x - 1e-12)


@pytest.mark.parametrize(
    ("band_of", "height"),
    [(curves.roc_band, slow_sensitivity), (curves.precision_recall_band, slow_precision)],
)
def test_bands_equal_those_of_a_slow_loop(predictions, band_of, height):
    """Resamples are made by repeating images, the two models' curves averaged, scikit-learn's functions used."""
    labels, probabilities, patients = predictions
    models = [probabilities, other_model(probabilities)]
    band = band_of(labels, models, patients, resamples=40, seed=3)
    (weights,) = intervals.patient_weights(patients, 40, 3)
    for k in (0, 17, 50, 100, 150, len(band.x) - 1):
        heights = []
        for row in weights.astype(int):
            drawn = np.repeat(np.arange(60), row)
            heights.append(np.mean([height(labels[drawn], model[drawn], band.x[k]) for model in models]))
        assert (band.low[k], band.high[k]) == pytest.approx(np.quantile(heights, [0.025, 0.975]), abs=1e-12)
        assert band.y[k] == pytest.approx(np.mean([height(labels, model, band.x[k]) for model in models]))
    assert band.undefined_resamples == 0


def test_resamples_without_a_class_are_left_out_and_counted():
    labels, probabilities, patients = [1, 0, 1], [0.9, 0.1, 0.8], ["a", "b", "c"]
    band = curves.roc_band(labels, [probabilities], patients, resamples=500, seed=1)
    (weights,) = intervals.patient_weights(patients, 500, 1)
    lacking = (weights[:, 1] == 0) | (weights[:, 1] == 3)
    assert band.undefined_resamples == lacking.sum() > 0
    assert (band.low == 1).all()
    only_one = next(seed for seed in range(100) if next(intervals.patient_weights(patients, 1, seed))[0, 1] == 0)
    band = curves.precision_recall_band(labels, [probabilities], patients, resamples=1, seed=only_one)
    assert band.undefined_resamples == 1
    assert np.isnan(band.low).all()


def test_bands_grow_with_fewer_patients(predictions):
    labels, probabilities, patients = predictions
    grouped = curves.roc_band(labels, [probabilities], patients, resamples=300)
    single = curves.roc_band(labels, [probabilities], np.arange(60), resamples=300)
    assert (grouped.high - grouped.low).mean() > 1.1 * (single.high - single.low).mean()


def test_mean_metrics_average_the_models_and_keep_an_interval(predictions):
    labels, probabilities, patients = predictions
    models = [probabilities, other_model(probabilities)]
    found = curves.mean_metrics(labels, models, patients, resamples=200)
    expected = np.mean([reference.roc_auc_score(labels, model) for model in models])
    assert found["auc"].value == pytest.approx(expected)
    assert found["auc"].low < expected < found["auc"].high
    assert tuple(found) == metrics.PROBABILITY_METRICS


def test_reliability_of_forty_images_by_hand():
    """Four bins of ten: 0 of 10 positive, 3 of 10, 5 of 10 and 10 of 10."""
    probabilities = np.repeat([0.1, 0.3, 0.6, 0.9], 10) + np.tile(np.arange(10) / 1000, 4)
    labels = np.zeros(40)
    labels[[10, 11, 12]] = labels[20:25] = labels[30:] = 1
    patients = np.arange(40) // 2
    found = curves.reliability(labels, probabilities, patients, resamples=300)
    assert found.images.tolist() == [10, 10, 10, 10]
    assert found.share.tolist() == [0, 0.3, 0.5, 1]
    assert found.probability == pytest.approx([0.1045, 0.3045, 0.6045, 0.9045])
    # No resample of the first and the last bin differs: Wilson's interval of 0 of 5 patients, and of 5 of 5.
    assert (found.low[0], found.high[0]) == intervals.wilson_interval(0, 5)
    assert (found.low[3], found.high[3]) == intervals.wilson_interval(5, 5)
    assert 0 <= found.low[1] < 0.3 < found.high[1] < 0.8


def test_reliability_intervals_are_over_patients():
    labels = np.tile([0, 1], 50)
    probabilities = np.full(100, 0.5)
    single = curves.reliability(labels, probabilities, np.arange(100))
    assert single.images.tolist() == [100]  # equal probabilities stay together
    normal = 1.96 * np.sqrt(0.25 / 100)
    assert (single.low[0], single.high[0]) == pytest.approx((0.5 - normal, 0.5 + normal), abs=0.02)
    pairs = curves.reliability(labels, probabilities, np.arange(100) % 2)  # one patient all 0, the other all 1
    assert (pairs.low[0], pairs.high[0]) == (0, 1)
    one = curves.reliability(labels, probabilities, np.zeros(100))
    assert np.isnan(one.low[0])


@pytest.mark.parametrize(("images", "bins"), [(5, 1), (39, 3), (1000, curves.RELIABILITY_BINS)])
def test_bins_hold_ten_images_or_more(images, bins):
    probabilities = np.arange(images) / images
    found = curves.reliability(np.arange(images) % 2, probabilities, np.arange(images), resamples=50)
    assert len(found.images) == bins
    assert found.images.sum() == images
    assert np.ptp(found.images) <= 1
