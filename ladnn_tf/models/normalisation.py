"""What is done to pixels before the first convolution, and how to find out what a published model expects."""

import dataclasses

import keras
import numpy as np
from numpy.typing import ArrayLike

_CLOSE = 1e-5
"""Two normalisations that differ by less, relative to the larger number, are the same in float32."""


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """What is done to RGB pixels in [0, 255] before the first convolution: (pixel - mean) / std per channel.

    Attributes:
        mean: of R, G and B, in grey levels.
        std: of R, G and B, in grey levels.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        numbers = [" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)]
        return f"mean {numbers[0]}, std {numbers[1]}"

    def same(self, other: "Normalisation") -> bool:
        """Whether the other one is this one, to the precision of float32."""
        return all(
            np.allclose(ours, theirs, rtol=_CLOSE, atol=255 * _CLOSE)
            for ours, theirs in ((self.mean, other.mean), (self.std, other.std))
        )


TORCH = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of ImageNet, as torchvision's weights and Keras' DenseNet have it. Keras'
EfficientNet comes to the same: its layer divides by the square root of std, its extra Rescaling once more."""

CAFFE = Normalisation((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
"""Keras' VGG-16 and ResNet-50: mean taken off, not scaled. They were trained on BGR; the channels of their first
kernel are turned round when they are loaded, which is the same and leaves the graph in RGB."""

NORMALISATIONS = {"torch": TORCH, "caffe": CAFFE}

_IMAGENET_STD = np.array([0.229, 0.224, 0.225])


def from_affine(scale: ArrayLike | None, offset: ArrayLike | None) -> Normalisation:
    """The normalisation that does pixel * scale + offset.

    Args:
        scale: one number, or one for each of R, G and B; None is 1.
        offset: the same; None is 0.

    Returns:
        It; `TORCH` or `CAFFE` themselves where it is one of them but for rounding.

    Raises:
        ValueError: if a scale is not above 0, or a number not finite.
    """
    scales = np.broadcast_to(np.asarray(1.0 if scale is None else scale, np.float64), (3,))
    offsets = np.broadcast_to(np.asarray(0.0 if offset is None else offset, np.float64), (3,))
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and (scales > 0).all()):
        raise ValueError(
            f"pixels should be scaled by numbers above 0 and shifted by finite ones. Received: scale "
            f"{scales.tolist()}, offset {offsets.tolist()}"
        )
    mean, std = (-offsets / scales + 0.0).round(6), (1.0 / scales).round(6)  # + 0.0: no minus zero
    found = Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
    return next((named for named in NORMALISATIONS.values() if named.same(found)), found)


def inside(model: keras.Model) -> Normalisation | None:
    """Finds by trial what a published model does to pixels itself, before its first padding or convolution.

    Args:
        model: from images `(B, H, W, 3)`, with at most pointwise layers before its stem.

    Returns:
        The normalisation; None if the model begins with its stem, so that its publisher normalises outside.
    """
    stem = (keras.layers.ZeroPadding2D, keras.layers.Conv2D)
    first = next((index for index, layer in enumerate(model.layers) if isinstance(layer, stem)), 0)
    if first == 0 or isinstance(model.layers[first - 1], keras.layers.InputLayer):
        return None
    front = keras.Model(model.input, model.layers[first - 1].output)
    height, width = (side or 32 for side in model.input_shape[1:3])
    black, white = (
        np.asarray(front(np.full((1, height, width, 3), level, np.float32)), np.float64)[0, 0, 0]
        for level in (0, 255)
    )
    return from_affine((white - black) / 255.0, black)


def of_statistics(mean: np.ndarray, variance: np.ndarray, rescalings: int) -> Normalisation:
    """What Keras' EfficientNet does to pixels, from what its weights file holds.

    It computes (pixel / 255 - mean) / sqrt(variance). The published statistics hold ImageNet's standard deviation
    in the place of the variance, for which Keras makes up by one more Rescaling by 1 / sqrt(std), built with
    `weights="imagenet"` only (keras/src/applications/efficientnet.py). The published file does not show it.

    Args:
        mean: (3,) of its Normalization layer, of pixels in [0, 1].
        variance: (3,) of the same.
        rescalings: the number of Rescaling layers that the file names, 0 if it names no layers without weights.

    Returns:
        The normalisation.

    Raises:
        ValueError: if the variance is not above 0.
    """
    if not (variance > 0).all():
        raise ValueError(f"the variance of the pixels should be above 0. Received: {variance.tolist()}")
    std = np.sqrt(np.asarray(variance, np.float64))
    extra = rescalings > 1 or np.allclose(variance, _IMAGENET_STD, rtol=1e-3)
    after = 1.0 / np.sqrt(_IMAGENET_STD) if extra else np.ones(3)
    return from_affine(after / (255.0 * std), -np.asarray(mean, np.float64) * after / std)
