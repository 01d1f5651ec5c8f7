import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ladnn_tf import metrics, person

SLICES = [0.9, 0.1, 0.8, 0.4]


@pytest.mark.parametrize(
    ("probabilities", "mean", "noisy_or", "top_k_mean"),
    [
        ([0.5, 0.5], 0.5, 0.75, 0.5),
        (SLICES, 2.2 / 4, 1 - 0.1 * 0.9 * 0.2 * 0.6, (0.9 + 0.8 + 0.4) / 3),
        ([0.0, 1.0, 0.5], 0.5, 1.0, 0.5),  # one certain slice makes the person certain, beside one of 0 too
        ([0.0, 0.0], 0.0, 0.0, 0.0),
        ([0.3], 0.3, 0.3, 0.3),
        ([1e-20] * 2, 1e-20, 2e-20, 1e-20),  # 1 - (1 - 1e-20) would be 0
    ],
)
def test_aggregations_by_hand(probabilities, mean, noisy_or, top_k_mean):
    found = [person.aggregate(probabilities, each) for each in person.AGGREGATIONS]
    assert found == pytest.approx([mean, noisy_or, top_k_mean], rel=1e-12, abs=0)
    assert [person.aggregate(probabilities[::-1], each) for each in person.AGGREGATIONS] == pytest.approx(found)


@pytest.mark.parametrize("aggregation", person.AGGREGATIONS)
@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 1.0])
def test_of_a_single_slice_every_aggregation_is_its_probability_to_the_last_digit(aggregation, value):
    assert person.aggregate([value], aggregation) == value


@pytest.mark.parametrize("aggregation", person.AGGREGATIONS)
def test_interval_over_slices_is_of_drawn_slices(aggregation):
    """Beside a plain loop that draws slices one by one, with other random numbers."""
    generator = np.random.default_rng(7)
    drawn = [person.aggregate(generator.choice(SLICES, 4), aggregation) for _ in range(8000)]
    expected = np.quantile(drawn, [0.1, 0.9])
    found = person.slice_interval(SLICES, aggregation, resamples=8000, level=0.8)
    assert found == pytest.approx(expected, abs=0.02)
    assert found == person.slice_interval(SLICES, aggregation, resamples=8000, level=0.8)
    assert found != person.slice_interval(SLICES, aggregation, resamples=8000, level=0.9)


def test_interval_of_two_slices_by_hand():
    # Both the first, one of each, both the second: 0.2, 0.5 and 0.8 with 1/4, 1/2 and 1/4.
    assert person.slice_interval([0.2, 0.8], "mean") == pytest.approx((0.2, 0.8))
    assert person.slice_interval([0.2, 0.8], "mean", level=0.4) is None  # 0.5 to 0.5


def test_interval_of_a_certain_slice_by_hand():
    # Without the certain slice (8 of 27 draws) the lowest is 0.2 three times, 1 of 27: more than 2.5 %.
    assert person.slice_interval([0.2, 1.0, 0.3], "noisy_or") == pytest.approx((1 - 0.8**3, 1.0))


@pytest.mark.parametrize("aggregation", person.AGGREGATIONS)
@pytest.mark.parametrize("probabilities", [[0.4], [0.1] * 15, [1.0] * 3, [0.0, 0.0]])
def test_one_slice_or_equal_slices_have_no_interval(aggregation, probabilities):
    assert person.slice_interval(probabilities, aggregation) is None


