"""Fused batch norm against Keras' own layer: outputs, gradients, moving statistics, and what is shared."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ladnn_tf.fused_batch_norm import FusedBatchNormalization, with_fused_batch_norm
from ladnn_tf.models.ladnn import build_model, logits_model

CHANNELS = 3


def network(dtype="float32", shape=(5, 4, CHANNELS), **options):
    """One batch norm between two layers without weights."""
    inputs = keras.Input(shape)
    x = keras.layers.ReLU(dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(dtype=dtype, momentum=0.8, epsilon=1.001e-5, name="bn", **options)(x)
    return keras.Model(inputs, keras.layers.Activation("tanh", dtype="float32")(x))


def pair(**options):
    """A plain network and a fused one with copies of its weights."""
    plain, source = network(**options), network(**options)
    rng = np.random.default_rng(1)
    weights = [rng.uniform(0.5, 1.5, weight.shape) for weight in plain.get_weights()]
    plain.set_weights(weights)
    source.set_weights(weights)
    return plain, with_fused_batch_norm(source)


def gradient_step(model, images):
    """Outputs and gradients of images, gamma and beta; the moving statistics move."""
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = model(images, training=True)
        loss = tf.reduce_sum(outputs * tf.cast(tf.range(1, CHANNELS + 1), tf.float32) ** 2 * images)
    variables = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, [images, *variables])
    for variable, gradient in zip(variables, gradients[1:], strict=True):
        variable.assign_sub(0.01 * gradient)
    return [outputs.numpy(), *(gradient.numpy() for gradient in gradients)]


def batches(number, batch=2):
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(number, batch, 5, 4, CHANNELS)) + 2).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": False}, {"center": False}, {"axis": 3}],
    ids=["plain", "no gamma", "no beta", "axis 3"],
)
def test_outputs_gradients_and_statistics_are_those_of_keras(options):
    plain, fused = pair(**options)
    assert isinstance(fused.get_layer("bn"), FusedBatchNormalization)
    for images in batches(4):
        for ours, theirs in zip(gradient_step(fused, images), gradient_step(plain, images), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
        for ours, theirs in zip(fused.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_moving_statistics_by_hand():
    """Two images of one pixel, 1 and 3: mean 2, variance 1 (by the number of values, not by one less)."""
    model = with_fused_batch_norm(network(shape=(1, 1, 1)))
    outputs = model(tf.constant([1.0, 3.0])[:, None, None, None], training=True)
    layer = model.get_layer("bn")
    assert float(layer.moving_mean[0]) == pytest.approx(0.2 * 2)
    assert float(layer.moving_variance[0]) == pytest.approx(0.8 * 1 + 0.2 * 1)
    np.testing.assert_allclose(np.ravel(outputs), np.tanh([-1, 1]), atol=1e-5)
    model(tf.constant([[[[5.0]]]]), training=True)
    assert float(layer.moving_variance[0]) == pytest.approx(0.8)


@pytest.mark.parametrize(("dtype", "bits"), [("mixed_bfloat16", 8), ("mixed_float16", 11)])
def test_16_bit_input_keeps_float32_statistics(dtype, bits):
    plain, fused = pair(dtype=dtype)
    images = batches(1, batch=8)[0]
    ours, theirs = gradient_step(fused, images), gradient_step(plain, images)
    assert fused.get_layer("bn").output.dtype == dtype.removeprefix("mixed_")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=4 * 2.0**-bits * np.abs(b).max())
    for weight, other in zip(fused.weights, plain.weights, strict=True):
        assert weight.dtype == "float32"
        # Closer than 16 bits could hold them.
        np.testing.assert_allclose(weight.numpy()[...], other.numpy()[...], rtol=2e-2)
    for name in ("moving_mean", "moving_variance"):
        ours, theirs = (getattr(model.get_layer("bn"), name).numpy() for model in (fused, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_inference_is_identical():
    plain, fused = pair()
    images = batches(1)[0]
    np.testing.assert_array_equal(fused(images, training=False), plain(images, training=False))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_frozen_layer_is_in_inference_mode_and_thaws(when):
    plain = network()
    plain.get_layer("bn").trainable = when == "after"
    fused = with_fused_batch_norm(plain)
    layer = fused.get_layer("bn")
    layer.trainable = False
    before = fused.get_weights()
    images = batches(1)[0]
    np.testing.assert_array_equal(fused(images, training=True), fused(images, training=False))
    np.testing.assert_array_equal(fused.get_weights(), before)
    assert fused.trainable_variables == []
    layer.trainable = True
    assert [variable.name for variable in fused.trainable_variables] == ["gamma", "beta"]
    fused(images, training=True)
    assert not np.array_equal(fused.get_weights()[2], before[2])


def test_weights_and_other_layers_are_shared(tiny_backbone):
    model = logits_model(build_model(tiny_backbone, image_size=32))
    fused = with_fused_batch_norm(model)
    assert [layer.name for layer in fused.layers] == [layer.name for layer in model.layers]
    assert all(a is b for a, b in zip(fused.variables, model.variables, strict=True))
    assert fused.get_layer("conv1") is model.get_layer("conv1")
    assert {type(layer) for layer in fused.layers if "bn" in layer.name} == {FusedBatchNormalization}
    assert {type(layer) for layer in model.layers if "bn" in layer.name} == {keras.layers.BatchNormalization}


def test_a_fit_is_that_of_keras_and_the_plain_model_is_trained_by_it(tiny_backbone):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    targets = {"covid": rng.integers(0, 2, (8, 1)).astype(np.float32)}
    weights = []
    for fuse in (with_fused_batch_norm, lambda model: model):
        keras.utils.set_random_seed(3)
        model = logits_model(build_model(tiny_backbone, task="baseline", image_size=32))
        model.get_layer("dropout").rate = 0.0
        trained = fuse(model)
        trained.compile(optimizer=keras.optimizers.SGD(0.1), loss="binary_crossentropy")
        trained.fit(images, targets, batch_size=8, epochs=3, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"synchronized": True}, {"renorm": True}])
def test_what_has_no_fused_operation_stays(options):
    model = network(**options)
    assert with_fused_batch_norm(model) is model


def test_other_ranks_are_computed_by_keras():
    plain, fused = pair(shape=(4, CHANNELS))
    images = batches(1)[0][:, 0]
    np.testing.assert_allclose(fused(images, training=True), plain(images, training=True), atol=1e-6)
    np.testing.assert_allclose(fused.get_weights(), plain.get_weights(), rtol=1e-6)
