import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from ladnn_tf import delong


def slow_covariance(labels, scores, patients):
    """Obuchowski (1997) as it is written, image by image and patient by patient."""

    def kernel(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    positives = [i for i, label in enumerate(labels) if label == 1]
    negatives = [i for i, label in enumerate(labels) if label == 0]
    m, n, models = len(positives), len(negatives), range(len(scores))
    v10 = [{i: sum(kernel(s[i], s[j]) for j in negatives) / n for i in positives} for s in scores]
    v01 = [{j: sum(kernel(s[i], s[j]) for i in positives) / m for j in negatives} for s in scores]
    aucs = [sum(v.values()) / m for v in v10]
    names = sorted(set(patients))
    covariance = np.zeros((len(scores), len(scores)))
    for r in models:
        for s in models:
            s10 = s01 = s11 = 0.0
            for name in names:
                mine_10 = [i for i in positives if patients[i] == name]
                mine_01 = [j for j in negatives if patients[j] == name]
                d10 = [sum(v10[k][i] for i in mine_10) - len(mine_10) * aucs[k] for k in models]
                d01 = [sum(v01[k][j] for j in mine_01) - len(mine_01) * aucs[k] for k in models]
                s10 += d10[r] * d10[s]
                s01 += d01[r] * d01[s]
                s11 += d10[r] * d01[s] + d10[s] * d01[r]
            i10 = len({patients[i] for i in positives})
            i01 = len({patients[j] for j in negatives})
            s10 *= i10 / ((i10 - 1) * m)
            s01 *= i01 / ((i01 - 1) * n)
            s11 *= len(names) / (len(names) - 1)
            covariance[r, s] = s10 / m + s01 / n + s11 / (m * n)
    return np.array(aucs), covariance


def sample(seed, images=60, patients=25, models=3):
    """Scores with many ties; patients who have positives and negatives."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    scores = np.round(generator.normal(size=(models, images)) + labels, 1)
    return labels, scores, generator.integers(0, patients, images)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_and_ties_equal_the_written_definition(seed):
    labels, scores, patients = sample(seed)
    aucs, covariance = delong.auc_covariance(labels, scores, patients)
    slow_aucs, slow = slow_covariance(labels, scores, patients)
    np.testing.assert_allclose(aucs, slow_aucs, atol=1e-12)
    np.testing.assert_allclose(covariance, slow, atol=1e-12)
    np.testing.assert_allclose(aucs, [roc_auc_score(labels, score) for score in scores], atol=1e-12)


def test_one_image_for_each_patient_is_delong_s_own_formula():
    labels, scores, _ = sample(7)
    greater = scores[:, labels == 1][:, :, None] - scores[:, labels == 0][:, None, :]
    kernel = (greater > 0) + 0.5 * (greater == 0)
    m, n = (labels == 1).sum(), (labels == 0).sum()
    # np.cov divides by the number less one, as DeLong et al. (1988) do.
    expected = np.cov(kernel.mean(axis=2)) / m + np.cov(kernel.mean(axis=1)) / n
    _, covariance = delong.auc_covariance(labels, scores, np.arange(len(labels)))
    np.testing.assert_allclose(covariance, expected, atol=1e-14)


def test_small_numbers_by_hand():
    """Positives 3 and 1, negatives 2 and 0: of the pairs 3 > 2, 3 > 0, 1 < 2, 1 > 0 three are right."""
    aucs, covariance = delong.auc_covariance([1, 1, 0, 0], [[3, 1, 2, 0]], ["a", "b", "c", "d"])
    assert aucs[0] == 0.75
    # V10 = (1, 1/2) and V01 = (1/2, 1): variance 1/8 each, / 2 each, so 1/8.
    assert covariance[0, 0] == pytest.approx(0.125)
    result = delong.auc_contrast([1, 1, 0, 0], [[3, 1, 2, 0]], ["a", "b", "c", "d"], [1])
    assert result.value == 0.75
    assert result.standard_error == pytest.approx(math.sqrt(0.125))
    assert result.z == pytest.approx(0.75 / math.sqrt(0.125))
    assert result.p == pytest.approx(2 * norm.cdf(-0.75 / math.sqrt(0.125)))


def test_each_image_twice_tells_no_more_than_once():
    labels, scores, _ = sample(11)
    once = delong.auc_covariance(labels, scores, np.arange(60))[1]
    twice = delong.auc_covariance(np.tile(labels, 2), np.tile(scores, 2), np.tile(np.arange(60), 2))[1]
    np.testing.assert_allclose(twice, once, atol=1e-14)
    single = delong.auc_covariance(np.tile(labels, 2), np.tile(scores, 2), np.arange(120))[1]
    assert (np.diag(single) < 0.6 * np.diag(once)).all()


def test_p_is_uniform_where_nothing_differs_and_patients_have_several_images():
    """Two equally good models, each patient's three images nearly alike: 5 % are called different, not more."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(80) % 2, 3)
    patients = np.repeat(np.arange(80), 3)
    found, careless = [], []
    for _ in range(400):
        of_patient = np.repeat(generator.normal(size=(2, 80)), 3, axis=1)
        scores = labels + of_patient + 0.1 * generator.normal(size=(2, 240))
        found.append(delong.auc_contrast(labels, scores, patients, [1, -1]).p)
        careless.append(delong.auc_contrast(labels, scores, np.arange(240), [1, -1]).p)
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.085
    assert np.mean(np.array(careless) < 0.05) > 0.15


def test_a_mean_over_seeds_against_another():
    labels, scores, patients = sample(3, models=4)
    weights = np.array([0.5, 0.5, -0.5, -0.5])
    result = delong.auc_contrast(labels, scores, patients, weights)
    aucs, covariance = slow_covariance(labels, scores, patients)
    assert result.value == pytest.approx(aucs[:2].mean() - aucs[2:].mean())
    assert result.standard_error == pytest.approx(math.sqrt(weights @ covariance @ weights))
    assert result.z == pytest.approx(result.value / result.standard_error)
    swapped = delong.auc_contrast(labels, scores[[2, 3, 0, 1]], patients, weights)
    assert (swapped.value, swapped.p) == (pytest.approx(-result.value), pytest.approx(result.p))


def test_what_is_undefined_is_none():
    labels, scores, patients = sample(5)
    same = delong.auc_contrast(labels, scores[[0, 0, 0, 0, 0, 0]], patients, np.repeat([1 / 3, -1 / 3], 3))
    assert same.value == pytest.approx(0, abs=1e-12)
    assert (same.standard_error, same.z, same.p) == (0, None, None)
    one_class = delong.auc_contrast(np.ones(60), scores, patients, [1, -1, 0])
    assert one_class == delong.AucContrast(None)
    one_positive_patient = np.where(labels == 1, -1, patients)
    result = delong.auc_contrast(labels, scores, one_positive_patient, [1, -1, 0])
    assert result == delong.AucContrast(
        pytest.approx(roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1]))
    )


@pytest.mark.parametrize(
    ("labels", "scores", "patients", "message"),
    [
        ([0, 1], [[0.1, 0.2, 0.3]], [1, 2], r"shape \(models, 2\)"),
        ([0, 2], [[0.1, 0.2]], [1, 2], "0 or 1, got 2"),
        ([0, 1], [[0.1, math.nan]], [1, 2], "finite"),
        ([0, 1], [[0.1, 0.2]], [1, 2, 3], "same length"),
        ([], [[]], [], "at least 1"),
    ],
)
def test_wrong_input_is_named(labels, scores, patients, message):
    with pytest.raises(ValueError, match=message):
        delong.auc_covariance(labels, scores, patients)


def test_a_weight_for_each_model():
    with pytest.raises(ValueError, match="one for each model"):
        delong.auc_contrast([0, 1], [[0.1, 0.2]], [1, 2], [1, -1])
