"""Batch norm by TensorFlow's fused operation, for training.

Keras' layer computes the moments and the scaling by some ten elementwise operations, forwards and backwards, and
for 16-bit input it does so on a float32 copy. The fused operation has one kernel for each direction (of oneDNN on
a processor, of cuDNN on a GPU); on a processor that saves a third of DenseNet-169's training time.
"""

import functools

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Computes what `keras.layers.BatchNormalization` does, on the weights of such a layer.

    Outside of training, frozen, with a mask, and for other inputs than `(B, h, w, K)`, it is Keras' own layer. It
    is made by `with_fused_batch_norm`, trained and thrown away; what is saved is the model with the plain layer.
    """

    def share_weights(self, layer: keras.layers.BatchNormalization) -> None:
        """Makes this layer, not yet built, use the weights of another one.

        Args:
            layer: a built layer with the same configuration.
        """
        # A partial, as Keras would count a layer stored in an attribute as part of this one.
        self._weight_of_plain = functools.partial(getattr, layer)

    def add_weight(self, *, name, **_):
        """As `build` of Keras' layer calls it; the weights are named as its attributes are."""
        return self._weight_of_plain(name)

    def call(self, inputs, training=None, mask=None):
        """As Keras' layer; moving statistics are updated when `training` is true."""
        fusable = mask is None and len(inputs.shape) == 4 and self.axis in (-1, 3)
        if not (training and self.trainable and fusable):
            return super().call(inputs, training=training, mask=mask)
        channels = self.moving_mean.shape
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(channels),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros(channels),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation divides by one value less than there are, Keras by their number.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), variance.dtype)
        variance = tf.where(count > 1.0, variance * (count - 1.0) / count, 0.0)  # of one value: not a number
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1.0 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1.0 - self.momentum))
        return outputs


def with_fused_batch_norm(model: keras.Model) -> keras.Model:
    """A model for training, with the same weights, whose batch norm is fused.

    Batch norm that is synchronised between devices has no fused operation and stays as it is.

    Args:
        model: a functional model; layers of models inside it stay as they are.

    Returns:
        A model of the same layers, but for batch norm. All weights are those of `model`: training the one trains
        the other. Save `model`, not this one.
    """
    plain = [
        layer
        for layer in model.layers
        if type(layer) is keras.layers.BatchNormalization and not (layer.synchronized or layer.renorm)
    ]
    if not plain:
        return model
    # A layer that is built frozen would count its weights as never to be trained.
    frozen = [layer for layer in plain if not layer.trainable]
    for layer in frozen:
        layer.trainable = True

    @functools.cache  # a layer that stands at two places of the graph is one layer here, too
    def fused(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer not in plain:
            return layer
        copy = FusedBatchNormalization.from_config(layer.get_config())
        copy.share_weights(layer)
        return copy

    fused_model = keras.models.clone_model(model, clone_function=fused)
    for layer in frozen:
        layer.trainable = False
        fused_model.get_layer(layer.name).trainable = False
    return fused_model
