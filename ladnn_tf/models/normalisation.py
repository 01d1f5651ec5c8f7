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

UNIT = Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
"""Pixels in [0, 1]: divided by 255 and nothing else, as many who train a Keras model themselves do."""

SIGNED = Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
"""Pixels in [-1, 1], as Keras' mode "tf": pixel / 127.5 - 1."""

NORMALISATIONS = {"torch": TORCH, "caffe": CAFFE, "unit": UNIT, "signed": SIGNED}
"""Those that have a name; --normalisation takes it."""

_IMAGENET_STD = np.array([0.229, 0.224, 0.225])


def from_affine(scale: ArrayLike | None, offset: ArrayLike | None) -> Normalisation:
    """The normalisation that does pixel * scale + offset.

    Args:
        scale: one number, or one for each of R, G and B; None is 1.
        offset: the same; None is 0.

    Returns:
        It; one of `NORMALISATIONS` itself where it is that but for rounding.

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


# Black, white, red, green, blue and a grey that is not the mean of black and white.
_PROBES = np.array(
    [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 100, 100]], np.float32
)


def inside(model: keras.Model, source: str) -> tuple[Normalisation, bool] | None:
    """Finds by trial what a published model does to pixels itself, before its first padding or convolution.

    Args:
        model: from images `(B, H, W, 3)`; whatever it does before its stem, by layers or by `keras.ops`.
        source: the file or publisher, for messages.

    Returns:
        The normalisation, and whether the stem gets B, G, R; None if nothing changes the pixels before the stem,
        so that its publisher normalises outside.

    Raises:
        ValueError: if what it does there is not (pixel - mean) / std of each of R, G and B, in this order or
            turned round.
    """
    stem = next((x for x in model.layers if isinstance(x, keras.layers.ZeroPadding2D | keras.layers.Conv2D)), None)
    if stem is None or any(stem.input is tensor for tensor in model.inputs):
        return None
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise ValueError(f"{source} should take images of shape (B, H, W, 3). Its inputs: {shapes}")
    front = keras.Model(model.inputs[0], stem.input)
    height, width = (side or 32 for side in shapes[0][1:3])
    images = np.broadcast_to(_PROBES[:, None, None], (len(_PROBES), height, width, 3))
    found = np.asarray(front(images), np.float64)[:, 0, 0]
    if np.array_equal(found, _PROBES):
        return None
    bgr = not _is_affine(found, _PROBES)
    if bgr and not _is_affine(found[:, ::-1], _PROBES):
        raise ValueError(
            f"{source} changes pixels before its first convolution otherwise than by (pixel - mean) / std of each "
            f"of R, G and B: black, white, red, green and blue become {found[:5].round(3).tolist()}; the "
            "models of this project cannot do that to theirs"
        )
    black, white = found[:2, ::-1] if bgr else found[:2]
    return from_affine((white - black) / 255.0, black), bgr


def _is_affine(found: np.ndarray, probes: np.ndarray) -> bool:
    """Whether each channel is scaled and shifted by itself, as the first two probes (black, white) show."""
    expected = found[0] + (found[1] - found[0]) / 255.0 * probes
    return np.allclose(found, expected, rtol=0, atol=1e-4 * np.abs(found).max())


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
        ValueError: if the variance is not above 0, or there is a Rescaling more than the statistics explain.
    """
    if not (variance > 0).all():
        raise ValueError(f"the variance of the pixels should be above 0. Received: {variance.tolist()}")
    std = np.sqrt(np.asarray(variance, np.float64))
    extra = np.allclose(variance, _IMAGENET_STD, rtol=1e-3)
    if rescalings > 1 + extra:
        raise ValueError(
            f"it names {rescalings} Rescaling layers but does not hold what they do, and EfficientNet with these "
            f"statistics of its pixels has {1 + extra}; bring the whole model, saved as a .keras file"
        )
    after = 1.0 / np.sqrt(_IMAGENET_STD) if extra else np.ones(3)
    return from_affine(after / (255.0 * std), -np.asarray(mean, np.float64) * after / std)
