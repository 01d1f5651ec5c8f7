import numpy as np
import pytest
from sklearn import metrics as reference

from ladnn_tf import metrics_classes

CLASSES = ("covid19", "bacterial", "normal")

# True class by row:      covid19  bacterial  normal    in all
#   covid19                  3         1         0         4
#   bacterial                2         2         1         5
#   normal                   0         0         1         1
MATRIX = [[3, 1, 0], [2, 2, 1], [0, 0, 1]]


def images(matrix):
    """True and predicted classes of each image of a confusion matrix."""
    cells = [
        (true, called)
        for true, row in enumerate(matrix)
        for called, count in enumerate(row)
        for _ in range(int(count))
    ]
    return (np.array(column) for column in zip(*cells, strict=True))


def values(matrix, weights=None):
    labels, predicted = images(matrix)
    weights = np.ones((1, len(labels))) if weights is None else weights
    found = metrics_classes.class_metrics(labels, predicted, CLASSES[: len(matrix)], weights)
    return {name: value[0] for name, value in found.items()}


def test_every_metric_of_a_small_case_worked_out_by_hand():
    found = values(MATRIX)
    expected = {
        "accuracy": 6 / 10,
        "covid19/recall": 3 / 4,
        "covid19/precision": 3 / 5,
        "covid19/specificity": 4 / 6,  # of 6 others, 2 are called COVID-19
        "covid19/f1": 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5),  # 2/3; the paper's (P + R) / 2 were 0.675
        "bacterial/recall": 2 / 5,
        "bacterial/precision": 2 / 3,
        "bacterial/specificity": 4 / 5,
        "bacterial/f1": 4 / 8,
        "normal/recall": 1,
        "normal/precision": 1 / 2,
        "normal/specificity": 8 / 9,
        "normal/f1": 2 / 3,
        "macro/recall": (3 / 4 + 2 / 5 + 1) / 3,
        "macro/precision": (3 / 5 + 2 / 3 + 1 / 2) / 3,
        "macro/specificity": (4 / 6 + 4 / 5 + 8 / 9) / 3,
        "macro/f1": (2 / 3 + 4 / 8 + 2 / 3) / 3,
    }
    assert found == pytest.approx(expected)
    assert found["covid19/f1"] == pytest.approx(2 / 3)


def test_confusion_matrix_by_hand():
    labels, predicted = images(MATRIX)
    found = metrics_classes.confusion_matrix(labels, predicted, 3, np.ones((1, 10)))
    assert found[0].tolist() == MATRIX


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), generator.integers(0, 3, 40)])
    predicted = np.concatenate([np.arange(3), generator.integers(0, 3, 40)])
    weights = generator.integers(0, 3, (1, 43)).astype(float)
    weights[:, :3] = 1
    found = metrics_classes.class_metrics(labels, predicted, CLASSES, weights)
    options = {"sample_weight": weights[0]}
    assert found["accuracy"][0] == pytest.approx(reference.accuracy_score(labels, predicted, **options))
    for name, function in (
        ("recall", reference.recall_score),
        ("precision", reference.precision_score),
        ("f1", reference.f1_score),
    ):
        each = function(labels, predicted, average=None, **options)
        assert [found[f"{one}/{name}"][0] for one in CLASSES] == pytest.approx(list(each))
        assert found[f"macro/{name}"][0] == pytest.approx(function(labels, predicted, average="macro", **options))
    others = [reference.recall_score(labels != c, predicted != c, **options) for c in range(3)]
    assert [found[f"{one}/specificity"][0] for one in CLASSES] == pytest.approx(others)


def test_two_classes_are_the_binary_metrics_of_each():
    found = values([[3, 1], [2, 4]])
    assert found["covid19/recall"] == found["bacterial/specificity"] == pytest.approx(3 / 4)
    assert found["covid19/specificity"] == found["bacterial/recall"] == pytest.approx(4 / 6)


def test_rows_of_weights_are_resamples():
    labels, predicted = images(MATRIX)
    drawn = np.zeros((2, 10))
    drawn[0, :4] = 1  # the four of COVID-19
    drawn[1] = 2
    found = metrics_classes.class_metrics(labels, predicted, CLASSES, drawn)
    assert found["accuracy"] == pytest.approx([3 / 4, 6 / 10])
    assert found["covid19/recall"] == pytest.approx([3 / 4, 3 / 4])
    # Among COVID-19 alone a precision says nothing, and there is no recall of the others.
    for name in ("covid19/precision", "covid19/f1", "covid19/specificity", "normal/recall", "macro/recall"):
        assert np.isnan(found[name][0]), name
        assert not np.isnan(found[name][1]), name


def test_a_class_that_is_never_called():
    found = values([[4, 0, 0], [2, 2, 0], [1, 1, 0]])
    assert np.isnan(found["normal/precision"])
    assert np.isnan(found["macro/precision"])
    assert found["normal/recall"] == found["normal/f1"] == 0
    assert found["macro/f1"] == pytest.approx((8 / 11 + 4 / 7 + 0) / 3)


def test_the_highest_probability_is_predicted_and_of_equal_ones_the_first():
    rows = [[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.45, 0.45], [0, 0, 1]]
    assert metrics_classes.predicted_classes(rows).tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[1.0]], "C at least 2, got"),
        ([0.5, 0.5], "C at least 2, got"),
        ([[0.5, 0.5], [0.5, 0.4]], r"sum of 1, got \[0.5, 0.4\] in row 1"),
        ([[1.5, -0.5]], "in row 0"),
        ([[np.nan, 0.5]], "in row 0"),
    ],
)
def test_what_is_no_class_probability_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics_classes.predicted_classes(probabilities)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([], [], "at least 1"),
        ([0, 1], [0], "same length"),
        ([0, 3], [0, 1], "every true class should be from 0 to 2, got 3 in row 1"),
        ([0, 1], [-1, 1], "every predicted class should be from 0 to 2, got -1 in row 0"),
    ],
)
def test_what_is_no_class_is_refused(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        metrics_classes.class_metrics(labels, predicted, CLASSES, np.ones((1, len(labels))))
