import numpy as np
import pytest

from ladnn_tf import intervals, metrics


def mean_of(values):
    """A statistic: the weighted mean of one value per image."""
    values = np.asarray(values, float)
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_wilson_interval_equals_published_values():
    """Newcombe (1998), table I, method 3."""
    for successes, n, expected in (
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ):
        low, high = intervals.wilson_interval(successes, n)
        assert (round(low, 4), round(high, 4)) == expected


def test_wilson_interval_at_the_ends_is_exact_and_symmetric():
    for n in range(1, 200):
        none, every = intervals.wilson_interval(0, n), intervals.wilson_interval(n, n)
        assert (none[0], every[1]) == (0, 1)
        assert every[0] == pytest.approx(1 - none[1])


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        intervals.wilson_interval(successes, n)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_are_shares(level):
    with pytest.raises(ValueError, match="level"):
        intervals.wilson_interval(1, 2, level)
    with pytest.raises(ValueError, match="level"):
        intervals.bootstrap_patients([1, 2], mean_of([0, 1]), level=level, resamples=10)


def test_patients_are_drawn_with_all_their_images():
    drawn = []

    def statistic(weights):
        drawn.append(weights)
        return {"drawn": weights.sum(axis=1)}

    patients = ["b", "a", "b", "c"]
    intervals.bootstrap_patients(patients, statistic, resamples=200)
    weights = next(weights for weights in drawn if len(weights) == 200)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()  # three draws of three patients
    assert weights.mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.2)


def test_repeated_images_of_a_patient_do_not_narrow_the_interval():
    generator = np.random.default_rng(0)
    values = generator.random(40)
    patients = np.arange(40)
    once = intervals.bootstrap_patients(patients, mean_of(values))["mean"]
    tenfold = intervals.bootstrap_patients(np.repeat(patients, 10), mean_of(np.repeat(values, 10)))["mean"]
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    single_images = intervals.bootstrap_patients(np.arange(400), mean_of(np.repeat(values, 10)))["mean"]
    assert single_images.high - single_images.low < 0.4 * (once.high - once.low)


def test_interval_of_a_mean_has_the_width_of_theory():
    """The percentile interval of a mean of n values is about 2 x 1.96 x deviation / sqrt(n) wide."""
    values = np.random.default_rng(1).normal(size=400)
    found = intervals.bootstrap_patients(np.arange(400), mean_of(values))["mean"]
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)
    narrower = intervals.bootstrap_patients(np.arange(400), mean_of(values), level=0.5)["mean"]
    assert narrower.high - narrower.low == pytest.approx(2 * 0.674 * values.std() / 20, rel=0.1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """AUC of two normal distributions one deviation apart is 0.7602; two images of each patient."""
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(60) % 2, 2)
    patients = np.repeat(np.arange(60), 2)
    covered = 0
    for _ in range(200):
        shared = generator.normal(size=60)  # the same for both images of a patient
        probabilities = 1 / (1 + np.exp(-(np.repeat(shared, 2) + labels)))

        def statistic(weights, probabilities=probabilities):
            return metrics.probability_metrics(labels, probabilities, weights)

        found = intervals.bootstrap_patients(patients, statistic, resamples=300)["auc"]
        covered += found.low <= 0.7602 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_memory_chunks_do_not_matter(monkeypatch):
    values = np.random.default_rng(3).random(30)
    patients = np.arange(30) // 2
    first = intervals.bootstrap_patients(patients, mean_of(values), resamples=500)
    assert intervals.bootstrap_patients(patients, mean_of(values), resamples=500) == first
    assert intervals.bootstrap_patients(patients, mean_of(values), resamples=500, seed=1) != first
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_ONCE", 7 * 30)
    assert intervals.bootstrap_patients(patients, mean_of(values), resamples=500) == first


def test_undefined_resamples_are_left_out_and_counted():
    # One positive patient of three: a resample misses it with probability (2/3)^3 = 0.296.
    def statistic(weights):
        return metrics.probability_metrics([1, 0, 0], [0.5, 0.2, 0.7], weights)

    auc = intervals.bootstrap_patients([1, 2, 3], statistic, resamples=4000)["auc"]
    assert auc.value == 0.5
    # Undefined too where only the positive is drawn: 1/27.
    assert auc.undefined_resamples / 4000 == pytest.approx(8 / 27 + 1 / 27, abs=0.03)
    assert (auc.low, auc.high, auc.method) == (0, 1, "bootstrap")


def test_undefined_value_has_no_interval():
    def statistic(weights):
        return metrics.probability_metrics([1, 1], [0.5, 0.2], weights)

    auc = intervals.bootstrap_patients([1, 2], statistic, resamples=50)["auc"]
    assert auc == intervals.Interval(None, undefined_resamples=50)


