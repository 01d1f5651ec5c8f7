"""What a model does to pixels before its first convolution is found by trial, or it is refused."""

import keras
import numpy as np
import pytest

from ladnn_tf.models import normalisation
from ladnn_tf.models.normalisation import CAFFE, SIGNED, TORCH, UNIT, Normalisation, inside

layers, ops = keras.layers, keras.ops
CAFFE_MEAN_OF_BGR = np.float32(CAFFE.mean[::-1])


def in_front(change, stem=None):
    """A model that changes its images and then convolves them."""
    images = keras.Input((8, 8, 3))
    x = change(images)
    x = layers.ZeroPadding2D(1)(x) if stem == "padding" else x
    return keras.Model(images, layers.Conv2D(2, 3)(x))


@pytest.mark.parametrize("stem", ["convolution", "padding"])
@pytest.mark.parametrize(
    ("change", "expected", "bgr"),
    [
        (layers.Rescaling(1 / 127.5, -1), SIGNED, False),
        (lambda x: x / 127.5 - 1, SIGNED, False),
        (lambda x: ops.multiply(x, 1 / 255), UNIT, False),
        (lambda x: layers.Rescaling(1 / 255)(layers.RandomFlip()(x)), UNIT, False),
        (lambda x: layers.Normalization(mean=TORCH.mean, variance=np.square(TORCH.std))(x), TORCH, False),
        (lambda x: (x - 10.0) / np.float32([2, 4, 5]), Normalisation((10.0,) * 3, (2.0, 4.0, 5.0)), False),
        (lambda x: x[..., ::-1] - CAFFE_MEAN_OF_BGR, CAFFE, True),
    ],
    ids=["layer", "operators", "ops", "after an augmentation", "statistics", "per channel", "bgr"],
)
def test_inside(change, expected, bgr, stem):
    # A layer of the parameters is used once only: a second use would be another model.
    change = type(change).from_config(change.get_config()) if isinstance(change, layers.Layer) else change
    found, turned = inside(in_front(change, stem), "a test")
    assert (found.same(expected), turned) == (True, bgr)


@pytest.mark.parametrize("change", [lambda x: x, layers.RandomFlip(), lambda x: ops.cast(x, "float32")])
def test_nothing_changes_the_pixels(change):
    assert inside(in_front(change), "a test") is None


def test_a_sequential_model():
    images = keras.Input((8, 8, 3))
    rescaled = keras.Sequential([images, layers.Rescaling(1 / 255), layers.Conv2D(2, 3)])
    assert inside(rescaled, "a test") == (UNIT, False)
    assert inside(keras.Sequential([images, layers.Conv2D(2, 3)]), "a test") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[..., ::-1] * np.float32([1, 0.5, 0.25]) + ops.mean(x, axis=-1, keepdims=True),
        lambda x: ops.stack([x[..., 1], x[..., 0], x[..., 2]], axis=-1),
        lambda x: ops.square(x),
        lambda x: ops.mean(x, axis=-1, keepdims=True) * np.ones(3, np.float32),
    ],
    ids=["mixed", "green first", "squared", "grey"],
)
def test_what_is_not_a_normalisation_is_refused(change):
    with pytest.raises(ValueError, match=r"^a test changes pixels .* otherwise than by \(pixel - mean\) / std"):
        inside(in_front(change), "a test")


def test_other_inputs_than_images_are_refused():
    volume = keras.Input((8, 8, 1))
    model = keras.Model(volume, layers.Conv2D(2, 3)(volume / 255.0))
    with pytest.raises(ValueError, match=r"a test should take images of shape \(B, H, W, 3\)"):
        inside(model, "a test")


def test_statistics_by_hand():
    # (x / 255 - 0.485) / sqrt(0.229), then once more / sqrt(0.229): (x - 123.675) / (255 * 0.229)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert normalisation.of_statistics(mean, std, 0) == TORCH
    # True variances give the same without the extra Rescaling.
    assert normalisation.of_statistics(mean, std**2, 1) == TORCH
    # A Rescaling in front that they do not explain may do anything.
    assert normalisation.of_statistics(np.zeros(3), np.ones(3), 1) == UNIT
    for variance, rescalings in ((np.ones(3), 2), (std, 3)):
        with pytest.raises(
            ValueError, match=rf"names {rescalings} Rescaling layers but does not hold what they do"
        ):
            normalisation.of_statistics(mean, variance, rescalings)
    with pytest.raises(ValueError, match="variance of the pixels should be above 0"):
        normalisation.of_statistics(mean, np.zeros(3), 1)
