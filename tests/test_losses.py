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