@pytest.mark.parametrize("function", [person.aggregate, person.slice_interval])
@pytest.mark.parametrize(
    ("probabilities", "aggregation", "message"),
    [
        ([], "mean", r"at least 1, got shape \(0,\)"),
        ([[0.5]], "mean", r"got shape \(1, 1\)"),
        ([0.5, 1.2], "mean", r"in \[0, 1\], got 1.2 in slice 1"),
        ([0.5, np.nan], "noisy_or", "got nan in slice 1"),
        ([0.5], "median", "one of mean, noisy_or, top_k_mean. Received: 'median'"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(function, probabilities, aggregation, message):
    with pytest.raises(ValueError, match=message):
        function(probabilities, aggregation)


def test_persons_are_positive_if_any_of_their_slices_is():
    names, labels, values = person.by_person(
        ["b", "a", "b", "c", "a"], [0, 0, 1, 0, 0], [0.2, 0.6, 0.4, 0.9, 0.8], "mean"
    )
    assert list(names) == ["a", "b", "c"]
    assert list(labels) == [0, 1, 0]
    assert values == pytest.approx([0.7, 0.3, 0.9])
    with pytest.raises(ValueError, match=r"a patient for each of 2 images, got shape \(1,\)"):
        person.by_person(["a"], [0, 1], [0.1, 0.2], "mean")


def cohort(persons, positive_slices, negative_slices):
    """As many positive as negative persons, whose slices all look alike."""
    patients, labels, probabilities = [], [], []
    for label, slices in ((1, positive_slices), (0, negative_slices)):
        for number in range(persons):
            patients += [f"{label}-{number}"] * len(slices)
            labels += [label] * len(slices)
            # Later persons a little higher, so that a threshold lies between two of them.
            probabilities += [value + number / 1000 for value in slices]
    return patients, labels, probabilities


def test_on_a_small_validation_where_all_are_perfect_the_mean_is_chosen():
    rule = person.choose_rule(*cohort(6, [0.9, 0.7, 0.8] * 2, [0.1, 0.2, 0.1] * 2), 0.95)
    assert (rule.aggregation, rule.patients, rule.positives, rule.slices) == ("mean", 12, 6, 6)
    # All six are needed for 95 %: between the lowest positive, 0.8, and the highest negative, 0.4 / 3 + 0.005.
    assert rule.threshold == pytest.approx((0.8 + 0.4 / 3 + 0.005) / 2)
    assert rule.rule == (
        "mean over the slices (neither other aggregation has a higher AUC beyond chance), and the highest "
        "threshold with a sensitivity of at least 0.95, over the 12 patients of validation"
    )


@pytest.mark.parametrize(
    ("chosen", "positive", "negative"),
    [
        # One suspicious slice of five: means of 0.26 and 0.4, but 1 - 0.1 0.9^4 = 0.934 > 1 - 0.6^5 = 0.922.
        ("noisy_or", [0.9, 0.1, 0.1, 0.1, 0.1], [0.4] * 5),
        # Three of eight, and sixteen: means 0.35 and 0.40, noisy-or 0.997 and 0.9998, highest three 0.84 and 0.5.
        ("top_k_mean", [0.8, 0.85, 0.87] + [0.06] * 5, [0.5] * 8 + [0.3] * 8),
    ],
)
def test_another_aggregation_is_chosen_where_it_alone_is_right(chosen, positive, negative):
    patients, labels, probabilities = cohort(8, positive, negative)
    rule = person.choose_rule(patients, labels, probabilities, 0.5)
    assert rule.aggregation == chosen
    assert "its AUC is higher than the mean's beyond chance" in rule.rule
    _, truth, values = person.by_person(patients, labels, probabilities, chosen)
    assert roc_auc_score(truth, values) == 1
    assert rule.threshold == metrics.choose_threshold(truth, values, 0.5)
    assert np.sum(values[truth == 1] >= rule.threshold) == 4  # half of them, as asked for


def test_with_few_persons_the_mean_is_chosen_however_the_others_do():
    slices = [0.9, 0.1, 0.1, 0.1, 0.1], [0.4] * 5
    rule = person.choose_rule(*cohort(person.SMALLEST_CLASS - 1, *slices), 1.0)
    assert rule.aggregation == "mean"
    assert "too few patients to choose another" in rule.rule
    assert person.choose_rule(*cohort(person.SMALLEST_CLASS, *slices), 1.0).aggregation == "noisy_or"


@pytest.mark.parametrize(("more", "slices", "aggregation"), [(0, 4, "mean"), (8, 4, "mean"), (9, 5, "noisy_or")])
def test_with_few_images_of_each_patient_the_mean_is_chosen_however_the_others_do(more, slices, aggregation):
    """Sixteen patients with four images or five: the lower median is four until more than half have five."""
    patients, labels, probabilities = cohort(8, [0.9, 0.1, 0.1, 0.1], [0.4] * 4)
    for number in range(more):
        label = number % 2
        patients.append(f"{label}-{number // 2}")
        labels.append(label)
        probabilities.append(0.1)
    rule = person.choose_rule(patients, labels, probabilities, 0.5)
    assert (rule.slices, rule.aggregation) == (slices, aggregation)
    assert ("too few images of each patient, about 4, to choose another" in rule.rule) == (slices == 4)


def test_a_difference_within_noise_leaves_the_mean():
    """One person in sixteen is ordered better by the others: no verdict."""
    patients, labels, probabilities = cohort(8, [0.7, 0.6, 0.5, 0.6, 0.6], [0.3, 0.2, 0.1, 0.2, 0.2])
    probabilities[:5] = [0.95, 0.1, 0.01, 0.01, 0.02]  # the first positive: its mean is 0.218, its noisy-or 0.957
    truth, values = person.by_person(patients, labels, probabilities, "noisy_or")[1:]
    assert roc_auc_score(truth, values) == 1
    truth, values = person.by_person(patients, labels, probabilities, "mean")[1:]
    assert roc_auc_score(truth, values) == 1
    probabilities[:5] = [0.93, 0.01, 0.01, 0.01, 0.01]  # mean 0.194, below all negatives
    truth, values = person.by_person(patients, labels, probabilities, "mean")[1:]
    assert roc_auc_score(truth, values) == 7 / 8
    truth, values = person.by_person(patients, labels, probabilities, "noisy_or")[1:]
    assert roc_auc_score(truth, values) == 1
    assert person.choose_rule(patients, labels, probabilities, 0.95).aggregation == "mean"


def test_with_one_image_per_patient_the_rule_is_the_slices():
    labels, probabilities = [1, 0] * 6, np.linspace(0.05, 0.95, 12)
    rule = person.choose_rule([f"p{row}" for row in range(12)], labels, probabilities, 0.8)
    assert (rule.aggregation, rule.patients, rule.positives, rule.slices) == ("mean", 12, 6, 1)
    assert rule.threshold == metrics.choose_threshold(labels, probabilities, 0.8)


@pytest.mark.parametrize("labels", [[1, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_without_two_persons_of_each_class_there_is_no_rule(labels):
    assert person.choose_rule(["a", "b", "c", "c", "d"], labels, [0.1, 0.2, 0.3, 0.4, 0.5], 0.95) is None


def test_it_needs_numpy_alone():
    code = (
        "import sys; import ladnn_tf.person; "
        "sys.exit(any(name in sys.modules for name in ('absl', 'pandas', 'scipy', 'tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
