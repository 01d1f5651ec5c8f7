"""The loss against cases worked out by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ladnn_tf import losses

LN2 = math.log(2.0)


def batch(covid, lesions):
    return {"covid": np.array(covid, np.float32)[:, None], "lesions": np.array(lesions, np.float32)}


def test_per_image_loss_by_hand():
    labels = batch([1, 0, 1], [[1, 0, -1, -1, -1], [-1] * 5, [1, 1, 0, 0, 0]])
    # Logit ln 3 is probability 3/4: cross entropy ln(4/3) for label 1 and ln 4 for label 0.
    logits = batch([0, math.log(3), 0], [[0] * 5, [5] * 5, [math.log(3), 0, 0, 0, math.log(3)]])
    expected = [
        (5 * LN2 + 2 * LN2) / 6,
        5 * math.log(4) / 6,
        (5 * LN2 + math.log(4 / 3) + 3 * LN2 + math.log(4)) / 6,
    ]
    np.testing.assert_allclose(losses.per_image_loss(labels, logits), expected, rtol=1e-6)


def test_covid_weight_counts():
    labels, logits = batch([1], [[1, -1, -1, -1, -1]]), batch([0], [[0] * 5])
    np.testing.assert_allclose(losses.per_image_loss(labels, logits, 2.0), [(2 * LN2 + LN2) / 6], rtol=1e-6)


def test_baseline_is_the_plain_cross_entropy():
    labels = {"covid": np.array([[1.0]], np.float32)}
    logits = {"covid": np.array([[0.0]], np.float32)}
    np.testing.assert_allclose(losses.per_image_loss(labels, logits), [LN2], rtol=1e-6)
    assert losses.head_weights(["covid"]) == {"covid": 1.0}


def test_large_logits_stay_finite_and_exact():
    labels, logits = batch([0, 1], [[-1] * 5] * 2), batch([100, 100], [[0] * 5] * 2)
    np.testing.assert_allclose(losses.per_image_loss(labels, logits), [500 / 6, 0.0], atol=1e-5)


def test_an_unknown_lesion_moves_no_weight():
    kernel = tf.Variable(np.ones((3, 5), np.float32))
    features = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    labels = np.array([[1, -1, 0, -1, -1], [-1, -1, -1, -1, -1]], np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses.lesion_loss(labels, features @ kernel))
    moved = np.abs(tape.gradient(loss, kernel).numpy()).sum(axis=0) > 0
    assert moved.tolist() == [True, False, True, False, False]


def test_class_loss_by_hand():
    """Three classes with equal logits: ln 3; logits ln 2, 0, 0 are probabilities 1/2, 1/4, 1/4."""
    labels = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    logits = np.array([[5, 5, 5], [LN2, 0, 0], [LN2, 0, 0]], np.float32)
    np.testing.assert_allclose(losses.class_loss(labels, logits), [math.log(3), LN2, math.log(4)], rtol=1e-6)


def test_the_logit_of_covid_is_the_softmax_s_first_probability():
    logits = np.array([[0, 0, 0], [2, -1, 0.5], [80, -80, 0]], np.float32)
    found = losses.covid_against_rest(logits)
    assert found.shape == (3, 1)
    assert float(found[0, 0]) == pytest.approx(-LN2)
    np.testing.assert_allclose(tf.sigmoid(found)[:, 0], tf.nn.softmax(logits)[:, 0], rtol=1e-5)
    # Of two classes it is the difference of their logits.
    np.testing.assert_allclose(losses.covid_against_rest(np.array([[3.0, 1.0]], np.float32)), [[2.0]], rtol=1e-6)


def test_ranking_loss_by_hand():
    """Region 2 tells most (loss 1), then 0 (loss 2), then 1 (loss 3). The pairs of a better and a worse one are
    (2, 0): 1 - 0.2 + 0.5 = 1.3; (2, 1): 1 - 0.2 - 0.3 = 0.5; (0, 1): 1 - 0.5 - 0.3 = 0.2."""
    scores = np.array([[0.5, -0.3, 0.2]], np.float32)
    np.testing.assert_allclose(losses.ranking_loss(scores, np.array([[2, 3, 1]], np.float32)), [2.0], rtol=1e-6)


def test_ranking_loss_is_zero_where_the_order_is_right_by_a_margin_of_one():
    scores = np.array([[3, 2, 1], [3, 1.75, 1], [1, 1, 1]], np.float32)
    of_regions = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.7, 0.7, 0.7]], np.float32)
    # Of the second only regions 1 and 2 are nearer than 1: 1 - 1.75 + 1. Of equal losses none is the worse.
    np.testing.assert_allclose(losses.ranking_loss(scores, of_regions), [0, 0.25, 0], atol=1e-6)


def test_ranking_moves_the_scores_and_not_what_they_are_ranked_by():
    """Each pair pulls the score of the better region up by 1 and that of the worse one down."""
    scores, of_regions = tf.Variable([[0.5, -0.3, 0.2]]), tf.Variable([[2.0, 3.0, 1.0]])
    with tf.GradientTape() as tape:
        loss = losses.ranking_loss(scores, of_regions)
    moved, unmoved = tape.gradient(loss, [scores, of_regions])
    np.testing.assert_allclose(moved, [[0, 2, -2]])  # 0 is better than 1 and worse than 2
    assert unmoved is None


def test_region_loss_by_hand():
    """Two regions of an image of the first class: equal logits cost ln 2, logits ln 3, 0 cost ln(4/3). The second
    is the better one: 1 - 0.25 + 0.75 = 1.5 for the order."""
    labels = np.array([[1, 0]], np.float32)
    packed = np.array([[[0.75, 0, 0], [0.25, math.log(3), 0]]], np.float32)
    expected = (LN2 + math.log(4 / 3)) / 2 + 1.5
    np.testing.assert_allclose(losses.region_loss(labels, packed), [expected], rtol=1e-6)


def test_drenet_s_loss_is_the_sum_over_its_heads():
    labels = np.array([[1, 0], [0, 1]], np.float32)
    logits = {
        "classes": np.array([[LN2, 0], [0, 0]], np.float32),  # ln(3/2) and ln 2
        "image": np.array([[0, 0], [0, math.log(3)]], np.float32),  # ln 2 and ln(4/3)
        "regions": np.array([[[0, 0, 0]], [[9, 0, 0]]], np.float32),  # one region has no order: ln 2 twice
    }
    expected = [math.log(3 / 2) + 2 * LN2, 2 * LN2 + math.log(4 / 3)]
    found = losses.per_image_loss(dict.fromkeys(logits, labels), logits, covid_weight=7.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fit_minimises_the_mean_of_the_per_image_loss():
    """What `compile` is given, Keras' own reduction included, is the loss above."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, {"covid": keras.layers.Dense(1)(inputs), "lesions": keras.layers.Dense(5)(inputs)})
    labels = batch([1, 0, 1], [[1, 0, -1, -1, 1], [-1] * 5, [0, 0, 0, 0, 1]])
    model.compile(loss=losses.head_losses(model.output), loss_weights=losses.head_weights(model.output))
    x = np.array([[1.0], [2.0], [-1.0]], np.float32)
    expected = np.mean(losses.per_image_loss(labels, {k: v.numpy() for k, v in model(x).items()}))
    assert model.evaluate(x, labels, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-6)


def test_l2_decay_adds_decay_times_weight_to_every_gradient():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Dense(3)(inputs)))
    losses.add_l2_decay(model, 0.01)
    with tf.GradientTape() as tape:
        penalty = tf.add_n(model.losses)
    assert len(model.trainable_variables) == 4  # kernel, bias, gamma, beta: PyTorch decays them all
    gradients = tape.gradient(penalty, [v.value for v in model.trainable_variables])
    for gradient, variable in zip(gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(gradient, 0.01 * variable.numpy(), rtol=1e-6)