def test_a_constant_or_a_single_patient_has_no_interval_of_zero_width():
    assert intervals.bootstrap_patients([1, 2, 3], mean_of([1, 1, 1]))["mean"] == intervals.Interval(1.0)
    assert intervals.bootstrap_patients([1, 1, 1], mean_of([0, 1, 5]))["mean"] == intervals.Interval(2.0)


@pytest.mark.parametrize("function", ["bootstrap_patients", "paired_bootstrap"])
def test_bootstrap_needs_images_and_resamples(function):
    statistics = [mean_of([])] * (2 if function == "paired_bootstrap" else 1)
    with pytest.raises(ValueError, match="at least one image"):
        getattr(intervals, function)([], *statistics)
    statistics = [mean_of([1, 2])] * len(statistics)
    with pytest.raises(ValueError, match="resamples should be at least 1, got 0"):
        getattr(intervals, function)([1, 2], *statistics, resamples=0)


def test_paired_difference_is_narrower_than_two_separate_intervals():
    generator = np.random.default_rng(4)
    hard = generator.normal(size=100)  # what both models find hard
    a, b = hard + 0.3 + 0.1 * generator.normal(size=100), hard + 0.1 * generator.normal(size=100)
    patients = np.arange(100)
    paired = intervals.paired_bootstrap(patients, mean_of(a), mean_of(b))["mean"]
    assert paired.difference == pytest.approx(paired.a - paired.b)
    assert paired.difference == pytest.approx((a - b).mean())
    assert paired.low < 0.3 < paired.high
    separate = [intervals.bootstrap_patients(patients, mean_of(values))["mean"] for values in (a, b)]
    assert separate[0].low < separate[1].high  # the separate intervals overlap, yet the difference is clear:
    assert paired.low > 0
    assert paired.p == pytest.approx(2 / 2001)  # no resample on the other side of zero


def test_paired_bootstrap_of_one_model_with_itself_shows_no_difference():
    values = np.random.default_rng(5).random(20)
    paired = intervals.paired_bootstrap(np.arange(20), mean_of(values), mean_of(values))["mean"]
    assert paired == intervals.PairedDifference(paired.a, paired.a, 0.0)


def test_a_difference_that_no_resample_changes_has_no_interval_and_no_p():
    """Model a is right about both patients, b about none; whichever are drawn, the difference is 1."""
    paired = intervals.paired_bootstrap([1, 2], mean_of([1, 1]), mean_of([0, 0]))["mean"]
    assert paired == intervals.PairedDifference(1.0, 0.0, 1.0)
    one_wrong = intervals.paired_bootstrap([1, 2], mean_of([1, 0]), mean_of([0, 0]))["mean"]
    assert (one_wrong.low, one_wrong.high) == (0, 1)
    assert one_wrong.p is not None


def test_paired_p_agrees_with_the_normal_theory():
    generator = np.random.default_rng(6)
    other, change = generator.normal(size=(2, 200))
    change = (change - change.mean()) / change.std()
    shifted = other + change + 2 / np.sqrt(200)  # two standard errors from zero: p is 0.0455
    paired = intervals.paired_bootstrap(np.arange(200), mean_of(shifted), mean_of(other), resamples=10000)
    assert paired["mean"].p == pytest.approx(0.0455, abs=0.012)
    swapped = intervals.paired_bootstrap(np.arange(200), mean_of(other), mean_of(shifted), resamples=10000)
    assert swapped["mean"].p == paired["mean"].p
    assert swapped["mean"].difference == -paired["mean"].difference


def test_paired_bootstrap_of_undefined_values_and_of_a_single_patient():
    def statistic(weights):
        return {"auc": np.full(len(weights), np.nan), "only_here": weights.sum(axis=1)}

    def other(weights):
        return {"auc": np.ones(len(weights))}

    found = intervals.paired_bootstrap([1, 2], statistic, other, resamples=10)
    assert found == {"auc": intervals.PairedDifference(None, 1.0, undefined_resamples=10)}
    single = intervals.paired_bootstrap([1, 1], mean_of([1, 2]), mean_of([0, 1]), resamples=10)["mean"]
    assert single == intervals.PairedDifference(1.5, 0.5, 1.0)


def test_weighted_means_are_of_the_images_where_each_column_is_defined():
    a = np.array([[1.0, np.nan], [3.0, np.nan], [8.0, np.nan]])
    b = np.array([[0.0, 0.5], [np.nan, 0.5], [2.0, 0.5]])
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    found = intervals.weighted_means(b, ("x", "y"))(weights)
    np.testing.assert_array_equal(found["x"], [1.0, 2 / 3, np.nan])
    np.testing.assert_array_equal(found["y"], [0.5, 0.5, 0.5])
    first, second = (each(weights) for each in intervals.paired_means(a, b, ("x", "y")))
    np.testing.assert_array_equal(first["x"], [4.5, 10 / 3, np.nan])  # without the second image, which b lacks
    np.testing.assert_array_equal(second["x"], [1.0, 2 / 3, np.nan])
    assert np.isnan([*first["y"], *second["y"]]).all()
