"""A trunk of three convolutions and a dropout, `tiny`: enough to train in a second."""

import functools

import keras

from ladnn_tf.models.backbones import Backbone


def build(*, include_top, weights, input_tensor, dropout=0.1):
    x = input_tensor
    for number, filters in enumerate((8, 16, 16), start=1):
        x = keras.layers.Conv2D(filters, 3, 2, padding="same", name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization(name=f"bn{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)


TINY = Backbone("tiny", build, 16, 3_808, 80, "tests only")
TINY_WITHOUT_DROPOUT = Backbone("tiny", functools.partial(build, dropout=0.0), 16, 3_808, 80, "tests only")
